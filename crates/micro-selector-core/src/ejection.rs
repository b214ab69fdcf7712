//! Leaving out nodes that fail.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::{NodeState, Nodes, Outcome, Pick};

/// When a node that fails is left out, and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Ejection {
    /// So many failures in a row eject a node; 0 turns this rule off. Default 5.
    pub failures: u32,
    /// A node of whose calls a smaller share succeeds is ejected, from 0 to 1; 0 turns this rule
    /// off. Default 0.8.
    pub success: f64,
    /// The fewest calls within the window that `success` is judged by. Default 20.
    pub calls: u32,
    /// The time whose calls `success` is judged by: between half of it and all of it. Default 10 s.
    pub window: Duration,
    /// How long the first ejection lasts, give or take a quarter; each one that follows lasts twice
    /// as long. Default 5 s.
    pub time: Duration,
    /// The longest ejection, before chance. Default 300 s.
    pub longest: Duration,
    /// The largest share of the nodes that may be out, from 0 to 1; 0 ejects nobody. If more would
    /// have to be ejected it is not the nodes: all come back (panic). Default 0.5.
    pub share: f64,
}

impl Ejection {
    /// The defaults: those of Finagle's failure accrual, with Envoy's panic threshold.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            failures: 5,
            success: 0.8,
            calls: 20,
            window: Duration::from_secs(10),
            time: Duration::from_secs(5),
            longest: Duration::from_secs(300),
            share: 0.5,
        }
    }

    /// Ejects nobody.
    #[must_use]
    pub const fn off() -> Self {
        let mut off = Self::new();
        off.share = 0.0;
        off
    }

    /// Sets [`failures`](Self::failures).
    #[must_use]
    pub const fn with_failures(mut self, failures: u32) -> Self {
        self.failures = failures;
        self
    }

    /// Sets [`success`](Self::success).
    #[must_use]
    pub const fn with_success(mut self, share: f64) -> Self {
        self.success = share;
        self
    }

    /// Sets [`calls`](Self::calls).
    #[must_use]
    pub const fn with_calls(mut self, calls: u32) -> Self {
        self.calls = calls;
        self
    }

    /// Sets [`window`](Self::window).
    #[must_use]
    pub const fn with_window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// Sets [`time`](Self::time).
    #[must_use]
    pub const fn with_time(mut self, time: Duration) -> Self {
        self.time = time;
        self
    }

    /// Sets [`longest`](Self::longest).
    #[must_use]
    pub const fn with_longest(mut self, time: Duration) -> Self {
        self.longest = time;
        self
    }

    /// Sets [`share`](Self::share).
    #[must_use]
    pub const fn with_share(mut self, share: f64) -> Self {
        self.share = share;
        self
    }
}

impl Default for Ejection {
    fn default() -> Self {
        Self::new()
    }
}

/// What the outcome of a call has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// Nothing.
    None,
    /// The node is left out for this time.
    Ejected(Duration),
    /// The node answered its first call after an ejection, and takes part again.
    Returned,
    /// Too many nodes would be out: all are back, and for the time of an ejection nobody is ejected.
    Panic,
}

/// The ejections of one service, as one client sees it.
///
/// A node is ejected for failures in a row, or if too few of its calls succeed. After its time it
/// takes one call at a time until one succeeds: then it is back, and starts slowly; if one fails it
/// is out again, for twice as long. An ejection is forgotten after half a minute in which there was
/// no other.
#[derive(Debug, Default)]
pub struct Outliers {
    options: Ejection,
    slow_start: Duration,
    /// Until when nobody is ejected, in nanoseconds since `epoch`.
    panic: AtomicU64,
    epoch: OnceLock<Instant>,
}

impl Outliers {
    /// No node is out yet. A node that returns takes `slow_start` to its full share.
    #[must_use]
    pub fn new(options: Ejection, slow_start: Duration) -> Self {
        Self {
            options,
            slow_start,
            ..Self::default()
        }
    }

    /// Tells a pick its outcome, and ejects or brings back its node by it.
    ///
    /// `nodes` are those among which the share that is out is measured; `random` is asked for 64
    /// random bits if somebody is ejected.
    pub fn finish(
        &self,
        nodes: &Nodes,
        pick: Pick,
        outcome: Outcome,
        now: Instant,
        random: impl FnOnce() -> u64,
    ) -> Change {
        let state = pick.shared();
        let failed = matches!(outcome, Outcome::Failure(_));
        let probation = state.is_on_probation(now);
        state.count(failed, now, self.options.window / 2);
        pick.finish(outcome, now);
        if !failed {
            if probation {
                state.slow_start(now, self.slow_start);
                return Change::Returned;
            }
            return Change::None;
        }
        // A failure of a call that began before the ejection says nothing new.
        if state.is_ejected(now) || !(probation || self.is_outlier(&state, now)) {
            return Change::None;
        }
        self.eject(nodes, &state, now, random())
    }

    fn is_outlier(&self, state: &NodeState, now: Instant) -> bool {
        let options = &self.options;
        if options.failures > 0 && state.failures() >= options.failures {
            return true;
        }
        let (calls, failed) = state.counted(now, options.window / 2);
        calls >= u64::from(options.calls.max(1))
            && ((calls - failed) as f64) < options.success * calls as f64
    }

    fn eject(&self, nodes: &Nodes, state: &NodeState, now: Instant, random: u64) -> Change {
        let options = &self.options;
        let at = self.since_epoch(now);
        // Alone, or with nobody to be ejected, there is nobody to turn to.
        if nodes.len() < 2 || options.share <= 0.0 || at < self.panic.load(Ordering::Relaxed) {
            return Change::None;
        }
        let out = nodes
            .iter()
            .map(|entry| &**entry.state())
            .filter(|other| other.is_out() && !std::ptr::eq(*other, state))
            .count();
        if (out + 1) as f64 > options.share * nodes.len() as f64 {
            for entry in nodes.iter() {
                entry.state().pardon();
            }
            state.pardon();
            let until = at.saturating_add(nanos(options.time));
            self.panic.store(until, Ordering::Relaxed);
            return Change::Panic;
        }
        let times = state.ejections(now);
        let time = options
            .time
            .saturating_mul(1_u32.checked_shl(times).unwrap_or(u32::MAX))
            .min(options.longest.max(options.time));
        // So that nodes which failed together do not return together, nor clients to one node.
        let time = time.mul_f64(0.75 + (random % 1000) as f64 / 2000.0);
        state.eject(now, time);
        Change::Ejected(time)
    }

    /// Whether so many nodes failed that ejection is suspended.
    #[must_use]
    pub fn is_panicking(&self, now: Instant) -> bool {
        self.since_epoch(now) < self.panic.load(Ordering::Relaxed)
    }

    fn since_epoch(&self, at: Instant) -> u64 {
        let epoch = *self.epoch.get_or_init(|| at);
        nanos(at.saturating_duration_since(epoch))
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Entry, Node, PickHint, Readiness};

    /// Nodes in a time of their own.
    struct Fleet {
        nodes: Nodes,
        outliers: Outliers,
        now: Instant,
    }

    impl Fleet {
        #[expect(
            clippy::disallowed_methods,
            reason = "a test needs a beginning of time"
        )]
        fn new(n: usize, options: Ejection) -> Self {
            let nodes: Nodes = (0..n)
                .map(|i| Entry::new(Node::new(i.to_string(), format!("10.0.0.{i}:1")), "v1"))
                .collect();
            for entry in nodes.iter() {
                entry.state().set_readiness(Readiness::Ready);
            }
            Self {
                nodes,
                outliers: Outliers::new(options, Duration::from_secs(10)),
                now: Instant::now(),
            }
        }

        fn tell(&self, node: usize, ok: bool) -> Change {
            let time = Duration::from_millis(1);
            let outcome = if ok {
                Outcome::Success(time)
            } else {
                Outcome::Failure(time)
            };
            let pick = self.nodes.pick(node);
            // 500 of 1000: the time as it is.
            self.outliers
                .finish(&self.nodes, pick, outcome, self.now, || 500)
        }

        fn fail(&self, node: usize, times: usize) -> Change {
            (0..times).fold(Change::None, |_, _| self.tell(node, false))
        }

        fn candidates(&self) -> Vec<usize> {
            self.nodes.candidates(&PickHint::new(self.now)).collect()
        }

        fn wait(&mut self, seconds: u64) {
            self.now += Duration::from_secs(seconds);
        }
    }

    fn ejected(seconds: u64) -> Change {
        Change::Ejected(Duration::from_secs(seconds))
    }

    #[test]
    fn five_failures_in_a_row_eject_and_four_do_not() {
        let fleet = Fleet::new(4, Ejection::new());
        assert_eq!(fleet.fail(1, 4), Change::None);
        assert_eq!(fleet.tell(1, true), Change::None);
        assert_eq!(fleet.fail(1, 4), Change::None);
        assert_eq!(fleet.candidates(), [0, 1, 2, 3]);
        assert_eq!(fleet.tell(1, false), ejected(5));
        assert_eq!(fleet.candidates(), [0, 2, 3]);
        assert_eq!(fleet.tell(1, false), Change::None, "it is out already");
        assert_eq!(fleet.tell(1, true), Change::None, "a call of before");
        assert_eq!(fleet.candidates(), [0, 2, 3]);
    }

    #[test]
    fn too_few_successes_eject_once_there_are_enough_calls() {
        let fleet = Fleet::new(4, Ejection::new());
        // Every third fails, never two in a row.
        for call in 1..20 {
            assert_eq!(fleet.tell(2, call % 3 > 0), Change::None, "call {call}");
        }
        assert_eq!(fleet.tell(2, true), Change::None);
        assert_eq!(fleet.tell(2, false), ejected(5));
        // One in six is not enough.
        for call in 1..200 {
            assert_eq!(fleet.tell(3, call % 6 > 0), Change::None, "call {call}");
        }
    }

    #[test]
    fn what_is_older_than_the_window_does_not_count() {
        let mut fleet = Fleet::new(4, Ejection::new().with_failures(0));
        assert_eq!(fleet.fail(1, 19), Change::None);
        fleet.wait(11);
        assert_eq!(fleet.fail(1, 19), Change::None);
        fleet.wait(1);
        assert_eq!(fleet.tell(1, false), ejected(5));
    }

    #[test]
    fn it_returns_by_one_call_at_a_time_and_starts_slowly() {
        let mut fleet = Fleet::new(4, Ejection::new());
        fleet.fail(1, 5);
        fleet.wait(6);
        assert_eq!(fleet.candidates(), [0, 1, 2, 3], "its time is over");
        let probe = fleet.nodes.pick(1);
        assert_eq!(fleet.candidates(), [0, 2, 3], "one call is under way");
        drop(probe);
        assert_eq!(fleet.candidates(), [0, 1, 2, 3], "it was given up");
        assert_eq!(fleet.tell(1, true), Change::Returned);
        let ramp = fleet.nodes[1].state().ramp(fleet.now);
        assert!((ramp - 0.1).abs() < 1e-9, "{ramp}");
        let held = fleet.nodes.pick(1);
        assert_eq!(fleet.candidates(), [0, 1, 2, 3]);
        drop(held);
        fleet.wait(5);
        assert!((fleet.nodes[1].state().ramp(fleet.now) - 0.5).abs() < 0.01);
        fleet.wait(5);
        assert!((fleet.nodes[1].state().ramp(fleet.now) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn one_that_fails_again_is_out_for_twice_as_long_up_to_a_limit() {
        let mut fleet = Fleet::new(4, Ejection::new());
        assert_eq!(fleet.fail(1, 5), ejected(5));
        for seconds in [10, 20, 40, 80, 160, 300, 300] {
            fleet.wait(400);
            // Time passes only while it is out.
            assert_eq!(fleet.tell(1, false), ejected(seconds));
        }
        fleet.wait(301);
        assert_eq!(fleet.tell(1, true), Change::Returned);
        assert_eq!(fleet.fail(1, 5), ejected(300), "not forgotten yet");
        fleet.wait(301);
        assert_eq!(fleet.tell(1, true), Change::Returned);
        // Each half minute forgets one.
        fleet.wait(3_600);
        assert_eq!(fleet.fail(1, 5), ejected(5));
    }

    #[test]
    fn chance_moves_the_time_by_a_quarter() {
        for (random, millis) in [(0, 3_750), (999, 6_247)] {
            let fleet = Fleet::new(4, Ejection::new());
            fleet.fail(1, 4);
            let outcome = Outcome::Failure(Duration::ZERO);
            let pick = fleet.nodes.pick(1);
            let change = fleet
                .outliers
                .finish(&fleet.nodes, pick, outcome, fleet.now, || random);
            let Change::Ejected(time) = change else {
                panic!("{change:?}");
            };
            assert_eq!(time.as_millis(), millis);
        }
    }

    #[test]
    fn when_more_than_half_would_be_out_all_come_back() {
        let mut fleet = Fleet::new(10, Ejection::new());
        for node in 0..5 {
            assert_eq!(fleet.fail(node, 5), ejected(5));
        }
        assert_eq!(fleet.candidates().len(), 5);
        assert_eq!(fleet.fail(5, 5), Change::Panic);
        assert_eq!(fleet.candidates().len(), 10, "nobody is out");
        assert!(fleet.outliers.is_panicking(fleet.now));
        for node in 0..10 {
            assert_eq!(fleet.fail(node, 20), Change::None);
        }
        assert_eq!(fleet.candidates().len(), 10);
        fleet.wait(6);
        assert!(!fleet.outliers.is_panicking(fleet.now));
        // Those that recovered stay, and one that still fails goes, for no longer than at first.
        for node in 1..10 {
            assert_eq!(fleet.tell(node, true), Change::None);
        }
        assert_eq!(fleet.tell(0, false), ejected(5));
    }

    #[test]
    fn one_alone_is_never_out_and_of_two_one() {
        let fleet = Fleet::new(1, Ejection::new());
        assert_eq!(fleet.fail(0, 100), Change::None);
        let fleet = Fleet::new(2, Ejection::new());
        assert_eq!(fleet.fail(0, 5), ejected(5));
        assert_eq!(fleet.fail(1, 5), Change::Panic);
        let fleet = Fleet::new(10, Ejection::off());
        assert_eq!(fleet.fail(0, 100), Change::None);
        let only_rate = Ejection::new().with_failures(0).with_success(0.0);
        assert_eq!(Fleet::new(10, only_rate).fail(0, 100), Change::None);
    }
}
