//! The set that a node is picked from.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

use crate::{Node, NodeState, Pick, PickHint, Readiness};

/// A node with what is known of it.
#[derive(Clone, Debug)]
pub struct Entry {
    node: Arc<Node>,
    version: Arc<str>,
    weight: u32,
    hash: u64,
    state: Arc<NodeState>,
}

impl Entry {
    /// A node of which nothing is known yet.
    #[must_use]
    pub fn new(node: impl Into<Arc<Node>>, version: impl Into<Arc<str>>) -> Self {
        let node = node.into();
        Self {
            hash: hash(node.id.as_bytes()),
            node,
            version: version.into(),
            weight: 100,
            state: Arc::default(),
        }
    }

    /// Goes on with what is known already: the state of the same node in an earlier set.
    #[must_use]
    pub fn with_state(mut self, state: Arc<NodeState>) -> Self {
        self.state = state;
        self
    }

    /// Sets the weight, 100 by default; a node of weight 200 takes twice the calls.
    ///
    /// A node of weight 0 takes none while there is another: it comes after failed ones, and before
    /// those that were tried.
    #[must_use]
    pub fn with_weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// The node as registered.
    #[must_use]
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// The version of the service that it runs.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The weight.
    #[must_use]
    pub fn weight(&self) -> u32 {
        self.weight
    }

    /// A number that is the node's in every process: the hash of its id, for strategies that keep
    /// a key to a node.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// What is known of it.
    #[must_use]
    pub fn state(&self) -> &Arc<NodeState> {
        &self.state
    }
}

/// FNV-1a with the finalizer of `MurmurHash3`: short ids that differ in one digit are spread, and
/// no seed makes processes disagree.
fn hash(bytes: &[u8]) -> u64 {
    let mut hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// The nodes of a service at one moment: an immutable set.
///
/// It derefs to a slice of [`Entry`], and is cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Nodes {
    entries: Arc<[Entry]>,
    max_weight: u32,
}

impl Nodes {
    /// The nodes that may be taken, by index.
    ///
    /// First choice are nodes that are ready and not ejected. If there are none, the rest are
    /// taken as they come: a call may still succeed on a node that is just connecting, and
    /// trying is better than failing. What the filter refuses is never taken, what was tried
    /// already only if nothing else is left.
    ///
    /// Walking it allocates nothing, and takes time linear in the number of nodes. A strategy that
    /// only looks at a few asks [`is_preferred`](Self::is_preferred) about those.
    pub fn candidates<'a>(
        &'a self,
        hint: &'a PickHint<'a>,
    ) -> impl Iterator<Item = usize> + Clone + 'a {
        let mut best = None;
        for rank in (0..self.len()).filter_map(|index| self.rank(index, hint)) {
            best = Some(best.map_or(rank, |best: u8| best.min(rank)));
            if best == Some(0) {
                break;
            }
        }
        (0..self.len()).filter(move |index| best.is_some() && self.rank(*index, hint) == best)
    }

    /// Whether a node is of the first choice: ready, not ejected, of some weight, allowed and not
    /// tried yet.
    #[must_use]
    pub fn is_preferred(&self, index: usize, hint: &PickHint<'_>) -> bool {
        self.rank(index, hint) == Some(0)
    }

    /// The largest weight in the set, 0 if it is empty: for strategies that draw a node and keep
    /// it with a likelihood of its weight by this.
    #[must_use]
    pub fn max_weight(&self) -> u32 {
        self.max_weight
    }

    /// How good a choice a node is, 0 being the best; `None` if it may not be taken at all.
    fn rank(&self, index: usize, hint: &PickHint<'_>) -> Option<u8> {
        let entry = self.entries.get(index)?;
        if hint.filter.is_some_and(|filter| !filter(entry)) {
            return None;
        }
        let state = entry.state();
        let ready = match state.readiness() {
            Readiness::Ready => 0,
            Readiness::Idle | Readiness::Connecting => 1,
            Readiness::Failed => 3,
        };
        let ejected = if state.is_ejected(hint.now) { 2 } else { 0 };
        let unwanted = if entry.weight == 0 { 6 } else { 0 };
        let tried = if hint.tried.contains(&index) { 16 } else { 0 };
        Some(ready + ejected + unwanted + tried)
    }

    /// Takes a node: it has one more call in flight until the pick is told the outcome.
    ///
    /// # Panics
    ///
    /// If there is no such node.
    pub fn pick(&self, index: usize) -> Pick {
        Pick::new(index, Arc::clone(self[index].state()))
    }

    /// The shortest time until an ejected node returns; `None` if none is ejected.
    #[must_use]
    pub fn next_return(&self, now: Instant) -> Option<std::time::Duration> {
        self.iter()
            .filter_map(|entry| entry.state().ejected_for(now))
            .min()
    }
}

impl Deref for Nodes {
    type Target = [Entry];

    fn deref(&self) -> &[Entry] {
        &self.entries
    }
}

impl FromIterator<Entry> for Nodes {
    fn from_iter<I: IntoIterator<Item = Entry>>(entries: I) -> Self {
        let entries: Arc<[Entry]> = entries.into_iter().collect();
        let max_weight = entries.iter().map(Entry::weight).max().unwrap_or(0);
        Self {
            entries,
            max_weight,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs a beginning of time"
    )]
    fn now() -> Instant {
        Instant::now()
    }

    fn nodes(n: usize) -> Nodes {
        (0..n)
            .map(|i| Entry::new(Node::new(i.to_string(), format!("10.0.0.{i}:1")), "v1"))
            .collect()
    }

    #[test]
    fn ready_nodes_come_first_and_filters_are_never_overridden() {
        let nodes = nodes(4);
        let hint = PickHint::new(now());
        assert_eq!(
            nodes.candidates(&hint).count(),
            4,
            "nothing is ready: all are tried"
        );
        nodes[1].state().set_readiness(Readiness::Ready);
        nodes[2].state().set_readiness(Readiness::Ready);
        nodes[3].state().set_readiness(Readiness::Failed);
        assert_eq!(nodes.candidates(&hint).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(
            nodes.candidates(&hint.with_tried(&[1])).collect::<Vec<_>>(),
            [2]
        );
        let filter = |entry: &Entry| entry.node().id == "3";
        let filtered = hint.with_filter(Some(&filter));
        assert_eq!(nodes.candidates(&filtered).collect::<Vec<_>>(), [3]);
        let nobody = |_: &Entry| false;
        assert_eq!(
            nodes.candidates(&hint.with_filter(Some(&nobody))).count(),
            0
        );
        assert_eq!(
            nodes
                .candidates(&hint.with_tried(&[0, 1, 2, 3]))
                .collect::<Vec<_>>(),
            [1, 2]
        );
    }

    #[test]
    fn an_ejected_node_returns_by_itself() {
        let nodes = nodes(2);
        let start = now();
        for entry in nodes.iter() {
            entry.state().set_readiness(Readiness::Ready);
        }
        nodes[0].state().eject(start, Duration::from_secs(5));
        assert_eq!(
            nodes.candidates(&PickHint::new(start)).collect::<Vec<_>>(),
            [1]
        );
        let later = start + Duration::from_secs(6);
        assert_eq!(nodes.candidates(&PickHint::new(later)).count(), 2);
    }

    #[test]
    fn a_node_without_weight_waits_until_all_others_failed() {
        let nodes: Nodes = (0..3)
            .map(|i| Entry::new(Node::new(i.to_string(), format!("10.0.0.{i}:1")), "v1"))
            .map(|entry| {
                let weight = if entry.node().id == "0" { 0 } else { 100 };
                entry.with_weight(weight)
            })
            .collect();
        let start = now();
        nodes[0].state().set_readiness(Readiness::Ready);
        nodes[1].state().set_readiness(Readiness::Failed);
        nodes[1].state().eject(start, Duration::from_secs(5));
        nodes[2].state().set_readiness(Readiness::Ready);
        let candidates = |tried: &[usize]| {
            let hint = PickHint::new(start).with_tried(tried);
            nodes.candidates(&hint).collect::<Vec<_>>()
        };
        assert_eq!(candidates(&[]), [2]);
        assert_eq!(
            candidates(&[2]),
            [1],
            "failed and ejected, and still before it"
        );
        assert_eq!(candidates(&[2, 1]), [0]);
        assert!(!nodes.is_preferred(0, &PickHint::new(start)));
        assert_eq!(
            (nodes.max_weight(), Nodes::default().max_weight()),
            (100, 0)
        );
    }

    #[test]
    fn the_hash_is_the_same_in_every_process() {
        let of = |id: &str| Entry::new(Node::new(id, "h:1"), "v1").hash();
        // Pinned: a change would move every key of a running fleet.
        assert_eq!(of(""), 0xefd0_1f60_ba99_2926);
        assert_eq!(of("greeter-1"), of("greeter-1"));
        assert_ne!(of("greeter-1"), of("greeter-2"));
    }
}
