//! One method of one service.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use futures_util::future::{Either, select};
use futures_util::{StreamExt as _, TryFutureExt as _};
use micro_codec_core::{Codec, Shape};
use micro_core::{Context, Error, Result, Streaming};
use micro_transport_core::{Body, BoxFuture, Messages, Response};
use tokio::sync::oneshot;

use crate::client::{Client, Target};
use crate::entry::ServiceEntry;

/// One method of one service, with its path worked out: what generated clients are made of.
///
/// It is cheap to clone.
#[derive(Clone)]
pub struct Method(Arc<Inner>);

struct Inner {
    client: Client,
    service: Arc<str>,
    path: Arc<str>,
    idempotent: bool,
    /// What the client knows of the service, found once.
    entry: OnceLock<Weak<ServiceEntry>>,
}

impl Method {
    pub(crate) fn new(client: Client, service: Arc<str>, path: Arc<str>, idempotent: bool) -> Self {
        Self(Arc::new(Inner {
            client,
            service,
            path,
            idempotent,
            entry: OnceLock::new(),
        }))
    }

    /// The path on the wire: `/package.Contract/Method`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.0.path
    }

    /// One request, one reply.
    ///
    /// # Errors
    ///
    /// What the handler failed with; `Unavailable` if no node could be reached;
    /// `DeadlineExceeded`, `Cancelled`; `Unimplemented` for an unknown content type.
    pub async fn unary<Q, R>(
        &self,
        cx: &Context,
        request: Shape<Q>,
        reply: Shape<R>,
        message: Q,
    ) -> Result<R> {
        let codec = self.codec(request, reply)?;
        let body = Body::Message(encode(request, &**codec, &message)?);
        let response = self.exchange(cx, &**codec, body).await?;
        let codec = self.reply_codec(codec, &response)?;
        decode(reply, &**codec, one_message(response.body).await?)
    }

    /// One request, many replies.
    ///
    /// # Errors
    ///
    /// As [`unary`](Self::unary), at once or in the stream.
    pub async fn server_streaming<Q, R: Send + 'static>(
        &self,
        cx: &Context,
        request: Shape<Q>,
        reply: Shape<R>,
        message: Q,
    ) -> Result<Streaming<R>> {
        let codec = self.codec(request, reply)?;
        let body = Body::Message(encode(request, &**codec, &message)?);
        let response = self.exchange(cx, &**codec, body).await?;
        self.many(reply, codec, response)
    }

    /// Many requests, one reply.
    ///
    /// # Errors
    ///
    /// As [`unary`](Self::unary).
    pub async fn client_streaming<Q: Send + 'static, R>(
        &self,
        cx: &Context,
        request: Shape<Q>,
        reply: Shape<R>,
        messages: Streaming<Q>,
    ) -> Result<R> {
        let codec = self.codec(request, reply)?;
        let body = encode_all(request, codec, messages);
        let response = self.exchange(cx, &**codec, body).await?;
        let codec = self.reply_codec(codec, &response)?;
        decode(reply, &**codec, one_message(response.body).await?)
    }

    /// Many requests, many replies.
    ///
    /// It returns once the requests are on their way: a server may read them before it answers
    /// at all, and some say nothing before their first reply.
    ///
    /// # Errors
    ///
    /// As [`unary`](Self::unary), at once or as the first item of the stream.
    pub async fn bidi_streaming<Q: Send + 'static, R: Send + 'static>(
        &self,
        cx: &Context,
        request: Shape<Q>,
        reply: Shape<R>,
        messages: Streaming<Q>,
    ) -> Result<Streaming<R>> {
        let codec = Arc::clone(self.codec(request, reply)?);
        let (started, body) = Started::watch(encode_all(request, &codec, messages));
        let (method, cx) = (self.clone(), cx.clone());
        let replies = Box::pin(async move {
            let response = method.exchange(&cx, &*codec, body).await?;
            method.many(reply, &codec, response)
        });
        started.or(replies).await
    }

    fn codec<Q, R>(&self, request: Shape<Q>, reply: Shape<R>) -> Result<&Arc<dyn Codec>> {
        let client = &self.0.client;
        client.codec(client.options(), request, reply)
    }

    // Not `async`, which would only carry the other future within its own.
    fn exchange(
        &self,
        cx: &Context,
        codec: &dyn Codec,
        body: Body,
    ) -> impl Future<Output = Result<Response>> + Send {
        let inner = &*self.0;
        let target = Target {
            service: &inner.service,
            path: &inner.path,
            idempotent: inner.idempotent,
            options: inner.client.options(),
            entry: Some(&inner.entry),
        };
        let content_type = Cow::Borrowed(codec.content_type());
        inner.client.exchange(cx, target, content_type, body)
    }

    fn many<R: Send + 'static>(
        &self,
        shape: Shape<R>,
        codec: &Arc<dyn Codec>,
        response: Response,
    ) -> Result<Streaming<R>> {
        let codec = Arc::clone(self.reply_codec(codec, &response)?);
        Ok(decode_all(shape, codec, response.body))
    }

    /// A server answers in the request's content type; one that does not is understood too.
    fn reply_codec<'a>(
        &'a self,
        codec: &'a Arc<dyn Codec>,
        response: &Response,
    ) -> Result<&'a Arc<dyn Codec>> {
        if response.content_type == codec.content_type() {
            return Ok(codec);
        }
        let known = &self.0.client.inner().options.codecs;
        known.get(&response.content_type).map_err(|err| {
            Error::internal("the server answered in a content type that the client does not know")
                .with_source(err)
        })
    }
}

/// Resolves when the transport has begun to read the requests of a call.
pub(crate) struct Started(oneshot::Receiver<()>);

impl Started {
    /// Watches the messages of a call.
    pub(crate) fn watch(body: Body) -> (Self, Body) {
        let (sender, receiver) = oneshot::channel();
        let body = match body {
            Body::Stream(mut messages) => {
                let mut sender = Some(sender);
                Body::Stream(Box::pin(futures_util::stream::poll_fn(move |task| {
                    if let Some(sender) = sender.take() {
                        // Nobody listens any more if the answer was there first.
                        let _ = sender.send(());
                    }
                    messages.as_mut().poll_next(task)
                })))
            }
            body => body,
        };
        (Self(receiver), body)
    }

    /// Waits for the replies, but no longer than until the requests are on their way; what is
    /// still to come is then waited for in the stream.
    pub(crate) async fn or<T: Send + 'static>(
        self,
        replies: BoxFuture<'static, Result<Streaming<T>>>,
    ) -> Result<Streaming<T>> {
        match select(replies, self.0).await {
            Either::Left((replies, _)) => replies,
            Either::Right((Ok(()), replies)) => Ok(Streaming::new(replies.try_flatten_stream())),
            // The call has ended without its requests having been read.
            Either::Right((Err(_), replies)) => replies.await,
        }
    }
}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Method")
            .field("service", &self.0.service)
            .field("path", &self.0.path)
            .finish_non_exhaustive()
    }
}

pub(crate) fn encode<T>(shape: Shape<T>, codec: &dyn Codec, message: &T) -> Result<Bytes> {
    shape
        .to_bytes(message, codec)
        .map_err(|err| err.with_operation("client.encode"))
}

pub(crate) fn decode<T>(shape: Shape<T>, codec: &dyn Codec, message: Bytes) -> Result<T> {
    shape.decode(codec, message).map_err(|err| {
        // The request was fine: what cannot be read is the server's answer.
        Error::internal(format!("the reply cannot be read: {}", err.message()))
            .with_operation("client.decode")
            .with_source(err)
    })
}

pub(crate) fn encode_all<T: Send + 'static>(
    shape: Shape<T>,
    codec: &Arc<dyn Codec>,
    messages: Streaming<T>,
) -> Body {
    let codec = Arc::clone(codec);
    Body::Stream(Box::pin(
        messages.map(move |message| encode(shape, &*codec, &message?)),
    ))
}

pub(crate) fn decode_all<T: Send + 'static>(
    shape: Shape<T>,
    codec: Arc<dyn Codec>,
    body: Body,
) -> Streaming<T> {
    match body {
        Body::Stream(messages) => {
            Streaming::new(messages.map(move |message| decode(shape, &*codec, message?)))
        }
        Body::Message(message) => Streaming::new(futures_util::stream::once(async move {
            decode(shape, &*codec, message)
        })),
        _ => Streaming::new(futures_util::stream::once(async {
            Err(Error::internal(
                "the transport answered in a form that the client does not know",
            ))
        })),
    }
}

/// Exactly one message; a transport may hand it over as a stream.
pub(crate) async fn one_message(body: Body) -> Result<Bytes> {
    match body {
        Body::Message(message) => Ok(message),
        // Boxed: nearly all come as above, and need not carry its state.
        Body::Stream(messages) => Box::pin(only(messages)).await,
        _ => Err(Error::internal(
            "the transport answered in a form that the client does not know",
        )),
    }
}

async fn only(mut messages: Messages) -> Result<Bytes> {
    let Some(message) = messages.next().await.transpose()? else {
        return Err(Error::internal("the server answered without a message"));
    };
    match messages.next().await.transpose()? {
        None => Ok(message),
        Some(_) => Err(Error::internal(
            "the server answered with more than one message",
        )),
    }
}
