//! Changes whose callers are gone.
//!
//! What was sent to a database cannot be called back: dropping the future of a statement drops its
//! answer. So a change that is dropped in the middle is brought to its end by a task, and a change that
//! begins waits for those that were dropped before.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio::sync::watch;

/// The changes of one handle.
#[derive(Debug)]
pub(crate) struct Order {
    runtime: Handle,
    /// One for each dropped change that is still under way; its sender goes with it. Each has a connection,
    /// so they are no more than those.
    left: Mutex<Vec<watch::Receiver<()>>>,
}

impl Order {
    pub(crate) fn new(runtime: Handle) -> Self {
        Self {
            runtime,
            left: Mutex::default(),
        }
    }

    /// Waits until every change that was dropped before has come to its end.
    pub(crate) async fn settled(&self) {
        let left = {
            let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
            left.retain(is_under_way);
            left.clone()
        };
        for mut change in left {
            // Nothing is ever sent: it ends when the sender is gone.
            let _ = change.changed().await;
        }
    }

    /// Makes a change that comes to its end once it has begun, whoever drops it.
    pub(crate) fn finish<F>(self: &Arc<Self>, change: F) -> Finish<F>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        Finish {
            order: Arc::clone(self),
            change: Some(Box::pin(change)),
            begun: false,
        }
    }

    fn take_over<F>(&self, change: F)
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let (under_way, end) = watch::channel(());
        {
            let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
            left.retain(is_under_way);
            left.push(end);
        }
        self.runtime.spawn(async move {
            let _under_way = under_way;
            change.await;
        });
    }
}

fn is_under_way(change: &watch::Receiver<()>) -> bool {
    change.has_changed().is_ok()
}

/// A change under way.
#[derive(Debug)]
#[must_use = "a change does nothing unless it is polled"]
pub(crate) struct Finish<F>
where
    F: Future<Output: Send> + Send + 'static,
{
    order: Arc<Order>,
    change: Option<Pin<Box<F>>>,
    begun: bool,
}

impl<F> Future for Finish<F>
where
    F: Future<Output: Send> + Send + 'static,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.begun = true;
        let Some(change) = &mut self.change else {
            return Poll::Pending;
        };
        let done = change.as_mut().poll(cx);
        if done.is_ready() {
            self.change = None;
        }
        done
    }
}

impl<F> Drop for Finish<F>
where
    F: Future<Output: Send> + Send + 'static,
{
    fn drop(&mut self) {
        if self.begun
            && let Some(change) = self.change.take()
        {
            self.order.take_over(change);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use tokio::time::sleep;

    use super::*;

    async fn slow(done: Arc<AtomicBool>) {
        sleep(Duration::from_millis(100)).await;
        done.store(true, Ordering::SeqCst);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_begun_ends_before_the_next_begins() {
        let order = Arc::new(Order::new(Handle::current()));
        let done = Arc::new(AtomicBool::new(false));
        let mut change = Box::pin(order.finish(slow(Arc::clone(&done))));
        std::future::poll_fn(|cx| {
            assert!(change.as_mut().poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        // One that nobody has dropped is not waited for.
        order.settled().await;
        assert!(!done.load(Ordering::SeqCst));
        drop(change);
        order.settled().await;
        assert!(done.load(Ordering::SeqCst));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_begun_never_happens() {
        let order = Arc::new(Order::new(Handle::current()));
        let done = Arc::new(AtomicBool::new(false));
        drop(order.finish(slow(Arc::clone(&done))));
        order.settled().await;
        sleep(Duration::from_secs(1)).await;
        assert!(!done.load(Ordering::SeqCst));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_over_is_forgotten() {
        let order = Arc::new(Order::new(Handle::current()));
        for _ in 0..100 {
            let mut change = Box::pin(order.finish(slow(Arc::default())));
            std::future::poll_fn(|cx| Poll::Ready(change.as_mut().poll(cx).is_ready())).await;
            drop(change);
            sleep(Duration::from_millis(150)).await;
        }
        assert_eq!(order.left.lock().unwrap().len(), 1);
    }
}
