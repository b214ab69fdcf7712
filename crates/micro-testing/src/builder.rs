//! Saying what a cluster is made of, and running a test on it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use micro_client::ClientOptions;
use micro_core::Result;
use micro_selector_core::Selector;
use micro_selector_p2c::P2cSelector;
use micro_server::{Contract, Routes, ServerOptions};

use crate::cluster::Cluster;
use crate::node::Host;
use crate::seed::{self, SEED_VARIABLE};

pub(crate) type MakeSelector = Arc<dyn Fn() -> Arc<dyn Selector> + Send + Sync>;
pub(crate) type MakeClient = Arc<dyn Fn(ClientOptions) -> ClientOptions + Send + Sync>;
pub(crate) type MakeServer = Arc<dyn Fn(&Host, ServerOptions) -> ServerOptions + Send + Sync>;
type MakeContract = Arc<dyn Fn(&Host) -> Routes + Send + Sync>;

/// A service and how many nodes run it.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) name: String,
    pub(crate) nodes: usize,
    pub(crate) contracts: Vec<MakeContract>,
}

/// What a [`Cluster`] is made of.
#[derive(Clone)]
#[must_use = "a builder does nothing before `run` or `start`"]
pub struct Builder {
    seed: Option<u64>,
    seeds: u64,
    time_limit: Duration,
    pub(crate) latency: Duration,
    pub(crate) plans: Vec<Plan>,
    pub(crate) selector: MakeSelector,
    pub(crate) client: MakeClient,
    pub(crate) server: MakeServer,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self {
            seed: None,
            seeds: 1,
            time_limit: Duration::from_secs(24 * 60 * 60),
            latency: Duration::from_millis(1),
            plans: Vec::new(),
            selector: Arc::new(|| Arc::new(P2cSelector::new())),
            client: Arc::new(|options| options),
            server: Arc::new(|_, options| options),
        }
    }

    /// Where chance begins: 1 by default. `MICRO_TEST_SEED` overrides it.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Runs the test so many times, each with the next seed, unless `MICRO_TEST_SEED` names one.
    pub fn seeds(mut self, count: u64) -> Self {
        self.seeds = count;
        self
    }

    /// How much simulated time a test may take before it fails: 24 h by default.
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// How long a call, a connection and a request to the registry take on the network, whatever
    /// else they take: 1 ms by default.
    pub fn latency(mut self, latency: Duration) -> Self {
        self.latency = latency;
        self
    }

    /// Adds a service of so many nodes; `make` is called whenever one of them starts.
    ///
    /// The nodes' hosts are `<name>-0`, `<name>-1` and so on.
    pub fn service<C: Contract>(
        mut self,
        name: impl Into<String>,
        nodes: usize,
        make: impl Fn(&Host) -> C + Send + Sync + 'static,
    ) -> Self {
        self.plans.push(Plan {
            name: name.into(),
            nodes,
            contracts: vec![Arc::new(move |host| make(host).routes())],
        });
        self
    }

    /// Adds another contract to the service that was added last.
    ///
    /// # Panics
    ///
    /// If there is none yet.
    pub fn also<C: Contract>(mut self, make: impl Fn(&Host) -> C + Send + Sync + 'static) -> Self {
        let plan = self
            .plans
            .last_mut()
            .expect("`also` stands behind `service`");
        plan.contracts
            .push(Arc::new(move |host| make(host).routes()));
        self
    }

    /// Changes the options of every node's server.
    pub fn server_options(
        mut self,
        change: impl Fn(&Host, ServerOptions) -> ServerOptions + Send + Sync + 'static,
    ) -> Self {
        self.server = Arc::new(change);
        self
    }

    /// Changes the options of every client.
    pub fn client_options(
        mut self,
        change: impl Fn(ClientOptions) -> ClientOptions + Send + Sync + 'static,
    ) -> Self {
        self.client = Arc::new(change);
        self
    }

    /// How clients choose among nodes: by power of two choices by default.
    pub fn selector(
        mut self,
        make: impl Fn() -> Arc<dyn Selector> + Send + Sync + 'static,
    ) -> Self {
        self.selector = Arc::new(make);
        self
    }

    /// Starts the cluster in the runtime that is there, which must be of one thread and on paused
    /// time for a history that repeats itself: `#[tokio::test(start_paused = true)]`.
    ///
    /// # Errors
    ///
    /// If a node cannot be started: as [`Server::start`](micro_server::Server::start).
    ///
    /// # Panics
    ///
    /// If `MICRO_TEST_SEED` is no number.
    pub async fn start(self) -> Result<Cluster> {
        let seeds = seed::seeds(self.seed, 1).unwrap_or_else(|wrong| panic!("{wrong}"));
        Cluster::start(&self, seeds[0]).await
    }

    /// Runs a test on a cluster, in a runtime of its own on paused time.
    ///
    /// # Panics
    ///
    /// If the test panics or returns an error, or takes more than its [`time_limit`]: the seed and
    /// the end of the history are printed. Also if a node cannot be started, or if
    /// `MICRO_TEST_SEED` is no number.
    ///
    /// [`time_limit`]: Self::time_limit
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a test is written in place, as an async closure"
    )]
    pub fn run<E: fmt::Debug>(self, test: impl AsyncFn(&Cluster) -> Result<(), E>) {
        let seeds = seed::seeds(self.seed, self.seeds).unwrap_or_else(|wrong| panic!("{wrong}"));
        for seed in seeds {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .start_paused(true)
                .build()
                .expect("a runtime without threads needs next to nothing");
            runtime.block_on(async {
                let cluster = match Cluster::start(&self, seed).await {
                    Ok(cluster) => cluster,
                    Err(err) => panic!("the cluster cannot start: {err:?}"),
                };
                match tokio::time::timeout(self.time_limit, test(&cluster)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(err)) => panic!("the test failed: {err:?} ({SEED_VARIABLE}={seed})"),
                    Err(_) => panic!(
                        "the test is not over after {:?} ({SEED_VARIABLE}={seed})",
                        self.time_limit
                    ),
                }
            });
        }
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let services: Vec<_> = self.plans.iter().map(|plan| &plan.name).collect();
        f.debug_struct("Builder")
            .field("seed", &self.seed)
            .field("seeds", &self.seeds)
            .field("services", &services)
            .finish_non_exhaustive()
    }
}
