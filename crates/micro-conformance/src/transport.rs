//! Behavior that every transport shares: what a caller and a handler can see of each other.
//!
//! The suite moves raw bytes between a handler of its own and connections. A handler gets a unary
//! request as [`Body::Message`] or as a stream of one message, and so does a caller its reply:
//! which one is the transport's choice.

use std::fmt;
use std::future::{pending, poll_fn};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt as _};
use futures_util::{FutureExt as _, Stream};
use micro_core::{Detail, LiveWriter, Streaming};
use micro_transport_core::{
    Body, BoxFuture, Connection, Context, DialOptions, Error, ErrorKind, Handler, Limits,
    ListenOptions, Live, Messages, Metadata, Request, Response, Result, Stop, Trailers, Transport,
};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::harness::{cases, run_cases, runtime};

/// How a case reaches the transport: for transports that run the suite in several ways, such as
/// plain and over mutual TLS.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Setup {
    /// The transport, fresh for each case.
    pub transport: Arc<dyn Transport>,
    /// What to listen on; it must leave the choice of the port to the transport.
    pub listen_address: String,
    /// How to listen; a case may replace the limits.
    pub listen: ListenOptions,
    /// How to dial; a case may replace the limits.
    pub dial: DialOptions,
}

impl Setup {
    /// Any free port of the loopback address, with default options.
    #[must_use]
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        Self {
            transport,
            listen_address: "127.0.0.1:0".to_owned(),
            listen: ListenOptions::default(),
            dial: DialOptions::default(),
        }
    }

    /// Sets [`listen_address`](Self::listen_address).
    #[must_use]
    pub fn with_listen_address(mut self, address: impl Into<String>) -> Self {
        self.listen_address = address.into();
        self
    }

    /// Sets [`listen`](Self::listen).
    #[must_use]
    pub fn with_listen(mut self, listen: ListenOptions) -> Self {
        self.listen = listen;
        self
    }

    /// Sets [`dial`](Self::dial).
    #[must_use]
    pub fn with_dial(mut self, dial: DialOptions) -> Self {
        self.dial = dial;
        self
    }

    /// The same with other limits.
    fn limited(
        &self,
        client: impl FnOnce(Limits) -> Limits,
        server: impl FnOnce(Limits) -> Limits,
    ) -> Self {
        let mut limited = self.clone();
        limited.dial.limits = client((*limited.dial.limits.get_arc()).clone()).into();
        limited.listen.limits = server((*limited.listen.limits.get_arc()).clone()).into();
        limited
    }
}

/// Runs the suite; `open` returns a fresh transport for each case.
pub fn run<F>(open: F) -> ExitCode
where
    F: AsyncFn() -> Result<Arc<dyn Transport>> + Clone + Send + 'static,
{
    run_with(async move || Ok(Setup::new(open().await?)))
}

/// Runs the suite with options; `open` returns a fresh setup for each case.
pub fn run_with<F>(open: F) -> ExitCode
where
    F: AsyncFn() -> Result<Setup> + Clone + Send + 'static,
{
    let open = move || runtime().block_on(open()).map(Arc::new);
    run_cases(
        cases![();
            a_unary_call_is_answered,
            an_empty_message_is_a_message,
            a_message_of_a_mebibyte_passes,
            the_path_arrives,
            content_types_arrive_both_ways,
            a_message_at_the_limit_passes_and_one_byte_more_is_refused,
            a_streamed_message_over_the_limit_is_refused,
            a_thousand_streamed_replies_arrive_in_order,
            a_stream_of_requests_is_answered_once,
            empty_streams_end,
            requests_and_replies_take_turns,
            a_server_may_answer_before_it_reads,
            requests_flow_before_replies_are_read,
            an_early_reply_ends_the_requests,
            many_streams_share_a_connection,
            metadata_arrive_both_ways,
            metadata_names_are_case_insensitive_and_none_is_the_protocol_s,
            metadata_beyond_the_limit_are_refused,
            trailers_come_with_the_end,
            every_kind_of_error_comes_back_as_itself,
            an_error_is_never_unprocessed_because_a_handler_says_so,
            an_endless_error_message_breaks_nothing,
            an_error_may_follow_streamed_replies,
            the_deadline_is_known_to_the_handler,
            the_attempt_is_known_to_the_handler,
            the_peer_is_known_to_the_handler,
            a_handler_is_dropped_at_the_deadline,
            a_streamed_reply_ends_at_the_deadline,
            a_call_without_time_never_runs,
            a_handler_is_cancelled_and_dropped_when_the_caller_leaves,
            a_streaming_handler_stops_when_its_reader_leaves,
            a_failing_request_stream_ends_the_call,
            half_a_request_stream_is_never_taken_for_a_whole_one,
            a_thousand_cancelled_calls_leave_nothing_under_way,
            a_slow_reader_holds_its_producer_back,
            a_slow_handler_holds_its_caller_back,
            a_panic_fails_one_call_only,
            a_panicking_stream_fails_one_call_only,
            many_callers_call_at_once,
            two_listeners_do_not_mix,
            a_taken_address_is_refused,
            an_address_is_free_again_after_its_listener,
            nobody_listening_is_unavailable_and_unprocessed,
            what_is_no_address_is_refused,
            a_drain_finishes_calls_and_refuses_new_ones,
            a_drain_ends_at_its_deadline,
            closing_ends_calls_at_once,
            dropping_serve_closes_everything,
        ],
        &(),
        &open,
    )
}

type Backend = Arc<Setup>;

/// How long something that happens soon may take on a busy machine.
const SOON: Duration = Duration::from_secs(1);

/// No single wait of a case is longer.
const PATIENCE: Duration = Duration::from_secs(15);

// ---- the handler -------------------------------------------------------------------------------

/// What the handlers of one listener have done.
#[derive(Default)]
struct Service {
    name: String,
    /// Handler futures and reply streams that exist.
    alive: AtomicUsize,
    /// Handlers that ever began.
    begun: AtomicUsize,
    /// Handlers that went away with their context cancelled.
    cancelled: AtomicUsize,
    /// Messages that `Flood` has made.
    produced: AtomicUsize,
    /// How `Detached` saw its requests end: well, and not.
    whole: AtomicUsize,
    half: AtomicUsize,
    /// Lets `Gate` go.
    gate: OnceLock<Semaphore>,
}

impl Service {
    fn alive(&self) -> usize {
        self.alive.load(Ordering::SeqCst)
    }

    fn gate(&self) -> &Semaphore {
        self.gate.get_or_init(|| Semaphore::new(0))
    }
}

/// Counts a handler, or the stream it replies with, for as long as it exists.
struct Alive(Arc<Service>, Context);

impl Alive {
    fn new(service: &Arc<Service>, cx: &Context) -> Self {
        service.alive.fetch_add(1, Ordering::SeqCst);
        service.begun.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(service), cx.clone())
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        if self.1.is_cancelled() {
            self.0.cancelled.fetch_add(1, Ordering::SeqCst);
        }
        self.0.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Handler for Service {
    fn call(
        self: Arc<Self>,
        cx: Context,
        request: Request,
    ) -> BoxFuture<'static, Result<Response>> {
        // Counted from the first moment, also if it is never polled.
        let alive = Alive::new(&self, &cx);
        Box::pin(async move { self.answer(alive, cx, request).await })
    }
}

impl Service {
    async fn answer(&self, alive: Alive, cx: Context, request: Request) -> Result<Response> {
        let kind = request.content_type.clone();
        let reply = move |body: Body| Response::new(kind, body);
        let path = Arc::clone(&request.path);
        let method = path.strip_prefix("/test.Echo/").unwrap_or("");
        match method {
            "Unary" => {
                let message = one_message(request.body).await?;
                let response = reply(Body::Message(message));
                Ok(response
                    .with_metadata(copied(cx.metadata(), "x-echo-")?)
                    .with_trailers(Trailers::ready(copied(cx.metadata(), "x-trailer-")?)))
            }
            "Describe" => {
                one_message(request.body).await?;
                let peer = request.peer.as_ref();
                let left = cx
                    .remaining()
                    .map_or("none".to_owned(), |left| left.as_millis().to_string());
                let reserved = cx
                    .metadata()
                    .iter()
                    .any(|(name, _)| Metadata::is_reserved(name));
                let text = format!(
                    "path={}\ncontent={}\nleft={left}\nattempt={}\npeer={}\nreserved={reserved}\nname={}\n",
                    request.path,
                    request.content_type,
                    cx.attempt(),
                    peer.map_or("", |peer| peer.address.as_str()),
                    self.name,
                );
                Ok(reply(Body::Message(text.into())))
            }
            "Size" => {
                let size = number(&one_message(request.body).await?)?;
                Ok(reply(Body::Message(vec![7; size].into())))
            }
            "Sizes" => {
                let size = number(&one_message(request.body).await?)?;
                let sizes = stream::iter([1, size]).map(move |size| {
                    let _alive = &alive;
                    Ok(vec![7; size].into())
                });
                Ok(reply(Body::Stream(Box::pin(sizes))))
            }
            "Many" => {
                let many = number(&one_message(request.body).await?)?;
                let (sender, trailers) = Trailers::pending();
                let at_end = copied(cx.metadata(), "x-trailer-")?;
                let replies = stream::unfold(0, move |n| {
                    let _alive = &alive;
                    let message = (n < many).then(|| (Ok(Bytes::from(n.to_string())), n + 1));
                    if message.is_none() {
                        sender.send(at_end.clone());
                    }
                    std::future::ready(message)
                });
                let response = reply(Body::Stream(Box::pin(replies)));
                Ok(response
                    .with_metadata(copied(cx.metadata(), "x-echo-")?)
                    .with_trailers(trailers))
            }
            "Collect" => {
                let all = all(request.body).await?;
                let bytes: usize = all.iter().map(Bytes::len).sum();
                Ok(reply(Body::Message(
                    format!("{} {bytes}", all.len()).into(),
                )))
            }
            "First" => {
                let mut requests = messages(request.body);
                let first = requests.next().await.ok_or_else(nothing)??;
                Ok(reply(Body::Message(first)))
            }
            "Chat" => {
                let requests = messages(request.body);
                let replies = requests.map(move |message| {
                    let _alive = &alive;
                    message
                });
                Ok(reply(Body::Stream(Box::pin(replies))))
            }
            "Greet" => {
                let greeting = stream::iter([Ok(Bytes::from_static(b"hello"))]);
                let replies = greeting.chain(messages(request.body));
                Ok(reply(Body::Stream(Box::pin(replies))))
            }
            "Fail" => Err(failure(&one_message(request.body).await?)?),
            "Endless" => Err(Error::not_found("no ".repeat(50_000))),
            "FailLate" => {
                let code = one_message(request.body).await?;
                let replies = (0..3).map(|n| Ok(Bytes::from(n.to_string())));
                let replies: Vec<_> = replies.chain([Err(failure(&code)?)]).collect();
                Ok(reply(Body::Stream(Box::pin(stream::iter(replies)))))
            }
            "Sleep" => {
                // Read first: a transport may deliver the message in its own time.
                let _message = one_message(request.body).await?;
                pending().await
            }
            "Stall" => {
                let mut requests = messages(request.body);
                let _first = requests.next().await;
                let _rest = requests;
                pending().await
            }
            "Detached" => {
                // Nothing stops a handler from reading in a task that outlives the call.
                let (service, requests) = (Arc::clone(&alive.0), request.body);
                tokio::spawn(async move {
                    let ended = match all(requests).await {
                        Ok(_) => &service.whole,
                        Err(_) => &service.half,
                    };
                    ended.fetch_add(1, Ordering::SeqCst);
                });
                pending().await
            }
            "Gate" => {
                one_message(request.body).await?;
                let opened = self.gate().acquire().await;
                opened.expect("the gate is never closed").forget();
                Ok(reply(Body::Message(Bytes::from_static(b"done"))))
            }
            "Flood" => {
                let size = number(&one_message(request.body).await?)?;
                let service = Arc::clone(&alive.0);
                let replies = stream::repeat(Bytes::from(vec![7; size])).map(move |message| {
                    let _alive = &alive;
                    service.produced.fetch_add(1, Ordering::SeqCst);
                    Ok(message)
                });
                Ok(reply(Body::Stream(Box::pin(replies))))
            }
            "Panic" => panics(),
            "PanicLate" => {
                let replies = stream::iter(0..2).map(move |n: i32| {
                    let _alive = &alive;
                    if n > 0 {
                        panics();
                    }
                    Ok(Bytes::from_static(b"0"))
                });
                Ok(reply(Body::Stream(Box::pin(replies))))
            }
            _ => Err(Error::unimplemented("the suite has no such method")),
        }
    }
}

/// Panics without the noise: the hook that prints is not called.
fn panics() -> ! {
    std::panic::resume_unwind(Box::new("as the suite asked"))
}

fn nothing() -> Error {
    Error::invalid_argument("the stream has no message")
}

fn number(text: &[u8]) -> Result<usize> {
    let text = std::str::from_utf8(text).ok();
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| Error::invalid_argument("not a number"))
}

/// The pairs whose names begin with `prefix`.
fn copied(metadata: &Metadata, prefix: &str) -> Result<Metadata> {
    let mut copy = Metadata::new();
    for (name, value) in metadata.iter().filter(|(name, _)| name.starts_with(prefix)) {
        copy.append(name, value)?;
    }
    Ok(copy)
}

const TEXT: &str = "naïve: 100 % of\ntwo lines, \"quoted\" 🦀";

fn details() -> [Detail; 2] {
    [
        Detail::new(
            "type.googleapis.com/google.rpc.RetryInfo",
            &[10, 2, 8, 1][..],
        ),
        Detail::new("type.example.com/test.Bytes", &[0, 255, 10, 13][..]),
    ]
}

/// The error whose kind is the one at this index of [`ErrorKind::ALL`].
fn failure(index: &[u8]) -> Result<Error> {
    let kind = ErrorKind::ALL.get(number(index)?).copied();
    let kind = kind.ok_or_else(|| Error::invalid_argument("no such kind"))?;
    let [first, second] = details();
    Ok(Error::new(kind, TEXT)
        .with_detail(first)
        .with_detail(second)
        .with_unprocessed(true)
        .with_operation("test.fail"))
}

// ---- the caller --------------------------------------------------------------------------------

/// The messages of a body.
fn messages(body: Body) -> Messages {
    match body {
        Body::Message(message) => Box::pin(stream::iter([Ok(message)])),
        Body::Stream(messages) => messages,
        _ => Box::pin(stream::iter([Err(Error::unimplemented("an unknown body"))])),
    }
}

/// The one message of a unary request or reply, however it travelled.
async fn one_message(body: Body) -> Result<Bytes> {
    let mut messages = messages(body);
    let message = messages.next().await.ok_or_else(nothing)??;
    match messages.next().await {
        None => Ok(message),
        Some(Ok(_)) => Err(Error::internal("more than one message where one belongs")),
        Some(Err(err)) => Err(err),
    }
}

async fn all(body: Body) -> Result<Vec<Bytes>> {
    let mut messages = messages(body);
    let mut all = Vec::new();
    while let Some(message) = messages.next().await {
        all.push(message?);
    }
    Ok(all)
}

/// A listener that serves [`Service`], and a way to stop it.
struct Server {
    address: String,
    setup: Setup,
    service: Arc<Service>,
    stop: LiveWriter<Stop>,
    serving: JoinHandle<Result<()>>,
}

impl Server {
    async fn start(setup: &Setup) -> Self {
        Self::named(setup, "").await
    }

    async fn named(setup: &Setup, name: &str) -> Self {
        let listener = setup
            .transport
            .listen(&setup.listen_address, setup.listen.clone())
            .await
            .expect("the address is free");
        let service = Arc::new(Service {
            name: name.to_owned(),
            ..Service::default()
        });
        let (stop, stopped) = Live::channel(Stop::Run);
        let address = listener.address();
        // As discovery does: what the listener advertises is known to those who dial it.
        let mut setup = setup.clone();
        setup.dial.metadata.extend(listener.advertise());
        let handler: Arc<dyn Handler> = Arc::<Service>::clone(&service);
        Self {
            address,
            setup,
            service,
            stop,
            serving: tokio::spawn(listener.serve(handler, stopped)),
        }
    }

    async fn dial(&self) -> Client {
        Client(self.try_dial().await.expect("the listener serves"))
    }

    async fn try_dial(&self) -> Result<Arc<dyn Connection>> {
        let dialing = self
            .setup
            .transport
            .dial(&self.address, self.setup.dial.clone());
        timeout(PATIENCE, dialing)
            .await
            .expect("dialing has an end")
    }

    /// Stops serving and fails if that takes long.
    async fn close(self) {
        self.stop.set(Stop::Close);
        self.over(SOON).await;
    }

    async fn over(mut self, within: Duration) {
        let served = timeout(within, &mut self.serving).await;
        served
            .expect("serving ends in time")
            .expect("serving does not panic")
            .expect("serving ends well");
    }

    /// Waits until no handler and no stream is left.
    async fn all_gone(&self) {
        let service = &self.service;
        let gone = eventually(SOON, || service.alive() == 0).await;
        assert!(gone, "{} handlers are left", service.alive());
    }

    async fn begun(&self, n: usize) {
        let service = &self.service;
        let begun = eventually(PATIENCE, || service.begun.load(Ordering::SeqCst) >= n).await;
        assert!(begun, "the call never reached its handler");
    }
}

/// A failed case leaves no listener behind.
impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn eventually(within: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(within, waiting).await.is_ok()
}

/// A connection; it does for a call what `micro-client` does: ends it by the context.
#[derive(Clone)]
struct Client(Arc<dyn Connection>);

impl Client {
    async fn call(&self, cx: &Context, request: Request) -> Result<Response> {
        let left = cx.remaining().unwrap_or(PATIENCE).min(PATIENCE);
        let mut cancelled = pin!(cx.cancelled());
        let mut call = self.0.call(cx, request);
        let either = poll_fn(|task| {
            if cancelled.as_mut().poll(task).is_ready() {
                return Poll::Ready(Err(Error::cancelled("the caller gave up")));
            }
            call.as_mut().poll(task)
        });
        timeout(left, either)
            .await
            .unwrap_or_else(|_| Err(Error::deadline_exceeded("the time ran out at the caller")))
    }

    async fn send(&self, cx: &Context, method: &str, body: Body) -> Result<Response> {
        self.call(cx, request(method, body)).await
    }

    async fn unary(&self, cx: &Context, method: &str, message: impl Into<Bytes>) -> Result<Bytes> {
        let response = self.send(cx, method, Body::Message(message.into())).await?;
        one_message(response.body).await
    }

    /// A call that is nothing special: it shows that the connection is well.
    async fn is_well(&self) {
        let echo = self.unary(&Context::new(), "Unary", "well?").await;
        assert_eq!(echo.expect("the connection is well"), "well?");
    }

    async fn description(&self, cx: &Context) -> Vec<(String, String)> {
        let text = self.unary(cx, "Describe", "").await.unwrap();
        let text = String::from_utf8(text.to_vec()).unwrap();
        let pair = |line: &str| line.split_once('=').map(|(k, v)| (k.into(), v.into()));
        text.lines().filter_map(pair).collect()
    }
}

fn get<'a>(pairs: &'a [(String, String)], name: &str) -> &'a str {
    let found = pairs.iter().find(|(known, _)| known == name);
    found.map_or("", |(_, value)| value)
}

fn request(method: &str, body: Body) -> Request {
    Request::new(format!("/test.Echo/{method}"), "application/json", body)
}

fn streamed(messages: impl Stream<Item = Result<Bytes>> + Send + 'static) -> Body {
    Body::Stream(Box::pin(messages))
}

async fn next(messages: &mut Messages) -> Option<Result<Bytes>> {
    timeout(PATIENCE, messages.next())
        .await
        .expect("the next message comes")
}

fn kind<T: fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.expect_err("the call fails").kind()
}

// ---- messages ----------------------------------------------------------------------------------

async fn a_unary_call_is_answered(setup: Backend) {
    let server = Server::start(&setup).await;
    let client = server.dial().await;
    assert!(client.0.is_open());
    for n in 0..100 {
        let text = format!("hello {n}");
        let echo = client.unary(&Context::new(), "Unary", text.clone()).await;
        assert_eq!(echo.unwrap(), text);
    }
    let unknown = client.unary(&Context::new(), "Nowhere", "").await;
    assert_eq!(kind(unknown), ErrorKind::Unimplemented);
    server.all_gone().await;
    server.close().await;
}

async fn an_empty_message_is_a_message(setup: Backend) {
    let server = Server::start(&setup).await;
    let client = server.dial().await;
    let cx = Context::new();
    assert_eq!(client.unary(&cx, "Unary", "").await.unwrap(), "");
    let empty = || stream::iter([Ok(Bytes::new()), Ok(Bytes::new())]);
    let response = client
        .send(&cx, "Collect", streamed(empty()))
        .await
        .unwrap();
    assert_eq!(one_message(response.body).await.unwrap(), "2 0");
    let response = client.send(&cx, "Chat", streamed(empty())).await.unwrap();
    assert_eq!(all(response.body).await.unwrap(), ["", ""]);
}

async fn a_message_of_a_mebibyte_passes(setup: Backend) {
    let server = Server::start(&setup).await;
    let client = server.dial().await;
    let large: Vec<u8> = (0..1_u32 << 20).map(|n| (n % 251) as u8).collect();
    let large = Bytes::from(large);
    let cx = Context::new();
    let echo = client.unary(&cx, "Unary", large.clone()).await.unwrap();
    assert!(echo == large, "the bytes differ");
    let two = stream::iter([Ok(large.clone()), Ok(large.clone())]);
    let response = client.send(&cx, "Chat", streamed(two)).await.unwrap();
    let echo = all(response.body).await.unwrap();
    assert!(echo == [large.clone(), large], "the streamed bytes differ");
}

async fn the_path_arrives(setup: Backend) {
    let server = Server::start(&setup).await;
    let client = server.dial().await;
    let pairs = client.description(&Context::new()).await;
    assert_eq!(get(&pairs, "path"), "/test.Echo/Describe");
}

async fn content_types_arrive_both_ways(setup: Backend) {
    let server = Server::start(&setup).await;
    let client = server.dial().await;
    for content in [
        "application/json",
        "application/protobuf",
        "application/msgpack",
    ] {
        let body = Body::Message(Bytes::new());
        let request = Request::new("/test.Echo/Describe", content, body);
        let response = client.call(&Context::new(), request).await.unwrap();
        assert_eq!(response.content_type, content);
        let text = one_message(response.body).await.unwrap();
        let line = format!("content={content}\n");
        let found = text.windows(line.len()).any(|at| at == line.as_bytes());
        assert!(found, "the handler saw {text:?}");
    }
}

async fn a_message_at_the_limit_passes_and_one_byte_more_is_refused(setup: Backend) {
    const LIMIT: usize = 300_000;
    fn same(limits: Limits) -> Limits {
        limits
    }
    let cx = Context::new();
    let up = async |setup: Setup, limited: &str| {
        let server = Server::start(&setup).await;
        let client = server.dial().await;
        let fits = client.unary(&cx, "Unary", vec![7; LIMIT]).await;
        assert_eq!(fits.expect(limited).len(), LIMIT, "{limited}");
        let over = client.unary(&cx, "Unary", vec![7; LIMIT + 1]).await;
        assert_eq!(kind(over), ErrorKind::ResourceExhausted, "{limited}");
        client.is_well().await;
    };
    let down = async |setup: Setup, limited: &str| {
        let server = Server::start(&setup).await;
        let client = server.dial().await;
        let fits = client.unary(&cx, "Size", LIMIT.to_string()).await;
        assert_eq!(fits.expect(limited).len(), LIMIT, "{limited}");
        let over = client.unary(&cx, "Size", (LIMIT + 1).to_string()).await;
        assert_eq!(kind(over), ErrorKind::ResourceExhausted, "{limited}");
        client.is_well().await;
    };
    let out = |limits: Limits| limits.with_message_out(LIMIT);
    let into = |limits: Limits| limits.with_message_in(LIMIT);
    up(setup.limited(out, same), "what the client sends").await;
    up(setup.limited(same, into), "what the server receives").await;
    down(setup.limited(same, out), "what the server sends").await;
    down(setup.limited(into, same), "what the client receives").await;
}

async fn a_streamed_message_over_the_limit_is_refused(setup: Backend) {
    const LIMIT: usize = 10_000;
    let both = |limits: Limits| limits.with_message_in(LIMIT).with_message_out(LIMIT);
    let cx = Context::new();
    for setup in [
        setup.limited(both, |same| same),
        setup.limited(|same| same, both),
    ] {
        let server = Server::start(&setup).await;
        let client = server.dial().await;
        let requests = [vec![1; LIMIT], vec![1; LIMIT + 1], vec![1]];
        let requests = stream::iter(requests.map(|bytes| Ok(Bytes::from(bytes))));
        let outcome = match client.send(&cx, "Collect", streamed(requests)).await {
            Ok(response) => one_message(response.body).await,
            Err(err) => Err(err),
        };
        assert_eq!(kind(outcome), ErrorKind::ResourceExhausted);

        let size = Body::Message((LIMIT + 1).to_string().into());
        let response = client.send(&cx, "Sizes", size).await.unwrap();
        let mut replies = messages(response.body);
        assert_eq!(next(&mut replies).await.unwrap().unwrap().len(), 1);
        let over = next(&mut replies).await.expect("the end is an error");
        assert_eq!(kind(over), ErrorKind::ResourceExhausted);
        drop(replies);
        client.is_well().await;
        server.all_gone().await;
    }
}

// ---- streams -----------------------------------------------------------------------------------

async fn a_thousand_streamed_replies_arrive_in_order(setup: Backend) {
    let server = Server::start(&setup).await;
    let client = server.dial().await;
    let many = Body::Message("1000".into());
    let response = client.send(&Context::new(), "Many", many).await.unwrap();
    let replies = all(response.body).await.unwrap();
    assert_eq!(replies.len(), 1000);
    for (n, reply) in replies.iter().enumerate() {
        assert_eq!(*reply, n.to_string());
    }
    server.all_gone().await;
}

async fn a_stream_of_requests_is_answered_once(setup: Backend) {
    let server = Server::start(&setup).await;
    let client = server.dial().await;
    let requests = stream::iter((0..1000).map(|_| Ok(Bytes::from_static(b"12345"))));
    let response = client
        .send(&Context::new(), "Collect", streamed(requests))
        .await
        .unwrap();
    assert_eq!(one_message(response.body).await.unwrap(), "1000 5000");
    server.all_gone().await;
}

async fn empty_streams_end(setup: Backend) {
    let server = Server::start(&setup).await;
    let client = server.dial().await;
    let cx = Context::new();
    let response = client.send(&cx, "Collect", streamed(stream::empty())).await;
    let reply = one_message(response.unwrap().body).await.unwrap();
    assert_eq!(reply, "0 0");
    let response = client.send(&cx, "Chat", streamed(stream::empty())).await;
    assert!(all(response.unwrap().body).await.unwrap().is_empty());
    let none = Body::Message("0".into());
    let response = client.send(&cx, "Many", none).await.unwrap();
    assert!(all(response.body).await.unwrap().is_empty());
}

async fn requests_and_replies_take_turns(setup: Backend) {
    let server = Server::start(&setup).await;
    let client = server.dial().await;
    let (requests, body) = Streaming::channel(1);
    let response = client.send(&Context::new(), "Chat", streamed(body)).await;
    let mut replies = messages(response.unwrap().body);
    for n in 0..200 {
        let text = format!("turn {n}");
        requests.send(Bytes::from(text.clone())).await.unwrap();
        assert_eq!(next(&mut replies).await.unwrap().unwrap(), text);
    }
    drop(requests);
    assert!(next(&mut replies).await.is_none());
    assert!(
        next(&mut replies).await.is_none(),
        "an ended stream stays ended"
    );
    server.all_gone().await;
}

async fn a_server_may_answer_before_it_reads(setup: Backend) {
    let server = Server::start(&setup).await;
    let client = server.dial().await;
    let (requests, body) = Streaming::channel(1);
    let response = client.send(&Context::new(), "Greet", streamed(body)).await;
    let mut replies = messages(response.unwrap().body);
    assert_eq!(next(&mut replies).await.unwrap().unwrap(), "hello");
    requests.send("and you".into()).await.unwrap();
    assert_eq!(next(&mut replies).await.unwrap().unwrap(), "and you");
    drop(requests);
    assert!(next(&mut replies).await.is_none());
}

async fn requests_flow_before_replies_are_read(setup: Backend) {
    let server = Server::start(&setup).await;
    let client = server.dial().await;
    let (requests, body) = Streaming::channel(1);
    let response = client.send(&Context::new(), "Chat", streamed(body)).await;
    let mut replies = messages(response.unwrap().body);
    for n in 0..100 {
        let sent = timeout(PATIENCE, requests.send(Bytes::from(n.to_string()))).await;
        sent.expect("the transport takes requests that nobody waits for")
            .unwrap();
    }
    drop(requests);
    for n in 0..100 {
        let reply = next(&mut replies).await.unwrap().unwrap();
        assert_eq!(reply, n.to_string());
    }
    assert!(next(&mut replies).await.is_none());
}

async fn an_early_reply_ends_the_requests(setup: Backend) {
    let server = Server::start(&setup).await;
    let client = server.dial().await;
    let (requests, body) = Streaming::channel(1);
    let sending = tokio::spawn(async move {
        requests.send("first".into()).await?;
        requests.closed().await;
        Ok::<_, Error>(())
    });
    let response = client.send(&Context::new(), "First", streamed(body)).await;
    let reply = one_message(response.unwrap().body).await.unwrap();
    assert_eq!(reply, "first");
    let told = timeout(SOON, sending).await;
    told.expect("the sender learns that the call is over")
        .unwrap()
        .unwrap();
    client.is_well().await;
}

async fn many_streams_share_a_connection(setup: Backend) {
    let server = Server::start(&setup).await;
    let client = server.dial().await;
    let streams = (0..32).map(|_| {
        let client = client.clone();
        tokio::spawn(async move {
            let many = Body::Message("100".into());
            let response = client.send(&Context::new(), "Many", many).await?;
            all(response.body).await
        })
    });
    for replies in join_all(streams).await {
        let replies = replies.unwrap().unwrap();
        assert!((0..100).map(|n: i32| n.to_string()).eq(replies));
    }
    server.all_gone().await;
}

// ---- metadata ----------------------------------------------------------------------------------

/// Pairs under a prefix: several values, any bytes, commas and emptiness.
fn various(prefix: &str) -> Metadata {
    let mut metadata = Metadata::new();
    let mut add = |name: &str, value: &[u8]| {
        metadata.append(&format!("{prefix}{name}"), value).unwrap();
    };
    add("one", b"a, b; c=\"d\" %20 ~");
    add("many", b"first");
    add("many", b"second");
    add("many", b"third");
    add("bytes-bin", &[0, 1, 254, 255]);
    add("bytes-bin", b",");
    add("bytes-bin", b"padding");
    add("empty", b"");
    metadata
}

/// What is expected is there, in its order; a transport may add pairs of its own.
fn contains(metadata: &Metadata, expected: &Metadata) {
    for (name, _) in expected.iter() {
        let (found, wanted): (Vec<_>, Vec<_>) = (
            metadata.get_all(name).collect(),
            expected.get_all(name).collect(),
        );
        assert_eq!(found, wanted, "{name}");
    }
}

async fn metadata_arrive_both_ways(setup: Backend) {
    let server = Server::start(&setup).await;
    let client = server.dial().await;
    let sent = various("x-echo-");
    for (method, message) in [("Unary", "hi"), ("Many", "2")] {
        let request = request(method, Body::Message(message.into())).with_metadata(sent.clone());
        let response = client.call(&Context::new(), request).await.unwrap();
        // Ahead of the first message: known before the body is read.
        contains(&response.metadata, &sent);
        all(response.body).await.unwrap();
    }
}

async fn metadata_names_are_case_insensitive_and_none_is_the_protocol_s(setup: Backend) {
    let server = Server::start(&setup).await;
    let client = server.dial().await;
    let mut sent = Metadata::new();
    sent.insert("X-Echo-Mixed", "Value").unwrap();
    let request = request("Unary", Body::Message(Bytes::new())).with_metadata(sent);
    let response = client.call(&Context::new(), request).await.unwrap();
    assert_eq!(response.metadata.get("x-echo-mixed"), Some("Value"));
    assert_eq!(response.metadata.get("X-ECHO-MIXED"), Some("Value"));
    let reserved = |metadata: &Metadata| metadata.iter().any(|(n, _)| Metadata::is_reserved(n));
    assert!(!reserved(&response.metadata));
    let pairs = client
        .description(&Context::new().with_timeout(PATIENCE))
        .await;
    assert_eq!(get(&pairs, "reserved"), "false");
}

async fn metadata_beyond_the_limit_are_refused(setup: Backend) {
    let setup = setup.limited(|limits| limits.with_headers(2048), |same| same);
    let server = Server::start(&setup).await;
    let client = server.dial().await;
    let call = async |bytes: usize| {
        let mut metadata = Metadata::new();
        metadata.insert("x-large", "a".repeat(bytes)).unwrap();
        let request = request("Unary", Body::Message(Bytes::new())).with_metadata(metadata);
        client.call(&Context::new(), request).await
    };
    call(1000).await.unwrap();
    assert_eq!(kind(call(4000).await), ErrorKind::ResourceExhausted);
    client.is_well().await;
    assert_eq!(server.service.begun.load(Ordering::SeqCst), 2);
}

async fn trailers_come_with_the_end(setup: Backend) {
    let server = Server::start(&setup).await;
    let client = server.dial().await;
    let sent = various("x-trailer-");
    let unary = request("Unary", Body::Message(Bytes::new())).with_metadata(sent.clone());
    let response = client.call(&Context::new(), unary).await.unwrap();
    one_message(response.body).await.unwrap();
    contains(response.trailers.get().expect("the call is over"), &sent);

    let many = request("Many", Body::Message("5".into())).with_metadata(sent.clone());
    let response = client.call(&Context::new(), many).await.unwrap();
    let mut replies = messages(response.body);
    for _ in 0..5 {
        assert!(response.trailers.get().is_none(), "the stream goes on");
        next(&mut replies).await.unwrap().unwrap();
    }
    assert!(next(&mut replies).await.is_none());
    contains(response.trailers.get().expect("the stream is over"), &sent);
}

// ---- errors ------------------------------------------------------------------------------------

/// As the handler made it, but for what does not travel.
fn assert_travelled(err: &Error, kind: ErrorKind) {
    assert_eq!(err.kind(), kind, "{err:?}");
    assert_eq!(err.message(), TEXT, "{kind:?}");
    // A transport may leave the detail in that tells further kinds apart.
    let seen: Vec<&Detail> = err
        .details()
        .iter()
        .filter(|detail| !detail.type_url.ends_with("google.rpc.ErrorInfo"))
        .collect();
    assert_eq!(seen, details().iter().collect::<Vec<_>>(), "{kind:?}");
    let retryable = kind == ErrorKind::Unavailable;
    assert_eq!(err.is_retryable(), retryable, "{kind:?}");
}

async fn every_kind_of_error_comes_back_as_itself(setup: Backend) {
    let server = Server::start(&setup).await;
    let client = server.dial().await;
    for (index, kind) in ErrorKind::ALL.into_iter().enumerate() {
        let outcome = client
            .unary(&Context::new(), "Fail", index.to_string())
            .await;
        assert_travelled(&outcome.unwrap_err(), kind);
    }
    client.is_well().await;
}

async fn an_error_is_never_unprocessed_because_a_handler_says_so(setup: Backend) {
    let server = Server::start(&setup).await;
    let client = server.dial().await;
    for index in 0..ErrorKind::ALL.len() {
        let outcome = client
            .unary(&Context::new(), "Fail", index.to_string())
            .await;
        let err = outcome.unwrap_err();
        assert!(!err.is_unprocessed(), "the handler ran: {err}");
    }
}

async fn an_endless_error_message_breaks_nothing(setup: Backend) {
    let server = Server::start(&setup).await;
    let client = server.dial().await;
    let endless = client.unary(&Context::new(), "Endless", "").await;
    let err = endless.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::NotFound, "{:.200}", err.to_string());
    assert!(err.message().starts_with("no no no "));
    client.is_well().await;
}

async fn an_error_may_follow_streamed_replies(setup: Backend) {
    let server = Server::start(&setup).await;
    let client = server.dial().await;
    for (index, kind) in ErrorKind::ALL.into_iter().enumerate() {
        let body = Body::Message(index.to_string().into());
        let response = client.send(&Context::new(), "FailLate", body).await;
        let mut replies = messages(response.unwrap().body);
        for n in 0..3 {
            let reply = next(&mut replies).await.unwrap().unwrap();
            assert_eq!(reply, n.to_string());
        }
        let last = next(&mut replies).await.expect("the end is an error");
        assert_travelled(&last.unwrap_err(), kind);
        assert!(
            next(&mut replies).await.is_none(),
            "nothing follows an error"
        );
    }
}

// ---- the context -------------------------------------------------------------------------------

async fn the_deadline_is_known_to_the_handler(setup: Backend) {
    let server = Server::start(&setup).await;
    let client = server.dial().await;
    let given = Duration::from_secs(10);
    let pairs = client
        .description(&Context::new().with_timeout(given))
        .await;
    let left: u64 = get(&pairs, "left").parse().expect("there is a deadline");
    assert!((5_000..=10_000).contains(&left), "{left} ms of 10 s");
    // Farther than any clock counts in nanoseconds of 32 bits, and than gRPC's eight digits of
    // seconds do not: two days.
    let far = Context::new().with_timeout(Duration::from_secs(172_800));
    let pairs = client.description(&far).await;
    let left: u64 = get(&pairs, "left").parse().expect("there is a deadline");
    assert!((172_700_000..=172_800_000).contains(&left), "{left} ms");
}

async fn the_attempt_is_known_to_the_handler(setup: Backend) {
    let server = Server::start(&setup).await;
    let client = server.dial().await;
    for attempt in [0, 1, 4] {
        let cx = Context::new().with_attempt(attempt);
        let pairs = client.description(&cx).await;
        assert_eq!(get(&pairs, "attempt"), attempt.to_string());
    }
}

async fn the_peer_is_known_to_the_handler(setup: Backend) {
    let server = Server::start(&setup).await;
    let client = server.dial().await;
    let pairs = client.description(&Context::new()).await;
    assert_ne!(get(&pairs, "peer"), "");
}

async fn a_handler_is_dropped_at_the_deadline(setup: Backend) {
    let server = Server::start(&setup).await;
    let client = server.dial().await;
    let short = || Context::new().with_timeout(Duration::from_millis(200));
    let outcome = client.unary(&short(), "Sleep", "").await;
    assert_eq!(kind(outcome), ErrorKind::DeadlineExceeded);
    server.all_gone().await;
    // A caller that does not look at its own deadline is told by the server.
    let cx = short();
    let call = client
        .0
        .call(&cx, request("Sleep", Body::Message(Bytes::new())));
    let outcome = match timeout(PATIENCE, call)
        .await
        .expect("the server sees to it")
    {
        Ok(response) => one_message(response.body).await,
        Err(err) => Err(err),
    };
    assert_eq!(kind(outcome), ErrorKind::DeadlineExceeded);
    server.all_gone().await;
    client.is_well().await;
}

async fn a_streamed_reply_ends_at_the_deadline(setup: Backend) {
    let server = Server::start(&setup).await;
    let client = server.dial().await;
    let (_requests, body) = Streaming::channel(1);
    let cx = Context::new().with_timeout(Duration::from_millis(500));
    let response = client.send(&cx, "Greet", streamed(body)).await;
    let mut replies = messages(response.unwrap().body);
    assert_eq!(next(&mut replies).await.unwrap().unwrap(), "hello");
    let end = next(&mut replies).await.expect("the end is an error");
    assert_eq!(kind(end), ErrorKind::DeadlineExceeded);
    server.all_gone().await;
    client.is_well().await;
}

async fn a_call_without_time_never_runs(setup: Backend) {
    let server = Server::start(&setup).await;
    let client = server.dial().await;
    let cx = Context::new().with_timeout(Duration::ZERO);
    let outcome = client.unary(&cx, "Sleep", "").await;
    assert_eq!(kind(outcome), ErrorKind::DeadlineExceeded);
    server.all_gone().await;
    client.is_well().await;
}

async fn a_handler_is_cancelled_and_dropped_when_the_caller_leaves(setup: Backend) {
    let server = Server::start(&setup).await;
    let client = server.dial().await;
    // By dropping the future, and by cancelling the context.
    for round in 1..=2 {
        let (cx, canceller) = Context::new().with_cancel();
        let mut call = Box::pin(client.unary(&cx, "Sleep", ""));
        let begun = async {
            tokio::select! {
                outcome = &mut call => panic!("the call ended: {outcome:?}"),
                () = server.begun(round) => {}
            }
        };
        begun.await;
        assert_eq!(server.service.alive(), 1);
        if round == 1 {
            drop(call);
        } else {
            canceller.cancel();
            assert_eq!(kind(call.await), ErrorKind::Cancelled);
        }
        server.all_gone().await;
        let cancelled = server.service.cancelled.load(Ordering::SeqCst);
        assert_eq!(cancelled, round, "the context is cancelled first");
    }
    client.is_well().await;
}

async fn a_streaming_handler_stops_when_its_reader_leaves(setup: Backend) {
    let server = Server::start(&setup).await;
    let client = server.dial().await;
    let cx = Context::new();
    let flood = Body::Message("1000".into());
    let response = client.send(&cx, "Flood", flood).await.unwrap();
    let mut replies = messages(response.body);
    for _ in 0..10 {
        next(&mut replies).await.unwrap().unwrap();
    }
    drop(replies);
    server.all_gone().await;
    assert_eq!(server.service.cancelled.load(Ordering::SeqCst), 1);
    // One that waits for requests hears of it too.
    let (requests, body) = Streaming::channel(1);
    let response = client.send(&cx, "Chat", streamed(body)).await.unwrap();
    drop(response);
    server.all_gone().await;
    let told = timeout(SOON, requests.closed()).await;
    told.expect("the sender learns that the call is over");
    client.is_well().await;
}

async fn a_failing_request_stream_ends_the_call(setup: Backend) {
    let server = Server::start(&setup).await;
    let client = server.dial().await;
    let cx = Context::new();
    let broken = || {
        let first = [Ok(Bytes::from_static(b"1")), Err(Error::aborted("no more"))];
        streamed(stream::iter(first).chain(stream::pending()))
    };
    let outcome = match client.send(&cx, "Collect", broken()).await {
        Ok(response) => one_message(response.body).await,
        Err(err) => Err(err),
    };
    outcome.expect_err("half a stream is no stream");
    server.all_gone().await;
    client.is_well().await;
}

async fn half_a_request_stream_is_never_taken_for_a_whole_one(setup: Backend) {
    let server = Server::start(&setup).await;
    let client = server.dial().await;
    let cx = Context::new();
    let (requests, body) = Streaming::channel(1);
    let mut call = Box::pin(client.send(&cx, "Detached", streamed(body)));
    tokio::select! {
        outcome = &mut call => panic!("the call ended: {outcome:?}"),
        () = async {
            requests.send("one of many".into()).await.unwrap();
            server.begun(1).await;
        } => {}
    }
    drop(call);
    let service = &server.service;
    let ended = || service.half.load(Ordering::SeqCst) + service.whole.load(Ordering::SeqCst);
    assert!(
        eventually(SOON, || ended() > 0).await,
        "the stream of a call that is over never ends"
    );
    assert_eq!(service.whole.load(Ordering::SeqCst), 0, "it looks complete");
    server.all_gone().await;
}

async fn a_thousand_cancelled_calls_leave_nothing_under_way(setup: Backend) {
    let server = Server::start(&setup).await;
    let client = server.dial().await;
    for round in 0_u64..20 {
        let calls = (0..50).map(|n: u64| {
            let client = client.clone();
            async move {
                // Some are dropped before they leave, some while they run.
                let patience = Duration::from_micros(n * 20 * (round % 3));
                let cx = Context::new();
                let call = client.unary(&cx, "Sleep", "");
                assert!(timeout(patience, call).await.is_err());
            }
        });
        join_all(calls).await;
    }
    server.all_gone().await;
    let service = &server.service;
    assert!(service.begun.load(Ordering::SeqCst) > 0, "no call ran");
    client.is_well().await;
}

// ---- a slow side -------------------------------------------------------------------------------

/// Messages of this size, and windows of four of them.
const SIZE: usize = 16 << 10;

/// How far ahead a producer may get: windows and buffers, but nothing without bound.
const AHEAD: usize = (2 << 20) / SIZE;

fn narrow(limits: Limits) -> Limits {
    limits
        .with_stream_window(64 << 10)
        .with_connection_window(128 << 10)
}

/// The count once it stands still.
async fn settled(count: impl Fn() -> usize) -> usize {
    let mut last = count();
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = count();
        // One that never stands still is seen by its height.
        if now == last || now > 100 * AHEAD {
            return now;
        }
        last = now;
    }
}

async fn a_slow_reader_holds_its_producer_back(setup: Backend) {
    let setup = setup.limited(narrow, narrow);
    let server = Server::start(&setup).await;
    let client = server.dial().await;
    let flood = Body::Message(SIZE.to_string().into());
    let response = client.send(&Context::new(), "Flood", flood).await.unwrap();
    let mut replies = messages(response.body);
    next(&mut replies).await.unwrap().unwrap();
    let produced = || server.service.produced.load(Ordering::SeqCst);
    let ahead = settled(produced).await;
    assert!(ahead <= AHEAD, "{ahead} messages ahead");
    for _ in 0..500 {
        next(&mut replies).await.unwrap().unwrap();
    }
    assert!(produced() >= 500);
    // A stream that nobody reads is in no other call's way.
    client.is_well().await;
}

async fn a_slow_handler_holds_its_caller_back(setup: Backend) {
    let setup = setup.limited(narrow, narrow);
    let server = Server::start(&setup).await;
    let client = server.dial().await;
    let produced = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&produced);
    let requests = stream::repeat(Bytes::from(vec![7; SIZE])).map(move |message| {
        counter.fetch_add(1, Ordering::SeqCst);
        Ok(message)
    });
    let cx = Context::new();
    let mut call = Box::pin(client.send(&cx, "Stall", streamed(requests)));
    let ahead = tokio::select! {
        outcome = &mut call => panic!("the call ended: {outcome:?}"),
        ahead = settled(|| produced.load(Ordering::SeqCst)) => ahead,
    };
    assert!((1..=AHEAD).contains(&ahead), "{ahead} messages ahead");
    client.is_well().await;
    drop(call);
    server.all_gone().await;
}

// ---- accidents and crowds ----------------------------------------------------------------------

async fn a_panic_fails_one_call_only(setup: Backend) {
    let server = Server::start(&setup).await;
    let client = server.dial().await;
    let bystander = {
        let client = client.clone();
        tokio::spawn(async move { client.unary(&Context::new(), "Gate", "").await })
    };
    server.begun(1).await;
    for _ in 0..3 {
        let outcome = client.unary(&Context::new(), "Panic", "").await;
        let err = outcome.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Internal);
        assert!(
            !err.message().contains("as the suite asked"),
            "what a panic says is not for strangers: {err}"
        );
    }
    client.is_well().await;
    server.service.gate().add_permits(1);
    assert_eq!(bystander.await.unwrap().unwrap(), "done");
    server.all_gone().await;
}

async fn a_panicking_stream_fails_one_call_only(setup: Backend) {
    let server = Server::start(&setup).await;
    let client = server.dial().await;
    let body = Body::Message(Bytes::new());
    let response = client.send(&Context::new(), "PanicLate", body).await;
    let mut replies = messages(response.unwrap().body);
    assert_eq!(next(&mut replies).await.unwrap().unwrap(), "0");
    let end = next(&mut replies).await.expect("the end is an error");
    assert_eq!(kind(end), ErrorKind::Internal);
    client.is_well().await;
    server.all_gone().await;
}

async fn many_callers_call_at_once(setup: Backend) {
    let server = Server::start(&setup).await;
    let client = server.dial().await;
    let callers = (0..64).map(|caller| {
        let client = client.clone();
        tokio::spawn(async move {
            for n in 0..100 {
                let text = format!("{caller} {n}");
                let echo = client.unary(&Context::new(), "Unary", text.clone()).await;
                assert_eq!(echo.unwrap(), text);
            }
        })
    });
    for caller in join_all(callers).await {
        caller.expect("no caller fails");
    }
    let begun = server.service.begun.load(Ordering::SeqCst);
    assert_eq!(begun, 6400, "every call runs once");
    server.all_gone().await;
}

// ---- addresses and ends ------------------------------------------------------------------------

async fn two_listeners_do_not_mix(setup: Backend) {
    let (one, two) = (
        Server::named(&setup, "one").await,
        Server::named(&setup, "two").await,
    );
    assert_ne!(one.address, two.address);
    for (server, name) in [(&one, "one"), (&two, "two"), (&one, "one")] {
        let client = server.dial().await;
        let pairs = client.description(&Context::new()).await;
        assert_eq!(get(&pairs, "name"), name);
    }
    let client = two.dial().await;
    one.close().await;
    client.is_well().await;
    two.close().await;
}

async fn a_taken_address_is_refused(setup: Backend) {
    let server = Server::start(&setup).await;
    let listen = || {
        setup
            .transport
            .listen(&server.address, setup.listen.clone())
    };
    assert_eq!(kind(listen().await), ErrorKind::AlreadyExists);
    server.dial().await.is_well().await;
}

async fn an_address_is_free_again_after_its_listener(setup: Backend) {
    let server = Server::start(&setup).await;
    let client = server.dial().await;
    client.is_well().await;
    let mut again = (*setup).clone();
    again.listen_address.clone_from(&server.address);
    server.close().await;
    let server = Server::start(&again).await;
    assert_eq!(server.address, again.listen_address);
    server.dial().await.is_well().await;
    assert!(
        !client.0.is_open(),
        "the old connection is not the new listener's"
    );
}

async fn nobody_listening_is_unavailable_and_unprocessed(setup: Backend) {
    let listener = setup
        .transport
        .listen(&setup.listen_address, setup.listen.clone())
        .await
        .unwrap();
    let address = listener.address();
    drop(listener);
    let err = setup
        .transport
        .dial(&address, setup.dial.clone())
        .await
        .expect_err("nobody listens");
    assert_eq!(err.kind(), ErrorKind::Unavailable, "{err}");
    assert!(err.is_unprocessed() && err.is_retryable(), "{err}");
}

async fn what_is_no_address_is_refused(setup: Backend) {
    for address in ["", "two\nlines"] {
        let err = setup
            .transport
            .dial(address, setup.dial.clone())
            .await
            .expect_err("that is no address");
        assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{address:?}: {err}");
    }
}

fn drain(server: &Server, within: Duration) -> Stop {
    Stop::Drain {
        until: server.setup.listen.clock.now() + within,
    }
}

async fn a_drain_finishes_calls_and_refuses_new_ones(setup: Backend) {
    let server = Server::start(&setup).await;
    let client = server.dial().await;
    let under_way = {
        let client = client.clone();
        tokio::spawn(async move { client.unary(&Context::new(), "Gate", "").await })
    };
    let (requests, body) = Streaming::channel(1);
    let response = client.send(&Context::new(), "Chat", streamed(body)).await;
    let mut replies = messages(response.unwrap().body);
    server.begun(2).await;

    let closed = {
        let connection = Arc::clone(&client.0);
        async move { connection.closed().await }
    };
    let mut closed = Box::pin(closed);
    assert!(closed.as_mut().now_or_never().is_none(), "not closed yet");
    server.stop.set(drain(&server, PATIENCE));
    let told = timeout(SOON, closed).await;
    told.expect("the connection learns that its peer is going away");
    assert!(!client.0.is_open());
    let late = client
        .unary(&Context::new(), "Unary", "")
        .await
        .unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Unavailable, "{late}");
    assert!(late.is_unprocessed(), "{late}");
    let refused = server.try_dial().await.expect_err("nobody is let in");
    assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused}");
    assert!(refused.is_unprocessed(), "{refused}");

    for text in ["still", "here"] {
        requests.send(text.into()).await.unwrap();
        assert_eq!(next(&mut replies).await.unwrap().unwrap(), text);
    }
    assert!(!server.serving.is_finished());
    drop(requests);
    assert!(next(&mut replies).await.is_none());
    server.service.gate().add_permits(1);
    assert_eq!(under_way.await.unwrap().unwrap(), "done");
    server.all_gone().await;
    server.over(SOON).await;
}

async fn a_drain_ends_at_its_deadline(setup: Backend) {
    let server = Server::start(&setup).await;
    let client = server.dial().await;
    let under_way = {
        let client = client.clone();
        tokio::spawn(async move { client.unary(&Context::new(), "Sleep", "").await })
    };
    server.begun(1).await;
    server.stop.set(drain(&server, Duration::from_millis(300)));
    let err = timeout(2 * SOON, under_way)
        .await
        .expect("the call ends with the drain")
        .unwrap()
        .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unavailable, "{err}");
    assert!(!err.is_unprocessed(), "it ran: {err}");
    server.all_gone().await;
    server.over(SOON).await;
}

async fn ends_at_once(server: Server, end: impl FnOnce(&Server)) -> Server {
    let client = server.dial().await;
    let under_way = {
        let client = client.clone();
        tokio::spawn(async move { client.unary(&Context::new(), "Sleep", "").await })
    };
    let flood = Body::Message("1000".into());
    let response = client.send(&Context::new(), "Flood", flood).await.unwrap();
    let mut replies = messages(response.body);
    next(&mut replies).await.unwrap().unwrap();
    server.begun(2).await;
    end(&server);
    let err = timeout(SOON, under_way)
        .await
        .expect("the call ends at once")
        .unwrap()
        .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unavailable, "{err}");
    assert!(!err.is_unprocessed(), "it ran: {err}");
    let broken = async {
        loop {
            match replies.next().await {
                Some(Ok(_)) => {}
                Some(Err(err)) => return err,
                None => panic!("a broken stream does not look complete"),
            }
        }
    };
    let err = timeout(SOON, broken)
        .await
        .expect("the stream ends at once");
    assert_eq!(err.kind(), ErrorKind::Unavailable, "{err}");
    let told = timeout(SOON, client.0.closed()).await;
    told.expect("the connection learns that its peer is gone");
    assert!(!client.0.is_open());
    server.all_gone().await;
    let refused = server.try_dial().await.expect_err("nobody listens");
    assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused}");
    server
}

async fn closing_ends_calls_at_once(setup: Backend) {
    let server = Server::start(&setup).await;
    let server = ends_at_once(server, |server| server.stop.set(Stop::Close)).await;
    server.over(SOON).await;
}

async fn dropping_serve_closes_everything(setup: Backend) {
    let server = Server::start(&setup).await;
    // Aborting a task drops its future.
    ends_at_once(server, |server| server.serving.abort()).await;
}
