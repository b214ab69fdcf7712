//! The first argument is the context.

#[micro_macros::service]
trait Greeter {
    async fn nothing(&self) -> Result<Reply>;
    async fn missing(&self, req: Request) -> Result<Reply>;
    async fn owned(&self, cx: Context, req: Request) -> Result<Reply>;
    async fn exclusive(&self, cx: &mut Context, req: Request) -> Result<Reply>;
    async fn second(&self, req: Request, cx: &Context) -> Result<Reply>;
    async fn long(&self, cx: &'static Context, req: Request) -> Result<Reply>;
}

fn main() {}
