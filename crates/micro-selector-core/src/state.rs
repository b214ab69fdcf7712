//! What is known of a node, in atomics.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Whether a node can take a call at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[non_exhaustive]
pub enum Readiness {
    /// Nobody has connected to it yet.
    Idle = 0,
    /// A connection is being made.
    Connecting = 1,
    /// A connection is there.
    Ready = 2,
    /// The last attempt to connect failed; another one follows.
    Failed = 3,
}

/// What is known of a node: readiness, calls in flight, latency, failures, ejection.
///
/// The client writes readiness and ejection, [`Pick`](crate::Pick) the rest, selectors read.
/// It lives as long as the node is known, over all changes of the set.
#[derive(Default)]
pub struct NodeState {
    readiness: AtomicU8,
    in_flight: AtomicU32,
    /// Peak EWMA of the latency, in nanoseconds, as the bits of an `f64`; 0 is "not known".
    latency: AtomicU64,
    /// When the latency was last updated, in nanoseconds since `epoch`.
    updated: AtomicU64,
    /// Until when the node is ejected, in nanoseconds since `epoch`; 0 is "not ejected".
    ejected: AtomicU64,
    /// Failures in a row.
    failures: AtomicU32,
    picks: AtomicU64,
    turn: AtomicU64,
    /// The beginning of this node's time: the first instant that it was asked about.
    epoch: OnceLock<Instant>,
}

impl NodeState {
    /// How quickly old latencies are forgotten: they weigh 1/e after this time.
    const DECAY: Duration = Duration::from_secs(10);

    /// After this time without a call, what is known is old.
    const STALE: Duration = Duration::from_secs(3);

    /// What is left of an old average beside a new sample.
    const STALE_KEEP: f64 = 0.1;

    fn since_epoch(&self, at: Instant) -> u64 {
        let epoch = *self.epoch.get_or_init(|| at);
        let nanos = at.saturating_duration_since(epoch).as_nanos();
        // One, so that 0 stays free for "never".
        u64::try_from(nanos).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// Whether the node can take a call at once.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        match self.readiness.load(Ordering::Relaxed) {
            1 => Readiness::Connecting,
            2 => Readiness::Ready,
            3 => Readiness::Failed,
            _ => Readiness::Idle,
        }
    }

    /// Sets the readiness: for the client.
    pub fn set_readiness(&self, readiness: Readiness) {
        self.readiness.store(readiness as u8, Ordering::Relaxed);
    }

    /// The calls in flight.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// How often the node was picked.
    #[must_use]
    pub fn picks(&self) -> u64 {
        self.picks.load(Ordering::Relaxed)
    }

    /// The failures in a row.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures.load(Ordering::Relaxed)
    }

    /// The latency as a peak-sensitive moving average that decays over ten seconds; `None` before
    /// the first call has ended.
    #[must_use]
    pub fn latency(&self, now: Instant) -> Option<Duration> {
        let cost = self.latency_nanos(now);
        (cost > 0.0).then(|| Duration::from_secs_f64(cost / 1e9))
    }

    /// [`latency`](Self::latency) in nanoseconds, 0 if not known: for selectors.
    #[must_use]
    pub fn latency_nanos(&self, now: Instant) -> f64 {
        let cost = f64::from_bits(self.latency.load(Ordering::Relaxed));
        if cost == 0.0 {
            return 0.0;
        }
        let updated = self.updated.load(Ordering::Relaxed);
        let idle = self.since_epoch(now).saturating_sub(updated);
        cost * decay(idle)
    }

    /// Whether what is known of the latency is old: there was a call, and none has ended for three
    /// seconds. The next success then outweighs all that came before it, so a selector that tries
    /// such a node now and then learns soon that it got faster.
    #[must_use]
    pub fn is_stale(&self, now: Instant) -> bool {
        let updated = self.updated.load(Ordering::Relaxed);
        updated > 0 && is_stale(self.since_epoch(now).saturating_sub(updated))
    }

    /// Where the node stands in a rotation, by the measure of the selector that rotates: for
    /// selectors, which see many services and can keep nothing per node themselves.
    #[must_use]
    pub fn turn(&self) -> u64 {
        self.turn.load(Ordering::Relaxed)
    }

    /// Moves the node on in its rotation; false if another pick was faster.
    pub fn take_turn(&self, seen: u64, next: u64) -> bool {
        self.turn
            .compare_exchange(seen, next, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// Ejects the node for a time: others are preferred until then.
    pub fn eject(&self, now: Instant, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let until = self.since_epoch(now).saturating_add(nanos);
        self.ejected.store(until, Ordering::Relaxed);
    }

    /// Lets an ejected node return at once.
    pub fn reinstate(&self) {
        self.ejected.store(0, Ordering::Relaxed);
    }

    /// Whether the node is ejected.
    #[must_use]
    pub fn is_ejected(&self, now: Instant) -> bool {
        self.ejected_for(now).is_some()
    }

    /// How long the node stays ejected; `None` if it is not.
    #[must_use]
    pub fn ejected_for(&self, now: Instant) -> Option<Duration> {
        let until = self.ejected.load(Ordering::Relaxed);
        if until == 0 {
            return None;
        }
        let left = until.saturating_sub(self.since_epoch(now));
        (left > 0).then(|| Duration::from_nanos(left))
    }

    pub(crate) fn begin(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.picks.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn succeeded(&self, latency: Duration, now: Instant) {
        self.failures.store(0, Ordering::Relaxed);
        self.observe(latency, now);
    }

    pub(crate) fn failed(&self, penalty: Duration, now: Instant) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.observe(penalty, now);
    }

    /// Peak EWMA: a slower call counts at once, a faster one pulls the average down with time
    /// (Finagle's `p2cPeakEwma`).
    fn observe(&self, latency: Duration, now: Instant) {
        let at = self.since_epoch(now);
        let sample = (latency.as_nanos() as f64).max(1.0);
        // Two writers may interleave: one sample then weighs a little more or less, which does no
        // harm, and no call waits for another.
        let before = self.updated.swap(at, Ordering::Relaxed);
        let old = f64::from_bits(self.latency.load(Ordering::Relaxed));
        let new = if old == 0.0 || sample > old {
            sample
        } else {
            let idle = at.saturating_sub(before);
            // By time alone, a node that was a thousand times slower once would be left alone for
            // a minute, and trying it would teach nothing.
            let keep = if is_stale(idle) {
                decay(idle).min(Self::STALE_KEEP)
            } else {
                decay(idle)
            };
            old * keep + sample * (1.0 - keep)
        };
        self.latency.store(new.to_bits(), Ordering::Relaxed);
    }
}

fn is_stale(nanos: u64) -> bool {
    u128::from(nanos) >= NodeState::STALE.as_nanos()
}

fn decay(nanos: u64) -> f64 {
    (-(nanos as f64) / NodeState::DECAY.as_nanos() as f64).exp()
}

impl fmt::Debug for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeState")
            .field("readiness", &self.readiness())
            .field("in_flight", &self.in_flight())
            .field("failures", &self.failures())
            .field("picks", &self.picks())
            .finish_non_exhaustive()
    }
}
