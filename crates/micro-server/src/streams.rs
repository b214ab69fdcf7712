//! Streams of messages, between bytes and types.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use bytes::Bytes;
use futures_core::Stream;
use micro_codec_core::{Codec, Shape};
use micro_core::{Context, Error, ErrorKind, Result, Streaming};
use micro_transport_core::{Body, Messages, TrailersSender};

use crate::barrier;
use crate::stats::{Counters, Tally};

/// Reads the one message of a call that has one.
pub(crate) async fn read_one<Q>(body: Body, codec: &dyn Codec, shape: Shape<Q>) -> Result<Q> {
    let bytes = match body {
        Body::Message(bytes) => bytes,
        // Boxed: nearly all come as above, and need not carry its state.
        Body::Stream(messages) => Box::pin(only(messages)).await?,
        _ => return Err(unknown_body()),
    };
    shape.decode(codec, bytes)
}

async fn only(mut messages: Messages) -> Result<Bytes> {
    let mut next = async || std::future::poll_fn(|cx| messages.as_mut().poll_next(cx)).await;
    let Some(first) = next().await else {
        return Err(one_expected("none"));
    };
    let first = first?;
    match next().await {
        None => Ok(first),
        Some(Ok(_)) => Err(one_expected("more")),
        Some(Err(err)) => Err(err),
    }
}

fn one_expected(came: &'static str) -> Error {
    // The kind is that of gRPC's other servers.
    Error::internal(match came {
        "none" => "exactly one message is expected, and none came",
        _ => "exactly one message is expected, and more came",
    })
    .with_operation("server.call")
}

fn unknown_body() -> Error {
    Error::unimplemented("this server does not know this form of body")
        .with_operation("server.call")
}

/// Reads the messages of a call that has many, each when the handler asks for it.
pub(crate) fn read_many<Q: Send + 'static>(
    body: Body,
    codec: &Arc<dyn Codec>,
    shape: Shape<Q>,
) -> Result<Streaming<Q>> {
    let source = match body {
        // A transport that saw the end behind the first message need not make a stream of it.
        Body::Message(bytes) => Source::One(bytes),
        Body::Stream(messages) => Source::Many(messages),
        _ => return Err(unknown_body()),
    };
    Ok(Streaming::new(Decoding {
        source,
        codec: Arc::clone(codec),
        shape,
    }))
}

enum Source {
    One(Bytes),
    Many(Messages),
    End,
}

struct Decoding<Q> {
    source: Source,
    codec: Arc<dyn Codec>,
    shape: Shape<Q>,
}

// It holds function pointers of `Q`, never a `Q`.
impl<Q> Unpin for Decoding<Q> {}

impl<Q> Stream for Decoding<Q> {
    type Item = Result<Q>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let (bytes, last) = match &mut this.source {
            Source::One(bytes) => (Some(Ok(std::mem::take(bytes))), true),
            Source::Many(messages) => match messages.as_mut().poll_next(cx) {
                Poll::Ready(bytes) => (bytes, false),
                Poll::Pending => return Poll::Pending,
            },
            Source::End => return Poll::Ready(None),
        };
        let item = bytes.map(|bytes| this.shape.decode(&*this.codec, bytes?));
        // Nothing comes after an error, and dropping the rest tells the caller.
        if last || !matches!(item, Some(Ok(_))) {
            this.source = Source::End;
        }
        Poll::Ready(item)
    }
}

/// Writes one message.
pub(crate) fn write_one<R>(message: &R, codec: &dyn Codec, shape: Shape<R>) -> Result<Bytes> {
    match shape.to_bytes(message, codec) {
        Ok(bytes) => Ok(bytes),
        // The caller's argument was fine: it is our reply that cannot be written.
        Err(err) if err.kind() == ErrorKind::InvalidArgument => {
            let message = format!("the reply cannot be encoded: {}", err.message());
            Err(Error::internal(message)
                .with_operation("server.call")
                .with_source(err))
        }
        Err(err) => Err(err),
    }
}

/// Writes many messages, each when the transport asks for it.
pub(crate) struct Encoding<R> {
    replies: Option<Streaming<R>>,
    codec: Arc<dyn Codec>,
    shape: Shape<R>,
    cx: Context,
    trailers: Option<TrailersSender>,
}

impl<R> Encoding<R> {
    pub(crate) fn new(
        replies: Streaming<R>,
        codec: &Arc<dyn Codec>,
        shape: Shape<R>,
        cx: Context,
        trailers: TrailersSender,
    ) -> Self {
        Self {
            replies: Some(replies),
            codec: Arc::clone(codec),
            shape,
            cx,
            trailers: Some(trailers),
        }
    }
}

impl<R> Unpin for Encoding<R> {}

impl<R> Stream for Encoding<R> {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let Some(replies) = &mut this.replies else {
            return Poll::Ready(None);
        };
        let Poll::Ready(reply) = Pin::new(replies).poll_next(cx) else {
            return Poll::Pending;
        };
        let item = reply.map(|reply| write_one(&reply?, &*this.codec, this.shape));
        if !matches!(item, Some(Ok(_))) {
            this.replies = None;
            if let Some(trailers) = this.trailers.take() {
                trailers.send(this.cx.reply().take());
            }
        }
        Poll::Ready(item)
    }
}

/// Stands around every stream that answers a call: catches panics and counts how it ends.
pub(crate) struct Guarded {
    messages: Option<Messages>,
    path: Arc<str>,
    tally: Tally<Arc<Counters>>,
}

impl Guarded {
    pub(crate) fn new(messages: Messages, path: &Arc<str>, tally: Tally<Arc<Counters>>) -> Self {
        Self {
            messages: Some(messages),
            path: Arc::clone(path),
            tally,
        }
    }
}

impl Stream for Guarded {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let Some(messages) = &mut this.messages else {
            return Poll::Ready(None);
        };
        let item = match barrier::step(&this.path, || messages.as_mut().poll_next(cx)) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(item)) => {
                // As in `Bound::run`: this call did run.
                item.map(|item| item.map_err(|err| err.with_unprocessed(false)))
            }
            Err(panicked) => Some(Err(panicked)),
        };
        if !matches!(item, Some(Ok(_))) {
            this.messages = None;
            this.tally.end(item.is_some());
        }
        Poll::Ready(item)
    }
}
