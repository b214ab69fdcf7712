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
    endpoints: Arc<[Box<str>]>,
    state: Arc<NodeState>,
}

impl Entry {
    /// The weight of a node that says nothing of it.
    const WEIGHT: u32 = 100;

    /// A node of which nothing is known yet.
    #[must_use]
    pub fn new(node: impl Into<Arc<Node>>, version: impl Into<Arc<str>>) -> Self {
        let node = node.into();
        Self {
            hash: hash(node.id.as_bytes()),
            node,
            version: version.into(),
            weight: Self::WEIGHT,
            endpoints: Arc::default(),
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

    /// Takes the weight from the node's metadata: `weight`, a whole number of 32 bits.
    ///
    /// What is none (`NaN`, `-1`, `1.5`, `4294967296`) is ignored: the weight stays 100. One node
    /// that writes nonsense must not stop calls to the others.
    #[must_use]
    pub fn with_registered_weight(self) -> Self {
        match self.node.metadata.get("weight").map(|text| text.parse()) {
            Some(Ok(weight)) => self.with_weight(weight),
            _ => self,
        }
    }

    /// Sets the endpoints that the node was registered with, such as `Greeter.Hello`.
    #[must_use]
    pub fn with_endpoints(mut self, endpoints: Arc<[Box<str>]>) -> Self {
        self.endpoints = endpoints;
        self
    }

    /// Whether the node was registered with this endpoint: for filters of calls that only some
    /// versions answer. Of a node that lists none it is not known, and so it is false.
    #[must_use]
    pub fn has_endpoint(&self, name: &str) -> bool {
        self.endpoints.iter().any(|endpoint| **endpoint == *name)
    }

    /// The zone that the node says it is in: `zone` in its metadata.
    #[must_use]
    pub fn zone(&self) -> Option<&str> {
        self.node.metadata.get("zone").map(String::as_str)
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
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    mix(hash)
}

/// The finalizer of `MurmurHash3`: every bit of the input moves half the bits of the output.
pub(crate) const fn mix(mut hash: u64) -> u64 {
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
    len: usize,
    max_weight: u32,
}

impl Nodes {
    /// The nodes that may be taken, by index.
    ///
    /// First choice are nodes that are ready and not ejected; one whose ejection is over is as long
    /// as no call is under way to it, until one succeeds. If there are none, the rest are
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

    /// The first so many of them, under the same indexes; all if there are no more.
    ///
    /// It shares the entries and allocates nothing.
    #[must_use]
    pub fn first(&self, len: usize) -> Self {
        Self {
            entries: Arc::clone(&self.entries),
            len: len.min(self.len),
            max_weight: self.max_weight,
        }
    }

    /// The largest weight in the set, 0 if it is empty: for strategies that draw a node and keep
    /// it with a likelihood of its weight by this. Of a [`first`](Self::first) part it may be that of the
    /// whole.
    #[must_use]
    pub fn max_weight(&self) -> u32 {
        self.max_weight
    }

    /// How good a choice a node is, 0 being the best; `None` if it may not be taken at all.
    fn rank(&self, index: usize, hint: &PickHint<'_>) -> Option<u8> {
        let entry = self.get(index)?;
        if hint.filter.is_some_and(|filter| !filter(entry)) {
            return None;
        }
        let state = entry.state();
        let ready = match state.readiness() {
            Readiness::Ready => 0,
            Readiness::Idle | Readiness::Connecting => 1,
            Readiness::Failed => 3,
        };
        let ejected = if state.takes_calls(hint.now) { 0 } else { 2 };
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
        &self.entries[..self.len]
    }
}

impl FromIterator<Entry> for Nodes {
    fn from_iter<I: IntoIterator<Item = Entry>>(entries: I) -> Self {
        let entries: Arc<[Entry]> = entries.into_iter().collect();
        let max_weight = entries.iter().map(Entry::weight).max().unwrap_or(0);
        Self {
            len: entries.len(),
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
    fn the_first_few_are_a_set_of_their_own() {
        let all = nodes(5);
        let few = all.first(2);
        assert_eq!(
            (few.len(), all.first(9).len(), all.first(0).len()),
            (2, 5, 0)
        );
        let hint = PickHint::new(now());
        assert_eq!(few.candidates(&hint).collect::<Vec<_>>(), [0, 1]);
        assert!(!few.is_preferred(3, &hint));
        let pick = few.pick(1);
        assert_eq!(all[1].state().in_flight(), 1, "the same nodes");
        drop(pick);
        assert_eq!(few.first(4).len(), 2, "it does not grow again");
    }

    #[test]
    fn a_weight_that_is_none_is_ignored() {
        let weight = |text: &str| {
            let node = Node::new("a", "h:1").with_metadata("weight", text);
            Entry::new(node, "v1").with_registered_weight().weight()
        };
        assert_eq!((weight("0"), weight("1"), weight("250")), (0, 1, 250));
        assert_eq!(weight("4294967295"), u32::MAX);
        for wrong in ["", "NaN", "-1", "4294967296", "1.5", "1e3", " 5", "inf"] {
            assert_eq!(weight(wrong), 100, "{wrong:?}");
        }
    }

    #[test]
    fn endpoints_are_known_by_name() {
        let entry = Entry::new(Node::new("a", "h:1"), "v1");
        assert!(!entry.has_endpoint("Greeter.Hello"));
        let entry = entry.with_endpoints(Arc::from([Box::from("Greeter.Hello")]));
        assert!(entry.has_endpoint("Greeter.Hello"));
        assert!(!entry.has_endpoint("Greeter.Hell"));
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
