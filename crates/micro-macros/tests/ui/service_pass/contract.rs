//! A contract in a program that only calls it: no warning, whatever the lints.

#![deny(warnings, unused, unreachable_pub, clippy::all)]

use micro::{Context, Result, Streaming};

/// Greets.
#[micro::service]
pub(crate) trait Greeter {
    async fn hello(&self, cx: &Context, name: String) -> Result<String>;
    async fn watch(&self, cx: &Context, name: String) -> Result<Streaming<String>>;
    async fn gather(&self, cx: &Context, names: Streaming<String>) -> Result<String>;
    #[micro(name = "Talk", idempotent)]
    async fn chat(&self, cx: &Context, names: Streaming<String>) -> Result<Streaming<String>>;
}

async fn call(client: micro::Client) -> Result<String> {
    let greeter = GreeterClient::new(client, "greeter");
    greeter.hello(&Context::new(), "Ada".into()).await
}

fn main() {
    let _ = call;
    assert_eq!(GreeterClient::CONTRACT.methods.len(), 4);
}
