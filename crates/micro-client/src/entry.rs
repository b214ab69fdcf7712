//! What a client knows of one service.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use micro_core::{Context, Error, ErrorKind, Result};
use micro_registry_cache::Resolved;
use micro_registry_core::{ListOptions, Node, Service};
use micro_selector_core::{Balance, Entry, Nodes, Outliers, Readiness};

use crate::client::Inner;
use crate::options::Discovery;
use crate::pool::{Pool, Start};

/// Without a subset, more nodes than this are connected to only when they are picked.
const EAGER_NODES: usize = 50;

/// The nodes of a service at one moment, with their pools.
#[derive(Debug, Default)]
pub(crate) struct Built {
    /// Another number whenever the indexes mean other nodes.
    pub(crate) revision: u64,
    /// The revision of the snapshot that it was built from.
    source: u64,
    /// All of them; those that this client uses come first, and of these those of its own zone.
    pub(crate) nodes: Nodes,
    /// Those that this client uses.
    pub(crate) near: Nodes,
    own: Own,
    slots: Vec<Arc<Slot>>,
    pub(crate) outliers: Arc<Outliers>,
}

/// A node's pool, once there is need of one. It survives changes of the set.
#[derive(Debug, Default)]
struct Slot {
    pool: OnceLock<Arc<Pool>>,
    joins: bool,
}

/// The nodes of the own zone, and how far they can do without others.
#[derive(Debug, Default)]
struct Own {
    nodes: Nodes,
    began: Option<Instant>,
    /// When they were last looked at, in milliseconds since `began` and from 1 on, and how many of
    /// a thousand calls stay with them: 10 bits.
    stay: AtomicU64,
}

impl Own {
    /// So long what was seen of them is relied on, for looking at all costs time on every call.
    const FRESH: u64 = 100;

    /// The zone's nodes, if a call with these random bits is to stay with them.
    fn keep(&self, balance: &Balance, now: Instant, random: u64) -> Option<&Nodes> {
        let began = self.began?;
        let passed = now.saturating_duration_since(began).as_millis();
        let at = u64::try_from(passed).unwrap_or(u64::MAX).saturating_add(1);
        let seen = self.stay.load(Ordering::Relaxed);
        let stay = if seen == 0 || at.saturating_sub(seen >> 10) >= Self::FRESH {
            // One that is idle or just connecting has not failed.
            let able = |entry: &&Entry| {
                entry.weight() > 0
                    && entry.state().readiness() != Readiness::Failed
                    && !entry.state().is_ejected(now)
            };
            let stay = balance.stay(self.nodes.iter().filter(able).count(), self.nodes.len());
            self.stay
                .store(at << 10 | u64::from(stay), Ordering::Relaxed);
            u64::from(stay)
        } else {
            seen & 0x3ff
        };
        // Other bits than those that the selector begins with.
        (random.rotate_right(17) % 1000 < stay).then_some(&self.nodes)
    }
}

impl Built {
    /// The nodes of the own zone, if a call with these random bits is to stay with them.
    pub(crate) fn own(&self, balance: &Balance, now: Instant, random: u64) -> Option<&Nodes> {
        self.own.keep(balance, now, random)
    }
}

/// What a client knows of one service, or of one address.
pub(crate) struct ServiceEntry {
    name: Arc<str>,
    resolved: Option<Arc<Resolved>>,
    built: ArcSwap<Built>,
    /// The version of the resolver's view that was looked at last.
    version: AtomicU64,
    /// When the subset was last drawn anew because too much of it was down.
    building: Mutex<Option<Instant>>,
    /// What the registry listed for the last call that found nobody, and when.
    seen: tokio::sync::Mutex<Option<(Instant, String)>>,
    /// Which subset of the nodes this client uses.
    seed: OnceLock<u64>,
}

impl ServiceEntry {
    /// A service found by discovery.
    pub(crate) fn discovered(name: Arc<str>, resolved: Arc<Resolved>) -> Self {
        Self {
            name,
            resolved: Some(resolved),
            built: ArcSwap::default(),
            // No version: the first call builds.
            version: AtomicU64::new(u64::MAX),
            building: Mutex::default(),
            seen: tokio::sync::Mutex::default(),
            seed: OnceLock::new(),
        }
    }

    /// A single node at a known address.
    pub(crate) fn at(address: &Arc<str>, client: &Inner) -> Self {
        let node = Arc::new(Node::new(&**address, &**address));
        let entry = Entry::new(Arc::clone(&node), "");
        let state = Arc::clone(entry.state());
        let start = Start {
            eager: true,
            ..Start::default()
        };
        let pool = Pool::new(node, state, Arc::clone(&client.parts), None, start);
        let nodes: Nodes = [entry].into_iter().collect();
        let built = Built {
            revision: 1,
            near: nodes.clone(),
            nodes,
            slots: vec![Arc::new(Slot {
                pool: OnceLock::from(Arc::new(pool)),
                joins: false,
            })],
            ..Built::default()
        };
        Self {
            name: Arc::clone(address),
            resolved: None,
            built: ArcSwap::from_pointee(built),
            version: AtomicU64::new(u64::MAX),
            building: Mutex::default(),
            seen: tokio::sync::Mutex::default(),
            seed: OnceLock::new(),
        }
    }

    /// The nodes now: three atomic loads, unless they have just changed.
    pub(crate) fn nodes(&self, client: &Inner) -> Guard<Arc<Built>> {
        let Some(resolved) = &self.resolved else {
            return self.built.load();
        };
        if self.version.load(Ordering::Acquire) == resolved.version() {
            return self.built.load();
        }
        let building = self.building.lock().unwrap_or_else(PoisonError::into_inner);
        // Before the snapshot: if that changes again meanwhile, the next call sees it.
        let version = resolved.version();
        // Somebody else may have been faster, or only the freshness is another.
        if self.built.load().source != resolved.snapshot().revision {
            self.build(client, resolved);
        }
        self.version.store(version, Ordering::Release);
        drop(building);
        self.built.load()
    }

    /// Draws the subset anew, without the nodes that cannot be reached, if they are more than half of
    /// it: once a second at most.
    pub(crate) fn redraw(&self, client: &Inner, now: Instant) {
        const PAUSE: Duration = Duration::from_secs(1);
        let Some(resolved) = &self.resolved else {
            return;
        };
        let Ok(mut last) = self.building.try_lock() else {
            return;
        };
        if last.is_some_and(|last| now.saturating_duration_since(last) < PAUSE) {
            return;
        }
        let built = self.built.load();
        let failed = |entry: &&Entry| entry.state().readiness() == Readiness::Failed;
        if built.near.len() == built.nodes.len()
            || built.near.iter().filter(failed).count() * 2 <= built.near.len()
        {
            return;
        }
        *last = Some(now);
        self.build(client, resolved);
    }

    /// The pool of a node.
    pub(crate) fn pool<'a>(&self, client: &Inner, built: &'a Built, index: usize) -> &'a Arc<Pool> {
        self.pool_of(client, &built.nodes[index], &built.slots[index], false)
    }

    fn pool_of<'a>(
        &self,
        client: &Inner,
        entry: &Entry,
        slot: &'a Slot,
        eager: bool,
    ) -> &'a Arc<Pool> {
        slot.pool.get_or_init(|| {
            let start = Start {
                eager,
                joins: slot.joins,
                slow: client.selector.balance().slow_start,
            };
            Arc::new(Pool::new(
                Arc::clone(entry.node()),
                Arc::clone(entry.state()),
                Arc::clone(&client.parts),
                self.resolved.clone(),
                start,
            ))
        })
    }

    /// Makes the set anew; what is known of nodes that stay is kept. For those who hold `building`.
    fn build(&self, client: &Inner, resolved: &Arc<Resolved>) {
        let snapshot = resolved.snapshot();
        let old = self.built.load();
        let balance = client.selector.balance();
        let known: HashMap<(&str, &str), usize> = old
            .nodes
            .iter()
            .enumerate()
            .map(|(index, entry)| {
                let node = entry.node();
                ((node.id.as_str(), node.address.as_str()), index)
            })
            .collect();
        let mut items = Vec::with_capacity(snapshot.len());
        for service in snapshot.services.iter() {
            let version: Arc<str> = Arc::from(&*service.version);
            let endpoints = service.endpoints.iter();
            let endpoints: Arc<[Box<str>]> = endpoints.map(|one| (*one.name).into()).collect();
            for node in &service.nodes {
                // A node that kept its id and moved is a new node: nothing is known of it. One with
                // other metadata may have to be connected to in another way.
                let same = known
                    .get(&(node.id.as_str(), node.address.as_str()))
                    .filter(|index| old.nodes[**index].node().metadata == node.metadata);
                let entry = Entry::new(node.clone(), Arc::clone(&version))
                    .with_registered_weight()
                    .with_endpoints(Arc::clone(&endpoints));
                items.push(match same {
                    Some(index) => {
                        let state = Arc::clone(old.nodes[*index].state());
                        (entry.with_state(state), Arc::clone(&old.slots[*index]))
                    }
                    None => {
                        let slot = Slot {
                            joins: !old.nodes.is_empty(),
                            ..Slot::default()
                        };
                        (entry, Arc::new(slot))
                    }
                });
            }
        }
        let seed = *self.seed.get_or_init(|| client.options.random.next_u64());
        let reach = balance.arrange(&mut items, seed, |(entry, _)| entry);
        let eager = if reach.subset < items.len() {
            reach.subset
        } else {
            items.len().min(EAGER_NODES)
        };
        for (entry, slot) in &items[..eager] {
            self.pool_of(client, entry, slot, true);
        }
        let (entries, slots): (Vec<Entry>, Vec<Arc<Slot>>) = items.into_iter().unzip();
        let nodes: Nodes = entries.into_iter().collect();
        let outliers = if old.nodes.is_empty() {
            Arc::new(Outliers::new(balance.ejection, balance.slow_start))
        } else {
            Arc::clone(&old.outliers)
        };
        self.built.store(Arc::new(Built {
            revision: old.revision + 1,
            source: snapshot.revision,
            near: nodes.first(reach.subset),
            own: Own {
                nodes: nodes.first(reach.zone),
                began: (reach.zone > 0).then(|| client.options.clock.now()),
                stay: AtomicU64::new(0),
            },
            nodes,
            slots,
            outliers,
        }));
    }

    /// Waits until a node is known.
    pub(crate) async fn known(
        &self,
        client: &Inner,
        cx: &Context,
        discovery: Discovery,
    ) -> Result<()> {
        let Some(resolved) = &self.resolved else {
            return Ok(());
        };
        let now = cx.now();
        let answer = match discovery {
            Discovery::FailFast => resolved.first_answer(cx.deadline()).await,
            Discovery::WaitFor(time) => {
                let patience = now.checked_add(time);
                let until = [patience, cx.deadline()].into_iter().flatten().min();
                resolved.known(until).await
            }
            Discovery::WaitForReady => resolved.known(cx.deadline()).await,
        };
        match answer {
            Ok(_) => Ok(()),
            Err(err) => {
                let waited = cx.now().saturating_duration_since(now);
                Err(self.not_found(client, cx, &err, waited).await)
            }
        }
    }

    /// The services that the registry knows. Asked once a second at most, and by one call at a time:
    /// a registry in trouble is not asked by every call that fails for it.
    async fn services_seen(&self, client: &Inner, now: Instant) -> String {
        const PATIENCE: Duration = Duration::from_millis(500);
        const FRESH: Duration = Duration::from_secs(1);
        let Ok(mut seen) = self.seen.try_lock() else {
            return "unknown (being asked)".to_owned();
        };
        if let Some((at, text)) = &*seen
            && now.saturating_duration_since(*at) < FRESH
        {
            return text.clone();
        }
        let listed = client.parts.registry.list_services(ListOptions::default());
        let text = match tokio::time::timeout(PATIENCE, listed).await {
            Ok(Ok(services)) if services.is_empty() => "none".to_owned(),
            Ok(Ok(services)) => names(&services),
            Ok(Err(err)) => format!("unknown ({})", err.message()),
            Err(_) => "unknown (the registry does not answer)".to_owned(),
        };
        *seen = Some((now, text.clone()));
        text
    }

    /// The error that a newcomer meets most: it says all that helps.
    async fn not_found(
        &self,
        client: &Inner,
        cx: &Context,
        cause: &Error,
        waited: Duration,
    ) -> Error {
        let registry = &client.parts.registry;
        let seen = self.services_seen(client, cx.now()).await;
        let namespace = match &*client.options.namespace {
            "" => "(default)",
            namespace => namespace,
        };
        let kind = match cause.kind() {
            kind @ (ErrorKind::InvalidArgument
            | ErrorKind::PermissionDenied
            | ErrorKind::Unauthenticated) => kind,
            _ => ErrorKind::Unavailable,
        };
        let mut last = cause.message().to_owned();
        for (name, value) in cause.context() {
            last.push_str(&format!("; {name}: {value}"));
        }
        // How a registry describes itself: multicast DNS says on which interfaces it listens.
        let details: String = format!("{registry:?}").chars().take(300).collect();
        Error::new(
            kind,
            format!(
                "no node of service '{}' was found: start it, or check that it uses the same registry (MICRO_REGISTRY) and namespace (MICRO_NAMESPACE)",
                self.name
            ),
        )
        .with_operation("client.resolve")
        .with_context("registry", registry.backend())
        .with_context("namespace", namespace)
        .with_context("waited", format_args!("{waited:.1?}"))
        .with_context("services seen", seen)
        .with_context("last answer", last)
        .with_context("registry details", details)
        .with_unprocessed(true)
        .with_retryable(false)
    }
}

fn names(services: &[Service]) -> String {
    const SHOWN: usize = 20;
    let mut names: Vec<&str> = services.iter().map(|service| &*service.name).collect();
    names.sort_unstable();
    names.dedup();
    let more = names.len().saturating_sub(SHOWN);
    names.truncate(SHOWN);
    let mut text = names.join(" ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

impl fmt::Debug for ServiceEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceEntry")
            .field("name", &self.name)
            .field("nodes", &self.built.load().nodes.len())
            .finish_non_exhaustive()
    }
}
