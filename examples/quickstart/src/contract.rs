//! What the service answers to: a trait, shared by server and client.

use micro::{Context, Result, Streaming};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, Serialize, Deserialize, micro::Message)]
pub(crate) struct HelloRequest {
    pub name: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, micro::Message)]
pub(crate) struct HelloReply {
    pub message: String,
}

/// Greets people.
#[micro::service]
pub(crate) trait Greeter {
    /// Greets a person by name.
    async fn hello(&self, cx: &Context, req: HelloRequest) -> Result<HelloReply>;
    /// Greets again and again until the caller hangs up.
    async fn watch(&self, cx: &Context, req: HelloRequest) -> Result<Streaming<HelloReply>>;
    /// Greets everybody at once.
    async fn gather(&self, cx: &Context, reqs: Streaming<HelloRequest>) -> Result<HelloReply>;
    /// Greets each one as they come.
    async fn chat(
        &self,
        cx: &Context,
        reqs: Streaming<HelloRequest>,
    ) -> Result<Streaming<HelloReply>>;
}
