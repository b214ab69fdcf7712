//! The strategy itself: the fewest calls in flight. Replace that by {{backend}}.

use std::cmp::Reverse;

use micro_selector_core::{Nodes, Pick, PickHint, Selector};

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
}

impl Selector for {{Type}}Selector {
    fn backend(&self) -> &'static str {
        SCHEME
    }

    fn pick(&self, nodes: &Nodes, hint: &PickHint<'_>) -> Option<Pick> {
        let full = |in_flight: u32| {
            self.config
                .max_in_flight
                .is_some_and(|max| in_flight >= max)
        };
        nodes
            .candidates(hint)
            .min_by_key(|index| {
                let in_flight = nodes[*index].state().in_flight();
                // Among equals chance decides: always the first would take every call of a quiet hour.
                let chance = scatter(hint.random, *index);
                (full(in_flight), in_flight, Reverse(chance))
            })
            .map(|index| nodes.pick(index))
    }
}

/// A number that depends on every bit of the call's chance and on the node (splitmix64).
fn scatter(random: u64, index: usize) -> u64 {
    let mut x = random ^ (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
