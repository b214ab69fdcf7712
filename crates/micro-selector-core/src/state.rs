//! What is known of a node, in atomics.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::Balance;

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
    /// Until when the node is ejected, in nanoseconds since `epoch`; 0 is "not ejected". It stays
    /// until a call succeeds after that time.
    ejected: AtomicU64,
    /// Failures in a row.
    failures: AtomicU32,
    picks: AtomicU64,
    turn: AtomicU64,
    /// When the slow start began, in nanoseconds since `epoch`, and how long it takes; 0 is "none".
    ramp_from: AtomicU64,
    ramp_time: AtomicU64,
    /// How often the node was ejected of late, and when it came back or was ejected last.
    ejections: AtomicU32,
    ejections_at: AtomicU64,
    /// Calls of this span of time and the one before, by turns: see `Span`.
    spans: [AtomicU64; 2],
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

    /// For each such time without an ejection, one is forgotten.
    const FORGIVEN: Duration = Duration::from_secs(30);

    fn since_epoch(&self, at: Instant) -> u64 {
        let epoch = *self.epoch.get_or_init(|| at);
        let passed = at.saturating_duration_since(epoch);
        // Without 128 bits, for this is asked several times per pick.
        let nanos = passed.as_secs().saturating_mul(1_000_000_000);
        // One, so that 0 stays free for "never".
        nanos
            .saturating_add(u64::from(passed.subsec_nanos()))
            .saturating_add(1)
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

    /// Begins a slow start: for this time the node takes less than its share, from a tenth up.
    pub fn slow_start(&self, now: Instant, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.ramp_from
            .store(self.since_epoch(now), Ordering::Relaxed);
        self.ramp_time.store(nanos, Ordering::Relaxed);
    }

    /// Which part of its share the node is to take: 1, or less during its slow start.
    #[must_use]
    pub fn ramp(&self, now: Instant) -> f64 {
        let time = self.ramp_time.load(Ordering::Relaxed);
        if time == 0 {
            return 1.0;
        }
        let from = self.ramp_from.load(Ordering::Relaxed);
        let passed = self.since_epoch(now).saturating_sub(from);
        if passed >= time {
            // So that the next pick need not ask for the time.
            self.ramp_time.store(0, Ordering::Relaxed);
            return 1.0;
        }
        (passed as f64 / time as f64).max(Balance::LEAST_RAMP)
    }

    /// Forgets latency and failures: what is at the same address now may be another process.
    pub fn forget(&self) {
        self.latency.store(0, Ordering::Relaxed);
        self.updated.store(0, Ordering::Relaxed);
        self.pardon();
    }

    /// Ejects the node for a time: others are preferred until then. After that it takes one call
    /// at a time until one succeeds.
    pub fn eject(&self, now: Instant, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let now = self.since_epoch(now);
        self.ejected
            .store(now.saturating_add(nanos), Ordering::Relaxed);
        self.ejections.fetch_add(1, Ordering::Relaxed);
        self.ejections_at.store(now, Ordering::Relaxed);
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

    /// Whether the ejection's time is over, but no call has succeeded since.
    #[must_use]
    pub fn is_on_probation(&self, now: Instant) -> bool {
        let until = self.ejected.load(Ordering::Relaxed);
        until != 0 && self.since_epoch(now) >= until
    }

    /// Whether the node takes calls: it is not ejected, or on probation and no call is under way.
    pub(crate) fn takes_calls(&self, now: Instant) -> bool {
        self.ejected.load(Ordering::Relaxed) == 0
            || (self.is_on_probation(now) && self.in_flight() == 0)
    }

    /// Whether the node is ejected or on probation.
    pub(crate) fn is_out(&self) -> bool {
        self.ejected.load(Ordering::Relaxed) != 0
    }

    /// Lets the node return as if nothing had been.
    pub(crate) fn pardon(&self) {
        self.ejected.store(0, Ordering::Relaxed);
        self.ejections.store(0, Ordering::Relaxed);
        self.failures.store(0, Ordering::Relaxed);
        for span in &self.spans {
            span.store(0, Ordering::Relaxed);
        }
    }

    /// How many of its ejections count: every half minute without one forgets one.
    pub(crate) fn ejections(&self, now: Instant) -> u32 {
        let count = self.ejections.load(Ordering::Relaxed);
        // On probation, no time has passed in which it could have proved itself.
        if count == 0 || self.is_out() {
            return count;
        }
        let at = self.ejections_at.load(Ordering::Relaxed);
        let passed = Duration::from_nanos(self.since_epoch(now).saturating_sub(at));
        let forgotten = passed.as_secs() / Self::FORGIVEN.as_secs();
        let left = count.saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX));
        self.ejections.store(left, Ordering::Relaxed);
        left
    }

    /// Counts a call in the span of time that `now` is in.
    pub(crate) fn count(&self, failed: bool, now: Instant, span: Duration) {
        let turn = self.turn_of(now, span);
        let at = &self.spans[(turn % 2) as usize];
        let counted = at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bits| {
            Some(Span::read(bits).at(turn).with(failed).bits())
        });
        debug_assert!(counted.is_ok(), "there is always a next value");
    }

    /// The calls of this span and the one before, and how many of them failed.
    pub(crate) fn counted(&self, now: Instant, span: Duration) -> (u64, u64) {
        let turn = self.turn_of(now, span);
        let turns = [turn, turn.wrapping_sub(1)];
        turns.iter().fold((0, 0), |sum, turn| {
            let bits = self.spans[(turn % 2) as usize].load(Ordering::Relaxed);
            let span = Span::read(bits).at(*turn);
            (sum.0 + span.calls, sum.1 + span.failed)
        })
    }

    /// Which span of time it is; from 2 on, so that 0, the beginning, is never one's own.
    fn turn_of(&self, now: Instant, span: Duration) -> u64 {
        let span = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX).max(1);
        self.since_epoch(now) / span + 2
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
        if self.is_on_probation(now) {
            self.ejected.store(0, Ordering::Relaxed);
            self.ejections_at
                .store(self.since_epoch(now), Ordering::Relaxed);
            // What was charged for its failures would keep calls away long after it got well.
            self.latency.store(0, Ordering::Relaxed);
            for span in &self.spans {
                span.store(0, Ordering::Relaxed);
            }
        }
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

/// The calls of a span of time, in one word: 20 bits each for calls and failures, the rest for the
/// span's number.
#[derive(Clone, Copy)]
struct Span {
    turn: u64,
    calls: u64,
    failed: u64,
}

impl Span {
    const BITS: u32 = 20;
    const MOST: u64 = (1 << Self::BITS) - 1;
    const TURNS: u64 = u64::MAX >> (2 * Self::BITS);

    const fn read(bits: u64) -> Self {
        Self {
            turn: bits >> (2 * Self::BITS),
            calls: bits >> Self::BITS & Self::MOST,
            failed: bits & Self::MOST,
        }
    }

    /// Itself if it is of this turn, else one without calls.
    const fn at(self, turn: u64) -> Self {
        let turn = turn & Self::TURNS;
        if self.turn == turn {
            return self;
        }
        Self {
            turn,
            calls: 0,
            failed: 0,
        }
    }

    /// One more call. A million in one span say enough: further ones are not counted.
    const fn with(mut self, failed: bool) -> Self {
        if self.calls < Self::MOST {
            self.calls += 1;
            self.failed += failed as u64;
        }
        self
    }

    const fn bits(self) -> u64 {
        self.turn << (2 * Self::BITS) | self.calls << Self::BITS | self.failed
    }
}

fn is_stale(nanos: u64) -> bool {
    const STALE: u64 = NodeState::STALE.as_secs() * 1_000_000_000;
    nanos >= STALE
}

fn decay(nanos: u64) -> f64 {
    const DECAY: f64 = NodeState::DECAY.as_secs() as f64 * 1e9;
    let x = nanos as f64 / DECAY;
    if x < 0.1 {
        // A node in use: the first terms of the series are right to 1 in 100,000, and cost a tenth.
        return 1.0 - x * (1.0 - x * (0.5 - x / 6.0));
    }
    (-x).exp()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs a beginning of time"
    )]
    fn now() -> Instant {
        Instant::now()
    }

    #[test]
    fn calls_are_counted_over_two_spans_and_up_to_a_limit() {
        let state = NodeState::default();
        let (start, span) = (now(), Duration::from_secs(5));
        for call in 0..10 {
            state.count(call % 2 == 0, start, span);
        }
        assert_eq!(state.counted(start, span), (10, 5));
        let later = start + span;
        state.count(false, later, span);
        assert_eq!(state.counted(later, span), (11, 5));
        assert_eq!(state.counted(start + 2 * span, span), (1, 0));
        assert_eq!(state.counted(start + 9 * span, span), (0, 0));
        let full = Span::read(u64::MAX).with(true);
        assert_eq!((full.calls, full.failed), (Span::MOST, Span::MOST));
        assert_eq!(full.bits(), u64::MAX);
        state.count(true, start, Duration::ZERO);
    }

    #[test]
    fn a_slow_start_rises_from_a_tenth_to_one() {
        let state = NodeState::default();
        let start = now();
        let ramp = |millis| state.ramp(start + Duration::from_millis(millis));
        assert!((ramp(0) - 1.0).abs() < 1e-9, "none was begun");
        state.slow_start(start, Duration::from_secs(10));
        assert!((ramp(0) - 0.1).abs() < 1e-9);
        assert!((ramp(4_000) - 0.4).abs() < 1e-6);
        assert!((ramp(10_000) - 1.0).abs() < 1e-9);
        state.slow_start(start, Duration::ZERO);
        assert!((ramp(0) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn what_is_forgotten_is_not_known() {
        let state = NodeState::default();
        let start = now();
        state.failed(Duration::from_secs(5), start);
        state.eject(start, Duration::from_secs(60));
        state.forget();
        assert_eq!((state.latency(start), state.failures()), (None, 0));
        assert!(state.takes_calls(start) && !state.is_stale(start + Duration::from_secs(9)));
    }
}
