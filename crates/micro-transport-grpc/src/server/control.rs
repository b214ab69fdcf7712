//! What a listener says to one of its connections, and what it sees of it.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::task::Waker;

use futures_util::task::AtomicWaker;
use tokio::time::Instant;

/// What a connection is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Command {
    Run,
    /// Make room for another connection, if there is no call on this one.
    Evict,
    /// Take no new call, finish those under way.
    Drain,
    Close,
}

/// Shared by the listener and one connection.
#[derive(Debug)]
pub(crate) struct Control {
    command: AtomicU8,
    waker: AtomicWaker,
    active: AtomicUsize,
    /// Whether there ever was a call.
    served: AtomicBool,
    began: Instant,
    /// Milliseconds after `began` since when there is no call.
    idle: AtomicU64,
}

impl Control {
    pub(crate) fn new(began: Instant) -> Self {
        let control = Self {
            command: AtomicU8::new(0),
            waker: AtomicWaker::new(),
            active: AtomicUsize::new(0),
            served: AtomicBool::new(false),
            began,
            idle: AtomicU64::new(0),
        };
        control.set_idle();
        control
    }

    pub(crate) fn command(&self) -> Command {
        match self.command.load(Ordering::Acquire) {
            0 => Command::Run,
            1 => Command::Evict,
            2 => Command::Drain,
            _ => Command::Close,
        }
    }

    /// Says what to do. A command is never taken back, only followed by a stronger one.
    pub(crate) fn set(&self, command: Command) {
        self.command.fetch_max(command as u8, Ordering::AcqRel);
        self.waker.wake();
    }

    pub(crate) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// Resolves at the first command.
    pub(crate) async fn commanded(&self) -> Command {
        std::future::poll_fn(|cx| {
            self.register(cx.waker());
            match self.command() {
                Command::Run => std::task::Poll::Pending,
                command => std::task::Poll::Ready(command),
            }
        })
        .await
    }

    pub(crate) fn set_active(&self, calls: usize) {
        self.active.store(calls, Ordering::Relaxed);
    }

    /// Notes that there was a call.
    pub(crate) fn set_served(&self) {
        self.served.store(true, Ordering::Relaxed);
    }

    pub(crate) fn add_active(&self) {
        self.set_served();
        self.active.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn remove_active(&self) {
        if self.active.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.set_idle();
        }
    }

    pub(crate) fn set_idle(&self) {
        let idle = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.idle.store(idle, Ordering::Relaxed);
    }

    /// Whether there ever was a call, and since when there is none; `None` if there is one now, or
    /// the connection is told to go. In the order in which connections make room for others.
    pub(crate) fn idle_since(&self) -> Option<(bool, u64)> {
        (self.active.load(Ordering::Relaxed) == 0 && self.command() == Command::Run).then(|| {
            let served = self.served.load(Ordering::Relaxed);
            (served, self.idle.load(Ordering::Relaxed))
        })
    }
}
