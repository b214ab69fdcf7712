//! The strategy.

use micro_selector_core::{Balance, Nodes, Pick, PickHint, Selector};

use crate::SCHEME;

/// Takes the nodes in turn, in proportion to their weights.
///
/// This is stride scheduling (Waldspurger, Weihl: "Stride scheduling", 1995). Every node has a
/// position that a pick moves on by a stride, which is the longer the smaller its weight; the node
/// whose next stride is half over first has its turn. The position is kept in the node's state.
#[derive(Clone, Debug, Default)]
pub struct RoundRobinSelector {
    balance: Balance,
}

impl RoundRobinSelector {
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

/// The stride of weight 1: fine enough to tell weights of some thousands apart, and coarse enough
/// for 2^40 turns of such a node.
const STRIDE: u64 = 1 << 24;

/// How often a pick begins again because others were faster. Each time somebody got on; after so
/// many a turn out of order is better than to go on trying.
const ATTEMPTS: usize = 64;

fn stride(weight: u32) -> u64 {
    (STRIDE / u64::from(weight.max(1))).max(1)
}

impl Selector for RoundRobinSelector {
    fn backend(&self) -> &'static str {
        SCHEME
    }

    fn balance(&self) -> &Balance {
        &self.balance
    }

    fn pick(&self, nodes: &Nodes, hint: &PickHint<'_>) -> Option<Pick> {
        let mut last = None;
        let mut dice = hint.dice();
        for _ in 0..ATTEMPTS {
            let candidates = nodes.candidates(hint);
            let (mut front, mut longest) = (0, 0);
            for index in candidates.clone() {
                front = front.max(nodes[index].state().turn());
                longest = longest.max(stride(nodes[index].weight()));
            }
            // Nobody is farther behind the front than the longest stride, unless it was away: it
            // joins there, and does not take all the turns that it missed.
            let floor = front.saturating_sub(longest);
            let mut first: Option<(u64, usize, u64, u64)> = None;
            for index in candidates {
                let entry = &nodes[index];
                let seen = entry.state().turn();
                let stride = stride(entry.weight());
                let from = seen.max(floor);
                // From half the stride, or light nodes would all have their turn at once.
                let due = from.saturating_add(stride / 2);
                if first.is_none_or(|(earliest, ..)| due < earliest) {
                    first = Some((due, index, seen, from.saturating_add(stride)));
                }
            }
            let (_, index, seen, next) = first?;
            let state = nodes[index].state();
            if state.take_turn(seen, next) {
                let ramp = state.ramp(hint.now);
                // In its slow start a node passes up some of its turns.
                if ramp < 1.0 && !dice.chance(ramp) {
                    last = Some(index);
                    continue;
                }
                return Some(nodes.pick(index));
            }
            last = Some(index);
        }
        last.map(|index| nodes.pick(index))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use micro_core::{Clock as _, SystemClock};
    use micro_selector_core::{Entry, Node, Readiness};

    use super::*;

    fn entry(id: usize, weight: u32) -> Entry {
        let entry = Entry::new(Node::new(id.to_string(), format!("10.0.0.{id}:1")), "v1");
        entry.state().set_readiness(Readiness::Ready);
        entry.with_weight(weight)
    }

    fn nodes(weights: &[u32]) -> Nodes {
        let entries = weights.iter().enumerate();
        entries.map(|(id, weight)| entry(id, *weight)).collect()
    }

    fn turns(nodes: &Nodes, n: usize) -> Vec<usize> {
        let hint = PickHint::new(SystemClock.now());
        let pick = || {
            RoundRobinSelector::new()
                .pick(nodes, &hint)
                .unwrap()
                .index()
        };
        (0..n).map(|_| pick()).collect()
    }

    #[test]
    fn services_that_share_a_selector_rotate_strictly_each() {
        let (one, two) = (nodes(&[100; 3]), nodes(&[100; 2]));
        for round in 0..10 {
            // Interleaved unevenly: a counter in the selector would skip.
            assert_eq!(turns(&one, 1), [round % 3]);
            assert_eq!(turns(&two, 2), [0, 1]);
        }
    }

    #[test]
    fn a_filter_rotates_over_what_it_leaves() {
        let nodes = nodes(&[100; 4]);
        let odd = |entry: &Entry| entry.node().id == "1" || entry.node().id == "3";
        let selector = RoundRobinSelector::new();
        for round in 0..10 {
            let hint = PickHint::new(SystemClock.now()).with_filter(Some(&odd));
            let pick = selector.pick(&nodes, &hint).unwrap();
            assert_eq!(pick.index(), [1, 3][round % 2]);
        }
    }

    #[test]
    fn turns_follow_the_weights_smoothly() {
        let nodes = nodes(&[100, 200, 100]);
        let all = turns(&nodes, 400);
        let count = |wanted| all.iter().filter(|index| **index == wanted).count();
        assert_eq!((count(0), count(1), count(2)), (100, 200, 100));
        for four in all.chunks(4) {
            let twice = four.iter().filter(|index| **index == 1).count();
            assert_eq!(twice, 2, "{four:?}");
        }
    }

    #[test]
    fn a_newcomer_takes_its_turn_and_not_all_it_missed() {
        let old = nodes(&[100, 100]);
        turns(&old, 10_000);
        let joined: Nodes = old.iter().cloned().chain([entry(2, 100)]).collect();
        let after = turns(&joined, 9);
        for index in 0..3 {
            let count = after.iter().filter(|turn| **turn == index).count();
            assert_eq!(count, 3, "{after:?}");
        }
        // And one that was away for a while.
        joined[0].state().set_readiness(Readiness::Failed);
        turns(&joined, 10_000);
        joined[0].state().set_readiness(Readiness::Ready);
        let after = turns(&joined, 9);
        let count = after.iter().filter(|turn| **turn == 0).count();
        assert!((3..=4).contains(&count), "{after:?}");
    }

    #[test]
    fn many_threads_rotate_strictly() {
        let nodes = nodes(&[100; 5]);
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let nodes = nodes.clone();
                std::thread::spawn(move || turns(&nodes, 1_000).len())
            })
            .collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), 1_000);
        }
        for entry in nodes.iter() {
            let picks = entry.state().picks();
            assert!((1_595..=1_605).contains(&picks), "{picks} of 8000");
        }
        assert_eq!(Arc::strong_count(nodes[0].state()), 1, "no pick is left");
    }

    #[test]
    fn extreme_weights_and_positions_do_no_harm() {
        let nodes = nodes(&[u32::MAX, 1, 0]);
        assert_eq!(turns(&nodes, 3)[0], 0);
        let (seen, end) = (nodes[0].state().turn(), u64::MAX);
        assert!(nodes[0].state().take_turn(seen, end));
        let seen = nodes[1].state().turn();
        assert!(nodes[1].state().take_turn(seen, end));
        assert_eq!(turns(&nodes, 100).len(), 100);
    }
}
