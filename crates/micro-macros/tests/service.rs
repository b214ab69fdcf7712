//! Contracts that `#[micro::service]` makes, called through a loopback.

#![deny(warnings)]
#![expect(
    unreachable_pub,
    missing_docs,
    missing_debug_implementations,
    reason = "contracts are public, but this crate has no users"
)]

mod fake;

use micro_core::{Context, Result, Streaming};
use micro_macros::service;
use serde::{Deserialize, Serialize};

use self::fake::{__v1::MethodKind, Client};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HelloRequest {
    name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HelloReply {
    text: String,
}

/// Greets people.
///
/// In all four ways.
#[service(crate = "crate::fake")]
pub trait Greeter {
    /// Greets a person by name.
    #[micro(idempotent)]
    async fn say_hello(&self, cx: &Context, req: HelloRequest) -> Result<HelloReply>;

    async fn watch(
        &self,
        cx: &micro_core::Context,
        req: HelloRequest,
    ) -> micro_core::Result<Streaming<HelloReply>>;

    #[micro(name = "GatherAll")]
    async fn gather(
        &self,
        cx: &Context,
        reqs: micro_core::Streaming<HelloRequest>,
    ) -> Result<HelloReply>;

    async fn chat(
        &self,
        _: &Context,
        _: Streaming<HelloRequest>,
    ) -> Result<micro_core::Streaming<HelloReply>>;
}

struct English;

fn hello(req: &HelloRequest) -> HelloReply {
    HelloReply {
        text: format!("Hello {}", req.name),
    }
}

impl Greeter for English {
    async fn say_hello(&self, cx: &Context, req: HelloRequest) -> Result<HelloReply> {
        cx.check()?;
        tokio::task::yield_now().await;
        Ok(hello(&req))
    }

    async fn watch(&self, _: &Context, req: HelloRequest) -> Result<Streaming<HelloReply>> {
        Ok(Streaming::from_iter(vec![hello(&req); 3]))
    }

    async fn gather(&self, _: &Context, reqs: Streaming<HelloRequest>) -> Result<HelloReply> {
        let names: Vec<_> = reqs.collect(9).await?.into_iter().map(|r| r.name).collect();
        Ok(hello(&HelloRequest {
            name: names.join("+"),
        }))
    }

    async fn chat(
        &self,
        _: &Context,
        mut reqs: Streaming<HelloRequest>,
    ) -> Result<Streaming<HelloReply>> {
        let (sender, replies) = Streaming::channel(1);
        tokio::spawn(async move {
            while let Some(Ok(req)) = reqs.next().await {
                sender.send(hello(&req)).await?;
            }
            Ok::<_, micro_core::Error>(())
        });
        Ok(replies)
    }
}

fn named(name: &str) -> HelloRequest {
    HelloRequest { name: name.into() }
}

/// Generic over where the service is; its future is `Send`.
async fn all_four(greeter: impl Greeter) -> Result<Vec<String>> {
    let cx = Context::new();
    let many = || Streaming::from_iter([named("Ada"), named("Bo")]);
    let texts = |replies: Vec<HelloReply>| -> String {
        let texts: Vec<_> = replies.into_iter().map(|reply| reply.text).collect();
        texts.join(",")
    };
    Ok(vec![
        greeter.say_hello(&cx, named("Ada")).await?.text,
        texts(greeter.watch(&cx, named("Ada")).await?.collect(9).await?),
        greeter.gather(&cx, many()).await?.text,
        texts(greeter.chat(&cx, many()).await?.collect(9).await?),
    ])
}

#[tokio::test]
async fn a_remote_and_an_in_process_service_are_interchangeable() {
    let client = Client::of(GreeterServer::new(English));
    let remote = GreeterClient::new(client, "greeter");
    let remote = tokio::spawn(all_four(remote)).await.unwrap().unwrap();
    let local = tokio::spawn(all_four(English)).await.unwrap().unwrap();
    assert_eq!(remote, local);
    assert_eq!(
        remote,
        [
            "Hello Ada",
            "Hello Ada,Hello Ada,Hello Ada",
            "Hello Ada+Bo",
            "Hello Ada,Hello Bo",
        ]
    );
}

#[test]
fn a_contract_says_what_it_is() {
    let contract = GreeterClient::CONTRACT;
    assert_eq!((contract.package, contract.name), ("", "Greeter"));
    assert_eq!(contract.doc, "Greets people.\n\nIn all four ways.");
    let methods: Vec<_> = contract
        .methods
        .iter()
        .map(|method| (method.name, method.kind, method.idempotent, method.doc))
        .collect();
    assert_eq!(
        methods,
        [
            (
                "SayHello",
                MethodKind::Unary,
                true,
                "Greets a person by name."
            ),
            ("Watch", MethodKind::ServerStreaming, false, ""),
            ("GatherAll", MethodKind::ClientStreaming, false, ""),
            ("Chat", MethodKind::BidiStreaming, false, ""),
        ]
    );
}

#[test]
fn clients_and_servers_are_clones_and_debug() {
    fn check<T: Clone + std::fmt::Debug + Send + Sync + 'static>(value: &T) -> String {
        format!("{:?}", value.clone())
    }
    let server = GreeterServer::from_arc(std::sync::Arc::new(English));
    assert_eq!(check(&server), "GreeterServer");
    let client = GreeterClient::new(Client::of(server), "my-greeter");
    assert!(check(&client).contains("/my_greeter.Greeter/SayHello"));
}

#[tokio::test]
async fn a_package_and_a_name_are_as_asked() {
    #[service(package = "hello.v1", name = "Greeter", crate = "crate::fake")]
    trait Local {
        async fn unit(&self, cx: &Context, nothing: ()) -> Result<()>;
    }
    struct Nothing;
    impl Local for Nothing {
        async fn unit(&self, _: &Context, (): ()) -> Result<()> {
            Ok(())
        }
    }
    let client = LocalClient::new(Client::of(LocalServer::new(Nothing)), "ignored");
    assert!(format!("{client:?}").contains("/hello.v1.Greeter/Unit"));
    client.unit(&Context::new(), ()).await.unwrap();
}

#[tokio::test]
async fn what_does_not_exist_in_this_build_is_nowhere() {
    #[service(crate = "crate::fake")]
    trait Conditional {
        #[cfg(any())]
        async fn absent(&self, cx: &Context, req: Absent) -> Result<Absent>;
        #[cfg(not(any()))]
        async fn present(&self, cx: &Context, req: u8) -> Result<u8>;
        #[cfg(any())]
        async fn present(&self, cx: &Context, req: Absent) -> Result<Absent>;
    }
    struct Plus;
    impl Conditional for Plus {
        async fn present(&self, _: &Context, req: u8) -> Result<u8> {
            Ok(req + 1)
        }
    }
    assert_eq!(ConditionalClient::CONTRACT.methods.len(), 1);
    let client = ConditionalClient::new(Client::of(ConditionalServer::new(Plus)), "c");
    assert_eq!(client.present(&Context::new(), 1).await.unwrap(), 2);
}

#[test]
fn an_empty_contract_is_one() {
    #[service(crate = "crate::fake")]
    trait Empty {}
    struct Nothing;
    impl Empty for Nothing {}
    let client = EmptyClient::new(Client::of(EmptyServer::new(Nothing)), "empty");
    assert_eq!(format!("{client:?}"), "EmptyClient");
}

/// A contract that this crate neither calls nor serves: no part of it is dead code.
#[service(crate = "crate::fake")]
trait Unused {
    async fn nothing(&self, cx: &Context, req: ()) -> Result<()>;
}

/// Names that generated code might stumble over.
mod names {
    use std::collections::HashMap;

    use super::fake::{self, Client as TheClient};
    use micro_core::{Context, Streaming};
    use micro_macros::service;
    use serde::{Deserialize, Serialize};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    pub struct T(pub u8);

    #[expect(dead_code, reason = "it shadows")]
    pub struct Send;
    #[expect(dead_code, reason = "it shadows")]
    pub struct Clone;
    #[expect(dead_code, reason = "it shadows")]
    pub struct Arc;
    #[expect(dead_code, reason = "it shadows")]
    #[expect(non_camel_case_types, reason = "it shadows")]
    pub struct str;
    #[expect(dead_code, reason = "it shadows")]
    pub struct Method;
    #[expect(dead_code, reason = "it shadows")]
    pub fn shape() {}
    const N: usize = 2;
    pub type Result<T> = micro_core::Result<T>;

    #[service(crate = "fake")]
    #[expect(clippy::wrong_self_convention, reason = "it is the user's name")]
    pub trait Client: std::fmt::Debug {
        async fn new(&self, client: &Context, service: T) -> Result<T>;
        async fn clone(&self, request: &Context, self_: [T; N]) -> Result<HashMap<u8, T>>;
        async fn r#type(&self, implementation: &Context, routes: Streaming<T>) -> Result<(T, u8)>;
        async fn method(&self, cx: &Context, cx2: Option<T>) -> Result<Streaming<Vec<T>>>;
        #[deprecated]
        async fn fmt(&self, f: &Context, from_arc: String) -> Result<String>;
    }

    #[derive(Debug)]
    struct Impl;

    impl Client for Impl {
        async fn new(&self, _: &Context, t: T) -> Result<T> {
            Ok(T(t.0 + 1))
        }
        async fn clone(&self, _: &Context, [a, b]: [T; N]) -> Result<HashMap<u8, T>> {
            Ok([(1, a), (2, b)].into())
        }
        async fn r#type(&self, _: &Context, ts: Streaming<T>) -> Result<(T, u8)> {
            Ok((T(ts.collect(9).await?.into_iter().map(|t| t.0).sum()), 7))
        }
        async fn method(&self, _: &Context, t: Option<T>) -> Result<Streaming<Vec<T>>> {
            Ok(Streaming::from_iter([Vec::from_iter(t)]))
        }
        async fn fmt(&self, _: &Context, text: String) -> Result<String> {
            Ok(text)
        }
    }

    #[tokio::test]
    async fn are_not_stumbled_over() {
        let remote = ClientClient::new(TheClient::of(ClientServer::new(Impl)), "names");
        let cx = &Context::new();
        assert_eq!(remote.new(cx, T(1)).await.unwrap(), T(2));
        let map = Client::clone(&remote, cx, [T(3), T(4)]).await.unwrap();
        assert_eq!(map[&2], T(4));
        let sum = remote.r#type(cx, Streaming::from_iter([T(1), T(2)]));
        assert_eq!(sum.await.unwrap(), (T(3), 7));
        let replies = remote.method(cx, Some(T(9))).await.unwrap();
        assert_eq!(replies.collect(9).await.unwrap(), [vec![T(9)]]);
        let names: Vec<_> = ClientClient::CONTRACT
            .methods
            .iter()
            .map(|m| m.name)
            .collect();
        assert_eq!(names, ["New", "Clone", "Type", "Method", "Fmt"]);
    }
}
