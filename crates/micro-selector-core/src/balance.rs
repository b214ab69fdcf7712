//! What surrounds a strategy: which nodes it is offered, and which are left out for a while.

use std::sync::Arc;
use std::time::Duration;

use micro_core::url::{Options, Span};

use crate::{Ejection, Entry, Env, Error, Readiness, Result};

/// The zone that this program runs in: what a driver finds in its [`Env`] if the program knows it.
///
/// ```
/// use micro_selector_core::{Env, Zone};
///
/// let env = Env::new().with::<Zone>(Zone::new("eu-1a"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone(Arc<str>);

impl Zone {
    /// A zone, ready to be put into an [`Env`].
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>) -> Arc<Self> {
        Arc::new(Self(name.into()))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.0
    }
}

/// What surrounds a strategy: which nodes a client offers it, and which it leaves out for a while.
///
/// A selector brings it along ([`Selector::balance`](crate::Selector::balance)), the client acts by
/// it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Balance {
    /// The zone whose nodes come first: those with the same `zone` in their metadata. Default none.
    pub zone: Option<Arc<str>>,
    /// How many nodes that can take calls the own zone must have to come first. Default 1.
    pub zone_nodes: usize,
    /// Of more nodes than this a client uses so many; 0 uses all. Default 50.
    pub subset: usize,
    /// How long a node that joins or comes back takes less than its share; zero is not at all, and
    /// an hour the most that makes sense. Default 10 s.
    pub slow_start: Duration,
    /// When a node that fails is left out.
    pub ejection: Ejection,
}

impl Balance {
    /// What is left of a node's share at the beginning of its slow start.
    pub(crate) const LEAST_RAMP: f64 = 0.1;

    /// Of a zone's nodes so many must be able to take calls for it to keep all of them (Envoy's
    /// overprovisioning factor of 1.4).
    const ENOUGH: f64 = 1.0 / 1.4;

    /// The defaults.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            zone: None,
            zone_nodes: 1,
            subset: 50,
            slow_start: Duration::from_secs(10),
            ejection: Ejection::new(),
        }
    }

    /// Sets [`zone`](Self::zone).
    #[must_use]
    pub fn with_zone(mut self, zone: impl Into<Arc<str>>) -> Self {
        self.zone = Some(zone.into());
        self
    }

    /// Sets [`zone_nodes`](Self::zone_nodes).
    #[must_use]
    pub const fn with_zone_nodes(mut self, nodes: usize) -> Self {
        self.zone_nodes = nodes;
        self
    }

    /// Sets [`subset`](Self::subset).
    #[must_use]
    pub const fn with_subset(mut self, nodes: usize) -> Self {
        self.subset = nodes;
        self
    }

    /// Sets [`slow_start`](Self::slow_start).
    #[must_use]
    pub const fn with_slow_start(mut self, time: Duration) -> Self {
        self.slow_start = time;
        self
    }

    /// Sets [`ejection`](Self::ejection).
    #[must_use]
    pub const fn with_ejection(mut self, ejection: Ejection) -> Self {
        self.ejection = ejection;
        self
    }

    /// Takes the options of a selector's URL that say otherwise: `zone`, `zone_nodes`, `subset`,
    /// `slow_start`, `eject_failures`, `eject_success`, `eject_time`, `eject_share`.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a value that cannot be read or is out of its range.
    pub fn or_url(mut self, options: &mut Options<'_>) -> Result<Self> {
        if let Some(zone) = options.take::<String>("zone")? {
            if zone.is_empty() {
                return Err(invalid("a zone has a name", "zone", &zone));
            }
            self.zone = Some(zone.into());
        }
        if let Some(nodes) = options.take("zone_nodes")? {
            self.zone_nodes = nodes;
        }
        if let Some(nodes) = options.take("subset")? {
            self.subset = nodes;
        }
        if let Some(Span(time)) = options.take("slow_start")? {
            self.slow_start = time;
        }
        if let Some(failures) = options.take("eject_failures")? {
            self.ejection.failures = failures;
        }
        if let Some(success) = options.take("eject_success")? {
            self.ejection.success = share("eject_success", success)?;
        }
        if let Some(Span(time)) = options.take("eject_time")? {
            if time.is_zero() {
                let message = "an ejection takes some time; eject_share=0 turns it off";
                return Err(invalid(message, "eject_time", "0"));
            }
            self.ejection.time = time;
        }
        if let Some(max) = options.take("eject_share")? {
            self.ejection.share = share("eject_share", max)?;
        }
        Ok(self)
    }

    /// Takes the zone that the program runs in, if it is known and no other one is set.
    #[must_use]
    pub fn or_env(mut self, env: &Env) -> Self {
        if self.zone.is_none() {
            self.zone = env.get::<Zone>().map(|zone| Arc::clone(zone.name()));
        }
        self
    }

    /// Puts what a client is to use first: nodes of its own zone, other nodes of its subset, the
    /// rest. What stands behind `items` is told by `entry`; `seed` is the client's own.
    ///
    /// The subset is a random one (rendezvous hashing of node and seed, as in gRFC A68): each client
    /// has another, in a large fleet all nodes are used by about as many, and a node that comes or
    /// goes changes one place at most. Nodes that cannot be reached and nodes of weight 0 come last.
    /// Up to three quarters of it are nodes of the own zone.
    pub fn arrange<T>(&self, items: &mut [T], seed: u64, entry: impl Fn(&T) -> &Entry) -> Reach {
        let total = items.len();
        let zone = self.zone.as_deref();
        let is_own = |item: &T| zone.is_some() && entry(item).zone() == zone;
        let subset = if self.subset == 0 || total <= self.subset {
            // In the order of the registry, but for the zone.
            items.sort_by_key(|item| !is_own(item));
            total
        } else {
            items.sort_by_cached_key(|item| {
                let entry = entry(item);
                let failed = entry.state().readiness() == Readiness::Failed;
                let score = crate::nodes::mix(entry.hash() ^ crate::nodes::mix(seed));
                (!is_own(item), entry.weight() == 0, failed, score)
            });
            let own = items.partition_point(&is_own);
            let others = total - own;
            // A quarter is kept for the others, or there would be nowhere to go on a bad day.
            let kept = (self.subset - self.subset / 4).max(self.subset.saturating_sub(others));
            if own > kept {
                // The others of the subset follow; what is left of the zone goes to the rest.
                items[kept..].rotate_left(own - kept);
            }
            self.subset
        };
        let near = items[..subset].partition_point(&is_own);
        Reach {
            zone: if near < self.zone_nodes { 0 } else { near },
            subset,
        }
    }

    /// How many of a thousand calls stay in a zone of which `able` nodes of `all` can take calls.
    ///
    /// All of them while that is 5 in 7 or more; the fewer can, the more calls go elsewhere, so that
    /// those that are left are not overrun.
    #[must_use]
    pub fn stay(&self, able: usize, all: usize) -> u32 {
        if able == 0 || able < self.zone_nodes {
            return 0;
        }
        let part = able as f64 / all as f64 / Self::ENOUGH;
        (part.min(1.0) * 1000.0) as u32
    }
}

impl Default for Balance {
    fn default() -> Self {
        Self::new()
    }
}

/// How far [`Balance::arrange`] reaches: the first so many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reach {
    /// Nodes of the own zone: 0 if there are too few for it to come first.
    pub zone: usize,
    /// Nodes of the subset, those of the own zone included.
    pub subset: usize,
}

fn share(name: &'static str, value: f64) -> Result<f64> {
    // Neither NaN nor infinite.
    if (0.0..=1.0).contains(&value) {
        return Ok(value);
    }
    Err(invalid("a share is between 0 and 1", name, value))
}

fn invalid(message: &'static str, name: &'static str, value: impl std::fmt::Display) -> Error {
    Error::invalid_argument(message)
        .with_operation("selector.open")
        .with_context(name, value)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::Node;

    fn fleet(n: usize, zone: impl Fn(usize) -> &'static str) -> Vec<Entry> {
        let node = |i: usize| {
            let address = format!("10.0.{}.{}:1", i / 250, i % 250);
            Node::new(format!("node-{i}"), address).with_metadata("zone", zone(i))
        };
        (0..n).map(|i| Entry::new(node(i), "v1")).collect()
    }

    fn subset(balance: &Balance, entries: &[Entry], seed: u64) -> BTreeSet<String> {
        let mut items = entries.to_vec();
        let reach = balance.arrange(&mut items, seed, |entry| entry);
        let near = &items[..reach.subset];
        near.iter().map(|entry| entry.node().id.clone()).collect()
    }

    #[test]
    fn every_client_has_another_subset_and_all_nodes_are_used() {
        let entries = fleet(200, |_| "a");
        let balance = Balance::new();
        let mut uses = std::collections::BTreeMap::new();
        for seed in 0..400 {
            let subset = subset(&balance, &entries, seed);
            assert_eq!(subset.len(), 50);
            for id in subset {
                *uses.entry(id).or_insert(0) += 1;
            }
        }
        assert_eq!(uses.len(), 200);
        // 100 each would be even; a coin would give 9 more or less.
        assert!(uses.values().all(|n| (65..=135).contains(n)), "{uses:?}");
    }

    #[test]
    fn a_change_moves_one_place_at_most() {
        let entries = fleet(200, |_| "a");
        let balance = Balance::new();
        let before = subset(&balance, &entries, 7);
        for gone in 0..200 {
            let mut less = entries.clone();
            less.remove(gone);
            let after = subset(&balance, &less, 7);
            let left = before.difference(&after).count();
            let in_it = before.contains(&format!("node-{gone}"));
            assert_eq!(left, usize::from(in_it), "without node-{gone}");
        }
        // The order in which the registry lists them says nothing.
        let mut reversed = entries;
        reversed.reverse();
        assert_eq!(subset(&balance, &reversed, 7), before);
    }

    #[test]
    fn few_nodes_are_all_used_and_zero_means_all() {
        for (n, size) in [(50, 50), (3, 50), (500, 0)] {
            let balance = Balance::new().with_subset(size);
            assert_eq!(subset(&balance, &fleet(n, |_| "a"), 1).len(), n);
        }
        let mut none: Vec<Entry> = Vec::new();
        let reach = Balance::new().arrange(&mut none, 1, |entry| entry);
        assert_eq!(reach, Reach::default());
    }

    #[test]
    fn what_cannot_be_reached_makes_room() {
        let entries = fleet(200, |_| "a");
        let balance = Balance::new();
        let before = subset(&balance, &entries, 3);
        for entry in entries
            .iter()
            .filter(|entry| before.contains(&entry.node().id))
        {
            entry.state().set_readiness(Readiness::Failed);
        }
        assert!(subset(&balance, &entries, 3).is_disjoint(&before));
    }

    #[test]
    fn the_own_zone_comes_first_and_leaves_room_for_others() {
        let balance = Balance::new().with_zone("a");
        let arranged = |entries: &[Entry], balance: &Balance| {
            let mut items = entries.to_vec();
            let reach = balance.arrange(&mut items, 5, |entry| entry);
            let own = |entry: &&Entry| entry.zone() == Some("a");
            assert_eq!(items[..reach.zone].iter().filter(own).count(), reach.zone);
            let near = items[..reach.subset].iter().filter(own).count();
            (reach.zone, near, reach.subset)
        };
        // A third of 9 nodes, all of them within reach.
        let nine = fleet(9, |i| ["a", "b", "c"][i % 3]);
        assert_eq!(arranged(&nine, &balance), (3, 3, 9));
        assert_eq!(arranged(&nine, &balance.clone().with_zone_nodes(4)).0, 0);
        assert_eq!(arranged(&nine, &Balance::new()).0, 0);
        // More of the own zone than a subset has room for.
        let many = fleet(300, |i| if i < 200 { "a" } else { "b" });
        assert_eq!(arranged(&many, &balance), (38, 38, 50));
        // Nobody else is there to keep room for.
        assert_eq!(arranged(&fleet(300, |_| "a"), &balance), (50, 50, 50));
        let few_others = fleet(100, |i| if i < 98 { "a" } else { "b" });
        assert_eq!(arranged(&few_others, &balance), (48, 48, 50));
        assert_eq!(arranged(&fleet(300, |_| "b"), &balance), (0, 0, 50));
    }

    #[test]
    fn calls_leave_a_zone_by_degrees() {
        let balance = Balance::new();
        assert_eq!(balance.stay(10, 10), 1000);
        assert_eq!(balance.stay(8, 10), 1000);
        assert_eq!(balance.stay(5, 10), 700);
        assert_eq!(balance.stay(0, 10), 0);
        assert_eq!(balance.stay(0, 0), 0);
        assert_eq!(balance.with_zone_nodes(3).stay(2, 2), 0);
    }

    #[test]
    fn a_url_says_otherwise_and_nonsense_is_refused() {
        let read = |text: &str| {
            let url = micro_core::url::resolve(text).unwrap();
            let mut options = Options::new(&url);
            let balance = Balance::new().or_url(&mut options)?;
            options.finish()?;
            Ok::<_, Error>(balance)
        };
        assert_eq!(read("p2c").unwrap(), Balance::new());
        let balance = read(
            "p2c:?zone=eu-1&zone_nodes=2&subset=0&slow_start=0s&eject_failures=3&eject_success=0.5&eject_time=1s&eject_share=0.3",
        )
        .unwrap();
        assert_eq!(balance.zone.as_deref(), Some("eu-1"));
        assert_eq!((balance.zone_nodes, balance.subset), (2, 0));
        assert_eq!(balance.slow_start, Duration::ZERO);
        let ejection = Ejection::new()
            .with_failures(3)
            .with_success(0.5)
            .with_time(Duration::from_secs(1))
            .with_share(0.3);
        assert_eq!(balance.ejection, ejection);
        for wrong in [
            "zone=",
            "subset=-1",
            "slow_start=x",
            "eject_share=1.1",
            "eject_share=NaN",
            "eject_success=-0.1",
            "eject_time=0s",
        ] {
            let err = read(&format!("p2c:?{wrong}")).unwrap_err();
            assert_eq!(err.kind(), crate::ErrorKind::InvalidArgument, "{wrong}");
        }
        // What the program knows counts only if nothing else is said.
        let env = Env::new().with::<Zone>(Zone::new("us-2"));
        assert_eq!(Balance::new().or_env(&env).zone.as_deref(), Some("us-2"));
        assert_eq!(balance.or_env(&env).zone.as_deref(), Some("eu-1"));
    }
}
