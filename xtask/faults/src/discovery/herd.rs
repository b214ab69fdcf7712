//! A registry restarts, and its whole fleet comes back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use micro_core::{Random, SeededRandom};
use micro_registry_cache::{Freshness, Resolver, ResolverOptions};
use micro_registry_core::{
    Capabilities, DeregisterOptions, Error, EventStream, GetOptions, ListOptions, Node,
    RegisterOptions, Registry, Result as RegistryResult, Service, WatchOptions, async_trait,
};
use micro_registry_memory::MemoryRegistry;
use micro_testing::PausedClock;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::report::Report;
use crate::{Options, Result};

const CLIENTS: u64 = 300;
const SERVICES: usize = 4;
const AWAY: Duration = Duration::from_secs(5);

/// Runs the fleet twice: as it is, and without chance in its pauses.
pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let seed = options.seed;
    let ours = fleet(|client| Arc::new(SeededRandom::new(seed ^ client << 32)))?;
    let naive = fleet(|_| Arc::new(Constant))?;
    report.figure("herd_clients", CLIENTS as f64, "clients");
    report.figure("herd_naive_peak_rps", naive.peak as f64, "req/s");
    report.figure("herd_peak_rps", ours.peak as f64, "req/s");
    let ratio = ours.peak as f64 / naive.peak as f64;
    report.at_most("herd_ratio", ratio, "ratio", 0.1);
    // What is worth nothing if nobody ever learned anything again.
    let back = ours.back.as_secs_f64();
    report.at_most("herd_all_fresh_after", back, "s", 60.0);
    Ok(())
}

struct Fleet {
    /// The most requests within any second after the restart.
    peak: usize,
    /// How long it took until every client had its watches and a fresh view.
    back: Duration,
}

fn fleet(random: impl Fn(u64) -> Arc<dyn Random>) -> Result<Fleet> {
    super::paused()?.block_on(async {
        let clock = Arc::new(PausedClock::new());
        let registry = Arc::new(Counting::new(MemoryRegistry::with_clock(
            Arc::clone(&clock) as _,
        )));
        let names: Vec<String> = (0..SERVICES).map(|i| format!("service-{i}")).collect();
        for name in &names {
            let node = Node::new(format!("{name}-1"), "10.0.0.1:80");
            let service = Service::new(name, "v1").with_node(node);
            registry
                .inner
                .register(&service, RegisterOptions::default())
                .await?;
        }
        let mut held = Vec::new();
        let mut resolvers = Vec::new();
        for client in 0..CLIENTS {
            let opts = ResolverOptions::default()
                .with_clock(Arc::clone(&clock) as _)
                .with_random(random(client));
            let resolver = Resolver::new(Arc::clone(&registry) as _, opts);
            for name in &names {
                let resolved = resolver.service(name)?;
                resolved.known(None).await?;
                held.push(resolved);
            }
            resolvers.push(resolver);
        }
        sleep(Duration::from_secs(120)).await;
        registry.stop();
        sleep(AWAY).await;
        registry.start();
        let back = Instant::now();
        let fresh = || {
            let fresh = |freshness: &Freshness| *freshness == Freshness::Fresh;
            let all = held.iter().all(|held| fresh(&held.snapshot().freshness));
            all && registry.watchers() == held.len()
        };
        while !fresh() && back.elapsed() < Duration::from_secs(300) {
            sleep(Duration::from_millis(100)).await;
        }
        let took = back.elapsed();
        sleep(Duration::from_secs(60)).await;
        Ok(Fleet {
            peak: registry.peak_since(back),
            back: took,
        })
    })
}

/// No chance at all: whoever meets the same fault does the same at the same time.
#[derive(Debug)]
struct Constant;

impl Random for Constant {
    fn next_u64(&self) -> u64 {
        0
    }
}

/// Counts what it is asked, and can be away.
#[derive(Debug)]
struct Counting {
    inner: MemoryRegistry,
    away: AtomicBool,
    restarts: watch::Sender<u64>,
    requests: Mutex<Vec<Instant>>,
}

impl Counting {
    fn new(inner: MemoryRegistry) -> Self {
        Self {
            inner,
            away: AtomicBool::new(false),
            restarts: watch::Sender::new(0),
            requests: Mutex::default(),
        }
    }

    fn stop(&self) {
        self.away.store(true, Ordering::SeqCst);
        self.restarts.send_modify(|restarts| *restarts += 1);
    }

    fn start(&self) {
        self.away.store(false, Ordering::SeqCst);
    }

    fn watchers(&self) -> usize {
        self.restarts.receiver_count()
    }

    fn request(&self) -> RegistryResult<()> {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.push(Instant::now());
        if self.away.load(Ordering::SeqCst) {
            return Err(Error::unavailable("the registry is away"));
        }
        Ok(())
    }

    fn peak_since(&self, since: Instant) -> usize {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let requests: Vec<_> = requests.iter().filter(|at| **at >= since).collect();
        let mut first = 0;
        let mut peak = 0;
        for (index, at) in requests.iter().enumerate() {
            while at.duration_since(*requests[first]) >= Duration::from_secs(1) {
                first += 1;
            }
            peak = peak.max(index - first + 1);
        }
        peak
    }
}

#[async_trait]
impl Registry for Counting {
    fn backend(&self) -> &'static str {
        "counting"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default().with_ttl(true).with_shared(true)
    }

    async fn register(&self, service: &Service, opts: RegisterOptions) -> RegistryResult<()> {
        self.request()?;
        self.inner.register(service, opts).await
    }

    async fn deregister(&self, service: &Service, opts: DeregisterOptions) -> RegistryResult<()> {
        self.request()?;
        self.inner.deregister(service, opts).await
    }

    async fn get_service(&self, name: &str, opts: GetOptions) -> RegistryResult<Vec<Service>> {
        self.request()?;
        self.inner.get_service(name, opts).await
    }

    async fn list_services(&self, opts: ListOptions) -> RegistryResult<Vec<Service>> {
        self.request()?;
        self.inner.list_services(opts).await
    }

    async fn watch(&self, opts: WatchOptions) -> RegistryResult<EventStream> {
        self.request()?;
        let events = self.inner.watch(opts).await?;
        let restarts = self.restarts.subscribe();
        Ok(Box::pin(futures_util::stream::unfold(
            Some((events, restarts)),
            async |state| {
                use futures_util::StreamExt as _;
                let (mut events, mut restarts) = state?;
                tokio::select! {
                    biased;
                    _ = restarts.changed() => {
                        Some((Err(Error::unavailable("the registry restarts")), None))
                    }
                    event = events.next() => Some((event?, Some((events, restarts)))),
                }
            },
        )))
    }
}
