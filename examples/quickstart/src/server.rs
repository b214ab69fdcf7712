//! The service.

use std::time::Duration;

use micro::{Context, Result, Service, Streaming};

use crate::contract::{Greeter, GreeterServer, HelloReply, HelloRequest};

pub(crate) async fn run() -> Result<()> {
    Service::new("greeter")
        .handle(GreeterServer::new(English))
        .run()
        .await
}

struct English;

impl Greeter for English {
    async fn hello(&self, _cx: &Context, req: HelloRequest) -> Result<HelloReply> {
        Ok(hello(&req.name))
    }

    async fn watch(&self, _cx: &Context, req: HelloRequest) -> Result<Streaming<HelloReply>> {
        let (sender, replies) = Streaming::channel(1);
        tokio::spawn(async move {
            // Ends when the caller hangs up: then nobody reads the stream any more.
            while sender.send(hello(&req.name)).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        Ok(replies)
    }

    async fn gather(&self, _cx: &Context, mut reqs: Streaming<HelloRequest>) -> Result<HelloReply> {
        let mut names = Vec::new();
        while let Some(req) = reqs.next().await {
            names.push(req?.name);
        }
        Ok(hello(&names.join(" and ")))
    }

    async fn chat(
        &self,
        _cx: &Context,
        mut reqs: Streaming<HelloRequest>,
    ) -> Result<Streaming<HelloReply>> {
        let (sender, replies) = Streaming::channel(1);
        tokio::spawn(async move {
            while let Some(Ok(req)) = reqs.next().await {
                if sender.send(hello(&req.name)).await.is_err() {
                    break;
                }
            }
        });
        Ok(replies)
    }
}

fn hello(name: &str) -> HelloReply {
    HelloReply {
        message: format!("Hello, {name}! (process {})", std::process::id()),
    }
}
