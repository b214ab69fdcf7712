//! The registry itself. It keeps a directory in this process: replace that by {{backend}}.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::stream;
use micro_registry_core::{
    Capabilities, DeregisterOptions, Error, Event, EventKind, EventStream, GetOptions, ListOptions,
    RegisterOptions, Registry, Result, Service, WatchOptions, async_trait, check_name,
};
use tokio::sync::broadcast::{self, error::RecvError};

use crate::SCHEME;
use crate::{{Type}}Config;

/// How many changes a watch may be behind before it is told that it missed some.
const BACKLOG: usize = 1024;

/// A registry in {{backend}}; clones see the same directory.
#[derive(Clone, Debug, Default)]
pub struct {{Type}}Registry {
    config: {{Type}}Config,
    directory: Directory,
}

impl {{Type}}Registry {
    pub(crate) fn new(config: {{Type}}Config, directory: Directory) -> Self {
        Self { config, directory }
    }

    /// What it was opened with.
    #[must_use]
    pub fn config(&self) -> &{{Type}}Config {
        &self.config
    }
}

#[async_trait]
impl Registry for {{Type}}Registry {
    fn backend(&self) -> &'static str {
        SCHEME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    async fn register(&self, service: &Service, opts: RegisterOptions) -> Result<()> {
        check(service).map_err(|err| err.with_operation("registry.register"))?;
        if opts.ttl.is_some() {
            return Err(Error::unimplemented("this registry has no TTL")
                .with_operation("registry.register"));
        }
        self.directory.add(service);
        Ok(())
    }

    async fn deregister(&self, service: &Service, _opts: DeregisterOptions) -> Result<()> {
        check(service).map_err(|err| err.with_operation("registry.deregister"))?;
        self.directory.remove(service);
        Ok(())
    }

    async fn get_service(&self, name: &str, _opts: GetOptions) -> Result<Vec<Service>> {
        check_name(name).map_err(|err| err.with_operation("registry.get_service"))?;
        let mut found = self.directory.services();
        found.retain(|service| service.name == name);
        if found.is_empty() {
            return Err(Error::not_found("the service is not registered")
                .with_operation("registry.get_service")
                .with_context("name", name));
        }
        Ok(found)
    }

    async fn list_services(&self, _opts: ListOptions) -> Result<Vec<Service>> {
        Ok(self.directory.services())
    }

    async fn watch(&self, opts: WatchOptions) -> Result<EventStream> {
        if let Some(name) = &opts.service {
            check_name(name).map_err(|err| err.with_operation("registry.watch"))?;
        }
        // Subscribed before this call returns: no change after it is missed.
        let start = (self.directory.events.subscribe(), opts.service);
        Ok(Box::pin(stream::unfold(Some(start), async |state| {
            let (mut events, only) = state?;
            loop {
                match events.recv().await {
                    Ok(event)
                        if only
                            .as_ref()
                            .is_some_and(|name| *name != event.service.name) => {}
                    Ok(event) => return Some((Ok(event), Some((events, only)))),
                    Err(RecvError::Lagged(missed)) => {
                        return Some((Err(fell_behind(missed)), None));
                    }
                    Err(RecvError::Closed) => return None,
                }
            }
        })))
    }
}

/// Refuses what no registry may hold.
fn check(service: &Service) -> Result<()> {
    check_name(&service.name)?;
    if service.nodes.is_empty() {
        return Err(Error::invalid_argument("the service has no node"));
    }
    if service
        .nodes
        .iter()
        .any(|node| node.id.is_empty() || node.address.is_empty())
    {
        return Err(Error::invalid_argument("a node has an id and an address"));
    }
    Ok(())
}

fn fell_behind(missed: u64) -> Error {
    Error::unavailable("the watch fell behind; list again, then watch again")
        .with_operation("registry.watch")
        .with_context("missed", missed)
}

/// One directory per namespace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Directories(Arc<Mutex<BTreeMap<String, Directory>>>);

impl Directories {
    pub(crate) fn of(&self, namespace: &str) -> Directory {
        lock(&self.0)
            .entry(namespace.to_owned())
            .or_default()
            .clone()
    }
}

/// Everything that is registered in one namespace.
#[derive(Clone)]
pub(crate) struct Directory {
    /// By name and version.
    services: Arc<Mutex<BTreeMap<(String, String), Service>>>,
    events: broadcast::Sender<Event>,
}

impl Directory {
    fn services(&self) -> Vec<Service> {
        lock(&self.services).values().cloned().collect()
    }

    fn add(&self, service: &Service) {
        let mut services = lock(&self.services);
        let known = services
            .entry((service.name.clone(), service.version.clone()))
            .or_insert_with(|| Service::new(&service.name, &service.version));
        let same_head = known.metadata == service.metadata && known.endpoints == service.endpoints;
        known.metadata.clone_from(&service.metadata);
        known.endpoints.clone_from(&service.endpoints);

        let mut created = with_nodes(service, Vec::new());
        let mut updated = created.clone();
        if !same_head {
            // Version, metadata and endpoints belong to every node of the version.
            updated.nodes.clone_from(&known.nodes);
            updated
                .nodes
                .retain(|node| service.nodes.iter().all(|new| new.id != node.id));
        }
        for node in &service.nodes {
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
        let mut services = lock(&self.services);
        let key = (service.name.clone(), service.version.clone());
        let Some(known) = services.get_mut(&key) else {
            return;
        };
        let (gone, left) = std::mem::take(&mut known.nodes)
            .into_iter()
            .partition(|node| service.nodes.iter().any(|other| other.id == node.id));
        known.nodes = left;
        let gone = with_nodes(known, gone);
        if known.nodes.is_empty() {
            services.remove(&key);
        }
        self.announce(EventKind::Delete, gone);
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
            services: Arc::default(),
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
fn with_nodes(service: &Service, nodes: Vec<micro_registry_core::Node>) -> Service {
    let mut service = service.clone();
    service.nodes = nodes;
    service
}

/// Nothing panics while it holds a lock of ours, so a poisoned one holds whole data.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
