//! One method, ready to be called: from bytes to the handler and back.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;

use micro_codec_core::{Codecs, Shape};
use micro_core::{Context, Result, Streaming, async_trait};
use micro_transport_core::{Body, BoxFuture, Endpoint, Request, Response, Trailers};

use crate::barrier::barrier;
use crate::routes::Reach;
use crate::stats::{Counters, Tally};
use crate::streams::{Encoding, Guarded, read_many, read_one, write_one};

/// What every route has, whatever its types.
#[derive(Debug)]
pub(crate) struct Common {
    /// The canonical path.
    pub(crate) path: Arc<str>,
    pub(crate) reach: Reach,
    pub(crate) codecs: Codecs,
    pub(crate) counters: Arc<Counters>,
}

/// A route without its types.
pub(crate) trait Route: Endpoint + fmt::Debug + 'static {
    fn common(&self) -> &Common;

    /// The same as [`Endpoint::call`], for a server without middleware: the future owns all it
    /// needs, so it is the only box of the call.
    fn call_owned(
        self: Arc<Self>,
        cx: Context,
        request: Request,
    ) -> BoxFuture<'static, Result<Response>>;
}

/// What the four kinds of methods do differently.
pub(crate) trait Handle: Send + Sync + 'static {
    fn handle(
        &self,
        common: &Common,
        cx: &Context,
        request: Request,
    ) -> impl Future<Output = Result<Response>> + Send;
}

pub(crate) struct Bound<H> {
    pub(crate) common: Common,
    pub(crate) handle: H,
}

impl<H: Handle> Bound<H> {
    async fn run(&self, cx: &Context, request: Request) -> Result<Response> {
        let common = &self.common;
        let mut tally = Tally::begin(&*common.counters);
        let result = {
            let handle = pin!(self.handle.handle(common, cx, request));
            barrier(&common.path, handle).await
        };
        match result {
            Ok(mut response) => {
                response.body = match response.body {
                    Body::Stream(messages) => {
                        let tally = tally.hand_over(&common.counters);
                        Body::Stream(Box::pin(Guarded::new(messages, &common.path, tally)))
                    }
                    body => {
                        tally.end(false);
                        body
                    }
                };
                Ok(response)
            }
            Err(err) => {
                tally.end(true);
                // A handler may pass on the error of a call of its own that never ran. This one
                // did run, and the caller must not repeat it on that ground.
                Err(err.with_unprocessed(false))
            }
        }
    }
}

#[async_trait]
impl<H: Handle> Endpoint for Bound<H> {
    // Written out: the future is boxed as it is, and not within another one.
    fn call<'a, 'b, 'c>(
        &'a self,
        cx: &'b Context,
        request: Request,
    ) -> BoxFuture<'c, Result<Response>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        Box::pin(self.run(cx, request))
    }
}

impl<H: Handle> Route for Bound<H> {
    fn common(&self) -> &Common {
        &self.common
    }

    fn call_owned(
        self: Arc<Self>,
        cx: Context,
        request: Request,
    ) -> BoxFuture<'static, Result<Response>> {
        Box::pin(async move { self.run(&cx, request).await })
    }
}

impl<H> fmt::Debug for Bound<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Route").field(&self.common.path).finish()
    }
}

/// A handler with the shapes of its messages.
pub(crate) struct Typed<Q, R, F> {
    pub(crate) request: Shape<Q>,
    pub(crate) reply: Shape<R>,
    pub(crate) handler: F,
}

pub(crate) struct Unary<Q, R, F>(pub(crate) Typed<Q, R, F>);
pub(crate) struct ServerStreaming<Q, R, F>(pub(crate) Typed<Q, R, F>);
pub(crate) struct ClientStreaming<Q, R, F>(pub(crate) Typed<Q, R, F>);
pub(crate) struct BidiStreaming<Q, R, F>(pub(crate) Typed<Q, R, F>);
pub(crate) struct Raw<F>(pub(crate) F);

impl<Q, R, F, Fut> Handle for Unary<Q, R, F>
where
    F: Fn(Context, Q) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<R>> + Send + 'static,
    Q: Send + 'static,
    R: Send + 'static,
{
    async fn handle(&self, common: &Common, cx: &Context, request: Request) -> Result<Response> {
        let codec = &**common.codecs.get(&request.content_type)?;
        let message = read_one(request.body, codec, self.0.request).await?;
        let reply = (self.0.handler)(cx.clone(), message).await?;
        let reply = write_one(&reply, codec, self.0.reply)?;
        Ok(Response::new(codec.content_type(), Body::Message(reply))
            .with_metadata(cx.reply().take()))
    }
}

impl<Q, R, F, Fut> Handle for ClientStreaming<Q, R, F>
where
    F: Fn(Context, Streaming<Q>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<R>> + Send + 'static,
    Q: Send + 'static,
    R: Send + 'static,
{
    async fn handle(&self, common: &Common, cx: &Context, request: Request) -> Result<Response> {
        let codec = common.codecs.get(&request.content_type)?;
        let messages = read_many(request.body, codec, self.0.request)?;
        let reply = (self.0.handler)(cx.clone(), messages).await?;
        let reply = write_one(&reply, &**codec, self.0.reply)?;
        Ok(Response::new(codec.content_type(), Body::Message(reply))
            .with_metadata(cx.reply().take()))
    }
}

impl<Q, R, F, Fut> Handle for ServerStreaming<Q, R, F>
where
    F: Fn(Context, Q) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Streaming<R>>> + Send + 'static,
    Q: Send + 'static,
    R: Send + 'static,
{
    async fn handle(&self, common: &Common, cx: &Context, request: Request) -> Result<Response> {
        let codec = common.codecs.get(&request.content_type)?;
        let message = read_one(request.body, &**codec, self.0.request).await?;
        let replies = (self.0.handler)(cx.clone(), message).await?;
        Ok(stream(replies, codec, self.0.reply, cx))
    }
}

impl<Q, R, F, Fut> Handle for BidiStreaming<Q, R, F>
where
    F: Fn(Context, Streaming<Q>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Streaming<R>>> + Send + 'static,
    Q: Send + 'static,
    R: Send + 'static,
{
    async fn handle(&self, common: &Common, cx: &Context, request: Request) -> Result<Response> {
        let codec = common.codecs.get(&request.content_type)?;
        let messages = read_many(request.body, codec, self.0.request)?;
        let replies = (self.0.handler)(cx.clone(), messages).await?;
        Ok(stream(replies, codec, self.0.reply, cx))
    }
}

fn stream<R: Send + 'static>(
    replies: Streaming<R>,
    codec: &Arc<dyn micro_codec_core::Codec>,
    shape: Shape<R>,
    cx: &Context,
) -> Response {
    // What the handler set so far goes ahead; what its stream sets goes behind.
    let metadata = cx.reply().take();
    let (sender, trailers) = Trailers::pending();
    let messages = Encoding::new(replies, codec, shape, cx.clone(), sender);
    Response::new(codec.content_type(), Body::Stream(Box::pin(messages)))
        .with_metadata(metadata)
        .with_trailers(trailers)
}

impl<F, Fut> Handle for Raw<F>
where
    F: Fn(Context, Request) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Response>> + Send + 'static,
{
    async fn handle(&self, _: &Common, cx: &Context, request: Request) -> Result<Response> {
        let mut response = (self.0)(cx.clone(), request).await?;
        response.metadata.extend(&cx.reply().take())?;
        Ok(response)
    }
}
