//! What a client knows of one service.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use micro_core::{Context, Error, ErrorKind, Result};
use micro_registry_cache::Resolved;
use micro_registry_core::{ListOptions, Node, Service};
use micro_selector_core::{Entry, Nodes};

use crate::client::Inner;
use crate::options::Discovery;
use crate::pool::Pool;

/// More nodes than this are connected to only when they are picked.
const EAGER_NODES: usize = 50;

/// The nodes of a service at one moment, with their pools: `pools[i]` belongs to `nodes[i]`.
#[derive(Debug, Default)]
pub(crate) struct Built {
    pub(crate) revision: u64,
    pub(crate) nodes: Nodes,
    pub(crate) pools: Vec<Arc<Pool>>,
}

/// What a client knows of one service, or of one address.
pub(crate) struct ServiceEntry {
    name: Arc<str>,
    resolved: Option<Arc<Resolved>>,
    built: ArcSwap<Built>,
    building: Mutex<()>,
    /// What the registry listed for the last call that found nobody, and when.
    seen: tokio::sync::Mutex<Option<(Instant, String)>>,
}

impl ServiceEntry {
    /// A service found by discovery.
    pub(crate) fn discovered(name: Arc<str>, resolved: Arc<Resolved>) -> Self {
        Self {
            name,
            resolved: Some(resolved),
            built: ArcSwap::default(),
            building: Mutex::default(),
            seen: tokio::sync::Mutex::default(),
        }
    }

    /// A single node at a known address.
    pub(crate) fn at(address: &Arc<str>, client: &Inner) -> Self {
        let node = Arc::new(Node::new(&**address, &**address));
        let entry = Entry::new(Arc::clone(&node), "");
        let state = Arc::clone(entry.state());
        let pool = Pool::new(node, state, Arc::clone(&client.parts), None, true);
        let built = Built {
            revision: 1,
            nodes: [entry].into_iter().collect(),
            pools: vec![Arc::new(pool)],
        };
        Self {
            name: Arc::clone(address),
            resolved: None,
            built: ArcSwap::from_pointee(built),
            building: Mutex::default(),
            seen: tokio::sync::Mutex::default(),
        }
    }

    /// The nodes now: two atomic loads, unless they have just changed.
    pub(crate) fn nodes(&self, client: &Inner) -> Guard<Arc<Built>> {
        let built = self.built.load();
        let Some(resolved) = &self.resolved else {
            return built;
        };
        if built.revision == resolved.snapshot().revision {
            return built;
        }
        self.build(client, resolved);
        self.built.load()
    }

    fn build(&self, client: &Inner, resolved: &Arc<Resolved>) {
        let _one = self.building.lock().unwrap_or_else(PoisonError::into_inner);
        let snapshot = resolved.snapshot();
        let old = self.built.load();
        if old.revision == snapshot.revision {
            return;
        }
        let known: HashMap<(&str, &str), usize> = old
            .nodes
            .iter()
            .enumerate()
            .map(|(index, entry)| {
                let node = entry.node();
                ((node.id.as_str(), node.address.as_str()), index)
            })
            .collect();
        let total = snapshot.len();
        let mut entries = Vec::with_capacity(total);
        let mut pools = Vec::with_capacity(total);
        for service in snapshot.services.iter() {
            let version: Arc<str> = Arc::from(&*service.version);
            for node in &service.nodes {
                let node = Arc::new(node.clone());
                let mut entry = Entry::new(Arc::clone(&node), Arc::clone(&version));
                if let Some(weight) = node.metadata.get("weight").and_then(|w| w.parse().ok()) {
                    entry = entry.with_weight(weight);
                }
                // A node that kept its id and moved is a new node: nothing is known of it.
                let same = known
                    .get(&(node.id.as_str(), node.address.as_str()))
                    .map(|index| (&old.nodes[*index], &old.pools[*index]))
                    .filter(|(_, pool)| pool.node().metadata == node.metadata);
                let pool = match same {
                    Some((old, pool)) => {
                        entry = entry.with_state(Arc::clone(old.state()));
                        Arc::clone(pool)
                    }
                    None => Arc::new(Pool::new(
                        node,
                        Arc::clone(entry.state()),
                        Arc::clone(&client.parts),
                        Some(Arc::clone(resolved)),
                        entries.len() < EAGER_NODES,
                    )),
                };
                entries.push(entry);
                pools.push(pool);
            }
        }
        self.built.store(Arc::new(Built {
            revision: snapshot.revision,
            nodes: entries.into_iter().collect(),
            pools,
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
        .with_context("last answer", cause.message())
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
