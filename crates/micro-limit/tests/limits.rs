//! Every limit as middleware, on paused time.
#![expect(clippy::print_stdout, reason = "the figures are what is to be shown")]

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::StreamExt as _;
use micro_core::{Clock, Identity, Metadata, SeededRandom};
use micro_limit::{
    Breaker, Circuit, CircuitBreaker, Concurrency, ConcurrencyLimit, Context, Error, ErrorKind,
    Gradient, Key, Live, LoadShed, Middleware, Next, PolicyLimits, Rate, RateLimit, Request,
    Response, Result, Shedding,
};
use micro_transport_core::{Body, Endpoint, ErrorExt as _, Peer, Policies, Policy, async_trait};
use tokio::task::JoinSet;

/// The time that tokio's tests pause.
#[derive(Debug)]
struct Paused;

impl Clock for Paused {
    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }
}

fn cx() -> Context {
    Context::with_clock(Arc::new(Paused))
}

const HELLO: &str = "/greeter.Greeter/Hello";
const HEALTH: &str = "/grpc.health.v1.Health/Check";

fn request(path: &'static str) -> Request {
    Request::new(path, "application/json", Body::Message(Bytes::new()))
}

/// The end of the way.
struct Answer<F>(F);

#[async_trait]
impl<F, Fut> Endpoint for Answer<F>
where
    F: Fn() -> Fut + Send + Sync,
    Fut: Future<Output = Result<()>> + Send,
{
    async fn call(&self, _: &Context, request: Request) -> Result<Response> {
        (self.0)().await?;
        Ok(Response::new(request.content_type, request.body))
    }
}

async fn ok() -> Result<()> {
    Ok(())
}

/// Answers with a stream of two messages.
struct Streams;

#[async_trait]
impl Endpoint for Streams {
    async fn call(&self, _: &Context, request: Request) -> Result<Response> {
        let messages = futures_util::stream::iter([Ok(Bytes::new()), Ok(Bytes::new())]);
        let body = Body::Stream(Box::pin(messages));
        Ok(Response::new(request.content_type, body))
    }
}

async fn through(
    middleware: &Arc<dyn Middleware>,
    cx: &Context,
    request: Request,
    end: &dyn Endpoint,
) -> Result<Response> {
    Next::new(std::slice::from_ref(middleware), end)
        .run(cx, request)
        .await
}

async fn pause(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

fn kind(outcome: &Result<Response>) -> Option<ErrorKind> {
    outcome.as_ref().err().map(Error::kind)
}

#[tokio::test(start_paused = true)]
async fn a_rate_refuses_and_says_when_to_come_back() {
    let limit: Arc<dyn Middleware> = Arc::new(RateLimit::new(Rate::new(10.0, 2)));
    let end = Answer(ok);
    let call = async |path| through(&limit, &cx(), request(path), &end).await;
    for _ in 0..2 {
        call(HELLO).await.unwrap();
    }
    let err = call(HELLO).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::ResourceExhausted);
    assert!(err.is_unprocessed() && !err.is_retryable());
    let wait = err.retry_after().unwrap();
    assert_eq!(wait, Duration::from_millis(100));
    call(HEALTH).await.unwrap();
    tokio::time::sleep(wait).await;
    call(HELLO).await.unwrap();
    call(HELLO).await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn a_rate_changes_while_running() {
    let (writer, rate) = Live::channel(Rate::new(1.0, 1));
    let limit: Arc<dyn Middleware> = Arc::new(RateLimit::new(rate));
    let end = Answer(ok);
    let admitted = async || {
        let mut admitted = 0;
        for _ in 0..100 {
            let outcome = through(&limit, &cx(), request(HELLO), &end).await;
            admitted += u32::from(outcome.is_ok());
        }
        admitted
    };
    assert_eq!(admitted().await, 1);
    writer.set(Rate::new(1000.0, 50));
    pause(5_000).await;
    assert_eq!(admitted().await, 50);
}

#[tokio::test(start_paused = true)]
async fn every_key_has_a_rate_of_its_own() {
    async fn admitted(key: Key, calls: Vec<(Context, Request)>) -> Vec<bool> {
        let limit = RateLimit::new(Rate::new(1.0, 1)).per(key);
        let limit: Arc<dyn Middleware> = Arc::new(limit);
        let mut admitted = Vec::new();
        for (cx, request) in calls {
            let outcome = through(&limit, &cx, request, &Answer(ok)).await;
            admitted.push(outcome.is_ok());
        }
        admitted
    }
    let peer = |address: &str| {
        let peer = Arc::new(Peer::in_process(address));
        (cx(), request(HELLO).with_peer(peer))
    };
    let calls = [
        "10.0.0.1:1",
        "10.0.0.1:2",
        "10.0.0.2:1",
        "[::1]:1",
        "[::1]:2",
    ]
    .map(peer);
    let seen = admitted(Key::Peer, calls.into()).await;
    assert_eq!(seen, [true, false, true, true, false]);

    let calls = ["/a.A/X", "/a.A/Y", "/a.A/X"].map(|path| (cx(), request(path)));
    assert_eq!(
        admitted(Key::Method, calls.into()).await,
        [true, true, false]
    );

    let caller = |id: &str| (cx().with_identity(Identity::new(id)), request(HELLO));
    let nobody = || (cx(), request(HELLO));
    let calls = vec![
        caller("ada"),
        caller("bob"),
        caller("ada"),
        nobody(),
        nobody(),
    ];
    let seen = admitted(Key::Caller, calls).await;
    assert_eq!(seen, [true, true, false, true, false]);

    let tenant = |name: &str| {
        let mut metadata = Metadata::new();
        metadata.insert("x-tenant", name).unwrap();
        let (cx, _) = Context::serve(Some(Arc::new(Paused)), metadata);
        (cx, request(HELLO))
    };
    let calls = vec![tenant("a"), tenant("b"), tenant("a"), nobody(), nobody()];
    let seen = admitted(Key::Metadata("x-tenant".into()), calls).await;
    assert_eq!(seen, [true, true, false, true, false]);
}

#[tokio::test(start_paused = true)]
async fn keys_without_room_share_one_bucket_until_others_are_idle() {
    let limit = RateLimit::new(Rate::new(1.0, 1))
        .per(Key::Metadata("k".into()))
        .with_keys(16);
    let limit: Arc<dyn Middleware> = Arc::new(limit);
    let flood = async || {
        let mut admitted = 0;
        for i in 0..1000 {
            let mut request = request(HELLO);
            request.metadata.insert("k", i.to_string()).unwrap();
            let outcome = through(&limit, &cx(), request, &Answer(ok)).await;
            admitted += usize::from(outcome.is_ok());
        }
        admitted
    };
    // One key for each of the shards, and one bucket for the rest.
    assert_eq!(flood().await, 17);
    assert_eq!(flood().await, 0);
    pause(2_000).await;
    assert_eq!(flood().await, 17, "what is idle makes room");
}

#[tokio::test(start_paused = true)]
async fn a_stream_holds_its_place_until_it_ends_or_is_dropped() {
    let limit = Arc::new(ConcurrencyLimit::new(Concurrency::fixed(2).with_queue(0)));
    let middleware: Arc<dyn Middleware> = Arc::clone(&limit) as _;
    let open = async || through(&middleware, &cx(), request(HELLO), &Streams).await;
    let (first, second) = (open().await.unwrap(), open().await.unwrap());
    assert_eq!(limit.in_flight(), 2);
    assert_eq!(kind(&open().await), Some(ErrorKind::ResourceExhausted));
    drop(first);
    assert_eq!(limit.in_flight(), 1);
    let Body::Stream(mut messages) = second.body else {
        panic!("it is a stream");
    };
    assert!(messages.next().await.is_some());
    assert_eq!(limit.in_flight(), 1);
    while messages.next().await.is_some() {}
    assert_eq!(limit.in_flight(), 0, "it is over, though it is still there");
    drop(messages);
    let one = through(&middleware, &cx(), request(HELLO), &Answer(ok)).await;
    assert!(one.is_ok());
    assert_eq!(limit.in_flight(), 0, "a message is over at once");
}

#[tokio::test(start_paused = true)]
async fn a_failed_and_a_dropped_call_give_their_places_back() {
    let limit = Arc::new(ConcurrencyLimit::new(Concurrency::fixed(1)));
    let middleware: Arc<dyn Middleware> = Arc::clone(&limit) as _;
    let cx = cx();
    let bad = Answer(|| async { Err(Error::internal("x")) });
    let outcome = through(&middleware, &cx, request(HELLO), &bad).await;
    assert_eq!(kind(&outcome), Some(ErrorKind::Internal));
    assert_eq!(limit.in_flight(), 0);
    let never = Answer(std::future::pending::<Result<()>>);
    let mut task = TaskContext::from_waker(Waker::noop());
    let mut running = Box::pin(through(&middleware, &cx, request(HELLO), &never));
    assert!(running.as_mut().poll(&mut task).is_pending());
    let mut waiting = Box::pin(through(&middleware, &cx, request(HELLO), &never));
    assert!(waiting.as_mut().poll(&mut task).is_pending());
    assert_eq!(limit.in_flight(), 1);
    let health = through(&middleware, &cx, request(HEALTH), &Answer(ok)).await;
    assert!(health.is_ok(), "health does not wait");
    drop((running, waiting));
    assert_eq!(limit.in_flight(), 0);
}

/// What an open loop has seen.
#[derive(Debug, Default)]
struct Seen {
    good: usize,
    refused: usize,
    /// The longest that one was served after, was refused after, and that health took.
    served_after: Duration,
    refused_after: Duration,
    health_after: Duration,
}

/// Calls that come whether or not others have ended, to a handler of 2 ms: so many each
/// millisecond, for five seconds.
async fn open_loop(middleware: Arc<dyn Middleware>, per_ms: u32) -> Seen {
    let mut calls = JoinSet::new();
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    let mut count = 0_u32;
    for ms in 0..5_000 {
        tick.tick().await;
        for _ in 0..per_ms {
            count += 1;
            let path = if count.is_multiple_of(100) {
                HEALTH
            } else {
                HELLO
            };
            let middleware = Arc::clone(&middleware);
            calls.spawn(async move {
                let handler = Answer(|| async {
                    pause(2).await;
                    Ok(())
                });
                let start = tokio::time::Instant::now();
                let cx = cx().with_timeout(Duration::from_secs(1));
                let outcome = through(&middleware, &cx, request(path), &handler).await;
                // What comes before the overload is seen may wait for longer.
                let took = if ms < 200 {
                    Duration::ZERO
                } else {
                    start.elapsed()
                };
                (path, kind(&outcome), took)
            });
        }
    }
    let mut seen = Seen::default();
    for (path, kind, took) in calls.join_all().await {
        match kind {
            None if path == HEALTH => seen.health_after = seen.health_after.max(took),
            None => {
                seen.good += 1;
                seen.served_after = seen.served_after.max(took);
            }
            Some(kind) => {
                assert_eq!((path, kind), (HELLO, ErrorKind::ResourceExhausted));
                seen.refused += 1;
                seen.refused_after = seen.refused_after.max(took);
            }
        }
    }
    seen
}

#[tokio::test(start_paused = true)]
async fn f11_overload_at_three_times_the_capacity() {
    // 8 places and a handler of 2 ms: 4 calls each millisecond.
    for (name, queue) in [
        ("no queue", Some(0)),
        ("a queue of 8", None),
        ("a queue of 64", Some(64)),
    ] {
        let new = || -> Arc<dyn Middleware> {
            let mut settings = Concurrency::fixed(8);
            settings.queue = queue;
            Arc::new(ConcurrencyLimit::new(settings))
        };
        let peak = open_loop(new(), 4).await;
        let seen = open_loop(new(), 12).await;
        let goodput = seen.good as f64 / peak.good as f64;
        println!(
            "{name}: {} served at capacity, {} of {} at three times that, goodput {:.0} %; served \
             within {:?}, refused within {:?}, health within {:?}",
            peak.good,
            seen.good,
            seen.good + seen.refused,
            goodput * 100.0,
            seen.served_after,
            seen.refused_after,
            seen.health_after,
        );
        assert!(peak.good > 10_000, "{peak:?}");
        assert!(goodput >= 0.8, "{goodput}");
        assert!(seen.refused > seen.good, "{seen:?}");
        assert!(seen.refused_after <= Duration::from_millis(5), "{seen:?}");
        assert!(seen.served_after <= Duration::from_millis(8), "{seen:?}");
        assert!(seen.health_after <= Duration::from_millis(3), "{seen:?}");
    }
}

/// A service of so many workers: calls beyond them wait within, as for database connections.
struct Workers {
    places: tokio::sync::Semaphore,
    ms: u64,
}

#[async_trait]
impl Endpoint for Workers {
    async fn call(&self, _: &Context, request: Request) -> Result<Response> {
        let _place = self.places.acquire().await.expect("it is never closed");
        pause(self.ms).await;
        Ok(Response::new(request.content_type, request.body))
    }
}

#[tokio::test(start_paused = true)]
async fn an_adaptive_limit_finds_the_capacity() {
    // 40 workers and 20 ms: 2 calls each millisecond. Three times as many come.
    let limit = ConcurrencyLimit::new(Concurrency::adaptive(Gradient::default()));
    let limit = Arc::new(limit);
    let workers = Arc::new(Workers {
        places: tokio::sync::Semaphore::new(40),
        ms: 20,
    });
    let mut calls = JoinSet::new();
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    let (mut good, mut longest) = (0, Duration::ZERO);
    for ms in 0..15_000 {
        tick.tick().await;
        for _ in 0..6 {
            let middleware: Arc<dyn Middleware> = Arc::clone(&limit) as _;
            let workers = Arc::clone(&workers);
            calls.spawn(async move {
                let start = tokio::time::Instant::now();
                let outcome = through(&middleware, &cx(), request(HELLO), &*workers).await;
                (ms >= 5_000 && outcome.is_ok()).then(|| start.elapsed())
            });
        }
        while let Some(done) = calls.try_join_next() {
            if let Some(took) = done.unwrap() {
                good += 1;
                longest = longest.max(took);
            }
        }
    }
    println!(
        "the limit for 40 workers: {}; {good} served, within {longest:?}",
        limit.limit()
    );
    assert!((40..=80).contains(&limit.limit()), "{}", limit.limit());
    assert!(good >= 19_000, "{good} of 20,000 that they can do");
}

#[tokio::test(start_paused = true)]
async fn shedding_begins_with_a_standing_queue_and_ends_with_it() {
    let shed = LoadShed::new(Shedding::new(Duration::from_millis(20)));
    let shed = Arc::new(shed.with_random(Arc::new(SeededRandom::new(7))));
    let middleware: Arc<dyn Middleware> = Arc::clone(&shed) as _;
    let most = std::cell::Cell::new(0.0_f64);
    // One call after the other, of which one in `quick` takes a millisecond.
    let run = async |ms: u64, quick: u64, calls: u64| {
        for i in 0..calls {
            let ms = if quick > 0 && i.is_multiple_of(quick) {
                1
            } else {
                ms
            };
            let end = Answer(|| async move {
                pause(ms).await;
                Ok(())
            });
            most.set(most.get().max(shed.share()));
            if through(&middleware, &cx(), request(HELLO), &end)
                .await
                .is_err()
            {
                pause(10).await;
            }
        }
    };
    // Intervals of 100 ms have too few calls one after the other: ten callers.
    let many = async |ms: u64, quick: u64, calls: u64| {
        futures_util::future::join_all((0..10).map(|_| run(ms, quick, calls))).await;
    };
    many(10, 0, 200).await;
    assert_eq!(most.get(), 0.0, "quick enough");
    many(30, 4, 100).await;
    assert_eq!(most.get(), 0.0, "some are quick: a burst, and no queue");
    many(30, 0, 300).await;
    assert!(most.get() > 0.7 && most.get() <= 0.95, "{}", most.get());
    // The last of them were alone, which is no load: some of it was taken back.
    assert!(shed.share() > 0.0);
    let err = loop {
        if let Err(err) = through(&middleware, &cx(), request(HELLO), &Answer(ok)).await {
            break err;
        }
    };
    assert_eq!(err.kind(), ErrorKind::ResourceExhausted);
    assert!(err.is_unprocessed() && err.retry_after().is_none());
    for _ in 0..100 {
        let health = through(&middleware, &cx(), request(HEALTH), &Answer(ok)).await;
        assert!(health.is_ok());
    }
    many(1, 0, 3000).await;
    assert_eq!(shed.share(), 0.0);
}

/// A service that can be broken, and counts its calls.
struct Broken(AtomicBool, AtomicUsize);

impl Broken {
    fn new(broken: bool) -> Self {
        Self(AtomicBool::new(broken), AtomicUsize::new(0))
    }
    fn set(&self, broken: bool) {
        self.0.store(broken, Ordering::SeqCst);
    }
    fn calls(&self) -> usize {
        self.1.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Endpoint for Broken {
    async fn call(&self, _: &Context, request: Request) -> Result<Response> {
        self.1.fetch_add(1, Ordering::SeqCst);
        if self.0.load(Ordering::SeqCst) {
            return Err(Error::unavailable("down"));
        }
        Ok(Response::new(request.content_type, request.body))
    }
}

fn breaker(settings: Breaker) -> Arc<dyn Middleware> {
    Arc::new(CircuitBreaker::new(settings).with_random(Arc::new(SeededRandom::new(7))))
}

#[tokio::test(start_paused = true)]
async fn a_circuit_opens_refuses_probes_and_closes() {
    let middleware = breaker(Breaker::default());
    let service = Broken::new(true);
    let call = async |path| through(&middleware, &cx(), request(path), &service).await;
    for _ in 0..5 {
        call(HELLO).await.unwrap_err();
    }
    let err = call(HELLO).await.unwrap_err();
    assert_eq!(service.calls(), 5, "the sixth is refused");
    assert_eq!(err.kind(), ErrorKind::Unavailable);
    assert_eq!(err.operation(), "limit.circuit");
    assert!(err.is_unprocessed() && !err.is_retryable());
    call(HEALTH).await.unwrap_err();
    assert_eq!(service.calls(), 6, "health passes");
    // 1 s, give or take a quarter.
    pause(749).await;
    call(HELLO).await.unwrap_err();
    assert_eq!(service.calls(), 6);
    pause(502).await;
    call(HELLO).await.unwrap_err();
    assert_eq!(service.calls(), 7, "the probe");
    // It failed: twice as long.
    pause(1498).await;
    call(HELLO).await.unwrap_err();
    assert_eq!(service.calls(), 7);
    service.set(false);
    pause(1004).await;
    for _ in 0..10 {
        call(HELLO).await.unwrap();
    }
    // It is closed, so it takes five failures again.
    service.set(true);
    let before = service.calls();
    for _ in 0..10 {
        call(HELLO).await.unwrap_err();
    }
    assert_eq!(service.calls() - before, 5);
}

#[tokio::test(start_paused = true)]
async fn a_share_of_failures_opens_a_circuit_once_there_are_enough() {
    let settings = Breaker::default()
        .with_failures(u32::MAX)
        .with_share(0.5, 20);
    let middleware = breaker(settings);
    let service = Broken::new(false);
    let call = async |broken: bool| {
        service.set(broken);
        through(&middleware, &cx(), request(HELLO), &service).await
    };
    for _ in 0..2 {
        for _ in 0..9 {
            call(false).await.unwrap();
            call(true).await.unwrap_err();
        }
        // A window later they are forgotten.
        pause(10_000).await;
    }
    assert_eq!(service.calls(), 36);
    for _ in 0..10 {
        call(false).await.unwrap();
        call(true).await.unwrap_err();
    }
    let err = call(false).await.unwrap_err();
    assert_eq!(err.operation(), "limit.circuit");
    assert_eq!(service.calls(), 56);
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_errors_and_calls_that_are_cancelled_open_no_circuit() {
    for kind in [
        ErrorKind::NotFound,
        ErrorKind::InvalidArgument,
        ErrorKind::PermissionDenied,
        ErrorKind::Cancelled,
    ] {
        let middleware = breaker(Breaker::default());
        let end = Answer(move || async move { Err(Error::new(kind, "x")) });
        for _ in 0..100 {
            let err = through(&middleware, &cx(), request(HELLO), &end).await;
            assert_eq!(err.unwrap_err().kind(), kind);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_dropped_makes_room_for_another() {
    let middleware = breaker(Breaker::default().with_probes(2));
    let service = Broken::new(true);
    let cx = cx();
    let call = async || through(&middleware, &cx, request(HELLO), &service).await;
    for _ in 0..5 {
        call().await.unwrap_err();
    }
    pause(2_000).await;
    service.set(false);
    let never = Answer(std::future::pending::<Result<()>>);
    let mut task = TaskContext::from_waker(Waker::noop());
    let mut probe = Box::pin(through(&middleware, &cx, request(HELLO), &never));
    assert!(probe.as_mut().poll(&mut task).is_pending());
    let err = call().await.unwrap_err();
    assert_eq!(err.operation(), "limit.circuit", "one probe at a time");
    drop(probe);
    call().await.unwrap();
    // One of the two that it takes: still one at a time.
    let mut probe = Box::pin(through(&middleware, &cx, request(HELLO), &never));
    assert!(probe.as_mut().poll(&mut task).is_pending());
    call().await.unwrap_err();
    drop(probe);
    call().await.unwrap();
    let mut open = Box::pin(through(&middleware, &cx, request(HELLO), &never));
    assert!(open.as_mut().poll(&mut task).is_pending());
    call().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_circuit_is_of_a_method_or_of_a_service() {
    for (of, other_method) in [(Circuit::Method, true), (Circuit::Service, false)] {
        let middleware: Arc<dyn Middleware> =
            Arc::new(CircuitBreaker::new(Breaker::default()).per(of));
        let service = Broken::new(true);
        let call = async |to: &'static str, path| {
            let request = request(path).with_service(to);
            through(&middleware, &cx(), request, &service).await
        };
        for _ in 0..5 {
            call("greeter", HELLO).await.unwrap_err();
        }
        service.set(false);
        assert!(call("greeter", HELLO).await.is_err());
        let other = call("greeter", "/greeter.Greeter/Bye").await;
        assert_eq!(other.is_ok(), other_method, "{of:?}");
        assert!(call("other", HELLO).await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn policies_limit_per_service_and_method_and_change_while_running() {
    let base = Policies::new()
        .with_service("greeter", Policy::new().with_concurrency(2, 0))
        .with_method(
            "greeter",
            "Greeter.Own",
            Policy::new().with_concurrency(1, 0),
        )
        .with_method("greeter", "Greeter.Rated", Policy::new().with_rate(1.0, 1));
    let (writer, policies) = Live::channel(base.clone());
    for middleware in [
        Arc::new(PolicyLimits::new(policies.clone())) as Arc<dyn Middleware>,
        Arc::new(PolicyLimits::of_service("greeter", policies)),
    ] {
        writer.set(base.clone());
        let never = Answer(std::future::pending::<Result<()>>);
        let cx = cx();
        let mut task = TaskContext::from_waker(Waker::noop());
        let to = |path| request(path).with_service("greeter");
        let mut running = Vec::new();
        let mut enter = |path| {
            let call = through(&middleware, &cx, to(path), &never);
            let mut call: Pin<Box<dyn Future<Output = _> + Send + '_>> = Box::pin(call);
            match call.as_mut().poll(&mut task) {
                Poll::Pending => {
                    running.push(call);
                    true
                }
                Poll::Ready(outcome) => {
                    assert_eq!(kind(&outcome), Some(ErrorKind::ResourceExhausted));
                    false
                }
            }
        };
        assert!(enter(HELLO) && enter("/greeter.Greeter/Bye"));
        assert!(!enter(HELLO), "the methods of a service share its limit");
        assert!(enter("/greeter.Greeter/Own"), "a method has its own");
        assert!(!enter("/greeter.Greeter/Own"));
        assert!(enter(HEALTH), "health passes");
        // What is in flight counts under new policies too.
        let three = Policy::new().with_concurrency(3, 0);
        writer.set(base.clone().with_service("greeter", three));
        assert!(enter(HELLO) && !enter(HELLO));
        writer.set(Policies::new());
        for _ in 0..10 {
            assert!(enter(HELLO), "no policies, no limits");
        }
        writer.set(base.clone());
        drop(running);
        let end = Answer(ok);
        let call = async |path| through(&middleware, &cx, to(path), &end).await;
        call("/greeter.Greeter/Rated").await.unwrap();
        let err = call("/greeter.Greeter/Rated").await.unwrap_err();
        assert!(err.retry_after().is_some());
        call(HELLO).await.unwrap();
    }
}
