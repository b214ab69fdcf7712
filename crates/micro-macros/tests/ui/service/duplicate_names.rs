//! Names on the wire are unique.

#[micro_macros::service]
trait Greeter {
    async fn say_hello(&self, cx: &Context, req: Request) -> Result<Reply>;
    async fn say__hello(&self, cx: &Context, req: Request) -> Result<Reply>;
    #[micro(name = "SayHello")]
    async fn greet(&self, cx: &Context, req: Request) -> Result<Reply>;
}

fn main() {}
