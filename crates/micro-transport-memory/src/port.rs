//! A bound address, as its listener, its connections and their calls share it.

use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use micro_transport_core::{Handler, ListenOptions};
use tokio::sync::Notify;

/// How far a listener has come. It never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Stage {
    /// The address is taken; dialers wait.
    Bound = 0,
    /// Calls are answered.
    Serving = 1,
    /// No new calls; those under way go on.
    Draining = 2,
    /// No calls.
    Closed = 3,
}

pub(crate) struct Port {
    pub(crate) address: String,
    pub(crate) options: ListenOptions,
    pub(crate) handler: OnceLock<Arc<dyn Handler>>,
    pub(crate) connections: AtomicUsize,
    stage: AtomicU8,
    changed: Notify,
    calls: AtomicUsize,
    idle: Notify,
}

impl Port {
    pub(crate) fn new(address: String, options: ListenOptions) -> Self {
        Self {
            address,
            options,
            handler: OnceLock::new(),
            connections: AtomicUsize::new(0),
            stage: AtomicU8::new(Stage::Bound as u8),
            changed: Notify::new(),
            calls: AtomicUsize::new(0),
            idle: Notify::new(),
        }
    }

    pub(crate) fn stage(&self) -> Stage {
        match self.stage.load(Ordering::SeqCst) {
            0 => Stage::Bound,
            1 => Stage::Serving,
            2 => Stage::Draining,
            _ => Stage::Closed,
        }
    }

    pub(crate) fn advance(&self, stage: Stage) {
        self.stage.fetch_max(stage as u8, Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    /// Resolves once the stage is reached or passed.
    pub(crate) async fn reached(&self, stage: Stage) {
        loop {
            let mut changed = pin!(self.changed.notified());
            // In line before looking: a change between the two is not missed.
            changed.as_mut().enable();
            if self.stage() >= stage {
                return;
            }
            changed.await;
        }
    }

    /// Counts a call in; says whether it may run. Either way [`leave`](Self::leave) follows.
    pub(crate) fn enter(&self) -> bool {
        // Counted before looking at the stage: a drain either sees the call or refuses it.
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.stage() == Stage::Serving
    }

    pub(crate) fn leave(&self) {
        if self.calls.fetch_sub(1, Ordering::SeqCst) == 1 && self.stage() > Stage::Serving {
            self.idle.notify_waiters();
        }
    }

    /// Resolves when no call is under way. Only after a drain began is anybody told.
    pub(crate) async fn idle(&self) {
        loop {
            let mut idle = pin!(self.idle.notified());
            idle.as_mut().enable();
            if self.calls.load(Ordering::SeqCst) == 0 {
                return;
            }
            idle.await;
        }
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port")
            .field("address", &self.address)
            .field("stage", &self.stage())
            .field("calls", &self.calls.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}
