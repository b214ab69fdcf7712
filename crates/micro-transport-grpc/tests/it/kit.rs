//! What the tests share: a service with a method for each situation, and ways to call it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use micro_core::{Error, ErrorKind, LiveWriter, Metadata, Streaming};
use micro_transport_core::{
    Body, BoxFuture, Connection, Context, DialOptions, Handler, ListenOptions, Live, Messages,
    Request, Response, Result, Stop, Trailers, Transport as _,
};
use micro_transport_grpc::GrpcTransport;
use tokio::task::JoinHandle;

/// How many handlers have begun, are running, and were dropped before their end.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) begun: AtomicUsize,
    pub(crate) running: AtomicUsize,
    pub(crate) dropped: AtomicUsize,
    pub(crate) cancelled: AtomicUsize,
}

impl Counts {
    pub(crate) fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }

    pub(crate) fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }
}

struct Running {
    counts: Arc<Counts>,
    cx: Context,
    done: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.counts.running.fetch_sub(1, Ordering::SeqCst);
        if !self.done {
            self.counts.dropped.fetch_add(1, Ordering::SeqCst);
            if self.cx.is_cancelled() {
                self.counts.cancelled.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}

/// The service. The method is the last part of the path.
#[derive(Debug, Default)]
pub(crate) struct Service {
    pub(crate) counts: Arc<Counts>,
}

impl Handler for Service {
    fn call(
        self: Arc<Self>,
        cx: Context,
        request: Request,
    ) -> BoxFuture<'static, Result<Response>> {
        let counts = Arc::clone(&self.counts);
        counts.begun.fetch_add(1, Ordering::SeqCst);
        counts.running.fetch_add(1, Ordering::SeqCst);
        let running = Running {
            counts,
            cx: cx.clone(),
            done: false,
        };
        Box::pin(async move {
            let mut running = running;
            let outcome = answer(cx, request).await;
            running.done = true;
            outcome
        })
    }
}

pub(crate) fn messages(items: impl IntoIterator<Item = Result<Bytes>>) -> Messages {
    let items: Vec<_> = items.into_iter().collect();
    Box::pin(futures_util::stream::iter(items))
}

pub(crate) async fn one(body: Body) -> Result<Bytes> {
    match body {
        Body::Message(message) => Ok(message),
        Body::Stream(mut stream) => {
            let first = stream
                .next()
                .await
                .unwrap_or_else(|| Err(Error::invalid_argument("no message")))?;
            match stream.next().await {
                None => Ok(first),
                Some(Ok(_)) => Err(Error::invalid_argument("more than one message")),
                Some(Err(err)) => Err(err),
            }
        }
        _ => Err(Error::internal("an unknown body")),
    }
}

pub(crate) async fn all(body: Body) -> Result<Vec<Bytes>> {
    match body {
        Body::Message(message) => Ok(vec![message]),
        Body::Stream(mut stream) => {
            let mut all = Vec::new();
            while let Some(message) = stream.next().await {
                all.push(message?);
            }
            Ok(all)
        }
        _ => Err(Error::internal("an unknown body")),
    }
}

async fn answer(cx: Context, request: Request) -> Result<Response> {
    let method = request
        .path
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .to_owned();
    let content_type = request.content_type.clone();
    let reply = |body| Response::new(content_type, body);
    match method.as_str() {
        "Echo" => {
            let mut trailers = Metadata::new();
            trailers.append("x-trailer", "behind")?;
            let metadata = request.metadata;
            let message = one(request.body).await?;
            Ok(reply(Body::Message(message))
                .with_metadata(metadata)
                .with_trailers(Trailers::ready(trailers)))
        }
        // What the handler sees of the call, as text.
        "See" => {
            let peer = request.peer.as_ref();
            let text = format!(
                "path={} type={} remaining={:?} attempt={} local={:?} metadata={} certificates={}",
                request.path,
                request.content_type,
                cx.remaining().map(|left| left.as_millis()),
                cx.attempt(),
                peer.map(|peer| peer.local),
                cx.metadata().len(),
                peer.map_or(0, |peer| peer.certificates.len()),
            );
            Ok(reply(Body::Message(text.into())))
        }
        "Sleep" => {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            Ok(reply(Body::Message(Bytes::new())))
        }
        "Nap" => {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(reply(Body::Message("awake".into())))
        }
        "Busy" => {
            #[expect(
                clippy::disallowed_methods,
                reason = "it stands for a handler that computes"
            )]
            std::thread::sleep(Duration::from_millis(5));
            let thread = format!("{:?}", tokio::task::id());
            Ok(reply(Body::Message(thread.into())))
        }
        // "count size"
        "Count" => {
            let text = one(request.body).await?;
            let text = String::from_utf8_lossy(&text).into_owned();
            let (count, size) = text.split_once(' ').unwrap_or((&text, "1"));
            let (count, size): (usize, usize) = (count.parse().unwrap(), size.parse().unwrap());
            let (sender, trailers) = Trailers::pending();
            let mut end = Metadata::new();
            end.append("x-count", count.to_string())?;
            let mut left = count;
            let stream = futures_util::stream::poll_fn(move |_| {
                if left == 0 {
                    sender.send(end.clone());
                    return std::task::Poll::Ready(None);
                }
                left -= 1;
                std::task::Poll::Ready(Some(Ok(Bytes::from(vec![7; size]))))
            });
            Ok(reply(Body::Stream(Box::pin(stream))).with_trailers(trailers))
        }
        // "milliseconds size": one message, a little later.
        "Late" => {
            let text = one(request.body).await?;
            let text = String::from_utf8_lossy(&text).into_owned();
            let (millis, size) = text.split_once(' ').unwrap_or(("0", &text));
            let (millis, size) = (millis.parse().unwrap_or(0), size.parse().unwrap_or(0));
            tokio::time::sleep(Duration::from_millis(millis)).await;
            Ok(reply(Body::Message(Bytes::from(vec![7; size]))))
        }
        // Messages that never end, one a millisecond.
        "Tick" => {
            let guard = cx.clone();
            let stream = futures_util::stream::unfold(0_u32, move |i| {
                let guard = guard.clone();
                async move {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    drop(guard);
                    Some((Ok(Bytes::from(i.to_string())), i + 1))
                }
            });
            Ok(reply(Body::Stream(Box::pin(stream))))
        }
        "Collect" => {
            let all = all(request.body).await?;
            let text = format!(
                "{} {}",
                all.len(),
                all.iter().map(Bytes::len).sum::<usize>()
            );
            Ok(reply(Body::Message(text.into())))
        }
        "Chat" => {
            let Body::Stream(stream) = request.body else {
                return Err(Error::internal("a chat is a stream"));
            };
            Ok(reply(Body::Stream(stream)))
        }
        "Early" => Ok(reply(Body::Message("early".into()))),
        "Fail" => {
            let text = one(request.body).await?;
            let index: usize = String::from_utf8_lossy(&text).parse().unwrap_or(0);
            Err(Error::new(ErrorKind::ALL[index], "as you wish: ü\n100 %"))
        }
        "FailLate" => Ok(reply(Body::Stream(messages([
            Ok("one".into()),
            Ok("two".into()),
            Err(Error::aborted("after two")),
        ])))),
        "FailFirst" => Ok(reply(Body::Stream(messages([Err(Error::aborted(
            "at once",
        ))])))),
        "Panic" => panic!("a secret in a panic"),
        "PanicLate" => {
            tokio::time::sleep(Duration::from_millis(5)).await;
            panic!("a secret in a panic");
        }
        "PanicStream" => {
            let mut first = true;
            let stream = futures_util::stream::poll_fn(move |_| {
                assert!(first, "a secret in a panic");
                first = false;
                std::task::Poll::Ready(Some(Ok(Bytes::from_static(b"one"))))
            });
            Ok(reply(Body::Stream(Box::pin(stream))))
        }
        _ => Err(Error::unimplemented("no such method")),
    }
}

/// A listener that serves [`Service`].
pub(crate) struct Server {
    pub(crate) address: String,
    pub(crate) counts: Arc<Counts>,
    pub(crate) stop: LiveWriter<Stop>,
    pub(crate) task: JoinHandle<Result<()>>,
}

pub(crate) async fn serve(opts: ListenOptions) -> Server {
    let listener = GrpcTransport::new()
        .listen("127.0.0.1:0", opts)
        .await
        .unwrap();
    let service = Service::default();
    let counts = Arc::clone(&service.counts);
    let (stop, live) = Live::channel(Stop::Run);
    Server {
        address: listener.address(),
        counts,
        stop,
        task: tokio::spawn(listener.serve(Arc::new(service), live)),
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub(crate) async fn start() -> Self {
        serve(ListenOptions::default()).await
    }

    pub(crate) async fn dial(&self) -> Arc<dyn Connection> {
        self.dial_with(DialOptions::default()).await
    }

    pub(crate) async fn dial_with(&self, opts: DialOptions) -> Arc<dyn Connection> {
        GrpcTransport::new()
            .dial(&self.address, opts)
            .await
            .unwrap()
    }

    pub(crate) async fn is_idle_within(&self, limit: Duration) -> bool {
        eventually(limit, || self.counts.running() == 0).await
    }
}

pub(crate) async fn eventually(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let waited = tokio::time::timeout(limit, async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    waited.await.is_ok()
}

pub(crate) fn request(method: &str, body: Body) -> Request {
    Request::new(format!("/test.T/{method}"), "application/json", body)
}

pub(crate) async fn unary(
    connection: &dyn Connection,
    cx: &Context,
    method: &str,
    message: impl Into<Bytes>,
) -> Result<Bytes> {
    let response = connection
        .call(cx, request(method, Body::Message(message.into())))
        .await?;
    one(response.body).await
}

pub(crate) fn stream_of(body: Body) -> Streaming<Bytes> {
    match body {
        Body::Message(message) => Streaming::from_iter([message]),
        Body::Stream(stream) => Streaming::new(stream),
        _ => panic!("an unknown body"),
    }
}
