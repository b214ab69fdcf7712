//! What is known of one service, and how far an event or an answer is believed.
//!
//! No time passes here and nothing is waited for: the rules can be read and tested by themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use micro_registry_core::{Endpoint, Event, EventKind, Node, Service};

/// More nodes than this are a fault or an attack; the rest is left out.
const MAX_NODES: usize = 10_000;

/// The nodes of one service.
#[derive(Debug, Default)]
pub(crate) struct Table {
    name: String,
    versions: BTreeMap<String, Version>,
}

#[derive(Debug, Default)]
struct Version {
    metadata: BTreeMap<String, String>,
    endpoints: Vec<Endpoint>,
    nodes: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    node: Node,
    /// Since when answers lack it.
    missing: Option<Instant>,
    /// An event that took most of the service named it: the next answer decides.
    condemned: bool,
}

/// What to do after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Believed {
    /// It was applied, or concerned nobody.
    Yes,
    /// The registry must be asked whether it is so.
    AskFirst,
}

/// How an answer was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// As it is.
    Whole,
    /// It lists nobody, which is not believed yet.
    Empty,
    /// It lacks more than half of the nodes, which is not believed yet.
    Shrunken,
}

impl Table {
    pub(crate) fn new(name: &str, services: &[Service]) -> Self {
        let mut table = Self {
            name: name.to_owned(),
            versions: BTreeMap::new(),
        };
        for service in services {
            table.insert(service);
        }
        table
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.versions.is_empty()
    }

    fn len(&self) -> usize {
        self.versions
            .values()
            .map(|version| version.nodes.len())
            .sum()
    }

    /// The nodes in the form that a snapshot holds.
    pub(crate) fn services(&self) -> Arc<[Service]> {
        let services = self.versions.iter().map(|(number, version)| {
            let mut service = Service::new(&self.name, number);
            service.metadata.clone_from(&version.metadata);
            service.endpoints.clone_from(&version.endpoints);
            let nodes = version.nodes.values();
            service.nodes = nodes.map(|entry| entry.node.clone()).collect();
            service
        });
        services.collect()
    }

    /// Adds or replaces the nodes of `service`.
    fn insert(&mut self, service: &Service) {
        let mut room = MAX_NODES.saturating_sub(self.len());
        let sound = |node: &&Node| !node.id.is_empty() && !node.address.is_empty();
        let mut nodes = service.nodes.iter().filter(sound).peekable();
        // A version without nodes is no entry of its own.
        if service.name != self.name || nodes.peek().is_none() {
            return;
        }
        let version = self.versions.entry(service.version.clone()).or_default();
        version.metadata.clone_from(&service.metadata);
        version.endpoints.clone_from(&service.endpoints);
        for node in nodes {
            let known = version.nodes.contains_key(&node.id);
            if !known && room == 0 {
                continue;
            }
            room -= usize::from(!known);
            let entry = Entry {
                node: node.clone(),
                missing: None,
                condemned: false,
            };
            version.nodes.insert(node.id.clone(), entry);
        }
        self.sweep();
    }

    fn sweep(&mut self) {
        self.versions.retain(|_, version| !version.nodes.is_empty());
    }

    /// Calls `act` with each node that a deletion of `service` names.
    fn named(&mut self, service: &Service, mut act: impl FnMut(&mut Entry) -> bool) -> usize {
        let ids: BTreeSet<&str> = service.nodes.iter().map(|node| &*node.id).collect();
        // Some registries no longer know the version of what is gone.
        let any = service.version.is_empty() && !self.versions.contains_key("");
        let mut count = 0;
        for (number, version) in &mut self.versions {
            if any || *number == service.version {
                version.nodes.retain(|id, entry| {
                    let named = ids.contains(&**id);
                    count += usize::from(named);
                    !named || act(entry)
                });
            }
        }
        self.sweep();
        count
    }

    /// Applies what a watch reports.
    pub(crate) fn apply(&mut self, event: &Event) -> Believed {
        if event.service.name != self.name {
            return Believed::Yes;
        }
        match event.kind {
            EventKind::Create | EventKind::Update => {
                self.insert(&event.service);
                Believed::Yes
            }
            // A node that leaves announces itself and nobody else.
            EventKind::Delete if event.service.nodes.len() == 1 => {
                self.named(&event.service, |_| false);
                Believed::Yes
            }
            EventKind::Delete => {
                let all = self.len();
                let named = self.named(&event.service, |_| true);
                // One fault in the registry must not take most of a service out of service.
                let most = named * 2 > all || event.service.nodes.is_empty();
                self.named(&event.service, |entry| {
                    entry.condemned = true;
                    most
                });
                if most && all > 0 {
                    Believed::AskFirst
                } else {
                    Believed::Yes
                }
            }
            _ => Believed::AskFirst,
        }
    }

    /// Takes an answer of the registry.
    ///
    /// `since` are the events applied since the question was put: they are newer than the answer.
    /// A node in `doubted` refused a connection after it was last seen.
    pub(crate) fn answer(
        &mut self,
        answer: &[Service],
        since: &[Event],
        doubted: &BTreeSet<String>,
        grace: Duration,
        now: Instant,
    ) -> Taken {
        let mut listed = Self::new(&self.name, answer);
        for event in since {
            match event.kind {
                EventKind::Delete => {
                    listed.named(&event.service, |_| false);
                }
                _ => listed.insert(&event.service),
            }
        }
        let all = self.len();
        let lists = |number: &str, id: &str| {
            let version = listed.versions.get(number);
            version.is_some_and(|version| version.nodes.contains_key(id))
        };
        let mut missing = 0;
        for (number, version) in &mut self.versions {
            version.nodes.retain(|id, entry| {
                if lists(number, id) {
                    return true;
                }
                // Two who know say that it is gone.
                let gone = entry.condemned || doubted.contains(id);
                missing += usize::from(!gone);
                !gone
            });
        }
        let taken = if missing == 0 {
            Taken::Whole
        } else if listed.is_empty() {
            Taken::Empty
        } else if missing * 2 > all {
            Taken::Shrunken
        } else {
            Taken::Whole
        };
        let mut kept = 0;
        for (number, version) in &mut self.versions {
            version.nodes.retain(|id, entry| {
                if lists(number, id) {
                    return true;
                }
                let keep = match taken {
                    Taken::Whole => false,
                    Taken::Empty => {
                        let missing = *entry.missing.get_or_insert(now);
                        now.saturating_duration_since(missing) < grace
                    }
                    // The second time it is believed.
                    Taken::Shrunken => entry.missing.replace(now).is_none(),
                };
                kept += usize::from(keep);
                keep
            });
        }
        self.sweep();
        for service in listed.services().iter() {
            self.insert(service);
        }
        if kept == 0 { Taken::Whole } else { taken }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(30);

    fn service(version: &str, ids: &[&str]) -> Service {
        let mut service = Service::new("greeter", version);
        service.nodes = ids.iter().map(|id| Node::new(*id, "127.0.0.1:1")).collect();
        service
    }

    fn table(ids: &[&str]) -> Table {
        Table::new("greeter", &[service("v1", ids)])
    }

    fn ids(table: &Table) -> Vec<String> {
        let services = table.services();
        let nodes = services.iter().flat_map(|service| &service.nodes);
        nodes.map(|node| node.id.clone()).collect()
    }

    fn deleted(ids: &[&str]) -> Event {
        Event::new(EventKind::Delete, service("v1", ids))
    }

    fn now() -> Instant {
        micro_core::Clock::now(&micro_core::SystemClock)
    }

    fn ask(table: &mut Table, answer: &[Service], now: Instant) -> Taken {
        table.answer(answer, &[], &BTreeSet::new(), GRACE, now)
    }

    #[test]
    fn a_node_that_leaves_is_gone_at_once_even_the_last() {
        let mut table = table(&["a", "b"]);
        assert_eq!(table.apply(&deleted(&["a"])), Believed::Yes);
        assert_eq!(ids(&table), ["b"]);
        assert_eq!(table.apply(&deleted(&["b"])), Believed::Yes);
        assert!(table.is_empty());
    }

    #[test]
    fn a_deletion_without_a_version_finds_its_node() {
        let mut table = table(&["a", "b"]);
        let event = Event::new(EventKind::Delete, service("", &["a"]));
        table.apply(&event);
        assert_eq!(ids(&table), ["b"]);
    }

    #[test]
    fn one_event_does_not_take_most_of_a_service() {
        let mut table = table(&["a", "b", "c", "d"]);
        assert_eq!(table.apply(&deleted(&["a", "b", "c"])), Believed::AskFirst);
        assert_eq!(ids(&table).len(), 4);
        // Confirmed.
        assert_eq!(
            ask(&mut table, &[service("v1", &["d"])], now()),
            Taken::Whole
        );
        assert_eq!(ids(&table), ["d"]);
        // A deletion that names nobody means the service, and is not believed either.
        assert_eq!(table.apply(&deleted(&[])), Believed::AskFirst);
        assert_eq!(ids(&table), ["d"]);
        // Half of it is believed.
        let mut table = self::table(&["a", "b", "c", "d"]);
        assert_eq!(table.apply(&deleted(&["a", "b"])), Believed::Yes);
        assert_eq!(ids(&table), ["c", "d"]);
    }

    #[test]
    fn a_denied_deletion_is_forgotten() {
        let mut table = table(&["a", "b"]);
        table.apply(&deleted(&["a", "b"]));
        assert_eq!(
            ask(&mut table, &[service("v1", &["a", "b"])], now()),
            Taken::Whole
        );
        // Not condemned any more: an empty answer is as doubtful as ever.
        assert_eq!(ask(&mut table, &[], now()), Taken::Empty);
        assert_eq!(ids(&table).len(), 2);
    }

    #[test]
    fn nobody_is_believed_after_the_grace() {
        let mut table = table(&["a", "b"]);
        let start = now();
        assert_eq!(ask(&mut table, &[], start), Taken::Empty);
        assert_eq!(ask(&mut table, &[], start + GRACE / 2), Taken::Empty);
        assert_eq!(ids(&table).len(), 2);
        assert_eq!(ask(&mut table, &[], start + GRACE), Taken::Whole);
        assert!(table.is_empty());
    }

    #[test]
    fn an_answer_between_two_empty_ones_begins_the_grace_anew() {
        let mut table = table(&["a"]);
        let start = now();
        ask(&mut table, &[], start);
        ask(&mut table, &[service("v1", &["a"])], start + GRACE / 2);
        assert_eq!(ask(&mut table, &[], start + GRACE), Taken::Empty);
    }

    #[test]
    fn losing_more_than_half_takes_two_answers() {
        let mut table = table(&["a", "b", "c"]);
        let answer = [service("v1", &["c"])];
        assert_eq!(ask(&mut table, &answer, now()), Taken::Shrunken);
        assert_eq!(ids(&table).len(), 3);
        assert_eq!(ask(&mut table, &answer, now()), Taken::Whole);
        assert_eq!(ids(&table), ["c"]);
    }

    #[test]
    fn what_happened_since_beats_the_answer() {
        let mut table = table(&["a", "b", "c"]);
        let since = [
            deleted(&["a"]),
            Event::new(EventKind::Create, service("v2", &["new"])),
        ];
        for event in &since {
            table.apply(event);
        }
        let answer = [service("v1", &["a", "b", "c"])];
        let taken = table.answer(&answer, &since, &BTreeSet::new(), GRACE, now());
        assert_eq!(taken, Taken::Whole);
        assert_eq!(ids(&table), ["b", "c", "new"]);
    }

    #[test]
    fn a_doubted_node_that_is_not_listed_goes_without_grace() {
        let mut table = table(&["a"]);
        let doubted = BTreeSet::from(["a".to_owned()]);
        assert_eq!(table.answer(&[], &[], &doubted, GRACE, now()), Taken::Whole);
        assert!(table.is_empty());
    }

    #[test]
    fn what_is_not_ours_or_unsound_is_left_out() {
        let mut table = table(&["a"]);
        let other = Service::new("other", "v1").with_node(Node::new("x", "127.0.0.1:1"));
        table.apply(&Event::new(EventKind::Create, other.clone()));
        let unsound = Service::new("greeter", "v2")
            .with_node(Node::new("", "127.0.0.1:1"))
            .with_node(Node::new("y", ""));
        let answer = [service("v1", &["a"]), other, unsound];
        assert_eq!(ask(&mut table, &answer, now()), Taken::Whole);
        assert_eq!(ids(&table), ["a"]);
        assert_eq!(table.services().len(), 1);
    }

    #[test]
    fn a_million_nodes_are_not_kept() {
        let mut flood = Service::new("greeter", "v1");
        flood.nodes = (0..MAX_NODES + 5)
            .map(|i| Node::new(i.to_string(), "127.0.0.1:1"))
            .collect();
        assert_eq!(Table::new("greeter", &[flood]).len(), MAX_NODES);
    }
}
