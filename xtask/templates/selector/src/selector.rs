//! The strategy itself: of two nodes drawn by lot, the one with fewer calls in flight. Replace that
//! by {{backend}}.

use micro_selector_core::{Balance, Entry, Nodes, Pick, PickHint, Selector};

use crate::SCHEME;
use crate::{{Type}}Config;

/// Picks by the strategy `{{backend}}`.
#[derive(Clone, Debug, Default)]
pub struct {{Type}}Selector {
    config: {{Type}}Config,
}

impl {{Type}}Selector {
    /// A selector of this config.
    #[must_use]
    pub fn new(config: {{Type}}Config) -> Self {
        Self { config }
    }

    /// What a node costs: first whether it wants no calls or is full, then its calls by its weight.
    fn cost(&self, entry: &Entry) -> (bool, f64) {
        let in_flight = entry.state().in_flight();
        let full = self
            .config
            .max_in_flight
            .is_some_and(|max| in_flight >= max);
        let load = f64::from(in_flight) / f64::from(entry.weight().max(1));
        (full || entry.weight() == 0, load)
    }
}

impl Selector for {{Type}}Selector {
    fn backend(&self) -> &'static str {
        SCHEME
    }

    fn balance(&self) -> &Balance {
        &self.config.balance
    }

    fn pick(&self, nodes: &Nodes, hint: &PickHint<'_>) -> Option<Pick> {
        // The two best lots, kept while walking: a pick allocates nothing.
        let mut first: Option<(f64, usize)> = None;
        let mut second: Option<(f64, usize)> = None;
        for index in nodes.candidates(hint) {
            let lot = lot(hint.random, index, nodes[index].weight());
            if first.is_none_or(|(best, _)| lot < best) {
                second = first.replace((lot, index));
            } else if second.is_none_or(|(best, _)| lot < best) {
                second = Some((lot, index));
            }
        }
        let (_, first) = first?;
        let taken = match second {
            Some((_, second)) if self.cost(&nodes[second]) < self.cost(&nodes[first]) => second,
            _ => first,
        };
        Some(nodes.pick(taken))
    }
}

/// A node's lot in a draw in which the least wins, with a probability like the node's weight.
fn lot(random: u64, index: usize, weight: u32) -> f64 {
    -chance(random, index).ln() / f64::from(weight).max(f64::MIN_POSITIVE)
}

/// A number above 0 and below 1 that depends on the call's chance and on the node (splitmix64).
fn chance(random: u64, index: usize) -> f64 {
    let mut x = random ^ (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^= x >> 31;
    // 53 bits are what an `f64` holds exactly.
    ((x >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
}
