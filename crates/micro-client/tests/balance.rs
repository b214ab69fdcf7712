//! Bad days of a fleet as its callers see them: nodes that are slow, that fail, that refuse
//! connections, that leave; zones and subsets.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::future::join_all;
use micro_client::{CallOptions, Client, ClientOptions, Context, Error, Result};
use micro_codec_json::Json;
use micro_core::{Clock, SeededRandom};
use micro_registry_core::{
    Capabilities, DeregisterOptions, Endpoint, EventStream, GetOptions, ListOptions, Node,
    RegisterOptions, Registry, Service, WatchOptions,
};
use micro_registry_memory::MemoryRegistry;
use micro_selector_core::{Balance, Selector};
use micro_selector_p2c::P2cSelector;
use micro_selector_random::RandomSelector;
use micro_transport_core::{
    BoxFuture, Handler, ListenOptions, Live, Request, Response, Stop, Transport, async_trait,
};
use micro_transport_memory::MemoryTransport;
use tokio::task::JoinHandle;

/// Follows tokio's time, which is paused.
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

/// A node that takes as long as it is told, or fails.
#[derive(Debug, Default)]
struct Server {
    calls: AtomicUsize,
    /// In milliseconds.
    pause: AtomicU64,
    /// One in so many calls fails; 0 is none, 1 all.
    fails: AtomicUsize,
}

impl Server {
    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    fn fail(&self, one_in: usize) {
        self.fails.store(one_in, Ordering::SeqCst);
    }
}

impl Handler for Server {
    fn call(self: Arc<Self>, _: Context, request: Request) -> BoxFuture<'static, Result<Response>> {
        Box::pin(async move {
            let call = self.calls.fetch_add(1, Ordering::SeqCst);
            let fails = self.fails.load(Ordering::SeqCst);
            if fails > 0 && call.is_multiple_of(fails) {
                return Err(Error::unavailable("out of order"));
            }
            let pause = self.pause.load(Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            Ok(Response::new(request.content_type, request.body))
        })
    }
}

struct Running {
    node: Node,
    version: &'static str,
    server: Arc<Server>,
    serving: JoinHandle<Result<()>>,
}

struct Fleet {
    registry: Arc<MemoryRegistry>,
    transport: Arc<MemoryTransport>,
    nodes: Vec<Running>,
}

impl Fleet {
    /// `n` nodes that take 10 ms.
    async fn of(n: usize) -> Self {
        let mut fleet = Self::empty();
        for _ in 0..n {
            fleet.join(|node| node, "v1").await;
        }
        fleet
    }

    fn empty() -> Self {
        Self {
            registry: Arc::new(MemoryRegistry::new()),
            transport: Arc::new(MemoryTransport::new()),
            nodes: Vec::new(),
        }
    }

    async fn join(&mut self, change: impl FnOnce(Node) -> Node, version: &'static str) {
        let id = format!("node-{}", self.nodes.len());
        let server = Arc::new(Server::default());
        server.pause.store(10, Ordering::SeqCst);
        let options = ListenOptions::default();
        let listener = self.transport.listen("", options).await.unwrap();
        let node = change(Node::new(id, listener.address()));
        let handler = Arc::clone(&server) as Arc<dyn Handler>;
        let serving = tokio::spawn(listener.serve(handler, Live::constant(Stop::Run)));
        let service = service(&node, version);
        let options = RegisterOptions::default();
        self.registry.register(&service, options).await.unwrap();
        self.nodes.push(Running {
            node,
            version,
            server,
            serving,
        });
    }

    /// Connections to it are refused from now on.
    fn kill(&self, node: usize) {
        self.nodes[node].serving.abort();
    }

    async fn revive(&mut self, node: usize) {
        let running = &mut self.nodes[node];
        let address = &running.node.address;
        let options = ListenOptions::default();
        let listener = self.transport.listen(address, options).await.unwrap();
        let handler = Arc::clone(&running.server) as Arc<dyn Handler>;
        running.serving = tokio::spawn(listener.serve(handler, Live::constant(Stop::Run)));
    }

    async fn deregister(&self, node: usize) {
        let running = &self.nodes[node];
        let service = service(&running.node, running.version);
        let options = DeregisterOptions::default();
        self.registry.deregister(&service, options).await.unwrap();
    }

    fn server(&self, node: usize) -> &Server {
        &self.nodes[node].server
    }

    /// A client that repeats nothing.
    fn client(&self, selector: impl Selector) -> Client {
        self.client_of(Arc::clone(&self.registry) as _, selector)
    }

    fn client_of(&self, registry: Arc<dyn Registry>, selector: impl Selector) -> Client {
        let options = ClientOptions::default()
            .with_codec(Json)
            .with_retries(0)
            .with_random(Arc::new(SeededRandom::new(11)))
            .with_clock(Arc::new(Paused));
        let transport = Arc::clone(&self.transport) as _;
        Client::new(registry, transport, Arc::new(selector), options)
    }

    fn counts(&self) -> Vec<usize> {
        self.nodes.iter().map(|node| node.server.calls()).collect()
    }

    fn forget_counts(&self) {
        for node in &self.nodes {
            node.server.calls.store(0, Ordering::SeqCst);
        }
    }
}

fn service(node: &Node, version: &str) -> Service {
    let service = Service::new("echo", version).with_node(node.clone());
    service.with_endpoint(Endpoint::new(format!("Echo.Say{version}")))
}

async fn call(client: &Client) -> Result<Bytes> {
    let cx = Context::with_clock(Arc::new(Paused));
    let message = Bytes::from_static(b"1");
    let call = client.call_raw("echo", "Echo.Say", "application/json", message);
    call.send(&cx).await
}

/// Calls, one each 2 ms; how many failed, and how long the slowest one in a hundred took.
async fn calls(client: &Client, n: u64) -> (usize, Duration) {
    let one = |at: u64| async move {
        tokio::time::sleep(Duration::from_millis(2 * at)).await;
        let begun = tokio::time::Instant::now();
        (call(client).await.is_err(), begun.elapsed())
    };
    let ended = join_all((0..n).map(one)).await;
    let failed = ended.iter().filter(|(failed, _)| *failed).count();
    let mut times: Vec<Duration> = ended.iter().map(|(_, took)| *took).collect();
    times.sort();
    (failed, times[times.len() * 99 / 100])
}

#[tokio::test(start_paused = true)]
async fn a_slow_node_takes_next_to_nothing() {
    let fleet = Fleet::of(5).await;
    fleet.server(0).pause.store(200, Ordering::SeqCst);
    let client = fleet.client(P2cSelector::new());
    calls(&client, 500).await;
    fleet.forget_counts();
    let (failed, p99) = calls(&client, 5_000).await;
    assert_eq!(failed, 0);
    assert!(p99 <= Duration::from_millis(12), "{p99:?}");
    let counts = fleet.counts();
    assert!(counts[0] < 50, "{counts:?}");
    assert!(counts[1..].iter().all(|n| *n > 700), "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_fails_at_once_is_left_out_by_every_selector() {
    let selectors: [Arc<dyn Selector>; 2] = [
        Arc::new(P2cSelector::new()),
        Arc::new(RandomSelector::new()),
    ];
    for selector in selectors {
        let name = selector.backend();
        let fleet = Fleet::of(5).await;
        fleet.server(0).fail(1);
        let client = fleet.client(selector);
        let (failed, _) = calls(&client, 500).await;
        assert!(failed <= 5, "{name}: {failed} before it is out");
        let (failed, _) = calls(&client, 5_000).await;
        assert!(failed < 25, "{name}: {failed} of 5000");
        // And when it is well again it is one of all.
        fleet.server(0).fail(0);
        calls(&client, 20_000).await;
        fleet.forget_counts();
        let (failed, _) = calls(&client, 5_000).await;
        let counts = fleet.counts();
        assert_eq!(failed, 0, "{name}");
        assert!(counts.iter().all(|n| *n > 600), "{name}: {counts:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_fails_one_call_in_three_is_left_out_too() {
    let fleet = Fleet::of(5).await;
    fleet.server(0).fail(3);
    let client = fleet.client(RandomSelector::new());
    let (failed, _) = calls(&client, 5_000).await;
    // Without ejection 333 would fail.
    assert!(failed < 40, "{failed} of 5000");
}

#[tokio::test(start_paused = true)]
async fn retries_hide_a_node_that_fails() {
    let fleet = Fleet::of(5).await;
    fleet.server(0).fail(1);
    let client = fleet.client(P2cSelector::new());
    let client = client.with_options(CallOptions::new().with_retries(2).with_idempotent(true));
    assert_eq!(calls(&client, 5_000).await.0, 0);
    assert!(fleet.server(0).calls() > 0, "it was tried");
}

#[tokio::test(start_paused = true)]
async fn if_all_fail_all_are_tried_and_recover_at_once() {
    for n in [2, 5] {
        let fleet = Fleet::of(n).await;
        let client = fleet.client(P2cSelector::new());
        calls(&client, 500).await;
        for node in 0..n {
            fleet.server(node).fail(1);
        }
        fleet.forget_counts();
        let (failed, _) = calls(&client, 5_000).await;
        assert_eq!(failed, 5_000);
        let counts = fleet.counts();
        let fair = 5_000 / n;
        assert!(counts.iter().all(|n| *n > fair / 2), "{counts:?}");
        for node in 0..n {
            fleet.server(node).fail(0);
        }
        fleet.forget_counts();
        // Longer than an ejection lasts, so that all are back.
        let (failed, _) = calls(&client, 5_000).await;
        assert_eq!(failed, 0);
        let counts = fleet.counts();
        assert!(counts.iter().all(|n| *n > fair / 4), "{counts:?}");
    }
}

/// A registry that tells nobody what changes: what is gone shows only to those who ask.
#[derive(Debug)]
struct Silent {
    registry: Arc<MemoryRegistry>,
    asked: AtomicUsize,
}

#[async_trait]
impl Registry for Silent {
    fn backend(&self) -> &'static str {
        "silent"
    }

    fn capabilities(&self) -> Capabilities {
        self.registry.capabilities()
    }

    async fn register(&self, service: &Service, opts: RegisterOptions) -> Result<()> {
        self.registry.register(service, opts).await
    }

    async fn deregister(&self, service: &Service, opts: DeregisterOptions) -> Result<()> {
        self.registry.deregister(service, opts).await
    }

    async fn get_service(&self, name: &str, opts: GetOptions) -> Result<Vec<Service>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.registry.get_service(name, opts).await
    }

    async fn list_services(&self, opts: ListOptions) -> Result<Vec<Service>> {
        self.registry.list_services(opts).await
    }

    async fn watch(&self, _: WatchOptions) -> Result<EventStream> {
        Ok(Box::pin(futures_util::stream::pending()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_refuses_connections_is_doubted_at_once_and_costs_no_call() {
    let fleet = Fleet::of(4).await;
    let silent = Arc::new(Silent {
        registry: Arc::clone(&fleet.registry),
        asked: AtomicUsize::new(0),
    });
    let client = fleet.client_of(Arc::clone(&silent) as _, P2cSelector::new());
    // Its calls under way fail with it: there are none.
    calls(&client, 500).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let asked = silent.asked.load(Ordering::SeqCst);
    fleet.deregister(0).await;
    fleet.kill(0);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let (failed, _) = calls(&client, 1_000).await;
    assert_eq!(failed, 0);
    let again = silent.asked.load(Ordering::SeqCst) - asked;
    assert!((1..=4).contains(&again), "asked {again} times");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_comes_back_starts_slowly() {
    let mut fleet = Fleet::of(4).await;
    let client = fleet.client(RandomSelector::new());
    calls(&client, 500).await;
    fleet.kill(0);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(calls(&client, 1_500).await.0, 0);
    fleet.revive(0).await;
    // Until it is connected to again.
    fleet.forget_counts();
    let mut waited = 0;
    while fleet.server(0).calls() == 0 {
        calls(&client, 10).await;
        waited += 1;
        assert!(waited < 1_000, "it stays away");
    }
    fleet.forget_counts();
    assert_eq!(calls(&client, 1_000).await.0, 0);
    let early = fleet.counts();
    assert!((5..125).contains(&early[0]), "250 is its share: {early:?}");
    calls(&client, 5_000).await;
    fleet.forget_counts();
    calls(&client, 1_000).await;
    let late = fleet.counts();
    assert!(late[0] > 200, "{late:?}");
}

#[tokio::test(start_paused = true)]
async fn nodes_that_join_and_leave_fail_no_call() {
    let mut fleet = Fleet::of(3).await;
    let client = fleet.client(P2cSelector::new());
    assert_eq!(calls(&client, 500).await.0, 0);
    for _ in 0..27 {
        fleet.join(|node| node, "v1").await;
        assert_eq!(calls(&client, 20).await.0, 0);
    }
    calls(&client, 6_000).await;
    fleet.forget_counts();
    assert_eq!(calls(&client, 6_000).await.0, 0);
    let counts = fleet.counts();
    assert!(
        counts.iter().all(|n| (100..=300).contains(n)),
        "200 each would be even: {counts:?}"
    );
    for node in 3..30 {
        fleet.deregister(node).await;
        assert_eq!(calls(&client, 20).await.0, 0);
    }
    fleet.forget_counts();
    assert_eq!(calls(&client, 600).await.0, 0);
    assert_eq!(fleet.counts()[3..], [0; 27]);
}

#[tokio::test(start_paused = true)]
async fn calls_to_a_node_that_is_removed_come_to_their_end() {
    let fleet = Fleet::of(2).await;
    fleet.server(0).pause.store(5_000, Ordering::SeqCst);
    fleet.server(1).pause.store(5_000, Ordering::SeqCst);
    let client = fleet.client(RandomSelector::new());
    let under_way = join_all((0..20).map(|_| call(&client)));
    let change = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = fleet.server(0).calls();
        assert!((1..20).contains(&before), "{before} of 20");
        fleet.deregister(0).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        for _ in 0..20 {
            let more = client.with_options(CallOptions::new().with_timeout(Duration::from_secs(1)));
            // It takes longer than that; where it goes is what counts.
            call(&more).await.unwrap_err();
        }
        assert_eq!(fleet.server(0).calls(), before, "new calls go elsewhere");
    };
    let (ended, ()) = tokio::join!(under_way, change);
    for outcome in ended {
        outcome.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_own_zone_is_enough_while_it_is_well() {
    let mut fleet = Fleet::empty();
    for zone in ["a", "a", "a", "a", "b", "b", "c", "c"] {
        let in_zone = |node: Node| node.with_metadata("zone", zone);
        fleet.join(in_zone, "v1").await;
    }
    let balance = Balance::new().with_zone("a");
    let client = fleet.client(P2cSelector::new().with_balance(balance));
    calls(&client, 500).await;
    fleet.forget_counts();
    assert_eq!(calls(&client, 1_000).await.0, 0);
    let counts = fleet.counts();
    assert_eq!(counts[..4].iter().sum::<usize>(), 1_000, "{counts:?}");
    // Half of it is down: it keeps seven calls of ten.
    fleet.kill(0);
    fleet.kill(1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    fleet.forget_counts();
    assert_eq!(calls(&client, 1_000).await.0, 0);
    let own: usize = fleet.counts()[..4].iter().sum();
    assert!((600..900).contains(&own), "{:?}", fleet.counts());
    // All of it: nothing is lost.
    fleet.kill(2);
    fleet.kill(3);
    tokio::time::sleep(Duration::from_secs(1)).await;
    fleet.forget_counts();
    assert_eq!(calls(&client, 1_000).await.0, 0);
    for node in 0..4 {
        fleet.revive(node).await;
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    calls(&client, 500).await;
    fleet.forget_counts();
    assert_eq!(calls(&client, 1_000).await.0, 0);
    let own: usize = fleet.counts()[..4].iter().sum();
    assert_eq!(own, 1_000, "{:?}", fleet.counts());
}

#[tokio::test(start_paused = true)]
async fn of_many_nodes_a_client_uses_a_subset_and_another_one_if_that_is_down() {
    let fleet = Fleet::of(150).await;
    let client = fleet.client(P2cSelector::new());
    assert_eq!(calls(&client, 3_000).await.0, 0);
    let used: Vec<usize> = (0..150).filter(|i| fleet.server(*i).calls() > 0).collect();
    assert_eq!(used.len(), 50, "{used:?}");
    for node in &used {
        fleet.kill(*node);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    fleet.forget_counts();
    // The first ones find nobody, then the subset is another.
    calls(&client, 10).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    calls(&client, 10).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(calls(&client, 1_000).await.0, 0);
    let others: BTreeMap<usize, usize> = (0..150)
        .map(|node| (node, fleet.server(node).calls()))
        .filter(|(_, calls)| *calls > 0)
        .collect();
    assert!(others.len() <= 50, "{others:?}");
    assert!(used.iter().all(|node| !others.contains_key(node)));

    let all = Balance::new().with_subset(0);
    let fleet = Fleet::of(60).await;
    let client = fleet.client(P2cSelector::new().with_balance(all));
    assert_eq!(calls(&client, 3_000).await.0, 0);
    let counts = fleet.counts();
    assert!(counts.iter().all(|n| *n > 0), "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_filter_finds_its_node_outside_of_the_subset() {
    let mut fleet = Fleet::of(120).await;
    fleet
        .join(|node| node.with_metadata("canary", "yes"), "v2")
        .await;
    let client = fleet.client(P2cSelector::new());
    assert_eq!(calls(&client, 500).await.0, 0);
    let filters = [
        CallOptions::new().with_version("v2"),
        CallOptions::new().with_label("canary", "yes"),
        CallOptions::new().with_endpoint("Echo.Sayv2"),
    ];
    for filter in filters {
        fleet.forget_counts();
        let filtered = client.with_options(filter);
        assert_eq!(calls(&filtered, 100).await.0, 0);
        let counts = fleet.counts();
        assert_eq!(counts[120], 100);
        assert_eq!(counts[..120].iter().sum::<usize>(), 0);
    }
    let nobody = CallOptions::new().with_endpoint("Echo.Shout");
    let err = call(&client.with_options(nobody)).await.unwrap_err();
    assert!(err.to_string().contains("no node of the service passes"));
}
