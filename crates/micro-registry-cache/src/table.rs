//! What is known of one service, and how far an event or an answer is believed.
//!
//! No time passes here and nothing is waited for: the rules can be read and tested by themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use micro_registry_core::{Endpoint, Event, EventKind, Node, Service};

use crate::policy;

/// More nodes than this are a fault or an attack; the rest is left out.
const MAX_NODES: usize = 10_000;
/// So many nodes that are gone are remembered, for so long, so that an old registration of theirs
/// is known for what it is.
const MAX_GONE: usize = 1024;
const REMEMBERED: Duration = Duration::from_secs(60);

/// What a server says of itself: when its program started, in milliseconds since 1970. It tells
/// two programs apart that use one node id.
const GENERATION: &str = "micro-generation";

/// The nodes of one service.
#[derive(Debug, Default)]
pub(crate) struct Table {
    name: String,
    /// Whether loopback addresses are this machine's.
    loopback: bool,
    versions: BTreeMap<String, Version>,
    /// The most nodes there were since the registry last confirmed them.
    confirmed: usize,
    /// The registry denied a deletion that it had reported itself.
    denied: bool,
    /// The generations of nodes that are gone, by id, and since when.
    gone: BTreeMap<String, (u64, Instant)>,
    /// Why something was left out, until it is asked for.
    refused: Option<Refused>,
}

/// Something that a registry said and that was left out.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) node: String,
    pub(crate) why: &'static str,
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
    pub(crate) fn new(name: &str, loopback: bool, services: &[Service]) -> Self {
        let mut table = Self {
            name: name.to_owned(),
            loopback,
            ..Self::default()
        };
        for service in services {
            table.insert(service);
        }
        table
    }

    /// What was left out since this was last asked for, if anything.
    pub(crate) fn take_refused(&mut self) -> Option<Refused> {
        self.refused.take()
    }

    /// Whether the registry denied one of its own deletions since this was last asked for.
    pub(crate) fn take_denied(&mut self) -> bool {
        std::mem::take(&mut self.denied)
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

    /// Adds or replaces the nodes of `service`, but for those that are not to be believed.
    fn insert(&mut self, service: &Service) {
        if service.name != self.name {
            return;
        }
        let mut room = MAX_NODES.saturating_sub(self.len());
        let mut service = service.clone();
        if policy::clean(&mut service) {
            self.refuse(
                "",
                "some of its facts have control characters or are too large",
            );
        }
        service.nodes.retain(|node| {
            let why = policy::refusal(node, self.loopback)
                .or_else(|| self.is_old(node).then_some("a later program has its id"));
            if let Some(why) = why {
                self.refuse(&node.id, why);
            }
            why.is_none()
        });
        // A version without nodes is no entry of its own.
        if service.nodes.is_empty() {
            return;
        }
        let version = self.versions.entry(service.version).or_default();
        version.metadata = service.metadata;
        version.endpoints = service.endpoints;
        for node in service.nodes {
            let known = version.nodes.contains_key(&node.id);
            if !known && room == 0 {
                continue;
            }
            room -= usize::from(!known);
            self.gone.remove(&node.id);
            let entry = Entry {
                node,
                missing: None,
                condemned: false,
            };
            version.nodes.insert(entry.node.id.clone(), entry);
        }
        self.sweep();
        self.confirmed = self.confirmed.max(self.len());
    }

    fn refuse(&mut self, node: &str, why: &'static str) {
        self.refused.get_or_insert_with(|| Refused {
            node: node.chars().take(80).flat_map(char::escape_debug).collect(),
            why,
        });
    }

    /// Whether a later program has registered under this id: then this is its predecessor's
    /// registration, late or replayed.
    fn is_old(&self, node: &Node) -> bool {
        let Some(generation) = generation(node) else {
            return false;
        };
        let known = self
            .versions
            .values()
            .filter_map(|version| version.nodes.get(&node.id))
            .filter_map(|entry| self::generation(&entry.node));
        let gone = self.gone.get(&node.id).map(|(generation, _)| *generation);
        known.chain(gone).max() > Some(generation)
    }

    /// Remembers the generations of nodes that were there before and are no more.
    fn remember(&mut self, before: &[(String, u64)], now: Instant) {
        self.gone
            .retain(|_, (_, since)| now.saturating_duration_since(*since) < REMEMBERED);
        for (id, generation) in before {
            let mut versions = self.versions.values();
            let there = versions.any(|version| version.nodes.contains_key(id));
            if !there && self.gone.len() < MAX_GONE {
                self.gone.insert(id.clone(), (*generation, now));
            }
        }
    }

    fn generations(&self, among: Option<&Service>) -> Vec<(String, u64)> {
        let nodes = self.versions.values().flat_map(|version| &version.nodes);
        nodes
            .filter(|(id, _)| {
                among.is_none_or(|service| service.nodes.iter().any(|node| node.id == **id))
            })
            .filter_map(|(id, entry)| Some((id.clone(), generation(&entry.node)?)))
            .collect()
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
    pub(crate) fn apply(&mut self, event: &Event, now: Instant) -> Believed {
        if event.service.name != self.name {
            return Believed::Yes;
        }
        match event.kind {
            EventKind::Create | EventKind::Update => {
                self.insert(&event.service);
                Believed::Yes
            }
            EventKind::Delete => {
                let all = self.len();
                let sound = |entry: &Entry| !entry.condemned;
                let versions = self.versions.values();
                let left = versions.flat_map(|version| version.nodes.values());
                let left = left.filter(|entry| sound(entry)).count();
                let mut named = 0;
                self.named(&event.service, |entry| {
                    named += usize::from(sound(entry));
                    true
                });
                if named == 0 && !event.service.nodes.is_empty() {
                    return Believed::Yes;
                }
                // No fault of a registry takes most of a service out of service, neither at once
                // nor node by node: beyond half of what it last confirmed it has to be asked.
                let most = (left - named) * 2 < self.confirmed || event.service.nodes.is_empty();
                let before = self.generations(Some(&event.service));
                self.named(&event.service, |entry| {
                    entry.condemned = true;
                    most
                });
                self.remember(&before, now);
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
        let mut listed = Self {
            gone: self.gone.clone(),
            ..Self::new(&self.name, self.loopback, &[])
        };
        for service in answer {
            listed.insert(service);
        }
        self.refused = self.refused.take().or(listed.refused.take());
        let before = self.generations(None);
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
                    self.denied |= entry.condemned;
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
        self.remember(&before, now);
        if kept == 0 {
            self.confirmed = self.len();
            Taken::Whole
        } else {
            taken
        }
    }
}

fn generation(node: &Node) -> Option<u64> {
    node.metadata.get(GENERATION)?.parse().ok()
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
        Table::new("greeter", true, &[service("v1", ids)])
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
    fn a_node_that_leaves_is_gone_at_once_but_the_last_is_asked_about() {
        let mut table = table(&["a", "b"]);
        assert_eq!(table.apply(&deleted(&["a"]), now()), Believed::Yes);
        assert_eq!(ids(&table), ["b"]);
        assert_eq!(table.apply(&deleted(&["b"]), now()), Believed::AskFirst);
        assert_eq!(ids(&table), ["b"]);
        assert_eq!(ask(&mut table, &[], now()), Taken::Whole);
        assert!(table.is_empty(), "two say so: there is no grace");
    }

    #[test]
    fn a_service_is_not_taken_away_node_by_node() {
        let mut table = table(&["a", "b", "c", "d", "e"]);
        let mut believed = Vec::new();
        for id in ["a", "b", "c", "d", "e"] {
            believed.push(table.apply(&deleted(&[id]), now()));
        }
        use Believed::{AskFirst, Yes};
        assert_eq!(believed, [Yes, Yes, AskFirst, AskFirst, AskFirst]);
        assert_eq!(ids(&table), ["c", "d", "e"]);
        // Two of them are gone indeed; that the third is not is asked once more.
        let answer = [service("v1", &["d"])];
        assert_eq!(ask(&mut table, &answer, now()), Taken::Whole);
        assert_eq!(ids(&table), ["d"]);
        assert!(table.take_denied());
        assert!(!table.take_denied());
        // What the registry confirmed is what counts from here on.
        let created = Event::new(EventKind::Create, service("v1", &["f"]));
        table.apply(&created, now());
        assert_eq!(table.apply(&deleted(&["f"]), now()), Believed::Yes);
        assert_eq!(ids(&table), ["d"]);
    }

    fn born(id: &str, generation: u64) -> Service {
        let node = Node::new(id, "127.0.0.1:1");
        let node = node.with_metadata(GENERATION, generation.to_string());
        Service::new("greeter", "v1").with_node(node)
    }

    fn generations(table: &Table) -> Vec<u64> {
        let generations = table.generations(None);
        generations.into_iter().map(|(_, number)| number).collect()
    }

    #[test]
    fn s54_an_old_registration_does_not_replace_a_later_one() {
        let mut table = Table::new("greeter", true, &[born("a", 200)]);
        let old = Event::new(EventKind::Update, born("a", 100));
        assert_eq!(table.apply(&old, now()), Believed::Yes);
        assert_eq!(generations(&table), [200]);
        let why = table.take_refused().unwrap().why;
        assert!(why.contains("later program"), "{why}");
        // Neither as an answer. It is then as if the node were not listed.
        ask(&mut table, &[born("a", 100)], now());
        assert_eq!(generations(&table), [200]);
        // The same one again, and a later one, count.
        let later = Event::new(EventKind::Update, born("a", 300));
        table.apply(&later, now());
        assert_eq!(generations(&table), [300]);
        assert_eq!(ask(&mut table, &[born("a", 300)], now()), Taken::Whole);
    }

    #[test]
    fn s54_a_registration_replayed_after_the_end_is_ignored() {
        let start = now();
        let mut table = Table::new("greeter", true, &[born("a", 200), born("b", 1)]);
        let gone = Event::new(EventKind::Delete, born("a", 200));
        assert_eq!(table.apply(&gone, start), Believed::Yes);
        for replayed in [100, 199] {
            table.apply(&Event::new(EventKind::Create, born("a", replayed)), start);
            assert_eq!(ids(&table), ["b"]);
            ask(&mut table, &[born("a", replayed), born("b", 1)], start);
            assert_eq!(ids(&table), ["b"]);
        }
        // It registered again itself: the registry had lost it.
        table.apply(&Event::new(EventKind::Create, born("a", 200)), start);
        assert_eq!(ids(&table), ["a", "b"]);
        // A clock that was set back does not keep a program away for ever.
        table.apply(&gone, start);
        let later = start + REMEMBERED;
        ask(&mut table, &[born("b", 1)], later);
        table.apply(&Event::new(EventKind::Create, born("a", 150)), later);
        assert_eq!(ids(&table), ["a", "b"]);
    }

    #[test]
    fn s51_what_is_not_believed_is_left_out_and_said() {
        let bad = Service::new("greeter", "v1")
            .with_node(Node::new("meta", "169.254.169.254:80"))
            .with_node(Node::new("good", "10.0.0.1:80"))
            .with_node(Node::new("loop", "127.0.0.1:80"));
        let mut table = Table::new("greeter", false, &[]);
        assert_eq!(
            ask(&mut table, std::slice::from_ref(&bad), now()),
            Taken::Whole
        );
        assert_eq!(ids(&table), ["good"]);
        let refused = table.take_refused().unwrap();
        assert_eq!(refused.node, "meta");
        table.apply(&Event::new(EventKind::Update, bad.clone()), now());
        assert_eq!(ids(&table), ["good"]);
        // A node that moves to a bad address keeps the good one.
        let mut table = Table::new("greeter", false, &[]);
        let node = |address| Service::new("greeter", "v1").with_node(Node::new("a", address));
        ask(&mut table, &[node("10.0.0.1:80")], now());
        table.apply(&Event::new(EventKind::Update, node("0.0.0.0:80")), now());
        assert_eq!(table.services()[0].nodes[0].address, "10.0.0.1:80");
        // Without a version of its own nobody is there.
        let mut table = Table::new("greeter", true, &[bad]);
        assert_eq!(ids(&table), ["good", "loop"]);
        assert!(table.take_refused().is_some());
    }

    #[test]
    fn a_deletion_without_a_version_finds_its_node() {
        let mut table = table(&["a", "b"]);
        let event = Event::new(EventKind::Delete, service("", &["a"]));
        table.apply(&event, now());
        assert_eq!(ids(&table), ["b"]);
    }

    #[test]
    fn one_event_does_not_take_most_of_a_service() {
        let mut table = table(&["a", "b", "c", "d"]);
        assert_eq!(
            table.apply(&deleted(&["a", "b", "c"]), now()),
            Believed::AskFirst
        );
        assert_eq!(ids(&table).len(), 4);
        // Confirmed.
        assert_eq!(
            ask(&mut table, &[service("v1", &["d"])], now()),
            Taken::Whole
        );
        assert_eq!(ids(&table), ["d"]);
        // A deletion that names nobody means the service, and is not believed either.
        assert_eq!(table.apply(&deleted(&[]), now()), Believed::AskFirst);
        assert_eq!(ids(&table), ["d"]);
        // Half of it is believed.
        let mut table = self::table(&["a", "b", "c", "d"]);
        assert_eq!(table.apply(&deleted(&["a", "b"]), now()), Believed::Yes);
        assert_eq!(ids(&table), ["c", "d"]);
    }

    #[test]
    fn a_denied_deletion_is_forgotten() {
        let mut table = table(&["a", "b"]);
        table.apply(&deleted(&["a", "b"]), now());
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
            table.apply(event, now());
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
        table.apply(&Event::new(EventKind::Create, other.clone()), now());
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
        assert_eq!(Table::new("greeter", true, &[flood]).len(), MAX_NODES);
    }
}
