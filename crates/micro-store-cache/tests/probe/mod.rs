//! A store whose calls are counted and can be held up.

#![expect(dead_code, reason = "each test program uses a part of it")]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures_util::StreamExt as _;
use micro_core::{Clock, Error, Random as _, SeededRandom, SystemClock};
use micro_store_core::{
    BatchOptions, Capabilities, ChangeStream, DeleteOptions, Deleted, ListOptions, Operation, Page,
    ReadOptions, Record, Result, Scope, ScopesOptions, Store, Table, WatchOptions, WriteOptions,
    Written, async_trait,
};
use micro_store_memory::MemoryStore;
use tokio::sync::watch;

/// Where calls wait.
#[derive(Debug)]
struct Barrier(watch::Sender<bool>);

impl Barrier {
    fn open() -> Self {
        Self(watch::Sender::new(true))
    }

    fn set(&self, open: bool) {
        self.0.send_replace(open);
    }

    async fn pass(&self) {
        let mut open = self.0.subscribe();
        open.wait_for(|open| *open)
            .await
            .expect("the probe is there");
    }
}

/// A store in memory behind barriers.
#[derive(Debug)]
pub(crate) struct Probe {
    store: MemoryStore,
    clock: Arc<HandClock>,
    shared: bool,
    watches: bool,
    reads: AtomicUsize,
    failure: Mutex<Option<fn() -> Error>>,
    /// Behind a read.
    answers: Barrier,
    /// Before a change, and behind it.
    before: Barrier,
    behind: Barrier,
    watchers: Arc<Watchers>,
    /// Pauses of chance lengths, if it is slow.
    dice: OnceLock<SeededRandom>,
}

/// The watches that are open.
#[derive(Debug)]
struct Watchers {
    count: AtomicUsize,
    /// Changes are lost on the way.
    deaf: AtomicBool,
    end: watch::Sender<()>,
}

/// Counts a watch for as long as it is open.
struct Watcher(Arc<Watchers>);

impl Watcher {
    fn new(all: &Arc<Watchers>) -> Self {
        all.count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(all))
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Probe {
    pub(crate) fn new() -> Arc<Self> {
        Self::shared(false)
    }

    pub(crate) fn shared(shared: bool) -> Arc<Self> {
        Self::with(shared, false)
    }

    pub(crate) fn watched() -> Arc<Self> {
        Self::with(false, true)
    }

    fn with(shared: bool, watches: bool) -> Arc<Self> {
        Arc::new(Self {
            store: MemoryStore::new(),
            clock: Arc::new(HandClock::new()),
            shared,
            watches,
            reads: AtomicUsize::new(0),
            failure: Mutex::new(None),
            answers: Barrier::open(),
            before: Barrier::open(),
            behind: Barrier::open(),
            watchers: Arc::new(Watchers {
                count: AtomicUsize::new(0),
                deaf: AtomicBool::new(false),
                end: watch::Sender::new(()),
            }),
            dice: OnceLock::new(),
        })
    }

    /// The table for one who has a handle of his own.
    pub(crate) fn table(&self) -> Table {
        let scope = Scope::new("shop", "orders").expect("the name is good");
        Table::new(Arc::new(self.store.clone()), scope)
    }

    /// The clock for what stands in front.
    pub(crate) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock) as _
    }

    pub(crate) fn advance(&self, by: Duration) {
        *self.clock.gone() += by;
    }

    /// How many reads have reached it.
    pub(crate) fn reads(&self) -> usize {
        self.reads.load(Ordering::SeqCst)
    }

    /// Reads are made, and not answered.
    pub(crate) fn hold_reads(&self) {
        self.answers.set(false);
    }

    pub(crate) fn let_reads_go(&self) {
        self.answers.set(true);
    }

    /// Changes are not made.
    pub(crate) fn hold_changes(&self) {
        self.before.set(false);
        self.behind.set(false);
    }

    /// Changes are made, and not answered.
    pub(crate) fn let_changes_happen(&self) {
        self.before.set(true);
    }

    pub(crate) fn let_changes_go(&self) {
        self.behind.set(true);
    }

    pub(crate) fn fail_reads_with(&self, failure: fn() -> Error) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
    }

    pub(crate) fn fail_reads_no_more(&self) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// How many watches are open.
    pub(crate) fn watchers(&self) -> usize {
        self.watchers.count.load(Ordering::SeqCst)
    }

    /// The watches that are open report nothing any more.
    pub(crate) fn lose_changes(&self) {
        self.watchers.deaf.store(true, Ordering::SeqCst);
    }

    /// The watches that are open end; what is opened later reports again.
    pub(crate) fn end_watches(&self) {
        self.watchers.deaf.store(false, Ordering::SeqCst);
        self.watchers.end.send_replace(());
    }

    /// From now on everything takes a little while, before and behind what happens.
    pub(crate) fn be_slow(&self, seed: u64) {
        let _ = self.dice.set(SeededRandom::new(seed));
    }

    async fn dawdle(&self) {
        if let Some(dice) = self.dice.get() {
            for _ in 0..dice.next_u64() % 4 {
                tokio::task::yield_now().await;
            }
        }
    }

    async fn change<T>(&self, change: impl Future<Output = Result<T>> + Send) -> Result<T> {
        self.before.pass().await;
        self.dawdle().await;
        let done = change.await;
        self.dawdle().await;
        self.behind.pass().await;
        done
    }
}

#[async_trait]
impl Store for Probe {
    fn backend(&self) -> &'static str {
        self.store.backend()
    }

    fn capabilities(&self) -> Capabilities {
        let capabilities = self.store.capabilities();
        capabilities
            .with_shared(self.shared)
            .with_watch(self.watches)
    }

    async fn read(&self, scope: &Scope, key: &str, opts: ReadOptions) -> Result<Record> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.dawdle().await;
        let answer = self.store.read(scope, key, opts).await;
        self.dawdle().await;
        let failure = *self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        self.answers.pass().await;
        match failure {
            Some(failure) => Err(failure()),
            None => answer,
        }
    }

    async fn write(&self, scope: &Scope, record: Record, opts: WriteOptions) -> Result<Written> {
        self.change(self.store.write(scope, record, opts)).await
    }

    async fn delete(&self, scope: &Scope, key: &str, opts: DeleteOptions) -> Result<Deleted> {
        self.change(self.store.delete(scope, key, opts)).await
    }

    async fn batch(&self, operations: Vec<Operation>, opts: BatchOptions) -> Result<Vec<Written>> {
        self.change(self.store.batch(operations, opts)).await
    }

    async fn list(&self, scope: &Scope, opts: ListOptions) -> Result<Page> {
        self.store.list(scope, opts).await
    }

    async fn scopes(&self, opts: ScopesOptions) -> Result<Vec<Scope>> {
        self.store.scopes(opts).await
    }

    async fn watch(&self, scope: &Scope, opts: WatchOptions) -> Result<ChangeStream> {
        let changes = self.store.watch(scope, opts).await?;
        let watcher = Watcher::new(&self.watchers);
        let heard = changes.filter(move |_| {
            let heard = !watcher.0.deaf.load(Ordering::SeqCst);
            std::future::ready(heard)
        });
        let mut end = self.watchers.end.subscribe();
        let end = async move { end.changed().await.unwrap_or_default() };
        Ok(Box::pin(heard.take_until(Box::pin(end))))
    }
}

/// A clock that stands where it is moved to. It begins an hour ahead of the machine's, by which the
/// store behind the probe goes, at a whole millisecond.
#[derive(Debug)]
struct HandClock {
    begin: (Instant, SystemTime),
    gone: Mutex<Duration>,
}

impl HandClock {
    fn new() -> Self {
        let wall = SystemClock.wall() + Duration::from_secs(3600);
        let since = wall.duration_since(SystemTime::UNIX_EPOCH);
        let millis = since.expect("the machine's clock is set").as_millis() as u64;
        Self {
            begin: (
                SystemClock.now(),
                SystemTime::UNIX_EPOCH + Duration::from_millis(millis),
            ),
            gone: Mutex::default(),
        }
    }

    fn gone(&self) -> MutexGuard<'_, Duration> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for HandClock {
    fn now(&self) -> Instant {
        self.begin.0 + *self.gone()
    }

    fn wall(&self) -> SystemTime {
        self.begin.1 + *self.gone()
    }
}
