//! Values that may change while the program runs.

use std::fmt;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as TaskContext, Poll, Waker};

use arc_swap::ArcSwap;
use futures_core::Stream;

/// A value that may change while the program runs, and is always complete.
///
/// Reading it is one atomic load. Limits and policies are taken as `impl Into<Live<T>>`, so a
/// constant and a view of the configuration do equally well.
///
/// ```
/// use micro_core::Live;
///
/// let (writer, limit) = Live::channel(10);
/// assert_eq!(*limit.get(), 10);
/// writer.set(20);
/// assert_eq!(*limit.get(), 20);
/// ```
pub struct Live<T>(Arc<Shared<T>>);

struct Shared<T> {
    value: ArcSwap<T>,
    version: AtomicU64,
    waiting: Mutex<Vec<(u64, Waker)>>,
    /// The number of the next [`LiveChanges`].
    next: AtomicU64,
}

impl<T> Live<T> {
    /// A value that never changes.
    #[must_use]
    pub fn constant(value: T) -> Self {
        Self(Arc::new(Shared {
            value: ArcSwap::from_pointee(value),
            version: AtomicU64::new(0),
            waiting: Mutex::default(),
            next: AtomicU64::new(0),
        }))
    }

    /// A value and the handle that changes it.
    #[must_use]
    pub fn channel(value: T) -> (LiveWriter<T>, Self) {
        let live = Self::constant(value);
        (LiveWriter(Arc::clone(&live.0)), live)
    }

    /// The value now. Hold the guard briefly; use [`get_arc`](Self::get_arc) across awaits.
    #[must_use]
    pub fn get(&self) -> LiveGuard<T> {
        LiveGuard(self.0.value.load())
    }

    /// The value now, to be kept.
    #[must_use]
    pub fn get_arc(&self) -> Arc<T> {
        self.0.value.load_full()
    }

    /// A number that grows with every change, without looking at the value: who keeps something
    /// that follows from the value reads it before the value, and compares it later.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.0.version.load(Ordering::Acquire)
    }

    /// The changes from now on; see [`LiveChanges`].
    #[must_use]
    pub fn changes(&self) -> LiveChanges<T> {
        LiveChanges {
            seen: self.0.version.load(Ordering::Acquire),
            id: self.0.next.fetch_add(1, Ordering::Relaxed),
            waits: false,
            shared: Arc::clone(&self.0),
        }
    }
}

impl<T> Clone for Live<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Default> Default for Live<T> {
    fn default() -> Self {
        Self::constant(T::default())
    }
}

impl<T> From<T> for Live<T> {
    fn from(value: T) -> Self {
        Self::constant(value)
    }
}

impl<T: fmt::Debug> fmt::Debug for Live<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Live").field(&*self.get()).finish()
    }
}

/// Changes a [`Live`] value.
pub struct LiveWriter<T>(Arc<Shared<T>>);

impl<T> LiveWriter<T> {
    /// Replaces the value whole and tells those who watch.
    pub fn set(&self, value: T) {
        self.0.value.store(Arc::new(value));
        self.0.version.fetch_add(1, Ordering::AcqRel);
        let waiting = std::mem::take(
            &mut *self
                .0
                .waiting
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        for (_, waker) in waiting {
            waker.wake();
        }
    }

    /// A reader of the value.
    #[must_use]
    pub fn live(&self) -> Live<T> {
        Live(Arc::clone(&self.0))
    }
}

impl<T: fmt::Debug> fmt::Debug for LiveWriter<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LiveWriter")
            .field(&*self.0.value.load())
            .finish()
    }
}

/// The value of a [`Live`] at one moment.
pub struct LiveGuard<T>(arc_swap::Guard<Arc<T>>);

impl<T> Deref for LiveGuard<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: fmt::Debug> fmt::Debug for LiveGuard<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// A stream of the values that a [`Live`] takes.
///
/// It skips values that were replaced before it was polled, and always gets to the newest one.
/// It never ends. It may be dropped at any time, and leaves nothing behind.
pub struct LiveChanges<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
    id: u64,
    /// Whether our waker may be in place.
    waits: bool,
}

impl<T: Send + Sync> LiveChanges<T> {
    /// Waits for the next change. Dropping the future loses nothing.
    pub async fn changed(&mut self) -> Arc<T> {
        std::future::poll_fn(|cx| self.poll_changed(cx)).await
    }
}

impl<T> LiveChanges<T> {
    fn poll_changed(&mut self, cx: &mut TaskContext<'_>) -> Poll<Arc<T>> {
        let mut waiting = self
            .shared
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let version = self.shared.version.load(Ordering::Acquire);
        if version != self.seen {
            self.seen = version;
            self.waits = false;
            return Poll::Ready(self.shared.value.load_full());
        }
        match waiting.iter_mut().find(|(known, _)| *known == self.id) {
            Some((_, known)) => known.clone_from(cx.waker()),
            None => waiting.push((self.id, cx.waker().clone())),
        }
        self.waits = true;
        Poll::Pending
    }
}

impl<T> Drop for LiveChanges<T> {
    fn drop(&mut self) {
        if self.waits {
            let waiting = self.shared.waiting.lock();
            let mut waiting = waiting.unwrap_or_else(PoisonError::into_inner);
            // A value that seldom changes must not keep every task that ever watched it.
            waiting.retain(|(known, _)| *known != self.id);
        }
    }
}

impl<T> Stream for LiveChanges<T> {
    type Item = Arc<T>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Arc<T>>> {
        self.poll_changed(cx).map(Some)
    }
}

impl<T> fmt::Debug for LiveChanges<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveChanges")
            .field("seen", &self.seen)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watcher_ends_with_the_newest_value() {
        let (writer, live) = Live::channel(0);
        let mut changes = live.changes();
        let mut cx = TaskContext::from_waker(Waker::noop());
        assert!(changes.poll_changed(&mut cx).is_pending());
        for value in 1..=100 {
            writer.set(value);
        }
        assert_eq!(changes.poll_changed(&mut cx), Poll::Ready(Arc::new(100)));
        assert!(changes.poll_changed(&mut cx).is_pending());
    }

    #[test]
    fn a_watcher_that_is_dropped_leaves_nothing_behind() {
        let (writer, live) = Live::channel(0);
        let mut cx = TaskContext::from_waker(Waker::noop());
        let mut stays = live.changes();
        assert!(stays.poll_changed(&mut cx).is_pending());
        for _ in 0..3 {
            let mut changes = live.changes();
            assert!(changes.poll_changed(&mut cx).is_pending());
            assert!(changes.poll_changed(&mut cx).is_pending());
        }
        let waiting = || live.0.waiting.lock().unwrap().len();
        assert_eq!(waiting(), 1);
        writer.set(1);
        assert_eq!(waiting(), 0);
        assert!(stays.poll_changed(&mut cx).is_ready());
    }

    #[test]
    fn constants_and_views_are_both_accepted() {
        fn limit(limit: impl Into<Live<usize>>) -> usize {
            *limit.into().get()
        }
        let (_writer, live) = Live::channel(7);
        assert_eq!((limit(3), limit(live)), (3, 7));
    }
}
