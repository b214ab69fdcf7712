//! What the attribute of a method takes.

#[micro_macros::service]
trait Greeter {
    #[micro(retry)]
    async fn unknown(&self, cx: &Context, req: Request) -> Result<Reply>;
    #[micro(name)]
    async fn no_value(&self, cx: &Context, req: Request) -> Result<Reply>;
    #[micro(name = "say hello")]
    async fn no_name(&self, cx: &Context, req: Request) -> Result<Reply>;
    #[micro(name = "A", name = "B")]
    async fn twice(&self, cx: &Context, req: Request) -> Result<Reply>;
    #[micro]
    async fn empty(&self, cx: &Context, req: Request) -> Result<Reply>;
    async fn _2nd(&self, cx: &Context, req: Request) -> Result<Reply>;
}

fn main() {}
