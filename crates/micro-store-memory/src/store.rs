//! Records in memory.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::hash::BuildHasher as _;
use std::ops::{ControlFlow, Deref};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use micro_core::{Clock, SystemClock};
use micro_store_core::{
    BatchOptions, Capabilities, Change, ChangeKind, ChangeStream, Condition, DeleteOptions,
    Deleted, Durability, Error, Fence, FencingToken, ListOptions, Operation, Page, ReadOptions,
    Record, Result, Scope, ScopesOptions, Store, WatchOptions, WriteOptions, Written, async_trait,
    check_batch, check_condition, check_delete, check_durability, check_fence, check_key,
    check_list, check_record, check_scopes, check_watch, expires_at, no_record,
};

use tokio::task::coop::consume_budget;

use crate::page::Filling;
use crate::shard::{Shard, Slot};
use crate::watch::Watchers;
use crate::{MemoryConfig, SCHEME};

/// So many locks share a table's keys, so that threads seldom meet.
const SHARDS: usize = 32;

/// A writer takes out at most so many expired records on the way.
const PURGE: usize = 4;

/// What a table is charged, about.
const TABLE_BYTES: u64 = 4096;

/// What a fence is charged beside its name, about.
const FENCE_BYTES: u64 = 128;

/// A store in memory; clones see the same records.
#[derive(Clone)]
pub struct MemoryStore(Arc<Inner>);

struct Inner {
    config: MemoryConfig,
    clock: Arc<dyn Clock>,
    /// Every table that anything was written to. Read by every call, changed by a few.
    tables: ArcSwap<BTreeMap<Scope, Arc<Records>>>,
    hasher: RandomState,
    bytes: Alone<AtomicU64>,
    fences: Mutex<Fences>,
}

/// The highest tokens seen, by database and name. Locked before any shard.
type Fences = HashMap<String, HashMap<String, FencingToken>>;

/// Alone on its cache lines: what one thread writes does not slow down those who use what is beside it.
#[derive(Default)]
#[repr(align(128))]
struct Alone<T>(T);

impl<T> Deref for Alone<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// The records of a table.
#[derive(Default)]
struct Records {
    shards: [Alone<Mutex<Shard>>; SHARDS],
    watchers: Watchers,
}

impl MemoryStore {
    /// An empty store with default settings, on the system's clock.
    #[must_use]
    pub fn new() -> Self {
        Self::with_config(MemoryConfig::default(), Arc::new(SystemClock))
    }

    /// An empty store.
    #[must_use]
    pub fn with_config(config: MemoryConfig, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner {
            config,
            clock,
            tables: ArcSwap::default(),
            hasher: RandomState::new(),
            bytes: Alone::default(),
            fences: Mutex::default(),
        }))
    }

    pub(crate) fn config(&self) -> &MemoryConfig {
        &self.0.config
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("config", &self.0.config)
            .field("bytes", &self.0.bytes.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}

/// A lock that a panic left behind guards nothing half done: what can panic comes last.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Records {
    fn lock_all(&self) -> Vec<MutexGuard<'_, Shard>> {
        self.shards.iter().map(|shard| lock(shard)).collect()
    }

    fn tell(&self, kind: ChangeKind, record: impl FnOnce() -> Record) {
        if !self.watchers.is_empty() {
            self.watchers.tell(&Change::new(kind, record()));
        }
    }
}

impl Inner {
    fn table(&self, scope: &Scope) -> Option<Arc<Records>> {
        self.tables.load().get(scope).map(Arc::clone)
    }

    fn table_or_new(&self, scope: &Scope) -> Result<Arc<Records>> {
        if let Some(table) = self.table(scope) {
            return Ok(table);
        }
        self.reserve(TABLE_BYTES)?;
        let new = Arc::new(Records::default());
        self.tables.rcu(|tables| {
            let mut tables = BTreeMap::clone(tables);
            tables
                .entry(scope.clone())
                .or_insert_with(|| Arc::clone(&new));
            tables
        });
        let table = self.table(scope).unwrap_or_else(|| Arc::clone(&new));
        if !Arc::ptr_eq(&table, &new) {
            self.release(TABLE_BYTES);
        }
        Ok(table)
    }

    fn shard_of(&self, key: &str) -> usize {
        self.hasher.hash_one(key) as usize % SHARDS
    }

    fn release(&self, bytes: u64) {
        if bytes > 0 {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Makes sure of room for what is about to be added.
    fn reserve(&self, bytes: u64) -> Result<()> {
        let add = |taken: u64| {
            let taken = taken.checked_add(bytes)?;
            (taken <= self.config.max_bytes).then_some(taken)
        };
        if bytes == 0
            || self
                .bytes
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
                .is_ok()
        {
            return Ok(());
        }
        Err(Error::resource_exhausted(
            "the store in memory is full: delete records, or open it with a larger max_bytes",
        )
        .with_context("max_bytes", self.config.max_bytes))
    }

    /// Exchanges what is charged for one thing by what is charged for another.
    fn exchange(&self, old: u64, new: u64) -> Result<()> {
        self.release(old.saturating_sub(new));
        self.reserve(new.saturating_sub(old))
    }

    /// If so many bytes would not fit, takes out whatever has expired, in all tables.
    fn make_room(&self, bytes: u64) {
        let taken = self.bytes.load(Ordering::Relaxed);
        if taken.saturating_add(bytes) <= self.config.max_bytes {
            return;
        }
        let now = self.clock.wall();
        for records in self.tables.load().values() {
            for shard in &records.shards {
                self.purge(records, &mut lock(shard), now, usize::MAX);
            }
        }
    }

    fn purge(&self, records: &Records, shard: &mut Shard, now: SystemTime, most: usize) {
        for _ in 0..most {
            let Some((key, freed)) = shard.pop_expired(now) else {
                return;
            };
            self.release(freed);
            let version = shard.next_version();
            records.tell(ChangeKind::Deleted, || {
                Record::new(key, "").with_version(version)
            });
        }
    }

    fn slot(&self, record: Record, opts: &WriteOptions) -> (String, Slot) {
        let expiry = if opts.ttl.is_some() {
            expires_at(&record, opts, self.clock.wall())
        } else if record.expiry.is_some() {
            expires_at(&record, opts, SystemTime::UNIX_EPOCH)
        } else {
            None
        };
        let slot = Slot {
            value: record.value,
            metadata: (!record.metadata.is_empty()).then(|| Arc::new(record.metadata)),
            expiry,
            version: 0,
        };
        (record.key, slot)
    }

    /// Puts a record in its place, whose room is taken; answers with its version.
    fn put(&self, records: &Records, shard: &mut Shard, key: &str, mut slot: Slot) -> u64 {
        if slot.expiry.is_some() && !slot.is_live(self.clock.wall()) {
            // It has expired before it was written.
            self.release(slot.charge(key));
            let version = shard.next_version();
            if shard.remove(key).is_some() {
                records.tell(ChangeKind::Deleted, || {
                    Record::new(key, "").with_version(version)
                });
            }
            return version;
        }
        slot.version = shard.next_version();
        let version = slot.version;
        let told = (!records.watchers.is_empty()).then(|| slot.record(key, false));
        shard.put(key, slot);
        if let Some(record) = told {
            records.tell(ChangeKind::Written, || record);
        }
        version
    }

    /// Takes a record out; answers with the version of its deletion, 0 if there was none.
    fn remove(&self, records: &Records, shard: &mut Shard, key: &str) -> u64 {
        let existed = shard.get(key, &*self.clock).is_some();
        let Some(freed) = shard.remove(key) else {
            return 0;
        };
        self.release(freed);
        let version = shard.next_version();
        records.tell(ChangeKind::Deleted, || {
            Record::new(key, "").with_version(version)
        });
        if existed { version } else { 0 }
    }

    fn write(&self, scope: &Scope, record: Record, opts: &WriteOptions) -> Result<u64> {
        let (key, slot) = self.slot(record, opts);
        let charge = slot.charge(&key);
        self.make_room(charge);
        // Of a table that is there no `Arc` is taken: all its writers would count there.
        let tables = self.tables.load();
        let new;
        let records = match tables.get(scope) {
            Some(records) => records,
            None => {
                new = self.table_or_new(scope)?;
                &new
            }
        };
        let mut fences = opts.fence.as_ref().map(|fence| (lock(&self.fences), fence));
        let mut extra = 0;
        if let Some((fences, fence)) = &mut fences {
            pass(fences, scope, fence)?;
            extra = fence_charge(fences, scope, fence);
        }
        let mut shard = lock(&records.shards[self.shard_of(&key)]);
        let (there, charged) = shard.look(&key, &*self.clock);
        check_condition(opts.condition, &key, there)?;
        self.exchange(charged, charge + extra)?;
        if let Some((fences, fence)) = &mut fences {
            note(fences, scope, fence);
        }
        let version = self.put(records, &mut shard, &key, slot);
        if shard.has_expiries() {
            self.purge(records, &mut shard, self.clock.wall(), PURGE);
        }
        Ok(version)
    }

    fn delete(&self, scope: &Scope, key: &str, opts: &DeleteOptions) -> Result<bool> {
        let mut fences = opts.fence.as_ref().map(|fence| (lock(&self.fences), fence));
        if let Some((fences, fence)) = &mut fences {
            pass(fences, scope, fence)?;
        }
        let records = self.table(scope);
        let mut shard = records
            .as_ref()
            .map(|records| lock(&records.shards[self.shard_of(key)]));
        let there = shard
            .as_ref()
            .and_then(|shard| shard.get(key, &*self.clock));
        check_condition(opts.condition, key, there.map(|slot| slot.version))?;
        if let Some((fences, fence)) = &mut fences {
            self.reserve(fence_charge(fences, scope, fence))?;
            note(fences, scope, fence);
        }
        let (Some(records), Some(shard)) = (&records, &mut shard) else {
            return Ok(false);
        };
        Ok(self.remove(records, shard, key) > 0)
    }

    fn batch(&self, operations: Vec<Operation>) -> Result<Vec<Written>> {
        let mut steps = Vec::with_capacity(operations.len());
        for operation in operations {
            steps.push(self.step(operation)?);
        }
        self.make_room(steps.iter().map(Step::charge).sum());
        let mut fences = steps
            .iter()
            .any(|step| step.fence.is_some())
            .then(|| lock(&self.fences));
        // The locks are taken in one order, so that two batches never wait for each other.
        let place = |step: &Step| (Arc::as_ptr(&step.records).addr(), step.shard);
        let mut order: Vec<usize> = (0..steps.len()).collect();
        order.sort_unstable_by_key(|&at| place(&steps[at]));
        let tables: Vec<Arc<Records>> =
            steps.iter().map(|step| Arc::clone(&step.records)).collect();
        let mut shards: Vec<MutexGuard<'_, Shard>> = Vec::new();
        // Which of `shards` a step needs.
        let mut held = vec![0; steps.len()];
        for (nth, &at) in order.iter().enumerate() {
            if nth == 0 || place(&steps[order[nth - 1]]) != place(&steps[at]) {
                shards.push(lock(&tables[at].shards[steps[at].shard]));
            }
            held[at] = shards.len() - 1;
        }
        // Everything is checked before anything is changed.
        let (mut old, mut new) = (0, 0);
        let mut names = HashSet::new();
        for (at, step) in steps.iter().enumerate() {
            let shard = &shards[held[at]];
            if let (Some(fences), Some(fence)) = (&fences, &step.fence) {
                pass(fences, &step.scope, fence)?;
                if names.insert(&*fence.name) {
                    new += fence_charge(fences, &step.scope, fence);
                }
            }
            let (there, charged) = shard.look(&step.key, &*self.clock);
            check_condition(step.condition, &step.key, there)?;
            if step.slot.is_some() {
                old += charged;
                new += step.charge();
            }
        }
        self.exchange(old, new)?;
        let mut written = Vec::with_capacity(steps.len());
        for (at, step) in steps.into_iter().enumerate() {
            let shard = &mut *shards[held[at]];
            if let (Some(fences), Some(fence)) = (&mut fences, step.fence) {
                note(fences, &step.scope, &fence);
            }
            let version = match step.slot {
                Some(slot) => self.put(&step.records, shard, &step.key, slot),
                None => self.remove(&step.records, shard, &step.key),
            };
            written.push(Written::new(version, Durability::Memory));
        }
        Ok(written)
    }

    fn step(&self, operation: Operation) -> Result<Step> {
        let condition = operation.condition();
        let (scope, key, slot, fence) = match operation {
            Operation::Write {
                scope,
                record,
                options,
            } => {
                let (key, slot) = self.slot(record, &options);
                (scope, key, Some(slot), options.fence)
            }
            Operation::Delete {
                scope,
                key,
                options,
            } => (scope, key, None, options.fence),
            _ => return Err(Error::unimplemented("this store knows no such operation")),
        };
        Ok(Step {
            records: self.table_or_new(&scope)?,
            shard: self.shard_of(&key),
            scope,
            key,
            slot,
            condition,
            fence,
        })
    }
}

/// An operation of a batch, and where it happens.
struct Step {
    scope: Scope,
    key: String,
    /// What to write; nothing of a deletion.
    slot: Option<Slot>,
    condition: Condition,
    fence: Option<Fence>,
    records: Arc<Records>,
    shard: usize,
}

impl Step {
    fn charge(&self) -> u64 {
        self.slot.as_ref().map_or(0, |slot| slot.charge(&self.key))
    }
}

fn pass(fences: &Fences, scope: &Scope, fence: &Fence) -> Result<()> {
    let names = fences.get(scope.database());
    let seen = names.and_then(|names| names.get(&fence.name));
    check_fence(fence, seen.copied())
}

/// Leaves a token behind that has passed.
fn note(fences: &mut Fences, scope: &Scope, fence: &Fence) {
    if !fences.contains_key(scope.database()) {
        fences.insert(scope.database().to_owned(), HashMap::new());
    }
    if let Some(names) = fences.get_mut(scope.database()) {
        match names.get_mut(&fence.name) {
            Some(token) => *token = fence.token,
            None => {
                names.insert(fence.name.clone(), fence.token);
            }
        }
    }
}

/// What a fence will be charged: nothing if its name is known.
fn fence_charge(fences: &Fences, scope: &Scope, fence: &Fence) -> u64 {
    let known = fences
        .get(scope.database())
        .is_some_and(|names| names.contains_key(&fence.name));
    if known {
        0
    } else {
        FENCE_BYTES + fence.name.len() as u64
    }
}

// Nothing here waits: each call consumes of the task's budget, so that a loop of them lets others run.
#[async_trait]
impl Store for MemoryStore {
    fn backend(&self) -> &'static str {
        SCHEME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new(Durability::Memory).with_watch(true)
    }

    async fn read(&self, scope: &Scope, key: &str, _opts: ReadOptions) -> Result<Record> {
        check_key(key).map_err(|err| err.with_operation("store.read"))?;
        consume_budget().await;
        let tables = self.0.tables.load();
        tables
            .get(scope)
            .and_then(|records| {
                let shard = lock(&records.shards[self.0.shard_of(key)]);
                let slot = shard.get(key, &*self.0.clock)?;
                Some(slot.record(key, false))
            })
            .ok_or_else(|| no_record(scope, key))
    }

    async fn write(&self, scope: &Scope, record: Record, opts: WriteOptions) -> Result<Written> {
        consume_budget().await;
        check_record(&record, &opts)
            .and_then(|()| check_durability(opts.durability, Durability::Memory))
            .and_then(|()| self.0.write(scope, record, &opts))
            .map(|version| Written::new(version, Durability::Memory))
            .map_err(|err| err.with_operation("store.write"))
    }

    async fn delete(&self, scope: &Scope, key: &str, opts: DeleteOptions) -> Result<Deleted> {
        consume_budget().await;
        check_delete(key, &opts)
            .and_then(|()| check_durability(opts.durability, Durability::Memory))
            .and_then(|()| self.0.delete(scope, key, &opts))
            .map(|existed| Deleted::new(existed, Durability::Memory))
            .map_err(|err| err.with_operation("store.delete"))
    }

    async fn batch(&self, operations: Vec<Operation>, opts: BatchOptions) -> Result<Vec<Written>> {
        consume_budget().await;
        let asked = operations.iter().map(Operation::durability).max();
        check_batch(&operations)
            .and_then(|()| {
                check_durability(opts.durability.max(asked.flatten()), Durability::Memory)
            })
            .and_then(|()| self.0.batch(operations))
            .map_err(|err| err.with_operation("store.batch"))
    }

    async fn list(&self, scope: &Scope, opts: ListOptions) -> Result<Page> {
        check_list(&opts).map_err(|err| err.with_operation("store.list"))?;
        let Some(records) = self.0.table(scope) else {
            return Ok(Page::default());
        };
        let mut filling = Filling::new(opts, self.0.clock.wall());
        loop {
            if let ControlFlow::Break(page) = filling.go_on(&records.lock_all()) {
                return Ok(page);
            }
            tokio::task::yield_now().await;
        }
    }

    async fn scopes(&self, opts: ScopesOptions) -> Result<Vec<Scope>> {
        check_scopes(&opts).map_err(|err| err.with_operation("store.scopes"))?;
        let tables = self.0.tables.load_full();
        let used = |records: &Records| records.shards.iter().any(|shard| !lock(shard).is_empty());
        Ok(tables
            .iter()
            .filter(|(scope, _)| opts.after.as_ref().is_none_or(|after| *scope > after))
            .filter(|(scope, _)| {
                let database = opts.database.as_deref();
                database.is_none_or(|database| scope.database() == database)
            })
            .filter(|(_, records)| used(records))
            .take(opts.limit)
            .map(|(scope, _)| scope.clone())
            .collect())
    }

    async fn watch(&self, scope: &Scope, opts: WatchOptions) -> Result<ChangeStream> {
        let records = check_watch(&opts)
            .and_then(|()| self.0.table_or_new(scope))
            .map_err(|err| err.with_operation("store.watch"))?;
        let buffer = self.0.config.watch_buffer;
        Ok(Box::pin(records.watchers.add(opts.prefix, buffer)))
    }
}
