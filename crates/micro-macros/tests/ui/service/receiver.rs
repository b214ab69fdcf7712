//! A method takes `&self`.

#[micro_macros::service]
trait Greeter {
    async fn none(cx: &Context, req: Request) -> Result<Reply>;
    async fn exclusive(&mut self, cx: &Context, req: Request) -> Result<Reply>;
    async fn owned(self, cx: &Context, req: Request) -> Result<Reply>;
    async fn boxed(self: Box<Self>, cx: &Context, req: Request) -> Result<Reply>;
    async fn long(&'static self, cx: &Context, req: Request) -> Result<Reply>;
}

fn main() {}
