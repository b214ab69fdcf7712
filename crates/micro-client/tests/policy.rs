//! Retries, hedges, their budget and live policies, on paused time over the memory transport.
#![expect(clippy::print_stdout, reason = "the figures are what is to be shown")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use micro_client::{
    CallOptions, Client, ClientOptions, Context, Error, ErrorKind, HedgeDelay, HedgePolicy,
    Policies, Policy, Result,
};
use micro_codec_json::Json;
use micro_core::{Clock, Detail, SeededRandom};
use micro_registry_core::{Node, RegisterOptions, Registry as _, Service};
use micro_registry_memory::MemoryRegistry;
use micro_selector_p2c::P2cSelector;
use micro_transport_core::{
    BoxFuture, ErrorExt as _, Handler, ListenOptions, Live, Request, Response, Stop, Transport as _,
};
use micro_transport_memory::MemoryTransport;
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

type Answer = Box<dyn Fn(usize, &Context) -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// Counts its calls and answers as it is told.
struct Backend {
    calls: AtomicUsize,
    /// Calls whose future was dropped before its end.
    dropped: Arc<AtomicUsize>,
    /// When each attempt came, and the mark that it bore.
    seen: std::sync::Mutex<Vec<(tokio::time::Instant, u32)>>,
    answer: Answer,
}

impl Backend {
    fn new<F, Fut>(answer: F) -> Arc<Self>
    where
        F: Fn(usize, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        Arc::new(Self {
            calls: AtomicUsize::new(0),
            dropped: Arc::default(),
            seen: std::sync::Mutex::default(),
            answer: Box::new(move |call, cx| Box::pin(answer(call, cx.clone()))),
        })
    }

    fn failing() -> Arc<Self> {
        Self::new(|_, _| async { Err(Error::unavailable("out of order")) })
    }

    fn taking(pause: Duration) -> Arc<Self> {
        Self::new(move |_, _| async move {
            tokio::time::sleep(pause).await;
            Ok(())
        })
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    fn seen(&self) -> Vec<(tokio::time::Instant, u32)> {
        self.seen.lock().unwrap().clone()
    }
}

struct Count(Option<Arc<AtomicUsize>>);

impl Drop for Count {
    fn drop(&mut self) {
        if let Some(dropped) = &self.0 {
            dropped.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Handler for Backend {
    fn call(
        self: Arc<Self>,
        cx: Context,
        request: Request,
    ) -> BoxFuture<'static, Result<Response>> {
        Box::pin(async move {
            let call = self.calls.fetch_add(1, Ordering::SeqCst);
            let now = tokio::time::Instant::now();
            self.seen.lock().unwrap().push((now, cx.attempt()));
            let mut count = Count(Some(Arc::clone(&self.dropped)));
            let outcome = (self.answer)(call, &cx).await;
            count.0 = None;
            outcome.map(|()| Response::new(request.content_type, request.body))
        })
    }
}

#[derive(Clone)]
struct Fleet {
    registry: Arc<MemoryRegistry>,
    transport: Arc<MemoryTransport>,
}

impl Fleet {
    fn new() -> Self {
        Self {
            registry: Arc::new(MemoryRegistry::new()),
            transport: Arc::default(),
        }
    }

    async fn start(&self, service: &str, id: &str, handler: Arc<dyn Handler>) {
        let options = ListenOptions::default().with_clock(Arc::new(Paused));
        let listener = self.transport.listen("", options).await.unwrap();
        let service = Service::new(service, "v1").with_node(Node::new(id, listener.address()));
        self.registry
            .register(&service, RegisterOptions::default())
            .await
            .unwrap();
        tokio::spawn(listener.serve(handler, Live::constant(Stop::Run)));
    }

    fn client(&self, options: ClientOptions) -> Client {
        Client::new(
            Arc::clone(&self.registry) as _,
            Arc::clone(&self.transport) as _,
            Arc::new(P2cSelector::new()),
            options
                .with_codec(Json)
                .with_clock(Arc::new(Paused))
                .with_random(Arc::new(SeededRandom::new(7))),
        )
    }
}

fn cx() -> Context {
    Context::with_clock(Arc::new(Paused)).with_timeout(Duration::from_secs(10))
}

async fn call(client: &Client, service: &str, cx: &Context, idempotent: bool) -> Result<Bytes> {
    client
        .call_raw(
            service,
            "Echo.Say",
            "application/json",
            Bytes::from_static(b"1"),
        )
        .idempotent(idempotent)
        .send(cx)
        .await
}

/// An open loop: so many calls a second, for so long.
async fn load(client: &Client, per_second: u64, seconds: u64) -> (usize, usize) {
    let mut calls = JoinSet::new();
    let mut tick = tokio::time::interval(Duration::from_micros(1_000_000 / per_second));
    for _ in 0..per_second * seconds {
        tick.tick().await;
        let client = client.clone();
        calls.spawn(async move { call(&client, "echo", &cx(), true).await.is_ok() });
    }
    let outcomes = calls.join_all().await;
    let good = outcomes.iter().filter(|good| **good).count();
    (outcomes.len(), good)
}

#[tokio::test(start_paused = true)]
async fn f7_a_retry_storm_costs_a_fifth_and_ten_a_second() {
    for (per_second, retries) in [(10, 2), (100, 2), (1000, 2), (1000, 5)] {
        let fleet = Fleet::new();
        let backends = [Backend::failing(), Backend::failing(), Backend::failing()];
        for (i, backend) in backends.iter().enumerate() {
            let id = format!("n{i}");
            fleet.start("echo", &id, Arc::clone(backend) as _).await;
        }
        let client = fleet.client(ClientOptions::default().with_retries(retries));
        let start = tokio::time::Instant::now();
        let (calls, good) = load(&client, per_second, 10).await;
        let seconds = start.elapsed().as_secs_f64();
        assert_eq!((calls, good), (per_second as usize * 10, 0));
        let attempts: usize = backends.iter().map(|backend| backend.calls()).sum();
        let extra = attempts - calls;
        let most = calls as f64 * 0.2 + 10.0 * seconds.max(1.0);
        println!(
            "retry storm, {per_second}/s, {retries} retries: {calls} calls, {extra} extra attempts, \
             bound {most:.0}, amplification {:.3}",
            attempts as f64 / calls as f64
        );
        assert!(extra as f64 <= most, "{extra} > {most}");
        assert!(extra > 0, "it does retry");
    }
}

#[tokio::test(start_paused = true)]
async fn f7_after_a_storm_the_load_does_not_overshoot() {
    let fleet = Fleet::new();
    let broken = Arc::new(AtomicBool::new(true));
    let flag = Arc::clone(&broken);
    let backend = Backend::new(move |_, _| {
        let broken = flag.load(Ordering::SeqCst);
        async move {
            if broken {
                return Err(Error::unavailable("out of order"));
            }
            Ok(())
        }
    });
    fleet.start("echo", "a", Arc::clone(&backend) as _).await;
    let client = fleet.client(ClientOptions::default());
    load(&client, 500, 5).await;
    broken.store(false, Ordering::SeqCst);
    let before = backend.calls();
    let (calls, good) = load(&client, 500, 5).await;
    let ratio = (backend.calls() - before) as f64 / calls as f64;
    println!("after the storm: {good} of {calls} succeed, {ratio:.3} attempts for each");
    assert!(ratio <= 1.2 && good == calls, "{good} of {calls}, {ratio}");
}

/// Passes calls on to another service.
struct Hop {
    client: Client,
    next: &'static str,
}

impl Handler for Hop {
    fn call(
        self: Arc<Self>,
        cx: Context,
        request: Request,
    ) -> BoxFuture<'static, Result<Response>> {
        Box::pin(async move {
            call(&self.client, self.next, &cx, true).await?;
            Ok(Response::new(request.content_type, request.body))
        })
    }
}

#[tokio::test(start_paused = true)]
async fn f8_three_hops_do_not_multiply_the_attempts() {
    let fleet = Fleet::new();
    let leaf = Backend::failing();
    for id in ["leaf-1", "leaf-2"] {
        fleet.start("leaf", id, Arc::clone(&leaf) as _).await;
    }
    for (service, next) in [("middle", "leaf"), ("echo", "middle")] {
        for i in 0..2 {
            let client = fleet.client(ClientOptions::default());
            let hop = Arc::new(Hop { client, next });
            fleet.start(service, &format!("{service}-{i}"), hop).await;
        }
    }
    let client = fleet.client(ClientOptions::default());
    let (calls, good) = load(&client, 200, 10).await;
    assert_eq!(good, 0);
    let ratio = leaf.calls() as f64 / calls as f64;
    println!(
        "three hops: {calls} calls, {} attempts at the leaf, {ratio:.3} for each",
        leaf.calls()
    );
    assert!(ratio <= 1.5, "{ratio}");
    assert!(ratio > 1.0, "somebody does retry");
}

#[tokio::test(start_paused = true)]
async fn a_hop_does_not_repeat_what_was_repeated_above_or_below() {
    let fleet = Fleet::new();
    let leaf = Backend::failing();
    for id in ["a", "b", "c"] {
        fleet.start("echo", id, Arc::clone(&leaf) as _).await;
    }
    let client = fleet.client(ClientOptions::default());
    let err = call(&client, "echo", &cx().with_attempt(1), true)
        .await
        .unwrap_err();
    assert_eq!(leaf.calls(), 1, "the caller is a repetition itself");
    assert!(!err.was_retried(), "and whoever repeats may go on");
    let err = call(&client, "echo", &cx(), true).await.unwrap_err();
    assert_eq!(leaf.calls(), 1 + 3);
    assert!(err.was_retried());
    let marks: Vec<_> = leaf.seen().iter().map(|(_, attempt)| *attempt).collect();
    assert_eq!(marks, [1, 0, 1, 2]);
    // An error with the mark of a hop below.
    let marked = Backend::new(|_, _| async { Err(Error::unavailable("").with_retried()) });
    fleet.start("marked", "a", Arc::clone(&marked) as _).await;
    call(&client, "marked", &cx(), true).await.unwrap_err();
    assert_eq!(marked.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn only_an_idempotent_call_is_repeated_and_only_for_what_may_pass() {
    let cases: [(Error, bool, usize); 9] = [
        (Error::unavailable("x"), true, 3),
        (Error::unavailable("x"), false, 1),
        (Error::resource_exhausted("x"), true, 1),
        (
            Error::resource_exhausted("x").with_retry_after(Duration::ZERO),
            true,
            3,
        ),
        (
            Error::resource_exhausted("x").with_retry_after(Duration::ZERO),
            false,
            1,
        ),
        (Error::internal("x"), true, 1),
        (Error::deadline_exceeded("x"), true, 1),
        (Error::outcome_unknown("x"), true, 1),
        (Error::not_found("x"), true, 1),
    ];
    for (err, idempotent, attempts) in cases {
        let kind = err.kind();
        let fleet = Fleet::new();
        let details = err.details().to_vec();
        let backend = Backend::new(move |_, _| {
            let err = details.iter().fold(Error::new(kind, "x"), |err, detail| {
                err.with_detail(detail.clone())
            });
            async move { Err(err) }
        });
        fleet.start("echo", "a", Arc::clone(&backend) as _).await;
        let client = fleet.client(ClientOptions::default());
        let err = call(&client, "echo", &cx(), idempotent).await.unwrap_err();
        assert_eq!(err.kind(), kind);
        assert_eq!(backend.calls(), attempts, "{kind:?} {idempotent}");
    }
}

#[tokio::test(start_paused = true)]
async fn f9_a_pushback_is_honoured_to_ten_milliseconds() {
    let fleet = Fleet::new();
    let pushback = Duration::from_millis(500);
    let backend = Backend::new(move |call, _| async move {
        if call < 2 {
            return Err(Error::unavailable("busy").with_retry_after(pushback));
        }
        Ok(())
    });
    fleet.start("echo", "a", Arc::clone(&backend) as _).await;
    let client = fleet.client(ClientOptions::default());
    call(&client, "echo", &cx(), true).await.unwrap();
    let seen = backend.seen();
    for pair in seen.windows(2) {
        let gap = pair[1].0 - pair[0].0;
        println!("asked for {pushback:?}, waited {gap:?}");
        assert!(
            gap.abs_diff(pushback) <= Duration::from_millis(10),
            "{gap:?}"
        );
    }
    assert_eq!(seen.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn f9_a_pushback_beyond_the_deadline_is_not_waited_for() {
    let fleet = Fleet::new();
    let backend = Backend::new(|_, _| async {
        Err(Error::unavailable("busy").with_retry_after(Duration::from_secs(60)))
    });
    fleet.start("echo", "a", Arc::clone(&backend) as _).await;
    let client = fleet.client(ClientOptions::default());
    let start = tokio::time::Instant::now();
    let err = call(&client, "echo", &cx(), true).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unavailable);
    assert!(start.elapsed() < Duration::from_millis(10));
    assert_eq!(backend.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_pause_grows_from_20_ms_and_a_random_half_is_left_out() {
    let fleet = Fleet::new();
    let backend = Backend::failing();
    fleet.start("echo", "a", Arc::clone(&backend) as _).await;
    let policy = Policy::new().with_attempts(5);
    let client =
        fleet.client(ClientOptions::default().with_policies(Policies::new().with_default(policy)));
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_secs(10)).await;
        let from = backend.seen().len();
        call(&client, "echo", &cx(), true).await.unwrap_err();
        let seen = backend.seen();
        let gaps: Vec<_> = seen[from..]
            .windows(2)
            .map(|pair| (pair[1].0 - pair[0].0).as_millis())
            .collect();
        assert_eq!(gaps.len(), 4, "5 attempts");
        assert_eq!(gaps[0], 0, "the first repetition is made at once");
        for (gap, most) in gaps[1..].iter().zip([20, 40, 80]) {
            // The timer rounds up to a millisecond.
            assert!((most / 2..=most + 1).contains(gap), "{gaps:?}");
        }
    }
}

fn hedge_after(ms: u64) -> HedgePolicy {
    HedgePolicy::new(HedgeDelay::After(Duration::from_millis(ms)))
}

#[tokio::test(start_paused = true)]
async fn f10_a_hedge_goes_to_another_node_and_the_loser_is_cancelled() {
    let fleet = Fleet::new();
    let slow = Backend::taking(Duration::from_secs(5));
    let quick = Backend::taking(Duration::from_millis(5));
    fleet.start("echo", "slow", Arc::clone(&slow) as _).await;
    fleet.start("echo", "quick", Arc::clone(&quick) as _).await;
    let client = fleet.client(ClientOptions::default());
    let hedging = client.with_options(CallOptions::new());
    let mut longest = Duration::ZERO;
    let mut hedged = 0;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let (slows, quicks) = (slow.calls(), quick.calls());
        let start = tokio::time::Instant::now();
        hedging
            .call_raw(
                "echo",
                "Echo.Say",
                "application/json",
                Bytes::from_static(b"1"),
            )
            .idempotent(true)
            .hedge(hedge_after(50))
            .send(&cx())
            .await
            .unwrap();
        longest = longest.max(start.elapsed());
        let made = slow.calls() - slows + quick.calls() - quicks;
        assert!(made <= 2);
        hedged += made - 1;
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
    println!("hedged {hedged} of 20 calls, the longest took {longest:?}");
    assert!(hedged > 0, "the slow node was met");
    assert!(longest < Duration::from_millis(100), "{longest:?}");
    assert_eq!(
        slow.dropped.load(Ordering::SeqCst),
        slow.calls(),
        "every loser is cancelled"
    );
    assert!(
        hedged < 10,
        "what is always outrun is known to be slow: {hedged}"
    );
    assert!(
        quick.seen().iter().any(|(_, attempt)| *attempt == 1),
        "a hedge is marked"
    );
}

#[tokio::test(start_paused = true)]
async fn f10_hedging_is_off_by_default_for_what_is_not_idempotent_and_for_one_node() {
    for (nodes, idempotent, hedge, attempts) in [
        (2, true, None, 1),
        (2, false, Some(hedge_after(10)), 1),
        (1, true, Some(hedge_after(10)), 1),
        (2, true, Some(hedge_after(10)), 2),
    ] {
        let fleet = Fleet::new();
        let backend = Backend::taking(Duration::from_millis(100));
        for i in 0..nodes {
            fleet
                .start("echo", &format!("n{i}"), Arc::clone(&backend) as _)
                .await;
        }
        let client = fleet.client(ClientOptions::default());
        let mut options = CallOptions::new().with_idempotent(idempotent);
        options.hedge = hedge;
        let call = client.call_raw("echo", "Echo.Say", "application/json", Bytes::new());
        let call = call.idempotent(idempotent);
        let call = match hedge {
            Some(hedge) => call.hedge(hedge),
            None => call,
        };
        call.send(&cx()).await.unwrap();
        assert_eq!(backend.calls(), attempts, "{nodes} {idempotent} {hedge:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn f10_a_hedge_keeps_to_the_filters_of_its_call() {
    let fleet = Fleet::new();
    let (ours, theirs) = (
        Backend::taking(Duration::from_millis(100)),
        Backend::taking(Duration::from_millis(1)),
    );
    fleet.start("echo", "ours", Arc::clone(&ours) as _).await;
    fleet
        .start("echo", "theirs", Arc::clone(&theirs) as _)
        .await;
    fleet
        .client(ClientOptions::default())
        .call_raw("echo", "Echo.Say", "application/json", Bytes::new())
        .idempotent(true)
        .hedge(hedge_after(10))
        .filter(|node| node.id == "ours")
        .send(&cx())
        .await
        .unwrap();
    assert_eq!((ours.calls(), theirs.calls()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn f10_hedges_and_retries_share_one_budget() {
    let fleet = Fleet::new();
    let backend = Backend::taking(Duration::from_millis(100));
    for id in ["a", "b", "c"] {
        fleet.start("echo", id, Arc::clone(&backend) as _).await;
    }
    let policy = Policy::new().with_hedge(hedge_after(10));
    let client =
        fleet.client(ClientOptions::default().with_policies(Policies::new().with_default(policy)));
    let start = tokio::time::Instant::now();
    let (calls, good) = load(&client, 500, 5).await;
    assert_eq!(good, calls);
    let extra = backend.calls() - calls;
    let most = calls as f64 * 0.2 + 10.0 * start.elapsed().as_secs_f64();
    println!("every call is slow: {calls} calls, {extra} hedges, bound {most:.0}");
    assert!(extra as f64 <= most && extra > 0, "{extra} > {most}");
}

#[tokio::test(start_paused = true)]
async fn f10_a_percentile_is_learnt_and_then_hedged_by() {
    let fleet = Fleet::new();
    // One call in fifty is slow, wherever it goes.
    let backend = Backend::new(|call, _| async move {
        let pause = if call % 50 == 49 { 2000 } else { 10 };
        tokio::time::sleep(Duration::from_millis(pause)).await;
        Ok(())
    });
    for id in ["a", "b"] {
        fleet.start("echo", id, Arc::clone(&backend) as _).await;
    }
    let policy = Policy::new().with_hedge(HedgePolicy::new(HedgeDelay::P95));
    let client = fleet.client(
        ClientOptions::default().with_policies(Policies::new().with_service("echo", policy)),
    );
    let mut late = 0;
    for i in 0..1000 {
        let start = tokio::time::Instant::now();
        call(&client, "echo", &cx(), true).await.unwrap();
        if i >= 100 {
            late += u32::from(start.elapsed() > Duration::from_millis(50));
        }
    }
    println!(
        "{late} of 900 calls took longer than 50 ms; {} attempts",
        backend.calls()
    );
    assert_eq!(late, 0);
    assert!(backend.calls() < 1100, "{}", backend.calls());
}

#[tokio::test(start_paused = true)]
async fn a_hedged_call_waits_for_the_other_attempt_if_one_fails_in_passing() {
    let fleet = Fleet::new();
    let backend = Backend::new(|call, _| async move {
        let pause = if call == 0 { 30 } else { 100 };
        tokio::time::sleep(Duration::from_millis(pause)).await;
        if call == 0 {
            return Err(Error::unavailable("out of order"));
        }
        Ok(())
    });
    for id in ["a", "b"] {
        fleet.start("echo", id, Arc::clone(&backend) as _).await;
    }
    let policy = Policy::new().with_hedge(hedge_after(10));
    let client =
        fleet.client(ClientOptions::default().with_policies(Policies::new().with_default(policy)));
    call(&client, "echo", &cx(), true).await.unwrap();
    assert_eq!(backend.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn policies_change_while_running_and_the_nearest_counts() {
    let fleet = Fleet::new();
    let backend = Backend::taking(Duration::from_secs(100));
    fleet.start("echo", "a", Arc::clone(&backend) as _).await;
    let seconds = |seconds| Policy::new().with_timeout(Duration::from_secs(seconds));
    let (writer, policies) = Live::channel(Policies::new());
    let client = fleet.client(
        ClientOptions::default()
            .with_policies(policies)
            .with_timeout(Duration::from_secs(9)),
    );
    let forever = Context::with_clock(Arc::new(Paused));
    let took = |cx: Context, timeout: Option<u64>| {
        let client = client.clone();
        async move {
            let start = tokio::time::Instant::now();
            let call = client.call_raw("echo", "Echo.Say", "application/json", Bytes::new());
            let call = match timeout {
                Some(timeout) => call.timeout(Duration::from_secs(timeout)),
                None => call,
            };
            let err = call.send(&cx).await.unwrap_err();
            assert_eq!(err.kind(), ErrorKind::DeadlineExceeded);
            start.elapsed().as_secs()
        }
    };
    assert_eq!(took(forever.clone(), None).await, 9, "the client's");
    writer.set(Policies::new().with_default(seconds(5)));
    assert_eq!(took(forever.clone(), None).await, 5, "the default policy's");
    let policies = Policies::new()
        .with_default(seconds(5))
        .with_service("echo", seconds(4));
    writer.set(policies.clone());
    assert_eq!(took(forever.clone(), None).await, 4, "the service's");
    writer.set(policies.with_method("echo", "Echo.Say", seconds(3)));
    assert_eq!(took(forever.clone(), None).await, 3, "the method's");
    assert_eq!(took(forever.clone(), Some(6)).await, 6, "the call's");
    let sooner = forever.clone().with_timeout(Duration::from_secs(1));
    assert_eq!(took(sooner, None).await, 1, "an earlier deadline stands");
    writer.set(Policies::new());
    assert_eq!(took(forever, None).await, 9, "and back");
}

#[tokio::test(start_paused = true)]
async fn the_attempts_of_a_policy_count_unless_the_call_says_otherwise() {
    let fleet = Fleet::new();
    let backend = Backend::failing();
    fleet.start("echo", "a", Arc::clone(&backend) as _).await;
    let (writer, policies) = Live::channel(Policies::new());
    let client = fleet.client(ClientOptions::default().with_policies(policies));
    let attempts = async |client: &Client, retries: Option<u32>| {
        tokio::time::sleep(Duration::from_secs(20)).await;
        let before = backend.calls();
        let call = client.call_raw("echo", "Echo.Say", "application/json", Bytes::new());
        let call = call.idempotent(true);
        let call = match retries {
            Some(retries) => call.retries(retries),
            None => call,
        };
        call.send(&cx()).await.unwrap_err();
        backend.calls() - before
    };
    assert_eq!(attempts(&client, None).await, 3);
    for most in [1, 2, 5] {
        writer.set(Policies::new().with_default(Policy::new().with_attempts(most)));
        assert_eq!(attempts(&client, None).await, most as usize);
        assert_eq!(attempts(&client, Some(3)).await, 4);
    }
}

#[tokio::test(start_paused = true)]
async fn cancelling_at_any_moment_costs_no_budget() {
    let fleet = Fleet::new();
    let backend = Backend::new(|_, _| async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        Err(Error::unavailable("busy").with_retry_after(Duration::from_millis(20)))
    });
    fleet.start("echo", "a", Arc::clone(&backend) as _).await;
    // Ten to begin with, and none ever after.
    let budget = micro_client::BudgetPolicy::new(0.0, 10.0);
    let policies = |budget| Policies::new().with_budget(budget);
    let (writer, live) = Live::channel(policies(budget));
    let client = fleet.client(ClientOptions::default().with_policies(live));
    call(&client, "echo", &cx(), true).await.unwrap_err();
    writer.set(policies(micro_client::BudgetPolicy::new(0.0, 0.0)));
    let spent = backend.calls();
    assert_eq!(spent, 3);
    // Each is dropped in the pause before its first repetition.
    for ms in 2..20 {
        let cx = cx();
        let call = call(&client, "echo", &cx, true);
        tokio::time::timeout(Duration::from_millis(ms), call)
            .await
            .unwrap_err();
    }
    let (cx, canceller) = cx().with_cancel();
    let cancelled = {
        let client = client.clone();
        tokio::spawn(async move { call(&client, "echo", &cx, true).await })
    };
    tokio::time::sleep(Duration::from_millis(5)).await;
    canceller.cancel();
    let err = cancelled.await.unwrap().unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unavailable, "the last answer counts");
    let dropped = backend.calls() - spent;
    assert_eq!(dropped, 19, "none was repeated");
    // Eight are left of the ten, and four calls may have them.
    let before = backend.calls();
    for _ in 0..6 {
        call(&client, "echo", &self::cx(), true).await.unwrap_err();
    }
    assert_eq!(backend.calls() - before - 6, 8);
}

#[tokio::test(start_paused = true)]
async fn dropping_a_hedged_call_cancels_every_attempt() {
    let fleet = Fleet::new();
    let backend = Backend::taking(Duration::from_secs(5));
    for id in ["a", "b", "c"] {
        fleet.start("echo", id, Arc::clone(&backend) as _).await;
    }
    let mut hedge = hedge_after(10);
    hedge.attempts = Some(3);
    let policy = Policy::new().with_hedge(hedge);
    let client =
        fleet.client(ClientOptions::default().with_policies(Policies::new().with_default(policy)));
    let cx = cx();
    let call = call(&client, "echo", &cx, true);
    tokio::time::timeout(Duration::from_millis(100), call)
        .await
        .unwrap_err();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(backend.calls(), 3);
    assert_eq!(backend.dropped.load(Ordering::SeqCst), 3);
}

#[test]
fn a_foreign_detail_is_no_pushback() {
    let err = Error::unavailable("x").with_detail(Detail::new("a/b.C", Bytes::new()));
    assert_eq!(err.retry_after(), None);
}
