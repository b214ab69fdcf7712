//! A node that was taken.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::NodeState;

/// How a call on a picked node ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It was answered, well or with an error that is the caller's own, after this time.
    Success(Duration),
    /// The node failed; the penalty is charged as if the call had taken that long, or a node that
    /// fails quickly would attract every call.
    Failure(Duration),
}

/// A node that was taken: it has one more call in flight until it is told the outcome.
///
/// Dropping it means that the call was given up, which says nothing about the node.
#[derive(Debug)]
#[must_use = "a pick must be told the outcome"]
pub struct Pick {
    index: usize,
    state: Arc<NodeState>,
}

impl Pick {
    pub(crate) fn new(index: usize, state: Arc<NodeState>) -> Self {
        state.begin();
        Self { index, state }
    }

    /// Which node it is, by index in the set that it was picked from.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// What is known of the node.
    #[must_use]
    pub fn state(&self) -> &NodeState {
        &self.state
    }

    pub(crate) fn shared(&self) -> Arc<NodeState> {
        Arc::clone(&self.state)
    }

    /// Tells the outcome. A client does so through [`Outliers`](crate::Outliers), which eject by it.
    pub fn finish(self, outcome: Outcome, now: Instant) {
        match outcome {
            Outcome::Success(latency) => self.state.succeeded(latency, now),
            Outcome::Failure(penalty) => self.state.failed(penalty, now),
        }
    }
}

impl Drop for Pick {
    fn drop(&mut self) {
        self.state.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs a beginning of time"
    )]
    fn the_latency_peaks_at_once_and_decays() {
        let state = Arc::new(NodeState::default());
        let start = Instant::now();
        let call = |ms, at| {
            Pick::new(0, Arc::clone(&state))
                .finish(Outcome::Success(Duration::from_millis(ms)), at);
        };
        assert_eq!(state.latency(start), None);
        call(10, start);
        call(100, start + Duration::from_secs(1));
        let ms = |at| state.latency(at).unwrap().as_millis();
        assert_eq!(ms(start + Duration::from_secs(1)), 100);
        assert!((35..38).contains(&ms(start + Duration::from_secs(11))));
        assert_eq!(state.in_flight(), 0);
        drop(Pick::new(0, Arc::clone(&state)));
        assert_eq!(
            (state.in_flight(), state.failures(), state.picks()),
            (0, 0, 3)
        );
        Pick::new(0, Arc::clone(&state)).finish(Outcome::Failure(Duration::from_secs(5)), start);
        assert_eq!(state.failures(), 1);
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs a beginning of time"
    )]
    fn after_a_silence_one_call_outweighs_what_was_known() {
        let state = Arc::new(NodeState::default());
        let start = Instant::now();
        let call = |ms, at| {
            Pick::new(0, Arc::clone(&state))
                .finish(Outcome::Success(Duration::from_millis(ms)), at);
        };
        let ms = |at| state.latency(at).unwrap().as_millis();
        assert!(
            !state.is_stale(start),
            "nothing is known, so nothing is old"
        );
        call(2000, start);
        let soon = start + Duration::from_secs(1);
        assert!(!state.is_stale(soon));
        call(2, soon);
        assert!(ms(soon) > 1500);
        let late = soon + Duration::from_secs(3);
        assert!(state.is_stale(late));
        call(2, late);
        assert!(ms(late) < 200);
        call(3000, late + Duration::from_secs(30));
        assert_eq!(
            ms(late + Duration::from_secs(30)),
            3000,
            "a peak counts at once"
        );
    }
}
