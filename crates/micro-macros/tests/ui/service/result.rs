//! A method returns a `Result` of one message.

#[micro_macros::service]
trait Greeter {
    async fn nothing(&self, cx: &Context, req: Request);
    async fn bare(&self, cx: &Context, req: Request) -> Reply;
    async fn alias(&self, cx: &Context, req: Request) -> Result;
    async fn error(&self, cx: &Context, req: Request) -> Result<Reply, MyError>;
    async fn option(&self, cx: &Context, req: Request) -> Option<Reply>;
}

fn main() {}
