//! HTTP/1.1 on the same port: unary calls as a simple POST.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::HeaderMap;
use http::{Request as HttpRequest, Response as HttpResponse};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use micro_core::{Canceller, Context, Result};
use micro_transport_core::{Body, BoxFuture, Limits, Post, PostHandler, Request, Response};

use super::Conn;
use super::call::{out_of_time, panicked};
use super::control::{Command, Control};
use super::post;
use crate::headers;
use crate::io::Io;

/// hyper's smallest read buffer.
const SMALLEST_BUFFER: usize = 8 << 10;

/// hyper adds it to the time without asking whether it fits.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(86_400 * 365);

/// Serves a connection to its end.
pub(crate) async fn serve(io: Io, conn: Arc<Conn>, control: &Arc<Control>, limits: &Limits) {
    let calls = Arc::clone(control);
    let peer = conn.peer.address.clone();
    let service = service_fn(move |request: HttpRequest<Incoming>| {
        let conn = Arc::clone(&conn);
        let counted = Counted::new(&calls);
        async move {
            let answer = answer(&conn, request).await;
            drop(counted);
            let (parts, message) = answer.into_parts();
            Ok::<_, Infallible>(HttpResponse::from_parts(parts, Whole(message)))
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout.min(LONGEST_TIMEOUT))
        .max_buf_size(limits.headers.max(SMALLEST_BUFFER))
        .max_headers(micro_core::Metadata::MAX_ENTRIES)
        .pipeline_flush(true)
        .serve_connection(TokioIo::new(io), service);
    let mut serving = pin!(serving);
    let mut draining = false;
    loop {
        let ended = tokio::select! {
            biased;
            command = commanded(control, draining) => {
                if command == Command::Close {
                    return;
                }
                draining = true;
                serving.as_mut().graceful_shutdown();
                continue;
            }
            ended = serving.as_mut() => ended,
        };
        if let Err(err) = ended {
            tracing::debug!(%peer, %err, "the connection failed");
        }
        return;
    }
}

/// The next command; while draining only `Close` is one.
async fn commanded(control: &Control, draining: bool) -> Command {
    std::future::poll_fn(|cx| {
        control.register(cx.waker());
        match control.command() {
            Command::Run => Poll::Pending,
            Command::Evict | Command::Drain if draining => Poll::Pending,
            command => Poll::Ready(command),
        }
    })
    .await
}

/// Counts a call for the listener, which closes connections without any first.
struct Counted(Arc<Control>);

impl Counted {
    fn new(control: &Arc<Control>) -> Self {
        control.add_active();
        Self(Arc::clone(control))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.remove_active();
    }
}

/// Cancels a call whose caller is gone: hyper drops the answer's future then.
struct CancelOnDrop(Option<Canceller>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some(canceller) = self.0.take() {
            canceller.cancel();
        }
    }
}

async fn answer(conn: &Conn, request: HttpRequest<Incoming>) -> post::Answer {
    let limits = conn.limits.get_arc();
    let (parts, body) = request.into_parts();
    if let Some(posts) = &conn.posts
        && let Some(limit) = posts.limit(parts.uri.path())
    {
        return posted(conn, posts, limit, limits.call, parts, body).await;
    }
    let codec = match post::check(&parts.method, &parts.uri, &parts.headers, limits.message_in) {
        Ok(codec) => codec,
        Err(answer) => return *answer,
    };
    let timeout = match headers::timeout(&parts.headers) {
        Ok(timeout) => timeout.unwrap_or(limits.call),
        Err(err) => return post::error(&err),
    };
    let call = async {
        let message = match read(body, limits.message_in).await {
            Ok(Some(message)) => message,
            Ok(None) => return post::too_large(limits.message_in),
            Err(()) => return post::broken(),
        };
        let path = parts.uri.path();
        let outcome = handle(conn, path, codec, &parts.headers, timeout, message).await;
        post::answer(outcome, limits.message_out, &conn.names)
    };
    match within(timeout, call).await {
        Some(answer) => answer,
        None => post::error(&out_of_time()),
    }
}

/// Answers a POST that is no call. Its body has as long to come as a call; the answer takes what it takes.
async fn posted(
    conn: &Conn,
    posts: &Arc<dyn PostHandler>,
    limit: usize,
    timeout: Duration,
    parts: http::request::Parts,
    body: Incoming,
) -> post::Answer {
    let headers = match post::check_post(&parts.method, &parts.uri, &parts.headers, limit) {
        Ok(headers) => headers,
        Err(answer) => return *answer,
    };
    let body = match within(timeout, read(body, limit)).await {
        Some(Ok(Some(body))) => body,
        Some(Ok(None)) => return post::too_large(limit),
        Some(Err(())) => return post::broken(),
        None => return post::error(&out_of_time()),
    };
    let path = parts.uri.path();
    let target = parts.uri.path_and_query();
    let post = Post::new(target.map_or(path, |target| target.as_str()), body)
        .with_headers(headers)
        .with_peer(Arc::clone(&conn.peer));
    match barrier(path, || Arc::clone(posts).answer(post)).await {
        Ok(reply) => post::written(reply, &conn.names),
        Err(err) => post::error(&err),
    }
}

/// A future with a time limit; one beyond what a timer holds is none.
async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    tokio::time::timeout(limit, future).await.ok()
}

async fn read(body: Incoming, limit: usize) -> Result<Option<Bytes>, ()> {
    let mut body = pin!(body);
    let mut buf = BytesMut::new();
    while let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let Ok(data) = frame.map_err(|_| ())?.into_data() else {
            continue;
        };
        if buf.len() + data.len() > limit {
            return Ok(None);
        }
        buf.extend_from_slice(&data);
    }
    Ok(Some(buf.freeze()))
}

async fn handle(
    conn: &Conn,
    path: &str,
    codec: std::borrow::Cow<'static, str>,
    headers: &HeaderMap,
    timeout: Duration,
    message: Bytes,
) -> Result<Response> {
    let metadata = headers::to_metadata(headers)?;
    let (cx, canceller) = Context::serve(Some(Arc::clone(&conn.clock)), metadata.clone());
    let cx = cx
        .with_timeout(timeout)
        .with_attempt(headers::attempt(headers));
    let mut guard = CancelOnDrop(Some(canceller));
    let request = Request::new(path, codec, Body::Message(message))
        .with_metadata(metadata)
        .with_peer(Arc::clone(&conn.peer));
    let handler = Arc::clone(&conn.handler);
    let outcome = barrier(path, || handler.call(cx, request)).await;
    guard.0 = None;
    outcome.flatten()
}

/// Runs what is not ours; if it panics, the result is an error.
async fn barrier<T>(path: &str, begin: impl FnOnce() -> BoxFuture<'static, T>) -> Result<T> {
    let mut future =
        std::panic::catch_unwind(AssertUnwindSafe(begin)).map_err(|_| panicked(path))?;
    std::future::poll_fn(|cx| {
        std::panic::catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx).map(Ok)))
            .unwrap_or_else(|_| Poll::Ready(Err(panicked(path))))
    })
    .await
}

/// A body in one piece.
struct Whole(Bytes);

impl HttpBody for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.0.is_empty() {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.0)))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.len() as u64)
    }
}
