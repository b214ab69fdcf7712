//! The store: changes go to the writer, listings to threads that may wait, reads there as well if they do.

use std::fmt;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use micro_core::Clock;
use micro_store_core::{
    BatchOptions, Capabilities, ChangeStream, DeleteOptions, Deleted, Durability, Error, ErrorKind,
    ListOptions, Operation, Page, ReadOptions, Record, Result, Scope, ScopesOptions, Store,
    WatchOptions, WriteOptions, Written, async_trait, check_batch, check_delete, check_durability,
    check_key, check_list, check_record, check_scopes, check_watch,
};
use tokio::sync::{Semaphore, oneshot};

use crate::engine::{Engine, EngineConfig as _};
use crate::envelope::millis;
use crate::read::Filling;
use crate::writer::{Job, Writer};
use crate::{read, writer};

/// So many changes wait for the writer at most; who comes later waits to get into the queue.
const QUEUE: usize = 1024;

/// So many reads are made at a time.
const READS: usize = 64;

/// A read of one record is made in place, without the way to another thread and back that takes ten
/// times as long. One that takes longer than this has waited for the disk, or for a commit.
const QUICK: Duration = Duration::from_micros(500);

/// So many reads go to other threads then, before one is made in place again.
const ELSEWHERE: u32 = 256;

/// What every change survives.
const DURABILITY: Durability = Durability::Power;

/// A store in a directory; clones see the same records.
///
/// When the last clone is dropped, the changes under way are finished and the files are closed; until
/// then they stay locked.
pub struct FileStore<E: Engine>(Arc<Inner<E>>);

impl<E: Engine> Clone for FileStore<E> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct Inner<E: Engine> {
    // Dropped before the way to the writer is, so that the files are closed on the writer's thread.
    shared: Arc<Shared<E>>,
    jobs: Sender<Job>,
    queue: Arc<Semaphore>,
    reads: Arc<Semaphore>,
}

/// What the handle, its reads and the writer have in common.
pub(crate) struct Shared<E> {
    pub(crate) engine: E,
    pub(crate) clock: Arc<dyn Clock>,
    failed: AtomicBool,
    /// So many of the next reads are not to be made in place.
    elsewhere: AtomicU32,
    /// Behind the engine, so that it is closed when this goes.
    _closed: mpsc::Sender<()>,
}

impl<E: Engine> Shared<E> {
    fn read(&self, scope: &Scope, key: &str) -> Result<Record> {
        read::read(&self.engine.view()?, scope, key, self.now())
    }

    /// Reads in place, if that is quick these days; nothing if it is not.
    fn read_in_place(&self, scope: &Scope, key: &str) -> Option<Result<Record>> {
        let left = self.elsewhere.load(Ordering::Relaxed);
        if left > 0 {
            // Two who meet here make it one less, which is no harm.
            self.elsewhere.store(left - 1, Ordering::Relaxed);
            return None;
        }
        if self.has_failed() {
            return Some(Err(failed()));
        }
        let begun = self.clock.now();
        let read = catch_unwind(AssertUnwindSafe(|| self.read(scope, key)));
        if self.clock.now().saturating_duration_since(begun) > QUICK {
            self.elsewhere.store(ELSEWHERE, Ordering::Relaxed);
        }
        Some(read.unwrap_or_else(|_| Err(panicked::<E>())))
    }

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

/// The engine has panicked: some do so over files that were changed behind their backs.
pub(crate) fn panicked<E: Engine>() -> Error {
    let message = format!(
        "{} has panicked: the store's files are most likely damaged",
        E::NAME
    );
    Error::new(ErrorKind::Corrupt, message)
}

/// An earlier change could not be brought to the disk.
pub(crate) fn failed() -> Error {
    Error::failed_precondition(
        "an earlier change could not be brought to the disk: the store must be opened again",
    )
}

/// Learns when a store has let go of its files.
#[derive(Debug)]
pub struct Closed(mpsc::Receiver<()>);

impl Closed {
    /// Waits until the files are free, so long at most.
    pub fn wait(&self, most: Duration) {
        // Nothing is ever sent: it ends when the sender is gone.
        let _ = self.0.recv_timeout(most);
    }
}

impl<E: Engine> FileStore<E> {
    /// Opens the store of a directory.
    ///
    /// After a crash the whole store may be read, which takes some seconds per GiB.
    ///
    /// # Errors
    ///
    /// `Locked` if it is open already, in any process; `NotFound` if neither the directory nor its
    /// parent is there; `PermissionDenied` if it cannot be written; `Corrupt` if its files are
    /// damaged; `ResourceExhausted` if the disk is full; `FailedPrecondition` if a link or a directory
    /// stands in a file's place, or the store is of a later version.
    pub async fn open(config: E::Config, clock: Arc<dyn Clock>) -> Result<Self> {
        let opened = tokio::task::spawn_blocking(move || Self::open_now(&config, clock)).await;
        opened
            .unwrap_or_else(|_| Err(panicked::<E>()))
            .map(|(store, _)| store)
    }

    /// Opens it on this thread, which waits for the disk.
    pub(crate) fn open_now(config: &E::Config, clock: Arc<dyn Clock>) -> Result<(Self, Closed)> {
        let directory = format!("{:?}", config.directory());
        Self::open_with(|| E::open(config), clock).map_err(|err| match err.operation() {
            "" => err
                .with_operation("store.open")
                .with_context("directory", directory),
            _ => err,
        })
    }

    /// Opens it over an engine that is opened by `open`, on this thread.
    ///
    /// # Errors
    ///
    /// Those of `open`; `Corrupt` if the engine holds something else, or panics.
    pub fn open_with(
        open: impl FnOnce() -> Result<E>,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, Closed)> {
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let engine = open()?;
            let version = writer::prepare(&engine)?;
            Ok((engine, version))
        }));
        let (engine, version) = opened.unwrap_or_else(|_| Err(panicked::<E>()))?;
        let (closed, until_closed) = mpsc::channel();
        let shared = Arc::new(Shared {
            engine,
            clock,
            failed: AtomicBool::new(false),
            elsewhere: AtomicU32::new(0),
            _closed: closed,
        });
        let (jobs, queue) = mpsc::channel();
        let writer = Writer::new(Arc::clone(&shared), version);
        std::thread::Builder::new()
            .name(format!("micro-{}", E::NAME))
            .spawn(move || writer.run(&queue))?;
        let store = Self(Arc::new(Inner {
            jobs,
            shared,
            queue: Arc::new(Semaphore::new(QUEUE)),
            reads: Arc::new(Semaphore::new(READS)),
        }));
        Ok((store, Closed(until_closed)))
    }

    pub(crate) fn downgrade(&self) -> Weak<E> {
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
        read: impl FnOnce(&Shared<E>) -> Result<T> + Send + 'static,
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
                panicked::<E>()
            } else {
                Error::cancelled("the runtime is shutting down")
            })
        })
    }
}

impl<E: Engine> fmt::Debug for FileStore<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileStore")
            .field("engine", &E::NAME)
            .finish_non_exhaustive()
    }
}

/// A store that may have been dropped.
pub(crate) struct Weak<E: Engine>(std::sync::Weak<Inner<E>>);

impl<E: Engine> Weak<E> {
    pub(crate) fn upgrade(&self) -> Option<FileStore<E>> {
        self.0.upgrade().map(FileStore)
    }
}

#[async_trait]
impl<E: Engine> Store for FileStore<E> {
    fn backend(&self) -> &'static str {
        E::NAME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new(DURABILITY).with_exclusive(true)
    }

    async fn read(&self, scope: &Scope, key: &str, _opts: ReadOptions) -> Result<Record> {
        check_key(key).map_err(|err| err.with_operation("store.read"))?;
        // In place there is no await at which others would have their turn.
        tokio::task::coop::consume_budget().await;
        let read = match self.0.shared.read_in_place(scope, key) {
            Some(read) => read,
            None => {
                let (scope, key) = (scope.clone(), key.to_owned());
                self.reading(move |shared| shared.read(&scope, &key)).await
            }
        };
        read.map_err(|err| err.with_operation("store.read"))
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
        // Gone when nobody waits any more: a listing may have much to look at.
        let waiting = Arc::new(());
        let waits = Arc::downgrade(&waiting);
        let page = self.reading(move |shared| {
            let mut page = Filling::new(&scope, &opts, shared.now());
            while waits.strong_count() > 0 {
                if let ControlFlow::Break(page) = page.go_on(&shared.engine.view()?)? {
                    return Ok(page);
                }
            }
            Err(Error::cancelled("nobody waits for this listing any more"))
        });
        let page = page.await.map_err(|err| err.with_operation("store.list"));
        drop(waiting);
        page
    }

    async fn scopes(&self, opts: ScopesOptions) -> Result<Vec<Scope>> {
        check_scopes(&opts).map_err(|err| err.with_operation("store.scopes"))?;
        self.reading(move |shared| read::scopes(&shared.engine.view()?, &opts))
            .await
            .map_err(|err| err.with_operation("store.scopes"))
    }

    async fn watch(&self, _scope: &Scope, opts: WatchOptions) -> Result<ChangeStream> {
        check_watch(&opts)?;
        Err(Error::unimplemented("a store in a file has no watches").with_operation("store.watch"))
    }
}
