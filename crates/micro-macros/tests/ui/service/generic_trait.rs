//! Both sides know each message: there are no parameters.

#[micro_macros::service]
trait Generic<T> {
    async fn hello(&self, cx: &Context, req: T) -> Result<T>;
}

#[micro_macros::service]
trait Lifetime<'a> {
    async fn hello(&self, cx: &Context, req: Request) -> Result<Reply>;
}

#[micro_macros::service]
trait Bounded
where
    Self: Clone,
{
    async fn hello(&self, cx: &Context, req: Request) -> Result<Reply>;
}

#[micro_macros::service]
trait Methods {
    async fn hello<T>(&self, cx: &Context, req: T) -> Result<Reply>;
    async fn world<'a>(&self, cx: &'a Context, req: Request) -> Result<Reply>;
    async fn bounded(&self, cx: &Context, req: Request) -> Result<Reply>
    where
        Self: Clone;
}

fn main() {}
