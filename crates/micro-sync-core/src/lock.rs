//! The guards.

use std::fmt;
use std::future::poll_fn;
use std::ops::Deref;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use crate::{Error, Fence, FencingToken, Result, Tenure, async_trait};

/// By what a guard speaks to its backend: for implementors of [`Coordinator`](crate::Coordinator).
///
/// Dropping it lets go of the lock, without waiting, and so does dropping the future of
/// [`release`](Self::release) at any time.
#[async_trait]
pub trait Hold: fmt::Debug + Send + Sync + 'static {
    /// Asks the backend whether the lock is still this holder's, and ends the [`Tenure`] if not.
    ///
    /// # Errors
    ///
    /// `Lost` if it is not; `Unavailable` if the backend cannot be asked.
    async fn verify(&self) -> Result<()>;

    /// Lets go, and waits until the backend knows it. What another holds meanwhile stays untouched.
    ///
    /// # Errors
    ///
    /// `Lost` if the lock was no longer this holder's; `OutcomeUnknown` if the backend may not know
    /// it: then the lock ends with its time to live, at the latest.
    async fn release(self: Box<Self>) -> Result<()>;
}

/// A lock that is held. Dropping it lets go, without waiting for the backend.
///
/// It can be shared by reference or in an [`Arc`]; it cannot be cloned, since there is one holder.
#[must_use = "dropping it lets go of the lock"]
pub struct Lock {
    name: Arc<str>,
    token: FencingToken,
    tenure: Arc<Tenure>,
    hold: Box<dyn Hold>,
}

impl Lock {
    /// A lock that a backend has given: for implementors.
    pub fn new(
        name: impl Into<Arc<str>>,
        token: FencingToken,
        tenure: Arc<Tenure>,
        hold: Box<dyn Hold>,
    ) -> Self {
        Self {
            name: name.into(),
            token,
            tenure,
            hold,
        }
    }

    /// The name it was asked for by, without the namespace.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The token, greater than that of every earlier holder of this name.
    #[must_use]
    pub fn token(&self) -> FencingToken {
        self.token
    }

    /// What to give to whatever is changed under this lock, which then refuses those who held it
    /// before.
    #[must_use]
    pub fn fence(&self) -> Fence {
        Fence::new(&*self.name, self.token)
    }

    /// The time in which it is held: for those who wrap guards.
    #[must_use]
    pub fn tenure(&self) -> &Arc<Tenure> {
        &self.tenure
    }

    /// Whether it is held, by what this process knows and its monotonic clock: no question to the
    /// backend. Once false, it stays false.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.tenure.is_held()
    }

    /// How long it is held even if the backend is not heard of any more; zero when it is lost, and
    /// [`Duration::MAX`] where locks have no end.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.tenure.remaining()
    }

    /// Resolves when the lock is lost, with an error of kind `Lost` that says why. It may be awaited any
    /// number of times and dropped at any time.
    pub async fn lost(&self) -> Error {
        self.about(self.tenure.lost().await, "sync.lost")
    }

    /// Asks the backend whether this lock is still the one that counts.
    ///
    /// Even then it may be lost in the next moment: what is changed under it has to be
    /// [fenced](Self::fence).
    ///
    /// # Errors
    ///
    /// `Lost` if it is not; `Unavailable` if the backend cannot be asked.
    pub async fn verify(&self) -> Result<()> {
        let verified = self.hold.verify().await;
        let verified = verified.and_then(|()| {
            if self.is_held() {
                return Ok(());
            }
            Err(self.tenure.error())
        });
        verified.map_err(|err| self.about(err, "sync.verify"))
    }

    /// Works as long as the lock is held. When it is lost, the work is dropped where it stands.
    ///
    /// The lock is looked at before each step of the work, so that one who slept too long does not
    /// wake up into the middle of what others do now. What the work has handed to other tasks goes on.
    ///
    /// # Errors
    ///
    /// `Lost` if the work was stopped.
    pub async fn run<F: Future>(&self, work: F) -> Result<F::Output> {
        let mut lost = pin!(self.lost());
        let mut work = pin!(work);
        poll_fn(|cx| match lost.as_mut().poll(cx) {
            Poll::Ready(err) => Poll::Ready(Err(err)),
            Poll::Pending => work.as_mut().poll(cx).map(Ok),
        })
        .await
    }

    /// Lets go, and waits until the backend knows it. It goes on if the future is dropped.
    ///
    /// # Errors
    ///
    /// `Lost` if it was lost before, and whoever holds it now is left alone; `OutcomeUnknown` if the
    /// backend may not know it: then the lock ends with its time to live, at the latest.
    pub async fn release(self) -> Result<()> {
        let Self {
            name, tenure, hold, ..
        } = self;
        let held = tenure.is_held();
        let released = match hold.release().await {
            Ok(()) if !held => Err(tenure.error()),
            released => released,
        };
        released.map_err(|err| about(err, "sync.release", &name))
    }

    fn about(&self, err: Error, operation: &'static str) -> Error {
        about(err, operation, &self.name)
    }
}

fn about(err: Error, operation: &'static str, name: &str) -> Error {
    err.with_operation(operation).with_context("lock", name)
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock")
            .field("name", &self.name)
            .field("token", &self.token)
            .field("held", &self.is_held())
            .finish_non_exhaustive()
    }
}

/// A leadership: a [`Lock`] whose holder others can [observe](crate::Coordinator::observe).
///
/// It has all that a lock has; dropping it resigns, without waiting for the backend.
#[must_use = "dropping it resigns"]
#[derive(Debug)]
pub struct Leadership {
    lock: Lock,
    value: String,
}

impl Leadership {
    /// A leadership that a backend has given: for implementors.
    pub fn new(lock: Lock, value: impl Into<String>) -> Self {
        Self {
            lock,
            value: value.into(),
        }
    }

    /// What observers are told of this leader.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }

    /// Makes room for another leader, and waits until the backend knows it. It goes on if the future
    /// is dropped.
    ///
    /// # Errors
    ///
    /// Those of [`Lock::release`].
    pub async fn resign(self) -> Result<()> {
        self.lock.release().await
    }
}

impl Deref for Leadership {
    type Target = Lock;

    fn deref(&self) -> &Lock {
        &self.lock
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Waker};
    use std::time::{Instant, SystemTime};

    use micro_core::{Clock, ErrorKind, SystemClock};

    use super::*;

    #[derive(Debug)]
    struct Counted(Arc<AtomicUsize>);

    #[async_trait]
    impl Hold for Counted {
        async fn verify(&self) -> Result<()> {
            Ok(())
        }

        async fn release(self: Box<Self>) -> Result<()> {
            Ok(())
        }
    }

    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Stands where it is put.
    #[derive(Debug)]
    struct Hand(Instant, Mutexed);
    type Mutexed = std::sync::Mutex<Duration>;

    impl Clock for Hand {
        fn now(&self) -> Instant {
            self.0 + *self.1.lock().unwrap()
        }

        fn wall(&self) -> SystemTime {
            SystemTime::UNIX_EPOCH
        }
    }

    struct Site {
        clock: Arc<Hand>,
        tenure: Arc<Tenure>,
        released: Arc<AtomicUsize>,
        lock: Lock,
    }

    /// A lock for a second, and its clock.
    fn site() -> Site {
        let start = SystemClock.now();
        let clock = Arc::new(Hand(start, Mutexed::default()));
        let until = start + Duration::from_secs(1);
        let tenure = Arc::new(Tenure::new(Arc::clone(&clock) as _, Some(until)));
        let released = Arc::new(AtomicUsize::new(0));
        let hold = Box::new(Counted(Arc::clone(&released)));
        let lock = Lock::new("books", FencingToken::new(0, 7), Arc::clone(&tenure), hold);
        Site {
            clock,
            tenure,
            released,
            lock,
        }
    }

    fn now_or_never<T>(future: impl Future<Output = T>) -> Option<T> {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    #[test]
    fn the_clock_ends_it_and_nothing_brings_it_back() {
        let site = site();
        assert!(site.lock.is_held() && now_or_never(site.lock.lost()).is_none());
        assert_eq!(now_or_never(site.lock.verify()).unwrap().ok(), Some(()));
        *site.clock.1.lock().unwrap() = Duration::from_secs(1);
        assert!(!site.lock.is_held());
        assert_eq!(site.lock.remaining(), Duration::ZERO);
        site.tenure.renew(site.clock.0 + Duration::from_secs(9));
        assert!(!site.lock.is_held(), "late is too late");
        let lost = now_or_never(site.lock.lost()).unwrap();
        assert_eq!(lost.kind(), ErrorKind::Lost);
        // The backend still has it for us, in its margin; we do not.
        let verified = now_or_never(site.lock.verify()).unwrap();
        assert_eq!(verified.unwrap_err().kind(), ErrorKind::Lost);
        let released = now_or_never(site.lock.release()).unwrap().unwrap_err();
        assert_eq!(released.kind(), ErrorKind::Lost);
        assert!(released.to_string().contains("books"), "{released}");
        assert_eq!(site.released.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn work_is_stopped_before_its_next_step() {
        let site = site();
        let steps = AtomicUsize::new(0);
        let mut run = pin!(site.lock.run(poll_fn(|_| {
            steps.fetch_add(1, Ordering::SeqCst);
            Poll::<()>::Pending
        })));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(run.as_mut().poll(&mut cx).is_pending());
        site.tenure.end("the lease was revoked");
        let Poll::Ready(Err(err)) = run.as_mut().poll(&mut cx) else {
            panic!("the work goes on");
        };
        assert_eq!(err.message(), "the lease was revoked");
        assert_eq!(steps.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn dropping_lets_go_once() {
        let site = site();
        assert_eq!(
            now_or_never(site.lock.run(async { 7 })).unwrap().ok(),
            Some(7)
        );
        drop(Leadership::new(site.lock, "me"));
        assert_eq!(site.released.load(Ordering::SeqCst), 1);
    }
}
