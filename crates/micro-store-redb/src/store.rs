//! The store: changes go to the writer, reads to threads that may wait.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, mpsc};

use micro_core::Clock;
use micro_store_core::{
    BatchOptions, Capabilities, ChangeStream, DeleteOptions, Deleted, Durability, Error,
    ListOptions, Operation, Page, ReadOptions, Record, Result, Scope, ScopesOptions, Store,
    WatchOptions, WriteOptions, Written, async_trait, check_batch, check_delete, check_durability,
    check_key, check_list, check_record, check_scopes, check_watch,
};
use redb::backends::FileBackend;
use redb::{Builder, Database, StorageBackend};
use tokio::sync::{Semaphore, oneshot};

use crate::envelope::millis;
use crate::error::{Failure, failed, panicked};
use crate::writer::{Job, Writer};
use crate::{RedbConfig, SCHEME, file, read, writer};

/// So many changes wait for the writer at most; who comes later waits to get into the queue.
const QUEUE: usize = 1024;

/// So many reads are made at a time.
const READS: usize = 64;

/// What every change survives.
const DURABILITY: Durability = Durability::Power;

/// A store in a file; clones see the same records.
///
/// When the last clone is dropped, the changes under way are finished and the file is closed; until
/// then it stays locked.
#[derive(Clone)]
pub struct RedbStore(Arc<Inner>);

struct Inner {
    // Dropped before the way to the writer is, so that the file is closed on the writer's thread.
    shared: Arc<Shared>,
    jobs: Sender<Job>,
    queue: Arc<Semaphore>,
    reads: Arc<Semaphore>,
}

/// What the handle, its reads and the writer have in common.
pub(crate) struct Shared {
    pub(crate) db: Database,
    pub(crate) config: RedbConfig,
    pub(crate) clock: Arc<dyn Clock>,
    failed: AtomicBool,
    /// Behind the database, so that it is closed when this goes.
    _closed: mpsc::Sender<()>,
}

impl Shared {
    pub(crate) fn now(&self) -> u64 {
        millis(self.clock.wall())
    }

    /// From now on nothing works: nobody knows what the disk holds until it is read again.
    pub(crate) fn fail(&self) {
        self.failed.store(true, Ordering::SeqCst);
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }
}

/// Learns when a store has let go of its file.
#[derive(Debug)]
pub(crate) struct Closed(mpsc::Receiver<()>);

impl Closed {
    /// Waits until the file is free, so long at most.
    pub(crate) fn wait(&self, most: std::time::Duration) {
        // Nothing is ever sent: it ends when the sender is gone.
        let _ = self.0.recv_timeout(most);
    }
}

impl RedbStore {
    /// Opens the store of a directory.
    ///
    /// After a crash the whole file is read, which takes some seconds per GiB.
    ///
    /// # Errors
    ///
    /// `Locked` if it is open already, in any process; `NotFound` if neither the directory nor its
    /// parent is there; `PermissionDenied` if it cannot be written; `Corrupt` if the file is damaged;
    /// `ResourceExhausted` if the disk is full; `FailedPrecondition` if a link or a directory stands
    /// in the file's place, or the file is of a later version.
    pub async fn open(config: RedbConfig, clock: Arc<dyn Clock>) -> Result<Self> {
        let opened = tokio::task::spawn_blocking(move || Self::open_now(config, clock)).await;
        opened
            .unwrap_or_else(|_| Err(panicked()))
            .map(|(store, _)| store)
    }

    /// Opens it on this thread, which waits for the disk.
    pub(crate) fn open_now(config: RedbConfig, clock: Arc<dyn Clock>) -> Result<(Self, Closed)> {
        let directory = format!("{:?}", config.directory);
        file::open(&config.directory)
            .and_then(|file| {
                let backend = FileBackend::new(file).map_err(Failure::from)?;
                Self::open_on(backend, config, clock)
            })
            .map_err(|err| match err.operation() {
                "" => err
                    .with_operation("store.open")
                    .with_context("directory", directory),
                _ => err,
            })
    }

    pub(crate) fn open_on(
        backend: impl StorageBackend,
        config: RedbConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, Closed)> {
        // redb panics over some files that were changed behind its back.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let db = Builder::new()
                .set_cache_size(config.cache_bytes)
                .set_check_integrity_on_open(config.check)
                .create_with_backend(backend)
                .map_err(Failure::from)?;
            let version = writer::prepare(&db)?;
            Ok((db, version))
        }));
        let (db, version) = opened.unwrap_or_else(|_| Err(panicked()))?;
        let (closed, until_closed) = mpsc::channel();
        let shared = Arc::new(Shared {
            db,
            config,
            clock,
            failed: AtomicBool::new(false),
            _closed: closed,
        });
        let (jobs, queue) = mpsc::channel();
        let writer = Writer::new(Arc::clone(&shared), version);
        std::thread::Builder::new()
            .name("micro-store-redb".to_owned())
            .spawn(move || writer.run(&queue))?;
        let store = Self(Arc::new(Inner {
            jobs,
            shared,
            queue: Arc::new(Semaphore::new(QUEUE)),
            reads: Arc::new(Semaphore::new(READS)),
        }));
        Ok((store, Closed(until_closed)))
    }

    pub(crate) fn config(&self) -> &RedbConfig {
        &self.0.shared.config
    }

    pub(crate) fn downgrade(&self) -> Weak {
        Weak(Arc::downgrade(&self.0))
    }

    /// Has the writer make changes, all or none.
    async fn change(&self, operations: Vec<Operation>) -> Result<Vec<u64>> {
        // Whoever gets the permit is in the queue before anybody can come between.
        let permit = Arc::clone(&self.0.queue)
            .acquire_owned()
            .await
            .map_err(|_| failed())?;
        let (reply, answer) = oneshot::channel();
        let job = Job {
            operations,
            reply,
            permit,
        };
        self.0.jobs.send(job).map_err(|_| failed())?;
        // A writer that is gone was in the middle of something.
        answer.await.unwrap_or_else(|_| {
            Err(Error::outcome_unknown(
                "the store has ended while the change was made",
            ))
        })
    }

    /// Reads on a thread that may wait for the disk.
    async fn reading<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Shared) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let permit = Arc::clone(&self.0.reads)
            .acquire_owned()
            .await
            .map_err(|_| failed())?;
        if self.0.shared.has_failed() {
            return Err(failed());
        }
        let shared = Arc::clone(&self.0.shared);
        let done = tokio::task::spawn_blocking(move || {
            let done = read(&shared);
            drop((shared, permit));
            done
        });
        done.await.unwrap_or_else(|err| {
            Err(if err.is_panic() {
                panicked()
            } else {
                Error::cancelled("the runtime is shutting down")
            })
        })
    }
}

impl fmt::Debug for RedbStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedbStore")
            .field("config", self.config())
            .finish_non_exhaustive()
    }
}

/// A store that may have been dropped.
#[derive(Debug)]
pub(crate) struct Weak(std::sync::Weak<Inner>);

impl Weak {
    pub(crate) fn upgrade(&self) -> Option<RedbStore> {
        self.0.upgrade().map(RedbStore)
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for RedbStore {
    fn backend(&self) -> &'static str {
        SCHEME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new(DURABILITY).with_exclusive(true)
    }

    async fn read(&self, scope: &Scope, key: &str, _opts: ReadOptions) -> Result<Record> {
        check_key(key).map_err(|err| err.with_operation("store.read"))?;
        let (scope, key) = (scope.clone(), key.to_owned());
        self.reading(move |shared| read::read(&shared.db, &scope, &key, shared.now()))
            .await
            .map_err(|err| err.with_operation("store.read"))
    }

    async fn write(&self, scope: &Scope, record: Record, opts: WriteOptions) -> Result<Written> {
        let write = async {
            check_record(&record, &opts)?;
            check_durability(opts.durability, DURABILITY)?;
            let operation = Operation::write_with(scope, record, opts);
            self.change(vec![operation]).await
        };
        let versions = write
            .await
            .map_err(|err| err.with_operation("store.write"))?;
        let version = versions.first().copied().unwrap_or_default();
        Ok(Written::new(version, DURABILITY))
    }

    async fn delete(&self, scope: &Scope, key: &str, opts: DeleteOptions) -> Result<Deleted> {
        let delete = async {
            check_delete(key, &opts)?;
            check_durability(opts.durability, DURABILITY)?;
            let operation = Operation::delete_with(scope, key, opts);
            self.change(vec![operation]).await
        };
        let versions = delete
            .await
            .map_err(|err| err.with_operation("store.delete"))?;
        let existed = versions.first().is_some_and(|version| *version > 0);
        Ok(Deleted::new(existed, DURABILITY))
    }

    async fn batch(&self, operations: Vec<Operation>, opts: BatchOptions) -> Result<Vec<Written>> {
        let batch = async {
            check_batch(&operations)?;
            let asked = operations.iter().map(Operation::durability).max().flatten();
            check_durability(opts.durability.max(asked), DURABILITY)?;
            self.change(operations).await
        };
        let versions = batch
            .await
            .map_err(|err| err.with_operation("store.batch"))?;
        Ok(versions
            .into_iter()
            .map(|version| Written::new(version, DURABILITY))
            .collect())
    }

    async fn list(&self, scope: &Scope, opts: ListOptions) -> Result<Page> {
        check_list(&opts).map_err(|err| err.with_operation("store.list"))?;
        let scope = scope.clone();
        self.reading(move |shared| read::list(&shared.db, &scope, &opts, shared.now()))
            .await
            .map_err(|err| err.with_operation("store.list"))
    }

    async fn scopes(&self, opts: ScopesOptions) -> Result<Vec<Scope>> {
        check_scopes(&opts).map_err(|err| err.with_operation("store.scopes"))?;
        self.reading(move |shared| read::scopes(&shared.db, &opts))
            .await
            .map_err(|err| err.with_operation("store.scopes"))
    }

    async fn watch(&self, _scope: &Scope, opts: WatchOptions) -> Result<ChangeStream> {
        check_watch(&opts)?;
        Err(Error::unimplemented("a store in a file has no watches").with_operation("store.watch"))
    }
}
