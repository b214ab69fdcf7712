//! A whole system in one process.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use micro_client::{Client, ClientOptions};
use micro_codec_core::Codecs;
use micro_codec_json::Json;
use micro_codec_proto::Proto;
use micro_core::{Clock, Context, Random, Result, SeededRandom};
use micro_registry_core::Registry;
use micro_transport_memory::MemoryTransport;

use crate::builder::{Builder, MakeClient, MakeSelector, MakeServer};
use crate::clock::PausedClock;
use crate::history::History;
use crate::net::{Net, REGISTRY};
use crate::node::{NodeHandle, Seat};
use crate::registry::{Directory, FaultRegistry};
use crate::seed::SEED_VARIABLE;
use crate::transport::FaultTransport;

/// How much of the history is printed when a test fails.
const TAIL: usize = 40;

/// What all hosts have in common.
pub(crate) struct Parts {
    pub(crate) net: Arc<Net>,
    pub(crate) clock: Arc<PausedClock>,
    pub(crate) random: Arc<SeededRandom>,
    pub(crate) transport: MemoryTransport,
    pub(crate) directory: Arc<Directory>,
    pub(crate) server: MakeServer,
    client: MakeClient,
    selector: MakeSelector,
    /// Where clients were made that are no nodes.
    clients: Mutex<BTreeSet<String>>,
}

impl Parts {
    pub(crate) fn codecs(&self) -> Codecs {
        Codecs::new().with(Json).with(Proto)
    }

    pub(crate) fn client(&self, host: &Arc<str>) -> Client {
        let options = ClientOptions::default()
            .with_name(&**host)
            .with_codecs(self.codecs())
            .with_clock(Arc::clone(&self.clock) as _)
            .with_random(Arc::clone(&self.random) as _);
        Client::new(
            FaultRegistry::new(&self.directory, &self.net, host),
            Arc::new(FaultTransport::new(
                self.transport.clone(),
                Arc::clone(&self.net),
                Arc::clone(host),
            )),
            (self.selector)(),
            (self.client)(options),
        )
    }
}

/// A whole system in one process: services with their nodes, a registry, clients, and a network
/// between them that does as it is told.
///
/// See the [crate's documentation](crate) for an example. If the test panics while the cluster
/// lives, the seed and the end of the history are printed.
pub struct Cluster {
    seed: u64,
    pub(crate) parts: Arc<Parts>,
    pub(crate) seats: Vec<Arc<Seat>>,
    next_client: AtomicUsize,
}

impl Cluster {
    /// A cluster of nothing yet.
    pub fn builder() -> Builder {
        Builder::new()
    }

    pub(crate) async fn start(builder: &Builder, seed: u64) -> Result<Self> {
        let net = Net::new(seed, builder.latency);
        let clock = Arc::new(PausedClock::new());
        net.history.note(format!("seed {seed}"));
        let parts = Arc::new(Parts {
            directory: Directory::new(&clock),
            net,
            clock,
            random: Arc::new(SeededRandom::new(seed)),
            transport: MemoryTransport::new(),
            server: Arc::clone(&builder.server),
            client: Arc::clone(&builder.client),
            selector: Arc::clone(&builder.selector),
            clients: Mutex::default(),
        });
        let seats = builder.plans.iter().flat_map(|plan| {
            let plan = Arc::new(plan.clone());
            (0..plan.nodes).map(move |index| Seat::new(&plan, index))
        });
        let cluster = Self {
            seed,
            parts,
            seats: seats.collect(),
            next_client: AtomicUsize::new(0),
        };
        for node in cluster.all_nodes() {
            node.restart().await?;
        }
        Ok(cluster)
    }

    /// The seed of this run.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// What happened so far.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.parts.net.history
    }

    /// The clock of the whole cluster.
    #[must_use]
    pub fn clock(&self) -> &Arc<PausedClock> {
        &self.parts.clock
    }

    /// The chance of the whole cluster.
    #[must_use]
    pub fn random(&self) -> Arc<dyn Random> {
        Arc::clone(&self.parts.random) as _
    }

    /// A context on the cluster's clock: for the calls that a test makes. One of the machine's
    /// clock would see neither latencies nor deadlines of paused time.
    #[must_use]
    pub fn context(&self) -> Context {
        Context::with_clock(Arc::clone(&self.parts.clock) as Arc<dyn Clock>)
    }

    /// A client on a host of its own: `client-0`, `client-1` and so on.
    #[must_use]
    pub fn client(&self) -> Client {
        let number = self.next_client.fetch_add(1, Ordering::Relaxed);
        self.client_on(&format!("client-{number}"))
    }

    /// A client on a host of this name.
    #[must_use]
    pub fn client_on(&self, host: &str) -> Client {
        let mut clients = self
            .parts
            .clients
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        clients.insert(host.to_owned());
        drop(clients);
        self.parts.client(&host.into())
    }

    /// A node of a service, from 0 on.
    ///
    /// # Panics
    ///
    /// If the cluster has no such node.
    #[must_use]
    pub fn node(&self, service: &str, index: usize) -> NodeHandle {
        let mut seats = self.seats.iter();
        let found = seats.find(|seat| &*seat.service == service && seat.index == index);
        let Some(seat) = found else {
            panic!(
                "the cluster has no node '{service}-{index}', but {:?}",
                self.names()
            );
        };
        self.handle(seat)
    }

    /// All nodes of a service.
    #[must_use]
    pub fn nodes(&self, service: &str) -> Vec<NodeHandle> {
        let seats = self.seats.iter();
        let its = seats.filter(|seat| &*seat.service == service);
        its.map(|seat| self.handle(seat)).collect()
    }

    /// All nodes of all services.
    #[must_use]
    pub fn all_nodes(&self) -> Vec<NodeHandle> {
        self.seats.iter().map(|seat| self.handle(seat)).collect()
    }

    fn handle(&self, seat: &Arc<Seat>) -> NodeHandle {
        NodeHandle {
            parts: Arc::clone(&self.parts),
            seat: Arc::clone(seat),
        }
    }

    fn names(&self) -> Vec<&str> {
        self.seats.iter().map(|seat| &*seat.host).collect()
    }

    /// The registry: what it knows, and what can be done to it.
    #[must_use]
    pub fn registry(&self) -> RegistryHandle {
        RegistryHandle {
            parts: Arc::clone(&self.parts),
        }
    }

    /// Lets nothing through between two groups of hosts, in either direction: nodes such as
    /// `greeter-0`, hosts of clients such as `client-0`, and `registry`.
    ///
    /// # Panics
    ///
    /// If there is no host of a name.
    pub fn partition(&self, one: &[&str], other: &[&str]) {
        self.note(format!("partition {one:?} | {other:?}"));
        for (from, to) in [(one, other), (other, one)] {
            self.cut(from, to);
        }
    }

    /// Lets nothing through from one group of hosts to the other; the way back stays open.
    ///
    /// # Panics
    ///
    /// As [`partition`](Self::partition).
    pub fn partition_one_way(&self, from: &[&str], to: &[&str]) {
        self.note(format!("partition {from:?} -> {to:?}"));
        self.cut(from, to);
    }

    fn cut(&self, from: &[&str], to: &[&str]) {
        for host in from.iter().chain(to) {
            let clients = &self.parts.clients;
            let clients = clients.lock().unwrap_or_else(PoisonError::into_inner);
            let known = *host == REGISTRY || clients.contains(*host) || self.names().contains(host);
            // A test whose partition cuts nothing would pass for nothing.
            assert!(known, "the cluster has no host '{host}'");
        }
        for from in from {
            for to in to {
                self.parts.net.cut(from, to);
            }
        }
    }

    /// Ends all partitions, and all faults of all nodes and of the registry. Programs that were
    /// killed stay so.
    pub fn heal(&self) {
        self.parts.net.mend(|_, _| true);
        self.parts.net.heal(REGISTRY);
        for node in self.all_nodes() {
            node.heal();
        }
    }

    /// Makes the wall clock jump, forwards or backwards, by so many seconds. Monotonic time, which
    /// deadlines and TTLs count in, is not touched.
    pub fn jump_wall_clock(&self, seconds: i64) {
        self.note(format!("the wall clock jumps by {seconds} s"));
        let span = Duration::from_secs(seconds.unsigned_abs());
        let wall = self.parts.clock.wall();
        let jumped = match seconds {
            0.. => wall.checked_add(span),
            _ => wall.checked_sub(span),
        };
        if let Some(wall) = jumped {
            self.parts.clock.set_wall(wall);
        }
    }

    fn note(&self, what: impl AsRef<str>) {
        let text = format!("! {}", what.as_ref());
        self.parts.net.history.note(text);
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("seed", &self.seed)
            .field("nodes", &self.names())
            .finish_non_exhaustive()
    }
}

impl Drop for Cluster {
    #[expect(
        clippy::print_stderr,
        reason = "the test has failed, and this is how it can be run again"
    )]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "the end of the history of seed {seed}; run it again with {SEED_VARIABLE}={seed}:\n{tail}",
                seed = self.seed,
                tail = self.history().tail(TAIL),
            );
        }
    }
}

/// The registry of a cluster, for the test: what it knows, and what can be done to it.
#[derive(Clone)]
pub struct RegistryHandle {
    parts: Arc<Parts>,
}

impl RegistryHandle {
    fn note(&self, what: &str) {
        self.parts.net.history.note(format!("! {REGISTRY}: {what}"));
    }

    /// The directory itself, past the network: to look at, or to put something into it.
    #[must_use]
    pub fn directory(&self) -> Arc<dyn Registry> {
        Arc::new(self.parts.directory.now())
    }

    /// How many requests reached it so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.parts.net.calls(REGISTRY)
    }

    /// Stops it: watches break and requests are refused. It keeps what it knows.
    pub fn stop(&self) {
        self.note("stopped");
        self.parts.net.refuse(REGISTRY, true);
    }

    /// Starts it again, with what it knew.
    pub fn start(&self) {
        self.note("started");
        self.parts.net.refuse(REGISTRY, false);
    }

    /// Restarts it within no time, and everything it knew is lost.
    pub fn lose(&self) {
        self.note("restarted with nothing");
        self.parts.directory.lose();
        self.parts.net.break_connections(REGISTRY);
    }

    /// Requests vanish and nothing comes back; watches are silent.
    pub fn black_hole(&self) {
        self.note("a black hole");
        self.parts.net.silence(REGISTRY, true);
    }

    /// Every request takes so much longer.
    pub fn slow(&self, delay: Duration) {
        self.note(&format!("slow by {delay:?}"));
        self.parts.net.delay(REGISTRY, Some((delay, delay)));
    }

    /// So large a part of the requests fails: 1 is all of them.
    pub fn fail(&self, part: f64) {
        self.note(&format!("fails {part}"));
        let kind = micro_core::ErrorKind::Unavailable;
        self.parts.net.fail(REGISTRY, Some((part, kind)));
    }

    /// Ends all its faults.
    pub fn heal(&self) {
        self.note("healed");
        self.parts.net.heal(REGISTRY);
    }
}

impl fmt::Debug for RegistryHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryHandle")
            .field("directory", &self.parts.directory)
            .finish_non_exhaustive()
    }
}
