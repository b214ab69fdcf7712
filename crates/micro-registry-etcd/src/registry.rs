//! The registry itself. It keeps a directory in this process: replace that by etcd.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::stream;
use micro_core::Clock;
use micro_registry_core::{
    Capabilities, DeregisterOptions, Env, Error, Event, EventKind, EventStream, GetOptions,
    ListOptions, Node, RegisterOptions, Registry, Result, Service, WatchOptions, async_trait,
    check_deregistration, check_name, check_registration,
};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::timeout;

use crate::EtcdConfig;
use crate::SCHEME;

/// How many changes a watch may be behind before it is told that it missed some.
const BACKLOG: usize = 1024;
/// How often a watch looks for what expired.
const LOOK: Duration = Duration::from_millis(200);

/// A registry in etcd; clones see the same directory.
#[derive(Clone, Debug)]
pub struct EtcdRegistry {
    config: EtcdConfig,
    clock: Arc<dyn Clock>,
    directory: Directory,
}

impl EtcdRegistry {
    pub(crate) fn new(config: EtcdConfig, env: &Env, directory: Directory) -> Self {
        Self {
            config,
            // Ask it, never the machine: tests stop it and move it.
            clock: Arc::clone(env.clock()),
            directory,
        }
    }

    /// What it was opened with.
    #[must_use]
    pub fn config(&self) -> &EtcdConfig {
        &self.config
    }

    /// The directory as of now: what expired is gone, and announced.
    fn now(&self) -> &Directory {
        self.directory.expire(self.clock.now());
        &self.directory
    }
}

#[async_trait]
impl Registry for EtcdRegistry {
    fn backend(&self) -> &'static str {
        SCHEME
    }

    /// Claim what is so, and no more: the suite checks what is claimed.
    fn capabilities(&self) -> Capabilities {
        // `local`, and not `shared`, as long as the directory is in this process.
        Capabilities::default().with_ttl(true).with_local(true)
    }

    async fn register(&self, service: &Service, opts: RegisterOptions) -> Result<()> {
        check_registration(service).map_err(|err| err.with_operation("registry.register"))?;
        // A TTL beyond what the clock can count never passes.
        let expires = opts.ttl.and_then(|ttl| self.clock.now().checked_add(ttl));
        self.now().add(service, expires);
        Ok(())
    }

    async fn deregister(&self, service: &Service, _opts: DeregisterOptions) -> Result<()> {
        check_deregistration(service).map_err(|err| err.with_operation("registry.deregister"))?;
        self.now().remove(service);
        Ok(())
    }

    async fn get_service(&self, name: &str, _opts: GetOptions) -> Result<Vec<Service>> {
        check_name(name).map_err(|err| err.with_operation("registry.get_service"))?;
        let mut found = self.now().services();
        found.retain(|service| service.name == name);
        if found.is_empty() {
            return Err(Error::not_found("the service is not registered")
                .with_operation("registry.get_service")
                .with_context("name", name));
        }
        Ok(found)
    }

    async fn list_services(&self, _opts: ListOptions) -> Result<Vec<Service>> {
        Ok(self.now().services())
    }

    async fn watch(&self, opts: WatchOptions) -> Result<EventStream> {
        if let Some(name) = &opts.service {
            check_name(name).map_err(|err| err.with_operation("registry.watch"))?;
        }
        // Subscribed before this call returns: no change after it is missed.
        let start = (self.clone(), self.now().events.subscribe(), opts.service);
        Ok(Box::pin(stream::unfold(Some(start), async |state| {
            let (registry, mut events, only) = state?;
            loop {
                match timeout(LOOK, events.recv()).await {
                    Err(_) => {
                        registry.now();
                    }
                    Ok(Ok(event))
                        if only
                            .as_ref()
                            .is_some_and(|name| *name != event.service.name) => {}
                    Ok(Ok(event)) => return Some((Ok(event), Some((registry, events, only)))),
                    Ok(Err(RecvError::Lagged(missed))) => {
                        return Some((Err(fell_behind(missed)), None));
                    }
                    Ok(Err(RecvError::Closed)) => return None,
                }
            }
        })))
    }
}

fn fell_behind(missed: u64) -> Error {
    Error::unavailable("the watch fell behind; list again, then watch again")
        .with_operation("registry.watch")
        .with_context("missed", missed)
}

/// Servers and namespace.
type Key = (Vec<String>, String);

/// One directory per server and namespace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Directories(Arc<Mutex<BTreeMap<Key, Directory>>>);

impl Directories {
    pub(crate) fn of(&self, endpoints: &[String], namespace: &str) -> Directory {
        lock(&self.0)
            .entry((endpoints.to_vec(), namespace.to_owned()))
            .or_default()
            .clone()
    }
}

/// Everything that is registered in one namespace.
#[derive(Clone)]
pub(crate) struct Directory {
    /// By name and version.
    versions: Arc<Mutex<BTreeMap<(String, String), Version>>>,
    events: broadcast::Sender<Event>,
}

struct Version {
    service: Service,
    /// By node id; what is not in it stays.
    expires: BTreeMap<String, Instant>,
}

impl Directory {
    fn services(&self) -> Vec<Service> {
        let versions = lock(&self.versions);
        versions
            .values()
            .map(|known| known.service.clone())
            .collect()
    }

    fn add(&self, service: &Service, expires: Option<Instant>) {
        let mut versions = lock(&self.versions);
        let Version {
            service: known,
            expires: times,
        } = versions
            .entry((service.name.clone(), service.version.clone()))
            .or_insert_with(|| Version {
                service: Service::new(&service.name, &service.version),
                expires: BTreeMap::new(),
            });
        let same_head = known.metadata == service.metadata && known.endpoints == service.endpoints;
        known.metadata.clone_from(&service.metadata);
        known.endpoints.clone_from(&service.endpoints);

        let mut created = with_nodes(service, Vec::new());
        let mut updated = created.clone();
        for node in &service.nodes {
            match expires {
                Some(at) => times.insert(node.id.clone(), at),
                None => times.remove(&node.id),
            };
            match known.nodes.iter_mut().find(|other| other.id == node.id) {
                None => {
                    known.nodes.push(node.clone());
                    created.nodes.push(node.clone());
                }
                Some(other) if other != node || !same_head => {
                    other.clone_from(node);
                    updated.nodes.push(node.clone());
                }
                Some(_) => {}
            }
        }
        // Still under the lock, so that events come in the order of the changes.
        self.announce(EventKind::Create, created);
        self.announce(EventKind::Update, updated);
    }

    fn remove(&self, service: &Service) {
        self.remove_if(|known, node| {
            known.service.name == service.name
                && known.service.version == service.version
                && service.nodes.iter().any(|other| other.id == node.id)
        });
    }

    fn expire(&self, now: Instant) {
        self.remove_if(|known, node| known.expires.get(&node.id).is_some_and(|at| *at <= now));
    }

    fn remove_if(&self, goes: impl Fn(&Version, &Node) -> bool) {
        lock(&self.versions).retain(|_, known| {
            let nodes = known.service.nodes.iter().cloned();
            let (gone, left) = nodes.partition::<Vec<_>, _>(|node| goes(known, node));
            for node in &gone {
                known.expires.remove(&node.id);
            }
            self.announce(EventKind::Delete, with_nodes(&known.service, gone));
            known.service.nodes = left;
            !known.service.nodes.is_empty()
        });
    }

    fn announce(&self, kind: EventKind, service: Service) {
        if !service.nodes.is_empty() {
            // Fails if nobody watches, which is no failure.
            let _ = self.events.send(Event::new(kind, service));
        }
    }
}

impl Default for Directory {
    fn default() -> Self {
        Self {
            versions: Arc::default(),
            events: broadcast::Sender::new(BACKLOG),
        }
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory").finish_non_exhaustive()
    }
}

/// The same version of the service, with other nodes.
fn with_nodes(service: &Service, nodes: Vec<Node>) -> Service {
    let mut service = service.clone();
    service.nodes = nodes;
    service
}

/// Nothing panics while it holds a lock of ours, so a poisoned one holds whole data.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
