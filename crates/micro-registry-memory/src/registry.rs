//! The directory, and what is done with it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use micro_core::{Clock, SystemClock};
use micro_registry_core::{
    Capabilities, DeregisterOptions, Endpoint, Error, Event, EventKind, EventStream, GetOptions,
    ListOptions, Node, RegisterOptions, Registry, Result, Service, WatchOptions, async_trait,
    check_deregistration, check_name, check_registration,
};

use crate::watch::{Watch, Watchers};
use crate::{MemoryConfig, SCHEME};

/// A [`Registry`] within this process; clones share one directory.
#[derive(Clone)]
pub struct MemoryRegistry(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) clock: Arc<dyn Clock>,
    config: MemoryConfig,
    directory: Mutex<Directory>,
}

/// Nodes and watchers are behind one lock, so that every watcher sees changes in their order.
#[derive(Default)]
pub(crate) struct Directory {
    /// By name, then by version.
    services: BTreeMap<String, BTreeMap<String, Version>>,
    pub(crate) watchers: Watchers,
}

#[derive(Default)]
struct Version {
    metadata: BTreeMap<String, String>,
    endpoints: Vec<Endpoint>,
    nodes: BTreeMap<String, Entry>,
}

struct Entry {
    node: Node,
    expires: Option<Instant>,
}

impl MemoryRegistry {
    /// An empty directory, with the clock of the machine.
    #[must_use]
    pub fn new() -> Self {
        Self::with_clock(Arc::new(SystemClock))
    }

    /// An empty directory whose TTLs count by `clock`.
    #[must_use]
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self::with_config(MemoryConfig::default(), clock)
    }

    /// An empty directory with settings of its own.
    #[must_use]
    pub fn with_config(config: MemoryConfig, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Shared {
            clock,
            config,
            directory: Mutex::default(),
        }))
    }
}

impl Default for MemoryRegistry {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let directory = self.0.lock();
        f.debug_struct("MemoryRegistry")
            .field("services", &directory.services.keys())
            .field("watchers", &directory.watchers.len())
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Directory> {
        self.directory
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes or reads the directory as of now: what expired is gone and announced before.
    pub(crate) fn now<T>(&self, act: impl FnOnce(&mut Directory, Instant) -> T) -> T {
        let now = self.clock.now();
        let mut directory = self.lock();
        directory.expire(now);
        let done = act(&mut directory, now);
        let wakers = directory.watchers.take_wakers();
        drop(directory);
        // Woken without the lock: a waker may run code that comes back here.
        wakers.into_iter().for_each(Waker::wake);
        done
    }
}

impl Directory {
    fn register(&mut self, service: &Service, expires: Option<Instant>) {
        let version = self
            .services
            .entry(service.name.clone())
            .or_default()
            .entry(service.version.clone())
            .or_default();
        let described =
            version.metadata == service.metadata && version.endpoints == service.endpoints;
        version.metadata.clone_from(&service.metadata);
        version.endpoints.clone_from(&service.endpoints);
        let (mut new, mut changed) = (Vec::new(), Vec::new());
        for node in &service.nodes {
            let entry = Entry {
                node: node.clone(),
                expires,
            };
            match version.nodes.insert(node.id.clone(), entry) {
                None => new.push(node.clone()),
                Some(old) if !described || old.node != *node => changed.push(node.clone()),
                Some(_) => {}
            }
        }
        for (kind, nodes) in [(EventKind::Create, new), (EventKind::Update, changed)] {
            if !nodes.is_empty() {
                let mut service = version.describe(&service.name, &service.version);
                service.nodes = nodes;
                self.watchers.tell(&Event::new(kind, service));
            }
        }
        // Those who sleep until the next expiry may have to wake earlier now.
        if expires.is_some() {
            self.watchers.wake_all();
        }
    }

    /// Removes the nodes that `gone` picks, and what is empty then.
    fn remove(&mut self, mut gone: impl FnMut(&str, &str, &Entry) -> bool) {
        let watchers = &mut self.watchers;
        self.services.retain(|name, versions| {
            versions.retain(|number, version| {
                let removed: Vec<Node> = version
                    .nodes
                    .extract_if(.., |_, entry| gone(name, number, entry))
                    .map(|(_, entry)| entry.node)
                    .collect();
                if !removed.is_empty() {
                    let mut service = version.describe(name, number);
                    service.nodes = removed;
                    watchers.tell(&Event::new(EventKind::Delete, service));
                }
                !version.nodes.is_empty()
            });
            !versions.is_empty()
        });
    }

    fn expire(&mut self, now: Instant) {
        if self.next_expiry().is_some_and(|next| next <= now) {
            self.remove(|_, _, entry| entry.expires.is_some_and(|expires| expires <= now));
        }
    }

    /// When the next node expires, if any does.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        let versions = self.services.values().flat_map(BTreeMap::values);
        versions
            .flat_map(|version| version.nodes.values())
            .filter_map(|entry| entry.expires)
            .min()
    }

    fn get(&self, name: &str) -> Vec<Service> {
        let versions = self.services.get(name).into_iter().flatten();
        versions
            .map(|(number, version)| version.describe_whole(name, number))
            .collect()
    }

    fn list(&self) -> Vec<Service> {
        self.services
            .keys()
            .flat_map(|name| self.get(name))
            .collect()
    }
}

impl Version {
    fn describe(&self, name: &str, number: &str) -> Service {
        let mut service = Service::new(name, number);
        service.metadata.clone_from(&self.metadata);
        service.endpoints.clone_from(&self.endpoints);
        service
    }

    fn describe_whole(&self, name: &str, number: &str) -> Service {
        let mut service = self.describe(name, number);
        service.nodes = self
            .nodes
            .values()
            .map(|entry| entry.node.clone())
            .collect();
        service
    }
}

#[async_trait]
impl Registry for MemoryRegistry {
    fn backend(&self) -> &'static str {
        SCHEME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default().with_ttl(true).with_local(true)
    }

    async fn register(&self, service: &Service, opts: RegisterOptions) -> Result<()> {
        check_registration(service).map_err(|err| err.with_operation("registry.register"))?;
        if opts.ttl == Some(Duration::ZERO) {
            return Err(
                Error::invalid_argument("a TTL of zero forgets the nodes at once")
                    .with_operation("registry.register")
                    .with_context("service", &service.name),
            );
        }
        self.0.now(|directory, now| {
            // A TTL beyond what the clock can count never passes.
            let expires = opts.ttl.and_then(|ttl| now.checked_add(ttl));
            directory.register(service, expires);
        });
        Ok(())
    }

    async fn deregister(&self, service: &Service, _opts: DeregisterOptions) -> Result<()> {
        check_deregistration(service).map_err(|err| err.with_operation("registry.deregister"))?;
        self.0.now(|directory, _| {
            directory.remove(|name, version, entry| {
                name == service.name
                    && version == service.version
                    && service.nodes.iter().any(|node| node.id == entry.node.id)
            });
        });
        Ok(())
    }

    async fn get_service(&self, name: &str, _opts: GetOptions) -> Result<Vec<Service>> {
        check_name(name).map_err(|err| err.with_operation("registry.get_service"))?;
        let found = self.0.now(|directory, _| directory.get(name));
        if found.is_empty() {
            return Err(Error::not_found("no node of this service is registered")
                .with_operation("registry.get_service")
                .with_context("service", name));
        }
        Ok(found)
    }

    async fn list_services(&self, _opts: ListOptions) -> Result<Vec<Service>> {
        Ok(self.0.now(|directory, _| directory.list()))
    }

    async fn watch(&self, opts: WatchOptions) -> Result<EventStream> {
        if let Some(name) = &opts.service {
            check_name(name).map_err(|err| err.with_operation("registry.watch"))?;
        }
        // Within `now`, so that what expired before is not reported as a change from here on.
        let id = self.0.now(|directory, _| {
            directory
                .watchers
                .add(opts.service, self.0.config.watch_buffer)
        });
        Ok(Box::pin(Watch::new(Arc::clone(&self.0), id)))
    }
}
