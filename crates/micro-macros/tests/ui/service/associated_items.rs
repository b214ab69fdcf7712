//! A contract has methods only.

#[micro_macros::service]
trait Greeter {
    type Request;
    const NAME: &'static str;
    println!();
    async fn hello(&self, cx: &Context, req: Self::Request) -> Result<Reply>;
}

fn main() {}
