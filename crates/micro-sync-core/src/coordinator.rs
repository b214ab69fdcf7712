//! The trait of this crate.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_core::Stream;

use crate::{
    ElectOptions, Fence, FencingToken, Leadership, Lock, LockOptions, Result, async_trait,
};

/// What a coordinator can do beyond the required behaviour, and what it demands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Whether other processes take part. Their locks end with their time to live if they are gone.
    pub shared: bool,
    /// Whether those who wait are served in the order in which they began to.
    pub fair: bool,
    /// The shortest time to live that it can keep.
    pub min_ttl: Duration,
}

impl Capabilities {
    /// Sets [`shared`](Self::shared).
    #[must_use]
    pub const fn with_shared(mut self, shared: bool) -> Self {
        self.shared = shared;
        self
    }

    /// Sets [`fair`](Self::fair).
    #[must_use]
    pub const fn with_fair(mut self, fair: bool) -> Self {
        self.fair = fair;
        self
    }

    /// Sets [`min_ttl`](Self::min_ttl).
    #[must_use]
    pub const fn with_min_ttl(mut self, min_ttl: Duration) -> Self {
        self.min_ttl = min_ttl;
        self
    }
}

/// Who leads, as observers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leader {
    /// What it said of itself: [`ElectOptions::value`]; empty for the holder of a plain lock.
    pub value: String,
    /// Its token.
    pub token: FencingToken,
}

impl Leader {
    /// A leader.
    #[must_use]
    pub fn new(value: impl Into<String>, token: FencingToken) -> Self {
        Self {
            value: value.into(),
            token,
        }
    }
}

/// Leaders, one after the other, and `None` while there is none; dropping the stream ends it.
pub type LeaderStream = Pin<Box<dyn Stream<Item = Result<Option<Leader>>> + Send + 'static>>;

/// Who gives locks and leaderships.
///
/// Locks and leaderships of one name exclude each other, and share one row of tokens. A name stands
/// within the namespace of the [`Env`](crate::Env) that the coordinator was opened with.
///
/// A handle is cheap to share behind [`Arc`]. A lock is not tied to the task that asked for it. Asking
/// again for a lock that one holds waits for oneself. Futures may be dropped at any await: nothing is
/// held then, and no place in the queue kept. Put `#[async_trait]` on the impl.
///
/// Errors common to all: `InvalidArgument` for what the checks of this crate refuse, `Unavailable` if
/// the backend cannot be reached, or was not for so long that the place in the queue is gone,
/// `ResourceExhausted` if too many wait. With any error nothing is held.
#[async_trait]
pub trait Coordinator: fmt::Debug + Send + Sync + 'static {
    /// The backend's name, as in its URL scheme: `"memory"`, `"etcd"`.
    fn backend(&self) -> &'static str;

    /// What this backend can do beyond the required behaviour.
    fn capabilities(&self) -> Capabilities;

    /// Waits for a lock.
    ///
    /// # Errors
    ///
    /// `DeadlineExceeded` if others had it for all of [`LockOptions::wait`]; those of all.
    async fn lock(&self, name: &str, opts: LockOptions) -> Result<Lock>;

    /// Takes a lock if it is free; `None` if somebody holds it, or stands in the queue.
    /// [`LockOptions::wait`] is not looked at.
    ///
    /// # Errors
    ///
    /// Those of all.
    async fn try_lock(&self, name: &str, opts: LockOptions) -> Result<Option<Lock>>;

    /// Campaigns until elected.
    ///
    /// # Errors
    ///
    /// `DeadlineExceeded` if another led for all of [`ElectOptions::wait`]; those of all.
    async fn elect(&self, name: &str, opts: ElectOptions) -> Result<Leadership>;

    /// Who holds the lock or leads, at once, and then whenever that changes.
    ///
    /// The tokens only grow. A reader that is slow misses those in between and sees the newest. While
    /// the backend cannot be reached it is silent: the last leader it named may not lead any more.
    ///
    /// # Errors
    ///
    /// Those of all. The stream's own end it: `PermissionDenied` and such.
    async fn observe(&self, name: &str) -> Result<LeaderStream>;
}

/// Short forms of [`Coordinator`] calls, for callers.
///
/// Implemented for every coordinator; it cannot be implemented by hand.
pub trait CoordinatorExt: Coordinator {
    /// Waits for a lock, works under it, and lets go. The work is stopped if the lock is lost.
    ///
    /// The work is given the fence for what it changes. Once it is done, that the backend could not be
    /// told to free the lock is no error: it ends with its time to live.
    ///
    /// # Errors
    ///
    /// Those of [`lock`](Coordinator::lock); `Lost` if the work was stopped.
    fn locked<F>(
        &self,
        name: &str,
        opts: LockOptions,
        work: impl FnOnce(Fence) -> F + Send,
    ) -> impl Future<Output = Result<F::Output>> + Send
    where
        F: Future<Output: Send> + Send,
    {
        async {
            let lock = self.lock(name, opts).await?;
            let done = lock.run(work(lock.fence())).await?;
            let _ = lock.release().await;
            Ok(done)
        }
    }
}

impl<C: Coordinator + ?Sized> CoordinatorExt for C {}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<C: Coordinator + ?Sized> Coordinator for Arc<C> {
    fn backend(&self) -> &'static str {
        (**self).backend()
    }

    fn capabilities(&self) -> Capabilities {
        (**self).capabilities()
    }

    async fn lock(&self, name: &str, opts: LockOptions) -> Result<Lock> {
        (**self).lock(name, opts).await
    }

    async fn try_lock(&self, name: &str, opts: LockOptions) -> Result<Option<Lock>> {
        (**self).try_lock(name, opts).await
    }

    async fn elect(&self, name: &str, opts: ElectOptions) -> Result<Leadership> {
        (**self).elect(name, opts).await
    }

    async fn observe(&self, name: &str) -> Result<LeaderStream> {
        (**self).observe(name).await
    }
}

// `Coordinator` must stay usable as a trait object.
const _: fn(&dyn Coordinator) = |_| ();
