//! The strategy.

use std::time::Duration;

use micro_selector_core::{Balance, Entry, Error, Nodes, Pick, PickHint, Result, Selector};

use crate::SCHEME;

/// Keeps a key on one node: weighted rendezvous hashing (Thaler, Ravishankar, 1998; weights by
/// Schindelhauer, Schomaker, 2005).
///
/// Every node draws a number from its own hash and the key; the highest one wins. A node that
/// leaves takes only its own victories along.
#[derive(Clone, Debug)]
pub struct HashSelector {
    balance: Balance,
    bound: Option<f64>,
}

impl HashSelector {
    /// A selector without a bound: a key stays at its node however busy that is.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            balance: Balance::new()
                .with_subset(0)
                .with_slow_start(Duration::ZERO),
            bound: None,
        }
    }

    /// Sets zone, subset, slow start and ejection.
    ///
    /// By default there is no subset and no slow start, or the clients would not agree on where a
    /// key belongs; a zone divides the keys' homes by zones.
    #[must_use]
    pub fn with_balance(mut self, balance: Balance) -> Self {
        self.balance = balance;
        self
    }

    /// Sets how many calls in flight a node may have, as a factor of the average by weight: 1.25
    /// is common. A key whose node has more goes on to its next one.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` unless the factor is finite and above 1: at 1 there need not be a node left.
    pub fn with_bound(mut self, bound: f64) -> Result<Self> {
        if !(bound.is_finite() && bound > 1.0) {
            return Err(
                Error::invalid_argument("the bound is a factor above 1, such as 1.25")
                    .with_operation("selector.hash")
                    .with_context("bound", bound),
            );
        }
        self.bound = Some(bound);
        Ok(self)
    }
}

impl Default for HashSelector {
    fn default() -> Self {
        Self::new()
    }
}

impl Selector for HashSelector {
    fn backend(&self) -> &'static str {
        SCHEME
    }

    fn balance(&self) -> &Balance {
        &self.balance
    }

    fn pick(&self, nodes: &Nodes, hint: &PickHint<'_>) -> Option<Pick> {
        // Without a key, a random one: that takes a random node, in proportion to the weights.
        let key = hint.key.unwrap_or(hint.random);
        let candidates = nodes.candidates(hint);
        let best = |indexes: &mut dyn Iterator<Item = usize>| {
            indexes
                .map(|index| (index, Draw::of(&nodes[index], key)))
                .reduce(|best, next| if next.1.beats(best.1) { next } else { best })
                .map(|(index, _)| index)
        };
        let within = match self.bound {
            None => None,
            Some(bound) => {
                // The call at hand is counted too: an idle fleet has room for one.
                let (calls, weights) = candidates.clone().fold((1.0, 0.0), |sum, index| {
                    let entry = &nodes[index];
                    (sum.0 + in_flight(entry), sum.1 + weight(entry))
                });
                let per_weight = bound * calls / weights;
                let has_room = |index: &usize| {
                    let entry = &nodes[*index];
                    in_flight(entry) < (per_weight * weight(entry)).ceil()
                };
                best(&mut candidates.clone().filter(has_room))
            }
        };
        // Calls that begin meanwhile may take the room of all: then the key's own node is best.
        let index = within.or_else(|| best(&mut candidates.clone()))?;
        Some(nodes.pick(index))
    }
}

fn in_flight(entry: &Entry) -> f64 {
    f64::from(entry.state().in_flight())
}

fn weight(entry: &Entry) -> f64 {
    // Weights of 0 are compared only among themselves.
    f64::from(entry.weight().max(1))
}

/// What a node drew for a key.
#[derive(Clone, Copy)]
struct Draw {
    bits: u64,
    weight: u32,
}

impl Draw {
    fn of(entry: &Entry, key: u64) -> Self {
        Self {
            bits: mix(entry.hash() ^ mix(key)),
            weight: entry.weight().max(1),
        }
    }

    fn beats(self, other: Self) -> bool {
        if self.weight == other.weight {
            // The same order as by score, without logarithms.
            return self.bits > other.bits;
        }
        self.score() > other.score()
    }

    /// `-weight ÷ ln(u)` for a `u` between 0 and 1: the chance to be highest is the weight's share.
    fn score(self) -> f64 {
        // 53 bits, and half a step so that neither 0 nor 1 comes out.
        let u = ((self.bits >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        -f64::from(self.weight) / u.ln()
    }
}

/// The finalizer of `SplitMix64`: every bit of the input moves half the bits of the output.
const fn mix(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use micro_core::{Clock as _, SystemClock};
    use micro_selector_core::{Node, Readiness};

    use super::*;

    fn nodes(weights: &[(usize, u32)]) -> Nodes {
        let nodes: Nodes = weights
            .iter()
            .map(|(id, weight)| {
                let node = Node::new(format!("node-{id}"), format!("10.0.0.{id}:1"));
                Entry::new(node, "v1").with_weight(*weight)
            })
            .collect();
        for entry in nodes.iter() {
            entry.state().set_readiness(Readiness::Ready);
        }
        nodes
    }

    fn equal(ids: impl IntoIterator<Item = usize>) -> Nodes {
        let weights: Vec<_> = ids.into_iter().map(|id| (id, 100)).collect();
        nodes(&weights)
    }

    fn of(selector: &HashSelector, nodes: &Nodes, key: u64) -> Pick {
        let hint = PickHint::new(SystemClock.now()).with_key(Some(key));
        selector.pick(nodes, &hint).unwrap()
    }

    fn id_of(nodes: &Nodes, key: u64) -> String {
        let index = of(&HashSelector::new(), nodes, key).index();
        nodes[index].node().id.clone()
    }

    #[test]
    fn keys_are_spread_by_weight() {
        const KEYS: u64 = 40_000;
        for weights in [
            [(0, 100), (1, 100), (2, 100)],
            [(0, 100), (1, 200), (2, 500)],
        ] {
            let nodes = nodes(&weights);
            let total: u32 = weights.iter().map(|(_, weight)| weight).sum();
            let mut counts = [0_u32; 3];
            for key in 0..KEYS {
                counts[of(&HashSelector::new(), &nodes, key).index()] += 1;
            }
            for (count, (_, weight)) in counts.iter().zip(weights) {
                let share = f64::from(*count) / KEYS as f64;
                let expected = f64::from(weight) / f64::from(total);
                assert!(
                    (share - expected).abs() < 0.01,
                    "{counts:?} for {weights:?}"
                );
            }
        }
    }

    #[test]
    fn only_the_keys_of_a_node_that_leaves_move_and_they_spread() {
        let all = equal(0..10);
        let less = equal((0..10).filter(|id| *id != 4));
        let mut moved_to = std::collections::BTreeMap::new();
        for key in 0..10_000 {
            let (before, after) = (id_of(&all, key), id_of(&less, key));
            if before == "node-4" {
                *moved_to.entry(after).or_insert(0) += 1;
            } else {
                assert_eq!(before, after, "key {key}");
            }
        }
        assert_eq!(moved_to.len(), 9);
        assert!(
            moved_to.values().all(|n| (70..160).contains(n)),
            "{moved_to:?}"
        );
    }

    #[test]
    fn the_order_of_the_set_does_not_matter() {
        let (there, back) = (equal(0..20), equal((0..20).rev()));
        for key in 0..1_000 {
            assert_eq!(id_of(&there, key), id_of(&back, key));
        }
    }

    #[test]
    fn a_changed_weight_moves_keys_only_to_or_from_its_node() {
        let before = nodes(&[(0, 100), (1, 100), (2, 100)]);
        let after = nodes(&[(0, 100), (1, 150), (2, 100)]);
        let mut moved = 0;
        for key in 0..10_000 {
            let (from, to) = (id_of(&before, key), id_of(&after, key));
            if from != to {
                assert_eq!(to, "node-1");
                moved += 1;
            }
        }
        assert!((700..1_300).contains(&moved), "{moved}");
    }

    #[test]
    fn a_bound_keeps_a_hot_key_from_overrunning_its_node() {
        let nodes = equal(0..10);
        let selector = HashSelector::new().with_bound(1.25).unwrap();
        let hot: Vec<_> = (0..100).map(|_| of(&selector, &nodes, 7)).collect();
        for entry in nodes.iter() {
            let in_flight = entry.state().in_flight();
            assert!(in_flight <= 13, "{in_flight} of 100 calls on one of ten");
        }
        let first = of(&HashSelector::new(), &nodes, 7).index();
        assert_eq!(hot[0].index(), first, "with room, the key is at home");
        drop(hot);
        assert_eq!(
            of(&selector, &nodes, 7).index(),
            first,
            "and comes home again"
        );
    }
}
