//! What is known of a service at one moment.

use std::sync::Arc;
use std::time::Instant;

use micro_registry_core::{Node, Service};

/// The nodes of a service, as known at one moment. It never changes: a new one replaces it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// Another number whenever [`services`](Self::services) is another: what is derived from them
    /// can be kept as long as this stays the same. A change of freshness alone leaves it.
    pub revision: u64,
    /// One entry per version, sorted by version; each has a node at least, sorted by id.
    pub services: Arc<[Service]>,
    /// How far this can be trusted.
    pub freshness: Freshness,
}

/// How far a [`Snapshot`] can be trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Freshness {
    /// The registry has not answered yet.
    Unknown,
    /// It is what the registry says.
    Fresh,
    /// The registry does not answer, or gave an answer that is not believed yet.
    Stale {
        /// When the registry last confirmed it.
        since: Instant,
        /// Why it does not now.
        cause: String,
    },
}

impl Snapshot {
    pub(crate) fn unknown() -> Self {
        Self {
            revision: 0,
            services: Arc::from([]),
            freshness: Freshness::Unknown,
        }
    }

    /// Whether no node is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// How many nodes are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.services
            .iter()
            .map(|service| service.nodes.len())
            .sum()
    }

    /// The nodes, each with the version that it runs.
    pub fn nodes(&self) -> impl Iterator<Item = (&Service, &Node)> {
        self.services
            .iter()
            .flat_map(|service| service.nodes.iter().map(move |node| (service, node)))
    }
}
