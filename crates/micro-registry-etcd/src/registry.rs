//! The registry itself.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use micro_core::Random;
use micro_etcd::{Client, Keys, Position};
use micro_registry_core::{
    Capabilities, DeregisterOptions, Env, Error, ErrorKind, EventStream, GetOptions, ListOptions,
    RegisterOptions, Registry, Result, Service, WatchOptions, async_trait, check_deregistration,
    check_name, check_registration,
};
use tokio::time::{Instant, timeout, timeout_at};

use crate::lane::{Lane, Place};
use crate::layout::Layout;
use crate::view::{Noise, View};
use crate::{EtcdRegistryConfig, SCHEME, lock, watch};

/// So many nodes are looked at, at most; more would be an attack, or want another design.
const MAX_NODES: usize = 100_000;

/// A registry in etcd; clones see the same directory.
///
/// A registration with a TTL has a lease of etcd's, which lives until its TTL has passed without
/// another registration, and no longer: nothing in the background keeps a node alive whose program
/// hangs.
#[derive(Clone)]
pub struct EtcdRegistry {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    config: EtcdRegistryConfig,
    client: Client,
    random: Arc<dyn Random>,
    layout: Layout,
    noise: Arc<Noise>,
    /// By service. One that holds nothing is taken out again.
    lanes: Mutex<HashMap<String, SharedLane>>,
}

type SharedLane = Arc<tokio::sync::Mutex<Lane>>;

/// What a call does with the lane of its service.
enum Task {
    Register(Option<Duration>),
    Deregister,
}

impl fmt::Debug for EtcdRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdRegistry")
            .field("config", &self.shared.config)
            .finish_non_exhaustive()
    }
}

impl EtcdRegistry {
    /// Opens it; the first call connects.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for what does not go together, and for certificates that cannot be read.
    pub fn new(config: EtcdRegistryConfig, env: &Env) -> Result<Self> {
        config.check()?;
        let shared = Shared {
            client: Client::new(config.etcd.clone(), Arc::clone(env.random()))?,
            random: Arc::clone(env.random()),
            layout: Layout::new(&config.prefix, env.namespace()),
            noise: Arc::default(),
            lanes: Mutex::default(),
            config,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// What it was opened with.
    #[must_use]
    pub fn config(&self) -> &EtcdRegistryConfig {
        &self.shared.config
    }

    /// Does something with a lane, to the end even if the caller is gone.
    async fn in_lane(&self, operation: &'static str, service: &Service, task: Task) -> Result<()> {
        let name = service.name.clone();
        let lane = Arc::clone(lock(&self.shared.lanes).entry(name.clone()).or_default());
        let deadline = Instant::now() + self.config().etcd.timeout;
        let keeper = Keeper {
            shared: Arc::clone(&self.shared),
            name,
            lane: Some(Arc::clone(&lane)),
        };
        // In turn: the lock is a fair one, and taken in the callers' own order.
        let turn = timeout_at(deadline, lane.lock_owned()).await;
        let Ok(mut held) = turn else {
            return Err(
                Error::unavailable("an earlier call about this service is not over yet")
                    .with_operation(operation),
            );
        };
        let (shared, service) = (Arc::clone(&self.shared), service.clone());
        // It ends by its deadline.
        let work = tokio::spawn(async move {
            let keeper = keeper;
            let place = Place {
                client: &shared.client,
                layout: &shared.layout,
            };
            let work = async {
                match task {
                    Task::Register(ttl) => held.register(&place, &service, ttl).await,
                    Task::Deregister => held.deregister(&place, &service).await,
                }
            };
            let done = timeout_at(deadline, work).await;
            drop(held);
            drop(keeper);
            done.unwrap_or_else(|_| Err(Error::unavailable("etcd does not answer in time")))
        });
        work.await
            .unwrap_or_else(|err| Err(Error::internal("the call failed").with_source(err)))
            .map_err(|err| failed(operation, err))
    }
}

/// Takes a lane out of the table when it holds nothing and nobody waits for it.
struct Keeper {
    shared: Arc<Shared>,
    name: String,
    lane: Option<SharedLane>,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let Some(lane) = self.lane.take() else { return };
        let mut lanes = lock(&self.shared.lanes);
        let unused = lane.try_lock().is_ok_and(|lane| lane.is_empty());
        // Ours and the table's: whoever else wants it asks the table, which is locked.
        if unused && Arc::strong_count(&lane) == 2 {
            lanes.remove(&self.name);
        }
    }
}

impl Shared {
    /// Reads everything below some keys, as of one revision.
    pub(crate) async fn load(&self, keys: &Keys) -> Result<(View, Position)> {
        let loaded = timeout(self.config.etcd.timeout, async {
            match self.load_once(keys).await {
                // Compacted while it was read.
                Err(err) if err.kind() == ErrorKind::OutOfRange => self.load_once(keys).await,
                loaded => loaded,
            }
        });
        loaded
            .await
            .unwrap_or_else(|_| Err(Error::unavailable("etcd does not answer in time")))
    }

    async fn load_once(&self, keys: &Keys) -> Result<(View, Position)> {
        let mut view = View::new(self.layout.clone(), Arc::clone(&self.noise));
        let mut count = 0_usize;
        let scan = self.client.scan(keys.clone(), |found| {
            count += 1;
            if count > MAX_NODES {
                return Err(Error::new(
                    ErrorKind::ResourceExhausted,
                    "there are more entries in etcd than are looked at",
                )
                .with_context("most", MAX_NODES));
            }
            view.add(&found);
            Ok(())
        });
        let position = scan.await?;
        Ok((view, position))
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn random(&self) -> &dyn Random {
        &*self.random
    }
}

/// Registering and deregistering can be repeated, so that not to know is no more than not to reach.
pub(crate) fn failed(operation: &'static str, err: Error) -> Error {
    let err = match err.kind() {
        ErrorKind::OutcomeUnknown => {
            Error::unavailable("etcd did not say whether it is done; do it again").with_source(err)
        }
        _ => err,
    };
    err.with_operation(operation)
}

#[async_trait]
impl Registry for EtcdRegistry {
    fn backend(&self) -> &'static str {
        SCHEME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
            .with_ttl(true)
            .with_shared(true)
            .with_loopback(self.config().believes_loopback())
    }

    async fn register(&self, service: &Service, opts: RegisterOptions) -> Result<()> {
        const OPERATION: &str = "registry.register";
        check_registration(service).map_err(|err| err.with_operation(OPERATION))?;
        if service.version.len() > 512 || service.version.contains(char::is_control) {
            return Err(Error::invalid_argument(
                "a version has at most 512 bytes and no control characters",
            )
            .with_operation(OPERATION));
        }
        self.in_lane(OPERATION, service, Task::Register(opts.ttl))
            .await
    }

    async fn deregister(&self, service: &Service, _opts: DeregisterOptions) -> Result<()> {
        const OPERATION: &str = "registry.deregister";
        check_deregistration(service).map_err(|err| err.with_operation(OPERATION))?;
        self.in_lane(OPERATION, service, Task::Deregister).await
    }

    async fn get_service(&self, name: &str, _opts: GetOptions) -> Result<Vec<Service>> {
        const OPERATION: &str = "registry.get_service";
        check_name(name).map_err(|err| err.with_operation(OPERATION))?;
        let keys = self.shared.layout.of(name);
        let loaded = self.shared.load(&keys).await;
        let (view, _) = loaded.map_err(|err| err.with_operation(OPERATION))?;
        let found = view.services();
        if found.is_empty() {
            return Err(Error::not_found("the service is not registered")
                .with_operation(OPERATION)
                .with_context("name", name));
        }
        Ok(found)
    }

    async fn list_services(&self, _opts: ListOptions) -> Result<Vec<Service>> {
        let loaded = self.shared.load(&self.shared.layout.all()).await;
        let (view, _) = loaded.map_err(|err| err.with_operation("registry.list_services"))?;
        Ok(view.services())
    }

    async fn watch(&self, opts: WatchOptions) -> Result<EventStream> {
        const OPERATION: &str = "registry.watch";
        let keys = match &opts.service {
            Some(name) => {
                check_name(name).map_err(|err| err.with_operation(OPERATION))?;
                self.shared.layout.of(name)
            }
            None => self.shared.layout.all(),
        };
        watch::open(Arc::clone(&self.shared), keys)
            .await
            .map_err(|err| err.with_operation(OPERATION))
    }
}
