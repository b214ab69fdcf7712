//! A message owns its data and has a name.

#[micro_macros::service]
trait Greeter {
    async fn reference(&self, cx: &Context, req: &Request) -> Result<&'static str>;
    async fn inside(&self, cx: &Context, req: Vec<&str>) -> Result<Option<&'static u8>>;
    async fn lifetime(&self, cx: &Context, req: Cow<'_, str>) -> Result<Cow<'static, str>>;
    async fn opaque(&self, cx: &Context, req: impl Into<Request>) -> Result<impl Reply>;
    async fn object(&self, cx: &Context, req: Box<dyn Request>) -> Result<Box<dyn Reply>>;
    async fn pointer(&self, cx: &Context, req: *const u8) -> Result<fn()>;
    async fn inferred(&self, cx: &Context, req: _) -> Result<!>;
    async fn itself(&self, cx: &Context, req: Self) -> Result<Self::Reply>;
}

fn main() {}
