//! What is known of the call that a node is picked for.

use std::fmt;
use std::time::Instant;

use crate::{Dice, Entry};

/// What is known of the call that a node is picked for.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct PickHint<'a> {
    /// The time of the call.
    pub now: Instant,
    /// 64 random bits of this call's own.
    pub random: u64,
    /// A number that should keep to one node: the hash of a user, a tenant, a cache key.
    pub key: Option<u64>,
    /// Nodes that were tried already, by index in the same set; they are avoided.
    pub tried: &'a [usize],
    /// Only nodes that this returns true for may be taken.
    pub filter: Option<&'a (dyn Fn(&Entry) -> bool + Sync)>,
}

impl<'a> PickHint<'a> {
    /// A hint of which only the time is known.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            now,
            random: 0,
            key: None,
            tried: &[],
            filter: None,
        }
    }

    /// Random numbers for this pick, from [`random`](Self::random).
    #[must_use]
    pub fn dice(&self) -> Dice {
        Dice::new(self.random)
    }

    /// Sets [`random`](Self::random).
    #[must_use]
    pub fn with_random(mut self, random: u64) -> Self {
        self.random = random;
        self
    }

    /// Sets [`key`](Self::key).
    #[must_use]
    pub fn with_key(mut self, key: Option<u64>) -> Self {
        self.key = key;
        self
    }

    /// Sets [`tried`](Self::tried).
    #[must_use]
    pub fn with_tried(mut self, tried: &'a [usize]) -> Self {
        self.tried = tried;
        self
    }

    /// Sets [`filter`](Self::filter).
    #[must_use]
    pub fn with_filter(mut self, filter: Option<&'a (dyn Fn(&Entry) -> bool + Sync)>) -> Self {
        self.filter = filter;
        self
    }
}

impl fmt::Debug for PickHint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PickHint")
            .field("key", &self.key)
            .field("tried", &self.tried)
            .field("filter", &self.filter.is_some())
            .finish_non_exhaustive()
    }
}
