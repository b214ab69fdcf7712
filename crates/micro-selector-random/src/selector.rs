//! The strategy.

use micro_selector_core::{Balance, Nodes, Pick, PickHint, Selector};

use crate::SCHEME;

/// Picks a node at random, in proportion to the weights.
#[derive(Clone, Debug, Default)]
pub struct RandomSelector {
    balance: Balance,
}

impl RandomSelector {
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

/// What a weight is multiplied by, so that a tenth of it is a whole number.
const FINE: u64 = 1000;

impl Selector for RandomSelector {
    fn backend(&self) -> &'static str {
        SCHEME
    }

    fn balance(&self) -> &Balance {
        &self.balance
    }

    fn pick(&self, nodes: &Nodes, hint: &PickHint<'_>) -> Option<Pick> {
        let mut dice = hint.dice();
        let heaviest = u64::from(nodes.max_weight());
        // Drawn blindly and kept with a likelihood of its weight: what is kept is distributed as
        // the scan below would distribute it, so mixing the two changes nothing.
        for _ in 0..DRAWS {
            let index = dice.index(nodes.len());
            let entry = nodes.get(index)?;
            let weight = u64::from(entry.weight());
            let kept = weight == heaviest || dice.below(heaviest) < weight;
            let ramp = entry.state().ramp(hint.now);
            // Below 1 only during a slow start: no chance is used up otherwise.
            let kept = kept && (ramp >= 1.0 || dice.chance(ramp));
            if kept && nodes.is_preferred(index, hint) {
                return Some(nodes.pick(index));
            }
        }
        // Each replaces what was kept so far with its share of the weight so far.
        let mut total = 0;
        let mut kept = None;
        for index in nodes.candidates(hint) {
            // Weights of 0 are among the candidates only if there are no others: all are alike.
            let weight = u64::from(nodes[index].weight().max(1));
            let ramp = nodes[index].state().ramp(hint.now);
            let weight = ((weight * FINE) as f64 * ramp) as u64;
            total += weight;
            if dice.below(total) < weight {
                kept = Some(index);
            }
        }
        kept.map(|index| nodes.pick(index))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use micro_core::{Clock as _, Random as _, SeededRandom, SystemClock};
    use micro_selector_core::{Entry, Node, Readiness};

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

    fn shares(nodes: &Nodes, now: Instant, picks: usize) -> Vec<f64> {
        let random = SeededRandom::new(7);
        let mut counts = vec![0; nodes.len()];
        for _ in 0..picks {
            let hint = PickHint::new(now).with_random(random.next_u64());
            counts[RandomSelector::new().pick(nodes, &hint).unwrap().index()] += 1;
        }
        counts
            .into_iter()
            .map(|n: u32| f64::from(n) / picks as f64)
            .collect()
    }

    #[test]
    fn shares_follow_the_weights() {
        let now = SystemClock.now();
        for weights in [&[100; 5][..], &[1, 2, 3, 4], &[1, 1000, 1], &[0, 5, 5]] {
            let nodes = nodes(weights);
            let total: u32 = weights.iter().sum();
            for (share, weight) in shares(&nodes, now, 40_000).iter().zip(weights) {
                let expected = f64::from(*weight) / f64::from(total);
                assert!(
                    (share - expected).abs() < 0.01,
                    "{weights:?}: {share} for {weight}"
                );
            }
        }
    }

    #[test]
    fn a_few_ready_ones_among_many_share_evenly() {
        let now = SystemClock.now();
        let nodes = nodes(&[100; 1000]);
        for entry in nodes.iter().skip(4) {
            entry.state().set_readiness(Readiness::Connecting);
        }
        let shares = shares(&nodes, now, 4_000);
        assert!(
            shares[..4].iter().all(|share| (share - 0.25).abs() < 0.03),
            "{:?}",
            &shares[..4]
        );
    }

    #[test]
    fn nodes_without_weight_are_alike_if_there_are_no_others() {
        let shares = shares(&nodes(&[0, 0]), SystemClock.now(), 4_000);
        assert!((shares[0] - 0.5).abs() < 0.03, "{shares:?}");
    }
}
