//! What is counted per method.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The counters of one method. They are read for display only, so nothing orders them.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    calls: AtomicU64,
    errors: AtomicU64,
    cancelled: AtomicU64,
    in_flight: AtomicU64,
}

impl Counters {
    pub(crate) fn read(&self, path: &Arc<str>) -> MethodStats {
        MethodStats {
            path: Arc::clone(path),
            calls: self.calls.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
            cancelled: self.cancelled.load(Ordering::Relaxed),
            in_flight: self.in_flight.load(Ordering::Relaxed),
        }
    }
}

/// A call that is counted: as cancelled, unless somebody says how it ended.
#[derive(Debug)]
pub(crate) struct Tally<C: Deref<Target = Counters>>(Option<C>);

impl<C: Deref<Target = Counters>> Tally<C> {
    pub(crate) fn begin(counters: C) -> Self {
        counters.calls.fetch_add(1, Ordering::Relaxed);
        counters.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(Some(counters))
    }

    pub(crate) fn end(&mut self, failed: bool) {
        if let Some(counters) = self.0.take() {
            counters.in_flight.fetch_sub(1, Ordering::Relaxed);
            if failed {
                counters.errors.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Tally<&Counters> {
    /// The same call, counted on by the stream that answers it.
    pub(crate) fn hand_over(mut self, counters: &Arc<Counters>) -> Tally<Arc<Counters>> {
        self.0 = None;
        Tally(Some(Arc::clone(counters)))
    }
}

impl<C: Deref<Target = Counters>> Drop for Tally<C> {
    fn drop(&mut self) {
        if let Some(counters) = self.0.take() {
            counters.in_flight.fetch_sub(1, Ordering::Relaxed);
            counters.cancelled.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What was counted so far, by method; see [`ServerHandler::stats`](crate::ServerHandler::stats).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// The methods, sorted by path.
    pub methods: Vec<MethodStats>,
}

impl Stats {
    /// How many calls are under way.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.methods.iter().map(|method| method.in_flight).sum()
    }

    pub(crate) fn cancelled(&self) -> u64 {
        self.methods.iter().map(|method| method.cancelled).sum()
    }
}

/// What was counted of one method.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MethodStats {
    /// `/package.Service/Method`.
    pub path: Arc<str>,
    /// Calls that reached the method, whatever became of them.
    pub calls: u64,
    /// Calls that failed, panics included.
    pub errors: u64,
    /// Calls that were given up before they ended: by the caller, or at their deadline.
    pub cancelled: u64,
    /// Calls under way, streams included.
    pub in_flight: u64,
}
