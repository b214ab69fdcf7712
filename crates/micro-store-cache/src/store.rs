//! The store that asks its memory first.

use std::fmt;
use std::sync::Arc;

use futures_util::FutureExt as _;
use micro_core::Clock;
use micro_store_core::{
    BatchOptions, Capabilities, ChangeStream, DeleteOptions, Deleted, ErrorKind, ListOptions,
    Operation, Page, ReadOptions, Record, Result, Scope, ScopesOptions, Store, WatchOptions,
    WriteOptions, Written, async_trait, check_key, no_record,
};
use tokio::task::coop::consume_budget;

use crate::CacheConfig;
use crate::error::again;
use crate::follow::Followed;
use crate::gate::{Answer, Gate, Way};
use crate::kept::{Kept, Known, Place};

/// A store whose reads are answered from memory for some time; clones share it.
///
/// Changes, listings and watches go to the store below. See the crate's documentation for what holds.
#[derive(Clone)]
pub struct CacheStore(Arc<Inner>);

struct Inner {
    below: Arc<dyn Store>,
    config: CacheConfig,
    gate: Arc<Gate>,
    followed: Followed,
}

impl CacheStore {
    /// A memory in front of `below`, empty. `clock` is the one that `below` was opened with.
    #[must_use]
    pub fn new(below: Arc<dyn Store>, config: CacheConfig, clock: Arc<dyn Clock>) -> Self {
        let capabilities = below.capabilities();
        let watched = match capabilities.watch {
            true => config.watched_tables,
            false => 0,
        };
        let kept = Kept::new(config.clone(), clock, capabilities.shared);
        Self(Arc::new(Inner {
            below,
            config,
            gate: Arc::new(Gate::new(kept)),
            followed: Followed::new(watched),
        }))
    }

    /// The store below: whoever must see what others have just changed reads there.
    #[must_use]
    pub fn below(&self) -> &Arc<dyn Store> {
        &self.0.below
    }

    /// Forgets everything, so that each record is asked for again.
    pub fn clear(&self) {
        self.0.gate.forget(None);
    }
}

impl fmt::Debug for CacheStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheStore")
            .field("below", &self.0.below)
            .field("gate", &self.0.gate)
            .finish_non_exhaustive()
    }
}

fn found(known: Known, scope: &Scope, key: &str) -> Result<Record> {
    known.ok_or_else(|| no_record(scope, key))
}

fn answered(answer: Answer, scope: &Scope, key: &str) -> Result<Record> {
    answer.map_err(|err| match err.kind() {
        ErrorKind::NotFound => no_record(scope, key),
        _ => Arc::try_unwrap(err).unwrap_or_else(|err| again(&err)),
    })
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for CacheStore {
    fn backend(&self) -> &'static str {
        self.0.below.backend()
    }

    fn capabilities(&self) -> Capabilities {
        let below = self.0.below.capabilities();
        let config = &self.0.config;
        let kept = config.ttl.max(config.absent_ttl);
        below.with_staleness(below.staleness.saturating_add(kept))
    }

    async fn read(&self, scope: &Scope, key: &str, opts: ReadOptions) -> Result<Record> {
        check_key(key).map_err(|err| err.with_operation("store.read"))?;
        let Inner {
            below,
            gate,
            followed,
            ..
        } = &*self.0;
        if let Some(known) = gate.known(scope, key) {
            // Or a loop over what is known would never let others of its thread have their turn.
            consume_budget().await;
            return found(known, scope, key);
        }
        followed.begin(scope, below, gate);
        let way = gate.way(scope, key, || {
            let (below, scope, key) = (Arc::clone(below), scope.clone(), key.to_owned());
            let opts = opts.clone();
            async move { below.read(&scope, &key, opts).await }.boxed()
        });
        match way {
            Way::Known(known) => found(known, scope, key),
            Way::Wait(question) => answered(question.await, scope, key),
            Way::Alone => below.read(scope, key, opts).await,
        }
    }

    async fn write(&self, scope: &Scope, record: Record, opts: WriteOptions) -> Result<Written> {
        let _changing = self.0.gate.change(vec![Place::new(scope, &record.key)]);
        self.0.below.write(scope, record, opts).await
    }

    async fn delete(&self, scope: &Scope, key: &str, opts: DeleteOptions) -> Result<Deleted> {
        let _changing = self.0.gate.change(vec![Place::new(scope, key)]);
        self.0.below.delete(scope, key, opts).await
    }

    async fn batch(&self, operations: Vec<Operation>, opts: BatchOptions) -> Result<Vec<Written>> {
        let places = operations
            .iter()
            .map(|operation| Place::new(operation.scope(), operation.key()))
            .collect();
        let _changing = self.0.gate.change(places);
        self.0.below.batch(operations, opts).await
    }

    async fn list(&self, scope: &Scope, opts: ListOptions) -> Result<Page> {
        self.0.below.list(scope, opts).await
    }

    async fn scopes(&self, opts: ScopesOptions) -> Result<Vec<Scope>> {
        self.0.below.scopes(opts).await
    }

    async fn watch(&self, scope: &Scope, opts: WatchOptions) -> Result<ChangeStream> {
        self.0.below.watch(scope, opts).await
    }
}
