//! The trait of this crate.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_core::Stream;

use crate::{
    BatchOptions, Change, DeleteOptions, Deleted, Durability, ListOptions, Operation, Page,
    ReadOptions, Record, Result, Scope, ScopesOptions, WatchOptions, WriteOptions, Written,
    async_trait,
};

/// Changes seen by a watch; dropping the stream ends the watch.
pub type ChangeStream = Pin<Box<dyn Stream<Item = Result<Change>> + Send + 'static>>;

/// What a store can do beyond the required behaviour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// What a write survives if nothing is asked for.
    pub durability: Durability,
    /// The most that a write can be made to survive.
    pub max_durability: Durability,
    /// Whether [`watch`](Store::watch) works.
    pub watch: bool,
    /// Whether other processes see the same records. Such a store may count expiry by a clock of its
    /// own instead of the one it was opened with.
    pub shared: bool,
    /// Whether a second who opens it gets `Locked` while the first holds it.
    pub exclusive: bool,
    /// How long a read may take no notice of a change that was made elsewhere, by another handle or
    /// process: zero, unless something is remembered in between. A handle's own changes are seen at
    /// once, and conditions and fences hold, whatever this says.
    pub staleness: Duration,
}

impl Capabilities {
    /// A store of one durability, without watches, seen by this process alone.
    #[must_use]
    pub const fn new(durability: Durability) -> Self {
        Self {
            durability,
            max_durability: durability,
            watch: false,
            shared: false,
            exclusive: false,
            staleness: Duration::ZERO,
        }
    }

    /// Sets [`max_durability`](Self::max_durability).
    #[must_use]
    pub const fn with_max_durability(mut self, durability: Durability) -> Self {
        self.max_durability = durability;
        self
    }

    /// Sets [`watch`](Self::watch).
    #[must_use]
    pub const fn with_watch(mut self, watch: bool) -> Self {
        self.watch = watch;
        self
    }

    /// Sets [`shared`](Self::shared).
    #[must_use]
    pub const fn with_shared(mut self, shared: bool) -> Self {
        self.shared = shared;
        self
    }

    /// Sets [`exclusive`](Self::exclusive).
    #[must_use]
    pub const fn with_exclusive(mut self, exclusive: bool) -> Self {
        self.exclusive = exclusive;
        self
    }

    /// Sets [`staleness`](Self::staleness).
    #[must_use]
    pub const fn with_staleness(mut self, staleness: Duration) -> Self {
        self.staleness = staleness;
        self
    }
}

/// Records by key.
///
/// A handle is cheap to share behind [`Arc`]. Futures may be dropped at any await point: a dropped
/// change either took effect or did not, never half, and it takes no effect behind a later change
/// that was begun on the same handle. Put `#[async_trait]` on the impl.
///
/// Each key is linearizable: once a change has returned, every later read sees it or a newer one; of
/// changes made elsewhere, after [`Capabilities::staleness`].
///
/// A fence is kept by the scope's database and its name: a change that happens leaves its token there,
/// in the same step, if it is the highest; one that does not happen leaves nothing. A fence is checked
/// before a condition is.
///
/// Errors common to all: `InvalidArgument` and `ResourceExhausted` for what the checks of this crate
/// refuse, `ResourceExhausted` also if the store is full, `Unavailable` if it cannot be reached,
/// `Locked` if another holds it, `Corrupt` if stored bytes are not what was written,
/// `FailedPrecondition` if it has failed for good and must be opened again. Those of changes also:
/// `OutcomeUnknown` if the change may have happened, `Lost` if it was fenced and a higher token of
/// that name was seen, `Unimplemented` if more durability is asked for than
/// [`Capabilities::max_durability`]. With all but `OutcomeUnknown`, nothing has happened.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// The backend's name, as in its URL scheme: `"memory"`, `"redb"`.
    fn backend(&self) -> &'static str;

    /// What this backend can do beyond the required behaviour.
    fn capabilities(&self) -> Capabilities;

    /// Reads a record.
    ///
    /// # Errors
    ///
    /// `NotFound` if there is none, or it has expired; those of all.
    async fn read(&self, scope: &Scope, key: &str, opts: ReadOptions) -> Result<Record>;

    /// Writes a record over what is there: nothing of that stays, neither metadata nor expiry.
    ///
    /// A record whose expiry has passed already is written too: there is none of its key then.
    ///
    /// # Errors
    ///
    /// `AlreadyExists` if [`Condition::Absent`](crate::Condition::Absent) does not hold, `Aborted` if
    /// [`Condition::Version`](crate::Condition::Version) does not; those of changes.
    async fn write(&self, scope: &Scope, record: Record, opts: WriteOptions) -> Result<Written>;

    /// Deletes a record. Deleting an absent one succeeds, unless a version was asked for.
    ///
    /// # Errors
    ///
    /// `Aborted` if [`Condition::Version`](crate::Condition::Version) does not hold; those of changes.
    async fn delete(&self, scope: &Scope, key: &str, opts: DeleteOptions) -> Result<Deleted>;

    /// Makes several changes in one step: all or none happen, and nobody sees a part of them. All are
    /// in one database, in any of its tables, and none of them meets another: [`check_batch`] says
    /// what is refused.
    ///
    /// Answers in the order of the operations.
    ///
    /// [`check_batch`]: crate::check_batch
    ///
    /// # Errors
    ///
    /// Those of [`write`](Self::write) and [`delete`](Self::delete), of the first operation that
    /// has one.
    async fn batch(&self, operations: Vec<Operation>, opts: BatchOptions) -> Result<Vec<Written>>;

    /// Lists records in the order of their keys' bytes. A page is not one moment of the store.
    ///
    /// # Errors
    ///
    /// Those of all.
    async fn list(&self, scope: &Scope, opts: ListOptions) -> Result<Page>;

    /// Lists where there are records, by database and then table. A table whose records have all
    /// expired or been deleted may be listed for some time.
    ///
    /// # Errors
    ///
    /// Those of all.
    async fn scopes(&self, opts: ScopesOptions) -> Result<Vec<Scope>>;

    /// Reports changes made after this call returns; those of a key in their order.
    ///
    /// The stream ends, or yields an error and ends, when changes may have been missed: list
    /// again, then watch again. It never skips one silently, except those of a key that changed
    /// again meanwhile.
    ///
    /// # Errors
    ///
    /// `Unimplemented` without [`Capabilities::watch`]; those of all. The stream's own: `Aborted` if
    /// the reader was too slow.
    async fn watch(&self, scope: &Scope, opts: WatchOptions) -> Result<ChangeStream>;
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Store + ?Sized> Store for Arc<S> {
    fn backend(&self) -> &'static str {
        (**self).backend()
    }

    fn capabilities(&self) -> Capabilities {
        (**self).capabilities()
    }

    async fn read(&self, scope: &Scope, key: &str, opts: ReadOptions) -> Result<Record> {
        (**self).read(scope, key, opts).await
    }

    async fn write(&self, scope: &Scope, record: Record, opts: WriteOptions) -> Result<Written> {
        (**self).write(scope, record, opts).await
    }

    async fn delete(&self, scope: &Scope, key: &str, opts: DeleteOptions) -> Result<Deleted> {
        (**self).delete(scope, key, opts).await
    }

    async fn batch(&self, operations: Vec<Operation>, opts: BatchOptions) -> Result<Vec<Written>> {
        (**self).batch(operations, opts).await
    }

    async fn list(&self, scope: &Scope, opts: ListOptions) -> Result<Page> {
        (**self).list(scope, opts).await
    }

    async fn scopes(&self, opts: ScopesOptions) -> Result<Vec<Scope>> {
        (**self).scopes(opts).await
    }

    async fn watch(&self, scope: &Scope, opts: WatchOptions) -> Result<ChangeStream> {
        (**self).watch(scope, opts).await
    }
}

// `Store` must stay usable as a trait object.
const _: fn(&dyn Store) = |_| ();
