//! A contract from `proto/greeter.proto`: the same trait, client and server as one written in Rust.
//!
//! `cargo run -p greeter-proto` starts a service, calls it in all four ways, and once more in JSON.
//! No `protoc` is needed: see `build.rs`.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use micro::{Context, Error, Result, Service, Streaming};

pub mod greeter {
    //! What `build.rs` has made of the file.
    micro::include_proto!("greeter.v1");
}

use greeter::{Greeter, GreeterClient, GreeterServer, HelloReply, HelloRequest, Language};

#[derive(Clone, Default)]
struct Polyglot {
    greeted: Arc<AtomicI64>,
}

impl Polyglot {
    fn greet(&self, names: &str, language: Language) -> HelloReply {
        let hello = match language {
            Language::French => "Bonjour",
            Language::English | Language::Unspecified => "Hello",
        };
        HelloReply {
            message: format!("{hello}, {names}!"),
            greeted_so_far: self.greeted.fetch_add(1, Ordering::Relaxed) + 1,
        }
    }
}

impl Greeter for Polyglot {
    async fn hello(&self, _cx: &Context, req: HelloRequest) -> Result<HelloReply> {
        if req.name.is_empty() {
            return Err(Error::invalid_argument("say who you are"));
        }
        Ok(self.greet(&req.name, req.language()))
    }

    async fn watch(&self, _cx: &Context, req: HelloRequest) -> Result<Streaming<HelloReply>> {
        Ok(Streaming::from_iter(
            (0..3).map(|_| self.greet(&req.name, req.language())),
        ))
    }

    async fn gather(&self, _cx: &Context, reqs: Streaming<HelloRequest>) -> Result<HelloReply> {
        let everybody = reqs.collect(100).await?;
        let names: Vec<_> = everybody.into_iter().map(|req| req.name).collect();
        Ok(self.greet(&names.join(" and "), Language::English))
    }

    async fn chat(
        &self,
        _cx: &Context,
        reqs: Streaming<HelloRequest>,
    ) -> Result<Streaming<HelloReply>> {
        let this = self.clone();
        Ok(Streaming::new(reqs.map(move |req| {
            let req = req?;
            Ok(this.greet(&req.name, req.language()))
        })))
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    // One process is enough here, so discovery stays in it; the calls do go over the wire.
    let service = Service::new("greeter")
        .registry_url("memory")
        .handle(GreeterServer::new(Polyglot::default()))
        .start()
        .await?;
    println!("'greeter' answers gRPC at {}", service.address());

    let client = service.client().await?;
    let greeter = GreeterClient::new(client.clone(), "greeter");
    let cx = Context::new().with_timeout(Duration::from_secs(10));

    let reply = greeter
        .hello(&cx, request("Ada", Language::English))
        .await?;
    show("unary", &reply);

    let mut replies = greeter.watch(&cx, request("Ada", Language::French)).await?;
    while let Some(reply) = replies.next().await {
        show("server streaming", &reply?);
    }

    let both = || {
        Streaming::from_iter([
            request("Ada", Language::English),
            request("Évariste", Language::French),
        ])
    };
    show("client streaming", &greeter.gather(&cx, both()).await?);

    let mut replies = greeter.chat(&cx, both()).await?;
    while let Some(reply) = replies.next().await {
        show("bidirectional", &reply?);
    }

    // The same messages as JSON, as protobuf writes it: for curl, for browsers, for logs.
    let json = r#"{"name":"Grace","language":"LANGUAGE_FRENCH"}"#;
    let answer = client
        .call_raw(
            "greeter",
            "/greeter.v1.Greeter/Hello",
            "application/json",
            json.into(),
        )
        .send(&cx)
        .await?;
    println!(
        "  {:<16} → {json}\n  {:<16} ← {}",
        "JSON",
        "",
        text(&answer)
    );

    let err = greeter.hello(&cx, HelloRequest::default()).await;
    println!(
        "  {:<16} → {}",
        "an error",
        err.err().map_or_else(String::new, |err| err.to_string())
    );

    service.stop().await
}

fn request(name: &str, language: Language) -> HelloRequest {
    HelloRequest {
        name: name.to_owned(),
        language: language.into(),
    }
}

fn show(shape: &str, reply: &HelloReply) {
    println!(
        "  {shape:<16} → {} (number {})",
        reply.message, reply.greeted_so_far
    );
}

fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}
