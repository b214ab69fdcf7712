//! Ids that were seen.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Ids of the last while. It forgets the oldest when it is full.
#[derive(Debug)]
pub struct SeenIds {
    window: Duration,
    most: usize,
    ids: HashSet<Arc<str>>,
    /// In the order of their times.
    order: VecDeque<(Instant, Arc<str>)>,
}

impl SeenIds {
    /// Knows ids for `window`, at most so many.
    #[must_use]
    pub fn new(window: Duration, most: usize) -> Self {
        Self {
            window,
            most,
            ids: HashSet::new(),
            order: VecDeque::new(),
        }
    }

    /// Whether an id was seen.
    pub fn contains(&mut self, id: &str, now: Instant) -> bool {
        self.forget(now);
        self.ids.contains(id)
    }

    /// Notes an id; whether it is new.
    pub fn insert(&mut self, id: &Arc<str>, now: Instant) -> bool {
        self.forget(now);
        if self.most == 0 || self.window.is_zero() {
            return true;
        }
        if !self.ids.insert(Arc::clone(id)) {
            return false;
        }
        if self.order.len() == self.most {
            self.forget_first();
        }
        self.order.push_back((now, Arc::clone(id)));
        true
    }

    fn forget(&mut self, now: Instant) {
        let window = self.window;
        let is_old = |since: Instant| now.saturating_duration_since(since) >= window;
        while self.order.front().is_some_and(|(since, _)| is_old(*since)) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some((_, id)) = self.order.pop_front() {
            self.ids.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use micro_core::{Clock as _, SystemClock};

    use super::*;

    #[test]
    fn ids_are_known_for_a_while_and_not_all_of_them() {
        let start = SystemClock.now();
        let at = |millis| start + Duration::from_millis(millis);
        let id = |text: &str| Arc::<str>::from(text);
        let mut seen = SeenIds::new(Duration::from_millis(100), 3);
        assert!(seen.insert(&id("a"), at(0)));
        assert!(!seen.insert(&id("a"), at(99)));
        assert!(seen.contains("a", at(99)) && !seen.contains("a", at(100)));
        assert!(seen.insert(&id("a"), at(100)));
        for text in ["b", "c", "d"] {
            assert!(seen.insert(&id(text), at(101)));
        }
        assert!(!seen.contains("a", at(101)) && seen.contains("b", at(101)));
        assert_eq!((seen.ids.len(), seen.order.len()), (3, 3));
    }
}
