//! A facade in miniature: what generated code calls, as a loopback in one process.
//!
//! Messages go through JSON both ways, so that a call sees the shapes that the macro has chosen.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::StreamExt as _;
use micro_codec_core::{Codec, Decode, Encode, Shape, erased_serde};
use micro_core::{Context, Error, Result, Streaming};
use micro_transport_core::{ContractSpec, MethodKind, MethodSpec};

/// What generated code names.
pub mod __v1 {
    pub use super::{Client, Contract, Method, Routes};
    pub use micro_codec_core as codec;
    pub use micro_core::Context;
    pub use micro_transport_core::{ContractSpec, MethodKind, MethodSpec};
}

#[derive(Debug)]
struct Json;

impl Codec for Json {
    fn content_type(&self) -> &'static str {
        "application/json"
    }

    fn encode(&self, message: Encode<'_>, out: &mut BytesMut) -> Result<()> {
        serde_json::to_writer(out.writer(), message.to_serde()?)
            .map_err(|err| Error::invalid_argument(err.to_string()))
    }

    fn decode(&self, bytes: Bytes, message: Decode<'_>) -> Result<()> {
        let mut text = serde_json::Deserializer::from_slice(&bytes);
        let mut text = <dyn erased_serde::Deserializer<'_>>::erase(&mut text);
        message.into_serde()?.fill(&mut text)
    }
}

fn write<T>(shape: Shape<T>, message: &T) -> Result<Bytes> {
    let mut out = BytesMut::new();
    shape.encode(message, &Json, &mut out)?;
    Ok(out.freeze())
}

fn write_all<T: Send + 'static>(shape: Shape<T>, messages: Streaming<T>) -> Streaming<Bytes> {
    Streaming::new(messages.map(move |message| write(shape, &message?)))
}

fn read<T>(shape: Shape<T>, bytes: Bytes) -> Result<T> {
    shape.decode(&Json, bytes)
}

fn read_all<T: Send + 'static>(shape: Shape<T>, messages: Streaming<Bytes>) -> Streaming<T> {
    Streaming::new(messages.map(move |message| read(shape, message?)))
}

fn one(message: Bytes) -> Streaming<Bytes> {
    Streaming::from_iter([message])
}

async fn only(mut messages: Streaming<Bytes>) -> Result<Bytes> {
    messages
        .next()
        .await
        .unwrap_or_else(|| Err(Error::internal("one message expected")))
}

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Route =
    Box<dyn Fn(Context, Streaming<Bytes>) -> BoxFuture<Result<Streaming<Bytes>>> + Send + Sync>;

/// What a server is made of.
pub trait Contract {
    fn routes(self) -> Routes;
}

/// The handlers of a contract.
pub struct Routes {
    contract: &'static ContractSpec,
    routes: HashMap<&'static str, Route>,
}

impl Routes {
    pub fn new(contract: &'static ContractSpec) -> Self {
        Self {
            contract,
            routes: HashMap::new(),
        }
    }

    fn with(mut self, method: &'static MethodSpec, kind: MethodKind, route: Route) -> Self {
        assert_eq!(method.kind, kind);
        assert!(self.contract.methods.contains(method));
        assert!(self.routes.insert(method.name, route).is_none());
        self
    }

    pub fn unary<Q, R, F, Fut>(
        self,
        method: &'static MethodSpec,
        request: Shape<Q>,
        reply: Shape<R>,
        handler: F,
    ) -> Self
    where
        Q: Send + 'static,
        R: Send + Sync + 'static,
        F: Fn(Context, Q) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let route: Route = Box::new(move |cx, messages| {
            let handler = Arc::clone(&handler);
            Box::pin(async move {
                let message = read(request, only(messages).await?)?;
                Ok(one(write(reply, &handler(cx, message).await?)?))
            })
        });
        self.with(method, MethodKind::Unary, route)
    }

    pub fn server_streaming<Q, R, F, Fut>(
        self,
        method: &'static MethodSpec,
        request: Shape<Q>,
        reply: Shape<R>,
        handler: F,
    ) -> Self
    where
        Q: Send + 'static,
        R: Send + Sync + 'static,
        F: Fn(Context, Q) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Streaming<R>>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let route: Route = Box::new(move |cx, messages| {
            let handler = Arc::clone(&handler);
            Box::pin(async move {
                let message = read(request, only(messages).await?)?;
                Ok(write_all(reply, handler(cx, message).await?))
            })
        });
        self.with(method, MethodKind::ServerStreaming, route)
    }

    pub fn client_streaming<Q, R, F, Fut>(
        self,
        method: &'static MethodSpec,
        request: Shape<Q>,
        reply: Shape<R>,
        handler: F,
    ) -> Self
    where
        Q: Send + 'static,
        R: Send + Sync + 'static,
        F: Fn(Context, Streaming<Q>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let route: Route = Box::new(move |cx, messages| {
            let handler = Arc::clone(&handler);
            Box::pin(async move {
                let message = handler(cx, read_all(request, messages)).await?;
                Ok(one(write(reply, &message)?))
            })
        });
        self.with(method, MethodKind::ClientStreaming, route)
    }

    pub fn bidi_streaming<Q, R, F, Fut>(
        self,
        method: &'static MethodSpec,
        request: Shape<Q>,
        reply: Shape<R>,
        handler: F,
    ) -> Self
    where
        Q: Send + 'static,
        R: Send + Sync + 'static,
        F: Fn(Context, Streaming<Q>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Streaming<R>>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let route: Route = Box::new(move |cx, messages| {
            let handler = Arc::clone(&handler);
            Box::pin(async move {
                Ok(write_all(
                    reply,
                    handler(cx, read_all(request, messages)).await?,
                ))
            })
        });
        self.with(method, MethodKind::BidiStreaming, route)
    }
}

/// A client of one server in the same process.
#[derive(Clone)]
pub struct Client(Arc<Routes>);

impl Client {
    pub fn of(contract: impl Contract) -> Self {
        Self(Arc::new(contract.routes()))
    }

    pub fn method(
        &self,
        service: &str,
        contract: &'static ContractSpec,
        method: &'static MethodSpec,
    ) -> Method {
        Method {
            path: contract.path_for(service, method),
            name: method.name,
            routes: Arc::clone(&self.0),
        }
    }
}

/// A method of the server.
#[derive(Clone)]
pub struct Method {
    path: String,
    name: &'static str,
    routes: Arc<Routes>,
}

impl std::fmt::Debug for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.path)
    }
}

impl Method {
    async fn call(&self, cx: &Context, messages: Streaming<Bytes>) -> Result<Streaming<Bytes>> {
        let route = self
            .routes
            .routes
            .get(self.name)
            .ok_or_else(|| Error::unimplemented("no such method"))?;
        route(cx.clone(), messages).await
    }

    pub async fn unary<Q: Send + Sync + 'static, R: Send + 'static>(
        &self,
        cx: &Context,
        request: Shape<Q>,
        reply: Shape<R>,
        message: Q,
    ) -> Result<R> {
        let sent = one(write(request, &message)?);
        read(reply, only(self.call(cx, sent).await?).await?)
    }

    pub async fn server_streaming<Q: Send + Sync + 'static, R: Send + 'static>(
        &self,
        cx: &Context,
        request: Shape<Q>,
        reply: Shape<R>,
        message: Q,
    ) -> Result<Streaming<R>> {
        let sent = one(write(request, &message)?);
        Ok(read_all(reply, self.call(cx, sent).await?))
    }

    pub async fn client_streaming<Q: Send + 'static, R: Send + 'static>(
        &self,
        cx: &Context,
        request: Shape<Q>,
        reply: Shape<R>,
        messages: Streaming<Q>,
    ) -> Result<R> {
        let sent = write_all(request, messages);
        read(reply, only(self.call(cx, sent).await?).await?)
    }

    pub async fn bidi_streaming<Q: Send + 'static, R: Send + 'static>(
        &self,
        cx: &Context,
        request: Shape<Q>,
        reply: Shape<R>,
        messages: Streaming<Q>,
    ) -> Result<Streaming<R>> {
        let sent = write_all(request, messages);
        Ok(read_all(reply, self.call(cx, sent).await?))
    }
}
