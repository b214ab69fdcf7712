//! The strategy.

use std::time::Instant;

use micro_selector_core::{Balance, Dice, Entry, Nodes, Pick, PickHint, Selector};

use crate::SCHEME;

/// Draws two nodes at random and takes the cheaper one.
#[derive(Clone, Debug, Default)]
pub struct P2cSelector {
    balance: Balance,
}

impl P2cSelector {
    /// A selector.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            balance: Balance::new(),
        }
    }

    /// Sets zone, subset, slow start and ejection.
    #[must_use]
    pub fn with_balance(mut self, balance: Balance) -> Self {
        self.balance = balance;
        self
    }
}

/// How often a node is drawn blindly before all are looked at.
const DRAWS: usize = 8;

/// The latency of two nodes of which nothing is known, in nanoseconds: with nothing to compare,
/// calls in flight and weight decide.
const UNKNOWN: f64 = 1e6;

/// One of so many picks that draw a node with stale knowledge tries it, whatever it costs: enough
/// to learn that it got better, and few enough for the others to decide while there are few calls
/// at all.
const TRY_ONE_IN: u64 = 16;

impl Selector for P2cSelector {
    fn backend(&self) -> &'static str {
        SCHEME
    }

    fn balance(&self) -> &Balance {
        &self.balance
    }

    fn pick(&self, nodes: &Nodes, hint: &PickHint<'_>) -> Option<Pick> {
        let mut dice = hint.dice();
        let index = match draw(nodes, hint, &mut dice) {
            Some((one, two)) => cheaper(nodes, hint.now, &mut dice, one, two),
            None => match walk(nodes, hint, &mut dice)? {
                (one, Some(two)) => cheaper(nodes, hint.now, &mut dice, one, two),
                (one, None) => one,
            },
        };
        Some(nodes.pick(index))
    }
}

/// Two different nodes of the first choice, drawn blindly: most often the first two draws, in a
/// time that does not depend on the size of the set.
fn draw(nodes: &Nodes, hint: &PickHint<'_>, dice: &mut Dice) -> Option<(usize, usize)> {
    if nodes.len() < 2 {
        return None;
    }
    let mut first = None;
    for _ in 0..DRAWS {
        let index = match first {
            None => dice.index(nodes.len()),
            Some(first) => {
                // One of the others: drawn as if the first were not there.
                let index = dice.index(nodes.len() - 1);
                index + usize::from(index >= first)
            }
        };
        if !nodes.is_preferred(index, hint) {
            continue;
        }
        match first {
            None => first = Some(index),
            Some(first) => return Some((first, index)),
        }
    }
    None
}

/// Two different candidates, or the only one, found by looking at all: the first two, each replaced
/// by a later one with the likelihood that makes all pairs alike (reservoir sampling).
fn walk(nodes: &Nodes, hint: &PickHint<'_>, dice: &mut Dice) -> Option<(usize, Option<usize>)> {
    let mut candidates = nodes.candidates(hint);
    let mut one = candidates.next()?;
    let Some(mut two) = candidates.next() else {
        return Some((one, None));
    };
    for (seen, index) in candidates.enumerate() {
        match dice.index(seen + 3) {
            0 => one = index,
            1 => two = index,
            _ => {}
        }
    }
    // In any order, for a tie goes to the first.
    Some(if dice.below(2) == 0 {
        (one, Some(two))
    } else {
        (two, Some(one))
    })
}

fn cheaper(nodes: &Nodes, now: Instant, dice: &mut Dice, one: usize, two: usize) -> usize {
    let (a, b) = (&nodes[one], &nodes[two]);
    let (ramp_a, ramp_b) = (a.state().ramp(now), b.state().ramp(now));
    if ramp_a.to_bits() != ramp_b.to_bits() {
        // One that has just come is passed over with the likelihood that is left of its ramp: by
        // its cost alone it would take everything, or, made dear, nothing.
        let (less, more, other) = if ramp_a < ramp_b {
            (ramp_a, ramp_b, two)
        } else {
            (ramp_b, ramp_a, one)
        };
        if !dice.chance(less / more) {
            return other;
        }
    }
    for (index, entry) in [(one, a), (two, b)] {
        let state = entry.state();
        // It is offered only while no call is under way: this one says whether it is well again.
        if state.is_on_probation(now) {
            return index;
        }
        // One at a time: while a call is under way, more would not know more.
        let alone = state.in_flight() == 0;
        if alone && state.is_stale(now) && dice.below(TRY_ONE_IN) == 0 {
            return index;
        }
    }
    let (known_a, known_b) = (a.state().latency_nanos(now), b.state().latency_nanos(now));
    // A node of which nothing is known is taken to be like its peer: an unbiased sample of the
    // fleet. Thought fast, it would be overrun; thought slow, it would get nothing.
    let (latency_a, latency_b) = match (known_a > 0.0, known_b > 0.0) {
        (true, true) => (known_a, known_b),
        (true, false) => (known_a, known_a),
        (false, true) => (known_b, known_b),
        (false, false) => (UNKNOWN, UNKNOWN),
    };
    if cost(a, latency_a) <= cost(b, latency_b) {
        one
    } else {
        two
    }
}

fn cost(entry: &Entry, latency: f64) -> f64 {
    // Weights of 0 are compared only among themselves.
    let weight = f64::from(entry.weight().max(1));
    latency * (f64::from(entry.state().in_flight()) + 1.0) / weight
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use micro_core::{Clock as _, Random as _, SeededRandom, SystemClock};
    use micro_selector_core::{Node, Outcome, Readiness};

    use super::*;

    fn nodes(weights: &[u32]) -> Nodes {
        let nodes: Nodes = weights
            .iter()
            .enumerate()
            .map(|(i, weight)| {
                let node = Node::new(i.to_string(), format!("10.0.0.{i}:1"));
                Entry::new(node, "v1").with_weight(*weight)
            })
            .collect();
        for entry in nodes.iter() {
            entry.state().set_readiness(Readiness::Ready);
        }
        nodes
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// A fleet in a time of its own: calls arrive one by one, and take what `serve` says.
    struct Fleet {
        nodes: Nodes,
        now: Instant,
        random: SeededRandom,
        under_way: Vec<(Instant, Pick, Outcome)>,
        counts: Vec<usize>,
    }

    impl Fleet {
        fn new(nodes: Nodes, seed: u64) -> Self {
            Self {
                counts: vec![0; nodes.len()],
                nodes,
                now: SystemClock.now(),
                random: SeededRandom::new(seed),
                under_way: Vec::new(),
            }
        }

        /// `calls` calls, one each `every`; `serve` gives the time and how it is told.
        fn run(
            &mut self,
            calls: usize,
            every: Duration,
            serve: impl Fn(usize) -> (Duration, Outcome),
        ) {
            for _ in 0..calls {
                self.now += every;
                let mut at = 0;
                while at < self.under_way.len() {
                    if self.under_way[at].0 <= self.now {
                        let (ended, pick, outcome) = self.under_way.swap_remove(at);
                        pick.finish(outcome, ended);
                    } else {
                        at += 1;
                    }
                }
                let hint = PickHint::new(self.now).with_random(self.random.next_u64());
                let pick = P2cSelector::new().pick(&self.nodes, &hint).unwrap();
                self.counts[pick.index()] += 1;
                let (takes, outcome) = serve(pick.index());
                self.under_way.push((self.now + takes, pick, outcome));
            }
        }

        fn share(&self, index: usize) -> f64 {
            self.counts[index] as f64 / self.counts.iter().sum::<usize>() as f64
        }
    }

    fn ok(takes: Duration) -> (Duration, Outcome) {
        (takes, Outcome::Success(takes))
    }

    #[test]
    fn equal_nodes_share_evenly() {
        let mut fleet = Fleet::new(nodes(&[100; 8]), 1);
        fleet.run(40_000, Duration::from_micros(500), |_| ok(ms(5)));
        for index in 0..8 {
            let share = fleet.share(index);
            assert!((0.105..0.145).contains(&share), "{index}: {share}");
        }
    }

    #[test]
    fn a_slow_node_gets_little_and_a_fast_failing_one_next_to_nothing() {
        for seed in 0..3 {
            let mut fleet = Fleet::new(nodes(&[100; 8]), seed);
            fleet.run(40_000, ms(1), |index| {
                ok(ms(if index == 3 { 50 } else { 5 }))
            });
            assert!(fleet.share(3) < 0.02, "{}", fleet.share(3));

            let mut fleet = Fleet::new(nodes(&[100; 8]), seed);
            fleet.run(40_000, ms(1), |index| {
                if index == 3 {
                    (ms(1), Outcome::Failure(Duration::from_secs(5)))
                } else {
                    ok(ms(5))
                }
            });
            assert!(fleet.counts[3] < 40, "{} of 40000", fleet.counts[3]);
        }
    }

    #[test]
    fn a_node_that_got_faster_is_found_again() {
        let mut fleet = Fleet::new(nodes(&[100; 4]), 5);
        fleet.run(5_000, ms(1), |index| {
            ok(ms(if index == 0 { 2_000 } else { 20 }))
        });
        fleet.counts.fill(0);
        // Without tries, the average of two seconds would take a minute to decay.
        fleet.run(10_000, ms(2), |_| ok(ms(20)));
        fleet.counts.fill(0);
        fleet.run(10_000, ms(2), |_| ok(ms(20)));
        assert!(fleet.share(0) > 0.2, "{}", fleet.share(0));
    }

    #[test]
    fn few_calls_still_prefer_the_fast_node() {
        let mut fleet = Fleet::new(nodes(&[100; 2]), 6);
        // All that is known is stale at each call, and yet it matters what is known.
        fleet.run(1_000, Duration::from_secs(4), |index| {
            ok(ms(if index == 0 { 100 } else { 1 }))
        });
        assert!(fleet.share(0) < 0.25, "{}", fleet.share(0));
    }

    #[test]
    fn a_newcomer_gets_a_fair_share_at_once() {
        let old = nodes(&[100; 4]);
        let mut fleet = Fleet::new(old.clone(), 8);
        fleet.run(5_000, ms(1), |_| ok(ms(4)));
        let newcomer = Entry::new(Node::new("new", "10.0.1.1:1"), "v1");
        newcomer.state().set_readiness(Readiness::Ready);
        let mut fleet = Fleet {
            nodes: old.iter().cloned().chain([newcomer]).collect(),
            counts: vec![0; 5],
            ..fleet
        };
        fleet.run(100, ms(1), |_| ok(ms(4)));
        assert!((10..=45).contains(&fleet.counts[4]), "{:?}", fleet.counts);
    }

    #[test]
    fn heavier_nodes_get_more() {
        let mut fleet = Fleet::new(nodes(&[100, 300]), 9);
        fleet.run(20_000, Duration::from_micros(100), |_| ok(ms(5)));
        let share = fleet.share(1);
        assert!((0.65..0.85).contains(&share), "{share}");
    }

    #[test]
    fn two_are_found_among_many_that_are_not_ready() {
        let nodes = nodes(&[100; 1_000]);
        for (index, entry) in nodes.iter().enumerate() {
            if index % 250 != 7 {
                entry.state().set_readiness(Readiness::Failed);
            }
        }
        let mut fleet = Fleet::new(nodes, 10);
        fleet.run(4_000, ms(1), |_| ok(ms(1)));
        for index in [7, 257, 507, 757] {
            let share = fleet.share(index);
            assert!((0.2..0.3).contains(&share), "{index}: {share}");
        }
    }
}
