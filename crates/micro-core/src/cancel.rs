//! Cancellation that needs no runtime.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as TaskContext, Poll, Waker};

use crate::context::Served;

/// Cancels a [`Context`](crate::Context) and all that were made from it.
///
/// Dropping it cancels nothing.
#[derive(Clone, Debug)]
pub struct Canceller(pub(crate) Arc<Scope>);

impl Canceller {
    /// Cancels; doing it again changes nothing.
    pub fn cancel(&self) {
        self.0.cancel();
    }

    /// Whether it was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }
}

/// One level of cancellation: a scope is cancelled with itself or with any scope around it.
#[derive(Debug, Default)]
pub(crate) struct Scope {
    cancelled: AtomicBool,
    waiting: Mutex<Waiting>,
    parent: Option<Arc<Self>>,
    /// The call being served, which is one scope: they live in one piece of memory.
    pub(crate) served: Option<Served>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    wakers: Vec<(u64, Waker)>,
}

impl Scope {
    pub(crate) fn new(parent: Option<Arc<Self>>) -> Self {
        Self {
            parent,
            ..Self::default()
        }
    }

    /// The scope of a call being served.
    pub(crate) fn of(served: Served) -> Self {
        Self {
            served: Some(served),
            ..Self::default()
        }
    }

    pub(crate) fn cancel(&self) {
        if self.cancelled.swap(true, Ordering::AcqRel) {
            return;
        }
        let wakers = std::mem::take(&mut self.lock().wakers);
        // Woken without the lock: a waker may run code that waits here again.
        for (_, waker) in wakers {
            waker.wake();
        }
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        let mut scope = Some(self);
        while let Some(at) = scope {
            if at.cancelled.load(Ordering::Acquire) {
                return true;
            }
            scope = at.parent.as_deref();
        }
        false
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a waiter, or replaces its waker; the caller checks `cancelled` afterwards.
    fn wait(&self, id: &mut Option<u64>, waker: &Waker) {
        let mut waiting = self.lock();
        let known = id.and_then(|id| waiting.wakers.iter_mut().find(|(known, _)| *known == id));
        if let Some((_, known)) = known {
            known.clone_from(waker);
            return;
        }
        let new = waiting.next;
        waiting.next += 1;
        waiting.wakers.push((new, waker.clone()));
        *id = Some(new);
    }

    fn forget(&self, id: u64) {
        self.lock().wakers.retain(|(known, _)| *known != id);
    }
}

/// Resolves when a [`Context`](crate::Context) is cancelled; see
/// [`Context::cancelled`](crate::Context::cancelled).
///
/// It may be dropped at any time, and leaves nothing behind.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Cancelled {
    /// Every level from the innermost outwards, with the id of our waker there.
    scopes: Vec<(Arc<Scope>, Option<u64>)>,
}

impl Cancelled {
    pub(crate) fn new(scope: Option<&Arc<Scope>>) -> Self {
        let mut scopes = Vec::new();
        let mut scope = scope;
        while let Some(at) = scope {
            scopes.push((Arc::clone(at), None));
            scope = at.parent.as_ref();
        }
        Self { scopes }
    }
}

impl Future for Cancelled {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        for (scope, id) in &mut self.scopes {
            if !scope.cancelled.load(Ordering::Acquire) {
                scope.wait(id, cx.waker());
            }
            // Checked after the waker is in place: a cancel between the two is not missed.
            if scope.cancelled.load(Ordering::Acquire) {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }
}

impl Drop for Cancelled {
    fn drop(&mut self) {
        for (scope, id) in &self.scopes {
            if let Some(id) = id {
                scope.forget(*id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Counter(AtomicUsize);

    impl Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_parent_cancels_its_children_and_not_the_other_way_round() {
        let parent = Arc::new(Scope::default());
        let child = Arc::new(Scope::new(Some(Arc::clone(&parent))));
        let sibling = Arc::new(Scope::new(Some(Arc::clone(&parent))));
        child.cancel();
        assert!(child.is_cancelled() && !sibling.is_cancelled() && !parent.is_cancelled());
        parent.cancel();
        assert!(sibling.is_cancelled());
    }

    #[test]
    fn waiters_are_woken_once_and_leave_nothing_behind() {
        let parent = Arc::new(Scope::default());
        let child = Arc::new(Scope::new(Some(Arc::clone(&parent))));
        let counter = Arc::new(Counter::default());
        let waker = Waker::from(Arc::clone(&counter));
        let mut cx = TaskContext::from_waker(&waker);
        {
            let mut dropped = pin!(Cancelled::new(Some(&child)));
            assert!(dropped.as_mut().poll(&mut cx).is_pending());
            assert!(dropped.as_mut().poll(&mut cx).is_pending());
            assert_eq!(parent.lock().wakers.len(), 1);
        }
        let mut waiting = pin!(Cancelled::new(Some(&child)));
        assert!(parent.lock().wakers.is_empty());
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        parent.cancel();
        assert_eq!(counter.0.load(Ordering::SeqCst), 1);
        assert!(waiting.as_mut().poll(&mut cx).is_ready());
    }
}
