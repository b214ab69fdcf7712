//! A method takes one message.

#[micro_macros::service]
trait Greeter {
    async fn none(&self, cx: &Context) -> Result<Reply>;
    async fn two(&self, cx: &Context, first: String, last: String) -> Result<Reply>;
    async fn pattern(&self, cx: &Context, (first, last): (String, String)) -> Result<Reply>;
    async fn changed(&self, cx: &Context, mut req: Request) -> Result<Reply>;
}

fn main() {}
