//! What the tests share: a contract with all four kinds of methods, a codec, a registry that
//! remembers, and a way to call without a client.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::StreamExt as _;
use micro_codec_core::{Codec, Codecs, Decode, Encode, erased_serde, shape};
use micro_core::{Context, Error, Result, Streaming, async_trait};
use micro_registry_core::{
    Capabilities, DeregisterOptions, EventStream, GetOptions, ListOptions, RegisterOptions,
    Registry, Service, WatchOptions,
};
use micro_server::Routes;
use micro_transport_core::{
    Body, Connection, ContractSpec, DialOptions, MethodKind, MethodSpec, Request, Response,
    Transport,
};
use micro_transport_memory::MemoryTransport;

/// JSON, as far as the tests need it.
#[derive(Debug)]
pub(crate) struct Json;

impl Codec for Json {
    fn content_type(&self) -> &'static str {
        "application/json"
    }

    fn encode(&self, message: Encode<'_>, out: &mut BytesMut) -> Result<()> {
        serde_json::to_writer(out.writer(), message.to_serde()?)
            .map_err(|err| Error::invalid_argument(err.to_string()))
    }

    fn decode(&self, bytes: Bytes, message: Decode<'_>) -> Result<()> {
        let mut from = serde_json::Deserializer::from_slice(&bytes);
        message
            .into_serde()?
            .fill(&mut <dyn erased_serde::Deserializer<'_>>::erase(&mut from))
    }
}

/// A format that no message here has a view for.
#[derive(Debug)]
pub(crate) struct ProtoOnly;

impl Codec for ProtoOnly {
    fn content_type(&self) -> &'static str {
        "application/protobuf"
    }

    fn encode(&self, message: Encode<'_>, out: &mut BytesMut) -> Result<()> {
        message.to_proto()?.encode(out)
    }

    fn decode(&self, bytes: Bytes, message: Decode<'_>) -> Result<()> {
        message.into_proto()?.merge(bytes)
    }
}

pub(crate) fn codecs() -> Codecs {
    Codecs::new().with(Json).with(ProtoOnly)
}

pub(crate) static HELLO: MethodSpec = MethodSpec::new("Hello", MethodKind::Unary);
pub(crate) static COUNT: MethodSpec = MethodSpec::new("Count", MethodKind::ServerStreaming);
pub(crate) static SUM: MethodSpec = MethodSpec::new("Sum", MethodKind::ClientStreaming);
pub(crate) static ECHO: MethodSpec = MethodSpec::new("Echo", MethodKind::BidiStreaming);
pub(crate) static GREETER: ContractSpec =
    ContractSpec::new("", "Greeter", &[HELLO, COUNT, SUM, ECHO]);

/// The contract, as generated code would route it.
pub(crate) fn greeter() -> Routes {
    Routes::new(&GREETER)
        .unary(
            &HELLO,
            shape!(String),
            shape!(String),
            |cx: Context, name: String| async move {
                match name.as_str() {
                    "panic" => panic!("the password is hunter2"),
                    "unprocessed" => Err(Error::unavailable("inner call").with_unprocessed(true)),
                    _ => {
                        if let Some(tenant) = cx.metadata().get("x-tenant") {
                            cx.reply().insert("x-tenant-seen", tenant)?;
                        }
                        if let Some(trace) = cx.trace() {
                            cx.reply().insert("x-trace-seen", trace.encode())?;
                        }
                        Ok(format!("Hello, {name}!"))
                    }
                }
            },
        )
        .server_streaming(
            &COUNT,
            shape!(u64),
            shape!(u64),
            |cx: Context, to: u64| async move {
                cx.reply().insert("x-ahead", "1")?;
                let numbers = futures_util::stream::unfold(0, move |n| {
                    let cx = cx.clone();
                    async move {
                        assert_ne!(n, 99, "ninety-nine");
                        if n == to {
                            cx.reply().insert("x-behind", n.to_string()).ok()?;
                            return None;
                        }
                        Some((Ok(n), n + 1))
                    }
                });
                Ok(Streaming::new(numbers))
            },
        )
        .client_streaming(
            &SUM,
            shape!(u64),
            shape!(u64),
            |_cx: Context, mut numbers: Streaming<u64>| async move {
                let mut sum = 0;
                while let Some(number) = numbers.next().await {
                    sum += number?;
                }
                Ok(sum)
            },
        )
        .bidi_streaming(
            &ECHO,
            shape!(String),
            shape!(String),
            |_cx: Context, texts: Streaming<String>| async move { Ok(texts) },
        )
}

pub(crate) fn one(json: &str) -> Body {
    Body::Message(Bytes::copy_from_slice(json.as_bytes()))
}

pub(crate) fn many(json: &[&str]) -> Body {
    let messages: Vec<_> = json
        .iter()
        .map(|json| Ok(Bytes::copy_from_slice(json.as_bytes())))
        .collect();
    Body::Stream(Box::pin(futures_util::stream::iter(messages)))
}

/// The text of a reply that is one message.
pub(crate) fn text(response: &Response) -> &str {
    match &response.body {
        Body::Message(bytes) => std::str::from_utf8(bytes).unwrap(),
        body => panic!("one message expected, not {body:?}"),
    }
}

/// The texts of a reply that is a stream, and what it ended with.
pub(crate) async fn texts(body: Body) -> (Vec<String>, Option<Error>) {
    let Body::Stream(mut messages) = body else {
        panic!("a stream expected, not {body:?}");
    };
    let mut texts = Vec::new();
    while let Some(message) = messages.next().await {
        match message {
            Ok(message) => texts.push(String::from_utf8(message.to_vec()).unwrap()),
            Err(err) => return (texts, Some(err)),
        }
    }
    (texts, None)
}

pub(crate) fn request(path: &str, body: Body) -> Request {
    Request::new(path, "application/json", body)
}

pub(crate) async fn dial(network: &MemoryTransport, address: &str) -> Arc<dyn Connection> {
    network.dial(address, DialOptions::default()).await.unwrap()
}

pub(crate) async fn hello(connection: &dyn Connection) -> Result<Response> {
    let request = request("/greeter.Greeter/Hello", one("\"Ada\""));
    connection.call(&Context::new(), request).await
}

/// A registry that remembers what was asked of it, and fails when it is told to.
#[derive(Default)]
pub(crate) struct Ledger {
    pub(crate) shared: Arc<Entries>,
    pub(crate) down: AtomicBool,
    pub(crate) refuse: AtomicBool,
    pub(crate) slow: AtomicBool,
    pub(crate) attempts: AtomicUsize,
    pub(crate) others_see_it: bool,
}

#[derive(Default)]
pub(crate) struct Entries {
    entries: Mutex<Vec<String>>,
    nodes: Mutex<Vec<Service>>,
}

impl Ledger {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn entries(&self) -> Vec<String> {
        self.shared.entries.lock().unwrap().clone()
    }

    pub(crate) fn nodes(&self) -> Vec<Service> {
        self.shared.nodes.lock().unwrap().clone()
    }

    pub(crate) fn registered(&self) -> usize {
        self.nodes().len()
    }

    pub(crate) fn lose(&self) {
        self.shared.nodes.lock().unwrap().clear();
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ledger")
    }
}

#[async_trait]
impl Registry for Ledger {
    fn backend(&self) -> &'static str {
        "ledger"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
            .with_ttl(true)
            .with_shared(self.others_see_it)
    }

    async fn register(&self, service: &Service, opts: RegisterOptions) -> Result<()> {
        self.attempts.fetch_add(1, Ordering::SeqCst);
        assert!(opts.ttl.is_some());
        if self.refuse.load(Ordering::SeqCst) {
            return Err(Error::permission_denied("not you"));
        }
        if self.down.load(Ordering::SeqCst) {
            return Err(Error::unavailable("down"));
        }
        let (ledger, service) = (Arc::clone(&self.shared), service.clone());
        let slow = self.slow.load(Ordering::SeqCst);
        let register = async move {
            if slow {
                tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            }
            ledger.entries.lock().unwrap().push("register".to_owned());
            let mut nodes = ledger.nodes.lock().unwrap();
            nodes.retain(|known| known.nodes[0].id != service.nodes[0].id);
            nodes.push(service);
        };
        if slow {
            // As across a wire: what has left arrives, whether anybody still waits or not.
            tokio::spawn(register).await.unwrap();
        } else {
            register.await;
        }
        Ok(())
    }

    async fn deregister(&self, service: &Service, _: DeregisterOptions) -> Result<()> {
        if self.down.load(Ordering::SeqCst) {
            return Err(Error::unavailable("down"));
        }
        let ledger = &self.shared;
        ledger.entries.lock().unwrap().push("deregister".to_owned());
        let mut nodes = ledger.nodes.lock().unwrap();
        nodes.retain(|known| known.nodes[0].id != service.nodes[0].id);
        Ok(())
    }

    async fn get_service(&self, _: &str, _: GetOptions) -> Result<Vec<Service>> {
        Ok(self.nodes())
    }

    async fn list_services(&self, _: ListOptions) -> Result<Vec<Service>> {
        Ok(self.nodes())
    }

    async fn watch(&self, _: WatchOptions) -> Result<EventStream> {
        Err(Error::unimplemented("the ledger is not watched"))
    }
}
