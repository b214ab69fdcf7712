//! A method is an `async fn`, and nothing more.

#[micro_macros::service]
trait Greeter {
    fn hello(&self, cx: &Context, req: Request) -> Result<Reply>;
    const fn constant(&self, cx: &Context, req: Request) -> Result<Reply>;
    async extern "C" fn foreign(&self, cx: &Context, req: Request) -> Result<Reply>;
}

fn main() {}
