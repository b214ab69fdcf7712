//! `Streaming` stands alone.

#[micro_macros::service]
trait Greeter {
    async fn bare(&self, cx: &Context, req: Streaming) -> Result<Reply>;
    async fn two(&self, cx: &Context, req: Streaming<A, B>) -> Result<Reply>;
    async fn inside(&self, cx: &Context, req: Option<Streaming<A>>) -> Result<Vec<Streaming<B>>>;
    async fn twice(&self, cx: &Context, req: Streaming<Streaming<A>>) -> Result<Reply>;
    async fn outside(&self, cx: &Context, req: Request) -> Streaming<Result<Reply>>;
    async fn reference(&self, cx: &Context, req: Streaming<&A>) -> Result<Streaming<&B>>;
}

fn main() {}
