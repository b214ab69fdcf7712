//! One run of a connection's task.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context as TaskContext, Wake};

use futures_util::task::AtomicWaker;

/// Wakes the connection's task, except while it is running: it looks again by itself then.
///
/// Without it each answer handed to h2 would schedule the task once more.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    state: AtomicU8,
    task: AtomicWaker,
}

impl Turn {
    const IDLE: u8 = 0;
    const RUNNING: u8 = 1;
    const AGAIN: u8 = 2;

    pub(crate) fn begin(&self, cx: &TaskContext<'_>) {
        self.task.register(cx.waker());
        self.state.store(Self::RUNNING, Ordering::SeqCst);
    }

    /// Whether somebody woke since the last look.
    pub(crate) fn again(&self) -> bool {
        self.state.swap(Self::RUNNING, Ordering::SeqCst) == Self::AGAIN
    }

    /// Ends the run; says whether somebody woke just before.
    pub(crate) fn end(&self) -> bool {
        self.state.swap(Self::IDLE, Ordering::SeqCst) == Self::AGAIN
    }
}

impl Wake for Turn {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let running = self
            .state
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |state| {
                (state != Self::IDLE).then_some(Self::AGAIN)
            });
        if running.is_err() {
            self.task.wake();
        }
    }
}
