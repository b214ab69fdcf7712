//! The trait of this crate.

use std::fmt;
use std::sync::Arc;

use crate::{Balance, Nodes, Pick, PickHint};

/// Picks the node that takes the next call.
///
/// It runs on every call: it neither waits nor allocates, and takes no lock.
/// What it knows of the nodes is in their [`NodeState`](crate::NodeState), which survives changes
/// of the set.
pub trait Selector: fmt::Debug + Send + Sync + 'static {
    /// The strategy's name, as in its URL scheme: `"p2c"`, `"random"`.
    fn backend(&self) -> &'static str;

    /// What surrounds the strategy: zone, subset, slow start, ejection. The client acts by it, the
    /// selector carries it so that one URL says all of how calls are balanced.
    ///
    /// A strategy that takes no part in the slow start, by
    /// [`NodeState::ramp`](crate::NodeState::ramp), turns it off:
    /// `Balance::new().with_slow_start(Duration::ZERO)`.
    fn balance(&self) -> &Balance;

    /// Picks one of the [`candidates`](Nodes::candidates); `None` if there is none.
    ///
    /// The [`Pick`] is made by [`Nodes::pick`], and counts as a call in flight until it is told
    /// the outcome.
    fn pick(&self, nodes: &Nodes, hint: &PickHint<'_>) -> Option<Pick>;
}

#[deny(clippy::missing_trait_methods)]
impl<S: Selector + ?Sized> Selector for Arc<S> {
    fn backend(&self) -> &'static str {
        (**self).backend()
    }

    fn balance(&self) -> &Balance {
        (**self).balance()
    }

    fn pick(&self, nodes: &Nodes, hint: &PickHint<'_>) -> Option<Pick> {
        (**self).pick(nodes, hint)
    }
}

// `Selector` must stay usable as a trait object.
const _: fn(&dyn Selector) = |_| ();
