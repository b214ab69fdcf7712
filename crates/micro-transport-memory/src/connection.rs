//! The calling side, and the life of a call.

use std::fmt;
use std::future::{pending, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt as _;
use micro_core::Canceller;
use micro_transport_core::{
    Body, BoxFuture, Connection, Context, Error, Limits, Live, Messages, Metadata, Peer, Request,
    Response, Result, Trailers, async_trait,
};
use tokio::runtime::Handle;

use crate::port::{Port, Stage};
use crate::queue::{Writer, queue};

/// How many messages are moved before others have their turn.
const BATCH: usize = 64;

pub(crate) struct MemoryConnection(Arc<Link>);

/// What the calls of a connection share.
struct Link {
    port: Arc<Port>,
    limits: Live<Limits>,
    peer: Arc<Peer>,
    calls: AtomicUsize,
}

impl MemoryConnection {
    /// `None` if the listener has as many connections as it may.
    pub(crate) fn open(port: Arc<Port>, limits: Live<Limits>, peer: Peer) -> Option<Self> {
        let most = port.options.limits.get().connections;
        let taken = &port.connections;
        taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                (n < most).then_some(n + 1)
            })
            .ok()?;
        Some(Self(Arc::new(Link {
            port,
            limits,
            peer: Arc::new(peer),
            calls: AtomicUsize::new(0),
        })))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.port.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for MemoryConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryConnection")
            .field("address", &self.0.port.address)
            .field("peer", &self.0.peer.address)
            .field("calls", &self.0.calls.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}

/// What both sides allow, read once per call.
#[derive(Clone, Copy)]
struct Bounds {
    /// The largest message towards the server.
    up: usize,
    /// The largest message towards the client.
    down: usize,
    headers: usize,
    window_up: usize,
    window_down: usize,
    call: Duration,
    calls: usize,
}

impl Bounds {
    fn of(client: &Limits, server: &Limits) -> Self {
        let window = |bytes: u32| usize::try_from(bytes).unwrap_or(usize::MAX);
        Self {
            up: client.message_out.min(server.message_in),
            down: server.message_out.min(client.message_in),
            headers: client.headers.min(server.headers),
            window_up: window(server.stream_window),
            window_down: window(client.stream_window),
            call: server.call,
            calls: client.calls_per_connection.min(server.calls_per_connection),
        }
    }

    fn check_headers(&self, metadata: &Metadata) -> Result<()> {
        if metadata.size() > self.headers {
            return Err(Error::resource_exhausted("the metadata are too large")
                .with_operation("transport.call")
                .with_context("bytes", metadata.size())
                .with_context("limit", self.headers));
        }
        Ok(())
    }
}

fn check_size(bytes: usize, limit: usize) -> Result<()> {
    if bytes > limit {
        return Err(Error::resource_exhausted(
            "the message is too large; see Limits::message_in and message_out",
        )
        .with_operation("transport.call")
        .with_context("bytes", bytes)
        .with_context("limit", limit));
    }
    Ok(())
}

/// A call that counts as under way.
struct UnderWay(Arc<Link>);

impl UnderWay {
    fn begin(link: &Arc<Link>, bounds: &Bounds) -> Result<Self> {
        let refused = |why: &'static str| {
            Error::unavailable(why)
                .with_unprocessed(true)
                .with_operation("transport.call")
                .with_context("address", &link.port.address)
        };
        // From here on the drop of `this` takes back what is counted.
        let runs = link.port.enter();
        let before = link.calls.fetch_add(1, Ordering::Relaxed);
        let this = Self(Arc::clone(link));
        if !runs {
            return Err(refused("the listener stops"));
        }
        if before >= bounds.calls {
            return Err(refused(
                "the connection has all the calls it may have; see Limits::calls_per_connection",
            ));
        }
        Ok(this)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
        self.0.port.leave();
    }
}

/// Cancels the handler's context unless the call came to its end.
struct CancelUnlessOver {
    canceller: Canceller,
    over: bool,
}

impl Drop for CancelUnlessOver {
    fn drop(&mut self) {
        if !self.over {
            self.canceller.cancel();
        }
    }
}

#[async_trait]
impl Connection for MemoryConnection {
    async fn call(&self, cx: &Context, mut request: Request) -> Result<Response> {
        let link = &self.0;
        let port = &link.port;
        let bounds = Bounds::of(&link.limits.get(), &port.options.limits.get());
        let under_way = UnderWay::begin(link, &bounds)?;
        let Some(handler) = port.handler.get().cloned() else {
            // `begin` has seen the port serving, which it does only with a handler.
            return Err(Error::internal("the listener serves without a handler"));
        };
        bounds.check_headers(&request.metadata)?;
        let left = cx.remaining();
        if left == Some(Duration::ZERO) {
            return Err(late());
        }
        // As on a server behind a wire: nothing of the caller's context but what travels.
        let clock = Arc::clone(&port.options.clock);
        let (served, canceller) = Context::serve(Some(clock), request.metadata.clone());
        let mut served = served.with_attempt(cx.attempt());
        if let Some(left) = left {
            served = served.with_timeout(left);
        }
        request.peer = Some(Arc::clone(&link.peer));
        let (body, mut pump, within) = match request.body {
            Body::Message(message) => {
                check_size(message.len(), bounds.up)?;
                (Body::Message(message), None, left.or(Some(bounds.call)))
            }
            Body::Stream(messages) => {
                let (writer, reader) = queue(bounds.window_up, || {
                    Error::cancelled("the call is over").with_operation("transport.call")
                });
                let pump: Pump = Box::pin(pump(messages, writer, bounds.up));
                (Body::Stream(Box::pin(reader)), Some(pump), left)
            }
            _ => return Err(unknown_body()),
        };
        request.body = body;

        let handling = async move { handler.call(served, request).await };
        let mut handling = pin!(AssertUnwindSafe(handling).catch_unwind());
        // Declared behind the handler, so it goes first: the context is cancelled before the
        // handler's future is dropped.
        let mut cancel = CancelUnlessOver {
            canceller,
            over: false,
        };
        // In place, and most often that is all: no timer, no waker, no task.
        let mut outcome = poll_fn(|task| Poll::Ready(handling.as_mut().poll(task))).await;
        if outcome.is_pending() {
            let mut stopped = pin!(stopped(cx, within, port));
            outcome = poll_fn(|task| {
                if let Some(Poll::Ready(err)) = pump.as_mut().map(|pump| pump.as_mut().poll(task)) {
                    return Poll::Ready(Err(err));
                }
                if let Poll::Ready(err) = stopped.as_mut().poll(task) {
                    return Poll::Ready(Err(err));
                }
                handling.as_mut().poll(task).map(Ok)
            })
            .await
            .map(Poll::Ready)?;
        }
        let Poll::Ready(outcome) = outcome else {
            return Err(Error::internal("the handler is not over"));
        };
        let mut response = match outcome {
            Ok(Ok(response)) => response,
            Ok(Err(err)) => {
                cancel.over = true;
                return Err(travelled(&err));
            }
            Err(_panic) => return Err(panicked()),
        };
        bounds.check_headers(&response.metadata)?;
        match response.body {
            Body::Message(message) => {
                check_size(message.len(), bounds.down)?;
                cancel.over = true;
                response.body = Body::Message(message);
            }
            Body::Stream(messages) => {
                let Ok(runtime) = Handle::try_current() else {
                    return Err(Error::failed_precondition(
                        "a streamed reply needs a tokio runtime around the caller",
                    )
                    .with_operation("transport.call"));
                };
                let (writer, reader) = queue(bounds.window_down, broken);
                let (sender, trailers) = Trailers::pending();
                let reply = Reply {
                    cancel,
                    messages,
                    trailers: std::mem::replace(&mut response.trailers, trailers),
                    writer,
                    pump,
                    bounds,
                    under_way,
                };
                response.body = Body::Stream(Box::pin(reader.with_trailers(sender)));
                // It ends with the stream, its reader, the caller's context or the listener.
                runtime.spawn(reply.drive(cx.clone()));
            }
            _ => return Err(unknown_body()),
        }
        Ok(response)
    }

    fn is_open(&self) -> bool {
        self.0.port.stage() == Stage::Serving
    }

    async fn closed(&self) {
        self.0.port.reached(Stage::Draining).await;
    }
}

/// What ends a call from outside: the caller's context, its time, or the listener.
async fn stopped(cx: &Context, within: Option<Duration>, port: &Port) -> Error {
    let mut cancelled = pin!(cx.cancelled());
    let mut closed = pin!(port.reached(Stage::Closed));
    let mut late_at = pin!(async {
        match within {
            Some(within) => tokio::time::sleep(within).await,
            None => pending().await,
        }
    });
    poll_fn(|task| {
        if cancelled.as_mut().poll(task).is_ready() {
            return Poll::Ready(
                Error::cancelled("the caller gave up").with_operation("transport.call"),
            );
        }
        if closed.as_mut().poll(task).is_ready() {
            return Poll::Ready(broken());
        }
        late_at.as_mut().poll(task).map(|()| late())
    })
    .await
}

/// Moves the caller's messages to the handler; resolves only to what the call fails with.
type Pump = BoxFuture<'static, Error>;

async fn pump(mut messages: Messages, writer: Writer, limit: usize) -> Error {
    match forward(messages.as_mut(), &writer, limit).await {
        Some(Err(err)) => {
            writer.end(Err(Error::cancelled("the caller gave up")), None);
            err
        }
        ended => {
            if ended.is_some() {
                writer.end(Ok(()), None);
            }
            // The caller's stream is dropped as soon as nobody wants it, not when the call ends.
            drop(messages);
            drop(writer);
            pending().await
        }
    }
}

/// Moves messages as there is room; `None` if nobody reads them any more.
async fn forward(
    mut messages: Pin<&mut (dyn futures_core::Stream<Item = Result<bytes::Bytes>> + Send)>,
    writer: &Writer,
    limit: usize,
) -> Option<Result<()>> {
    loop {
        for _ in 0..BATCH {
            if !poll_fn(|task| writer.poll_room(task)).await {
                return None;
            }
            let message = match poll_fn(|task| messages.as_mut().poll_next(task)).await {
                Some(Ok(message)) => message,
                Some(Err(err)) => return Some(Err(err)),
                None => return Some(Ok(())),
            };
            if let Err(err) = check_size(message.len(), limit) {
                return Some(Err(err));
            }
            writer.push(message);
        }
        // A producer that is always ready would otherwise keep the thread to itself.
        tokio::task::yield_now().await;
    }
}

/// A streamed reply under way. The order of the fields is the order of their drops.
struct Reply {
    cancel: CancelUnlessOver,
    messages: Messages,
    trailers: Trailers,
    writer: Writer,
    pump: Option<Pump>,
    bounds: Bounds,
    under_way: UnderWay,
}

impl Reply {
    async fn drive(mut self, cx: Context) {
        let ended = {
            let writer = &self.writer;
            let pump = &mut self.pump;
            let mut stopped = pin!(stopped(&cx, cx.remaining(), &self.under_way.0.port));
            let forward = forward(self.messages.as_mut(), writer, self.bounds.down);
            let mut forward = pin!(AssertUnwindSafe(forward).catch_unwind());
            poll_fn(|task| {
                if writer.poll_closed(task).is_ready() {
                    return Poll::Ready(None);
                }
                if let Some(Poll::Ready(err)) = pump.as_mut().map(|pump| pump.as_mut().poll(task)) {
                    return Poll::Ready(Some(Err(err)));
                }
                if let Poll::Ready(err) = stopped.as_mut().poll(task) {
                    return Poll::Ready(Some(Err(err)));
                }
                let forwarded = std::task::ready!(forward.as_mut().poll(task));
                Poll::Ready(match forwarded {
                    Ok(Some(Err(err))) => Some(Err(travelled(&err))),
                    Ok(ended) => ended,
                    Err(_panic) => Some(Err(panicked())),
                })
            })
            .await
        };
        let Some(mut result) = ended else {
            return;
        };
        let trailers = self.trailers.get().cloned();
        if result.is_ok() {
            self.cancel.over = true;
            if let Some(trailers) = &trailers {
                result = self.bounds.check_headers(trailers);
            }
        }
        self.writer.end(result, trailers);
    }
}

/// What is left of a handler's error behind a wire: kind, message and details.
fn travelled(err: &Error) -> Error {
    let mut copy = Error::new(err.kind(), err.message().to_owned());
    for detail in err.details() {
        copy = copy.with_detail(detail.clone());
    }
    copy
}

fn late() -> Error {
    Error::deadline_exceeded("the time for the call ran out").with_operation("transport.call")
}

fn broken() -> Error {
    Error::unavailable("the connection was closed").with_operation("transport.call")
}

fn panicked() -> Error {
    // Not what the panic said: that is for the server's log, not for strangers.
    Error::internal("the handler panicked").with_operation("transport.call")
}

fn unknown_body() -> Error {
    Error::unimplemented("this kind of body is not known to the memory transport")
        .with_operation("transport.call")
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use bytes::Bytes;
    use futures_util::StreamExt as _;
    use futures_util::stream;
    use micro_core::{Clock, LiveWriter, SystemClock};
    use micro_transport_core::{
        DialOptions, ErrorKind, Handler, ListenOptions, Stop, Transport as _,
    };

    use super::*;
    use crate::MemoryTransport;

    type Answer = fn(Context, Request) -> BoxFuture<'static, Result<Response>>;

    struct Service(Answer);

    impl Handler for Service {
        fn call(
            self: Arc<Self>,
            cx: Context,
            request: Request,
        ) -> BoxFuture<'static, Result<Response>> {
            (self.0)(cx, request)
        }
    }

    fn reply(body: Body) -> Result<Response> {
        Ok(Response::new("text/plain", body))
    }

    fn message(text: &'static str) -> Body {
        Body::Message(Bytes::from_static(text.as_bytes()))
    }

    fn request() -> Request {
        Request::new("/a.B/C", "text/plain", message("hello"))
    }

    async fn connect(
        opts: ListenOptions,
        answer: Answer,
    ) -> (Arc<dyn Connection>, LiveWriter<Stop>) {
        let network = MemoryTransport::new();
        let listener = network.listen("x", opts).await.unwrap();
        let (stop, stopped) = Live::channel(Stop::Run);
        tokio::spawn(listener.serve(Arc::new(Service(answer)), stopped));
        let connection = network.dial("x", DialOptions::default()).await.unwrap();
        (connection, stop)
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_deadline_has_the_limit_s_time_and_a_stream_all_it_wants() {
        let (connection, _stop) = connect(ListenOptions::default(), |_, request| {
            Box::pin(async move {
                match request.body {
                    Body::Message(_) => pending().await,
                    _ => tokio::time::sleep(Duration::from_secs(600)).await,
                }
                reply(message("done"))
            })
        })
        .await;
        let begun = tokio::time::Instant::now();
        let outcome = connection.call(&Context::new(), request()).await;
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
        assert_eq!(begun.elapsed().as_secs(), 60);
        let mut request = request();
        request.body = Body::Stream(Box::pin(stream::pending()));
        connection.call(&Context::new(), request).await.unwrap();
        assert_eq!(begun.elapsed().as_secs(), 660);
    }

    #[tokio::test]
    async fn the_handler_s_deadline_is_by_the_listener_s_clock() {
        /// A clock that stands a day ahead of the caller's.
        #[derive(Debug)]
        struct Ahead(Instant);
        impl Clock for Ahead {
            fn now(&self) -> Instant {
                self.0
            }
            fn wall(&self) -> std::time::SystemTime {
                SystemClock.wall()
            }
        }
        let clock = Ahead(SystemClock.now() + Duration::from_secs(86_400));
        let opts = ListenOptions::default().with_clock(Arc::new(clock));
        let (connection, _stop) = connect(opts, |cx, _| {
            Box::pin(async move {
                let left = cx.remaining().map_or(0, |left| left.as_secs());
                reply(Body::Message(left.to_string().into()))
            })
        })
        .await;
        let cx = Context::new().with_timeout(Duration::from_secs(10));
        let Body::Message(left) = connection.call(&cx, request()).await.unwrap().body else {
            panic!("a message is answered by a message");
        };
        assert_eq!(left, "9");
    }

    #[tokio::test]
    async fn calls_beyond_the_limit_are_refused_and_never_run() {
        let limits = Limits::default().with_calls_per_connection(2);
        let opts = ListenOptions::default().with_limits(limits);
        let (connection, _stop) = connect(opts, |_, _| Box::pin(pending())).await;
        let call = || {
            let connection = Arc::clone(&connection);
            tokio::spawn(async move { connection.call(&Context::new(), request()).await })
        };
        let (first, _second) = (call(), call());
        tokio::task::yield_now().await;
        let err = connection
            .call(&Context::new(), request())
            .await
            .unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unavailable);
        assert!(err.is_unprocessed());
        // A call that is given up makes room.
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        let cx = Context::new();
        let mut third = pin!(connection.call(&cx, request()));
        let polled = poll_fn(|task| Poll::Ready(third.as_mut().poll(task))).await;
        assert!(polled.is_pending());
    }

    #[tokio::test]
    async fn connections_beyond_the_limit_are_refused_until_one_is_dropped() {
        let network = MemoryTransport::new();
        let limits = Limits::default().with_connections(1);
        let opts = ListenOptions::default().with_limits(limits);
        let listener = network.listen("x", opts).await.unwrap();
        let (_stop, stopped) = Live::channel(Stop::Run);
        let handler = Arc::new(Service(|_, _| Box::pin(pending())));
        tokio::spawn(listener.serve(handler, stopped));
        let first = network.dial("x", DialOptions::default()).await.unwrap();
        let err = network.dial("x", DialOptions::default()).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unavailable);
        assert!(err.is_unprocessed());
        drop(first);
        network.dial("x", DialOptions::default()).await.unwrap();
    }

    #[tokio::test]
    async fn a_reply_outlives_the_connection_it_came_over() {
        let (connection, _stop) = connect(ListenOptions::default(), |_, _| {
            let many = stream::iter((0..1000).map(|_| Ok(Bytes::from_static(b"x"))));
            Box::pin(async { reply(Body::Stream(Box::pin(many))) })
        })
        .await;
        let response = connection.call(&Context::new(), request()).await.unwrap();
        drop(connection);
        let Body::Stream(messages) = response.body else {
            panic!("a stream is a stream");
        };
        assert_eq!(messages.count().await, 1000);
    }

    #[tokio::test]
    async fn nothing_of_a_handler_s_error_travels_that_strangers_should_not_see() {
        let (connection, _stop) = connect(ListenOptions::default(), |_, _| {
            Box::pin(async {
                Err(Error::internal("broken")
                    .with_operation("db.query")
                    .with_context("table", "secrets")
                    .with_source(std::io::Error::other("password wrong")))
            })
        })
        .await;
        let outcome = connection.call(&Context::new(), request()).await;
        let text = format!("{:?}", outcome.unwrap_err());
        assert_eq!(text, "Internal: broken");
    }

    #[tokio::test]
    async fn a_cancelled_context_ends_a_call_that_nobody_drops() {
        let (connection, _stop) =
            connect(ListenOptions::default(), |_, _| Box::pin(pending())).await;
        let (cx, canceller) = Context::new().with_cancel();
        let mut call = pin!(connection.call(&cx, request()));
        let polled = poll_fn(|task| Poll::Ready(call.as_mut().poll(task))).await;
        assert!(polled.is_pending());
        canceller.cancel();
        assert_eq!(call.await.unwrap_err().kind(), ErrorKind::Cancelled);
    }

    #[tokio::test]
    async fn the_address_of_a_listener_that_drains_is_free() {
        let network = MemoryTransport::new();
        let listen = || network.listen("x", ListenOptions::default());
        let (stop, stopped) = Live::channel(Stop::Run);
        let handler = Arc::new(Service(|_, _| Box::pin(pending())));
        let serving = tokio::spawn(listen().await.unwrap().serve(handler, stopped));
        let connection = network.dial("x", DialOptions::default()).await.unwrap();
        let cx = Context::new();
        let mut call = pin!(connection.call(&cx, request()));
        let polled = poll_fn(|task| Poll::Ready(call.as_mut().poll(task))).await;
        assert!(polled.is_pending());
        let until = SystemClock.now() + Duration::from_secs(60);
        stop.set(Stop::Drain { until });
        connection.closed().await;
        let successor = listen().await.unwrap();
        stop.set(Stop::Close);
        assert_eq!(call.await.unwrap_err().kind(), ErrorKind::Unavailable);
        serving.await.unwrap().unwrap();
        // The end of the first takes nothing from the second.
        assert_eq!(listen().await.unwrap_err().kind(), ErrorKind::AlreadyExists);
        drop(successor);
    }
}
