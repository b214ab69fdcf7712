//! A method has no body.

#[micro_macros::service]
trait Greeter {
    async fn hello(&self, cx: &Context, req: Request) -> Result<Reply> {
        Ok(Reply)
    }
}

fn main() {}
