//! What is registered here, and what was heard of others while somebody watches.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use micro_registry_core::{Endpoint, Event, EventKind, Node, Service};
use tokio::sync::mpsc;

use crate::wire;

/// Name, version, node id.
pub(crate) type Key = (String, String, String);

/// So many nodes of others are kept at most.
pub(crate) const MOST_SEEN: usize = 10_000;
/// And so many bytes of them.
const MOST_BYTES: usize = 256 * 1024 * 1024;
/// So many that went are remembered, so that a late answer does not bring them back.
const MOST_GONE: usize = 1024;
/// How many changes a watch may be behind before it ends.
const WATCH_BUFFER: usize = 1024;
/// A node is gone if it missed so many audits.
const MISSES: u8 = 2;

/// How a node describes its version.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Description {
    metadata: BTreeMap<String, String>,
    endpoints: Vec<Endpoint>,
}

/// A node, and how it describes its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Shared by the nodes that came with it: a small message may have one long description and
    /// thousands of nodes.
    description: Arc<Description>,
    pub(crate) node: Node,
    /// About how many bytes it takes.
    weight: usize,
}

struct Own {
    entry: Entry,
    /// The later it was registered, the more it has to say about its version.
    order: u64,
    expires: Option<Instant>,
}

struct Seen {
    entry: Entry,
    /// When something about it last changed.
    order: u64,
    missed: u8,
}

struct Watcher {
    only: Option<String>,
    sender: mpsc::Sender<Event>,
}

#[derive(Default)]
pub(crate) struct Directory {
    own: BTreeMap<Key, Own>,
    seen: BTreeMap<Key, Seen>,
    gone: VecDeque<(Key, u64)>,
    watchers: Vec<Watcher>,
    /// What is being watched, and how often: also by those who only begin to.
    interest: BTreeMap<Option<String>, usize>,
    order: u64,
    /// About how many bytes all that was seen takes.
    weight: usize,
}

/// Splits a service into its nodes.
pub(crate) fn entries(service: &Service) -> impl Iterator<Item = (Key, Entry)> {
    let description = Arc::new(Description {
        metadata: service.metadata.clone(),
        endpoints: service.endpoints.clone(),
    });
    let weight = wire::description_weight(service);
    service.nodes.iter().map(move |node| {
        let key = (
            service.name.clone(),
            service.version.clone(),
            node.id.clone(),
        );
        let entry = Entry {
            description: Arc::clone(&description),
            node: node.clone(),
            weight: weight + wire::node_weight(node),
        };
        (key, entry)
    })
}

/// Puts nodes together: one entry per version, described by the node that comes last.
pub(crate) fn group(mut nodes: Vec<(Key, Entry, u64)>) -> Vec<Service> {
    nodes.sort_by(|(a, _, x), (b, _, y)| (&a.0, &a.1, x, &a.2).cmp(&(&b.0, &b.1, y, &b.2)));
    let mut all: Vec<(Service, Arc<Description>)> = Vec::new();
    for ((name, version, _), entry, _) in nodes {
        match all.last_mut() {
            Some((service, last)) if service.name == name && service.version == version => {
                *last = entry.description;
                service.nodes.push(entry.node);
            }
            _ => {
                let service = Service::new(name, version).with_node(entry.node);
                all.push((service, entry.description));
            }
        }
    }
    let described = all.into_iter().map(|(mut service, description)| {
        service.metadata.clone_from(&description.metadata);
        service.endpoints.clone_from(&description.endpoints);
        service.nodes.sort_by(|a, b| a.id.cmp(&b.id));
        service
    });
    described.collect()
}

impl Directory {
    /// Registers a node here.
    pub(crate) fn put_own(&mut self, key: &Key, entry: Entry, expires: Option<Instant>) {
        self.change(key, |directory, order| {
            let own = Own {
                entry,
                order,
                expires,
            };
            directory.own.insert(key.clone(), own);
        });
    }

    /// Takes back a node of ours, and returns it if there was one.
    pub(crate) fn remove_own(&mut self, key: &Key) -> Option<Entry> {
        let mut removed = None;
        self.change(key, |directory, _| {
            removed = directory.own.remove(key).map(|own| own.entry);
        });
        removed
    }

    /// Takes back what expired.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<(Key, Entry)> {
        let expired = |own: &Own| own.expires.is_some_and(|at| at <= now);
        let keys: Vec<Key> = self
            .own
            .iter()
            .filter(|(_, own)| expired(own))
            .map(|(key, _)| key.clone())
            .collect();
        keys.into_iter()
            .filter_map(|key| self.remove_own(&key).map(|entry| (key, entry)))
            .collect()
    }

    /// Whether something of ours will expire.
    pub(crate) fn expires(&self) -> bool {
        self.own.values().any(|own| own.expires.is_some())
    }

    /// What is registered here, of one service or all.
    pub(crate) fn own(&self, name: Option<&str>) -> Vec<(Key, Entry, u64)> {
        self.own
            .iter()
            .filter(|(key, _)| name.is_none_or(|name| key.0 == name))
            .map(|(key, own)| (key.clone(), own.entry.clone(), own.order))
            .collect()
    }

    /// The same, one entry per version.
    pub(crate) fn own_services(&self, name: Option<&str>) -> Vec<Service> {
        group(self.own(name))
    }

    pub(crate) fn own_entry(&self, key: &Key) -> Option<&Entry> {
        self.own.get(key).map(|own| &own.entry)
    }

    /// Where we are: what changes later has a higher order.
    pub(crate) fn mark(&self) -> u64 {
        self.order
    }

    /// Hears that a node is there. With a `mark`, this is known since then at the latest, and what
    /// changed after it is known better.
    pub(crate) fn see(&mut self, key: &Key, entry: Entry, mark: Option<u64>) {
        if self.own.contains_key(key) || !self.is_watched(&key.0) {
            return;
        }
        if let Some(mark) = mark {
            let newer = self.seen.get(key).is_some_and(|seen| seen.order > mark);
            let went = self
                .gone
                .iter()
                .any(|(gone, order)| gone == key && *order > mark);
            if newer || went {
                return;
            }
        }
        let mut weight = self.weight + entry.weight;
        if let Some(seen) = self.seen.get_mut(key) {
            seen.missed = 0;
            if seen.entry == entry {
                return;
            }
            weight -= seen.entry.weight;
        } else if self.seen.len() >= MOST_SEEN {
            weight = usize::MAX;
        }
        if weight > MOST_BYTES {
            tracing::warn!("more nodes than can be kept are announced; watches end");
            self.end_watches();
            return;
        }
        self.change(key, |directory, order| {
            let seen = Seen {
                entry,
                order,
                missed: 0,
            };
            directory.seen.insert(key.clone(), seen);
            directory.weight = weight;
        });
    }

    /// Hears that a node of another program is gone.
    pub(crate) fn lose(&mut self, key: &Key) {
        if !self.is_watched(&key.0) {
            return;
        }
        self.change(key, |directory, order| {
            if let Some(seen) = directory.seen.remove(key) {
                directory.weight -= seen.entry.weight;
            }
            if directory.gone.len() >= MOST_GONE {
                directory.gone.pop_front();
            }
            directory.gone.push_back((key.clone(), order));
        });
    }

    /// Those of a service, or of all, that did not answer an audit that began at `mark`; who missed
    /// too many is gone. Whether some are in doubt now.
    pub(crate) fn miss(&mut self, name: Option<&str>, answered: &[Key], mark: u64) -> bool {
        let silent: Vec<Key> = self
            .seen
            .iter()
            .filter(|(key, seen)| {
                name.is_none_or(|name| key.0 == name)
                    && seen.order <= mark
                    && answered.binary_search(key).is_err()
            })
            .map(|(key, _)| key.clone())
            .collect();
        let mut doubt = false;
        for key in silent {
            let Some(seen) = self.seen.get_mut(&key) else {
                continue;
            };
            seen.missed += 1;
            if seen.missed >= MISSES {
                self.lose(&key);
            } else {
                doubt = true;
            }
        }
        doubt
    }

    /// Changes something about a node, and tells watchers what they can see of it.
    fn change(&mut self, key: &Key, act: impl FnOnce(&mut Self, u64)) {
        self.order += 1;
        let order = self.order;
        let before = self.visible(key).cloned();
        act(self, order);
        let after = self.visible(key).cloned();
        let (kind, entry) = match (before, after) {
            (None, Some(after)) => (EventKind::Create, after),
            (Some(before), Some(after)) if before != after => (EventKind::Update, after),
            (Some(before), None) => (EventKind::Delete, before),
            _ => return,
        };
        let service = group(vec![(key.clone(), entry, 0)]).pop();
        let Some(event) = service.map(|service| Event::new(kind, service)) else {
            return;
        };
        self.watchers.retain(|watcher| {
            let concerned = watcher.only.as_ref().is_none_or(|only| *only == key.0);
            // One that fell behind is dropped: its stream ends after what it holds.
            !watcher.sender.is_closed()
                && (!concerned || watcher.sender.try_send(event.clone()).is_ok())
        });
    }

    /// What is known of a node; what is registered here we know best.
    fn visible(&self, key: &Key) -> Option<&Entry> {
        let own = self.own.get(key).map(|own| &own.entry);
        own.or_else(|| self.seen.get(key).map(|seen| &seen.entry))
    }

    pub(crate) fn watch(&mut self, only: Option<String>) -> mpsc::Receiver<Event> {
        self.watchers.retain(|watcher| !watcher.sender.is_closed());
        let (sender, receiver) = mpsc::channel(WATCH_BUFFER);
        self.watchers.push(Watcher { only, sender });
        receiver
    }

    /// Ends all watches, so that their owners list again, and forgets what was heard.
    pub(crate) fn end_watches(&mut self) {
        self.watchers.clear();
        self.seen.clear();
        self.weight = 0;
        self.gone.clear();
    }

    fn is_watched(&self, name: &str) -> bool {
        self.interest.contains_key(&None) || self.interest.contains_key(&Some(name.to_owned()))
    }

    /// From now on, what is said about these is kept.
    pub(crate) fn attend(&mut self, only: &Option<String>) {
        *self.interest.entry(only.clone()).or_default() += 1;
    }

    /// The counterpart of [`attend`](Self::attend).
    pub(crate) fn neglect(&mut self, only: &Option<String>) {
        if let Some(count) = self.interest.get_mut(only) {
            *count -= 1;
            if *count == 0 {
                self.interest.remove(only);
                let interest = &self.interest;
                if !interest.contains_key(&None) {
                    self.seen
                        .retain(|key, _| interest.contains_key(&Some(key.0.clone())));
                    self.weight = self.seen.values().map(|seen| seen.entry.weight).sum();
                    self.gone
                        .retain(|(key, _)| interest.contains_key(&Some(key.0.clone())));
                }
            }
        }
    }

    /// What is watched: everything, or these services.
    pub(crate) fn interest(&self) -> Vec<Option<String>> {
        if self.interest.contains_key(&None) {
            return vec![None];
        }
        self.interest.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> Key {
        ("greeter".into(), "v1".into(), id.into())
    }

    fn entry(id: &str, address: &str) -> Entry {
        let service = Service::new("greeter", "v1").with_node(Node::new(id, address));
        entries(&service).next().unwrap().1
    }

    fn kinds(receiver: &mut mpsc::Receiver<Event>) -> Vec<EventKind> {
        std::iter::from_fn(|| receiver.try_recv().ok())
            .map(|event| event.kind)
            .collect()
    }

    fn watched() -> (Directory, mpsc::Receiver<Event>) {
        let mut directory = Directory::default();
        directory.attend(&None);
        let watch = directory.watch(None);
        (directory, watch)
    }

    #[test]
    fn what_is_seen_is_told_once() {
        let (mut directory, mut watch) = watched();
        directory.see(&key("a"), entry("a", "10.0.0.1:1"), None);
        directory.see(&key("a"), entry("a", "10.0.0.1:1"), None);
        directory.see(&key("a"), entry("a", "10.0.0.2:1"), None);
        directory.lose(&key("a"));
        directory.lose(&key("a"));
        let expected = [EventKind::Create, EventKind::Update, EventKind::Delete];
        assert_eq!(kinds(&mut watch), expected);
    }

    #[test]
    fn s54_a_late_answer_does_not_bring_back_what_went() {
        let (mut directory, mut watch) = watched();
        directory.see(&key("a"), entry("a", "10.0.0.1:1"), None);
        directory.see(&key("b"), entry("b", "10.0.0.1:1"), None);
        let mark = directory.mark();
        directory.lose(&key("a"));
        directory.see(&key("b"), entry("b", "10.0.0.2:1"), None);
        kinds(&mut watch);
        // They answered before they changed.
        directory.see(&key("a"), entry("a", "10.0.0.1:1"), Some(mark));
        directory.see(&key("b"), entry("b", "10.0.0.1:1"), Some(mark));
        assert_eq!(kinds(&mut watch), []);
        // It did come back.
        directory.see(&key("a"), entry("a", "10.0.0.1:1"), Some(directory.mark()));
        assert_eq!(kinds(&mut watch), [EventKind::Create]);
    }

    #[test]
    fn who_misses_two_audits_is_gone_and_who_changed_meanwhile_is_not() {
        let (mut directory, mut watch) = watched();
        directory.see(&key("a"), entry("a", "10.0.0.1:1"), None);
        let mark = directory.mark();
        directory.see(&key("b"), entry("b", "10.0.0.1:1"), None);
        assert!(directory.miss(Some("greeter"), &[], mark));
        assert_eq!(kinds(&mut watch).len(), 2);
        assert!(!directory.miss(None, &[key("b")], directory.mark()));
        assert_eq!(kinds(&mut watch), [EventKind::Delete]);
        assert!(directory.miss(None, &[], directory.mark()));
        // A sign of life.
        directory.see(&key("b"), entry("b", "10.0.0.1:1"), None);
        assert!(directory.miss(None, &[], directory.mark()));
        assert_eq!(kinds(&mut watch), []);
    }

    #[test]
    fn ours_hides_what_others_say_about_it() {
        let (mut directory, mut watch) = watched();
        directory.put_own(&key("a"), entry("a", "127.0.0.1:1"), None);
        directory.see(&key("a"), entry("a", "10.6.6.6:1"), None);
        directory.lose(&key("a"));
        assert_eq!(
            directory.own_services(Some("greeter"))[0].nodes[0].address,
            "127.0.0.1:1"
        );
        assert!(directory.remove_own(&key("a")).is_some());
        assert_eq!(kinds(&mut watch), [EventKind::Create, EventKind::Delete]);
    }

    #[test]
    fn what_nobody_watches_is_not_kept() {
        let mut directory = Directory::default();
        directory.see(&key("a"), entry("a", "10.0.0.1:1"), None);
        assert!(directory.seen.is_empty());
        let only = Some("greeter".to_owned());
        directory.attend(&only);
        directory.attend(&only);
        directory.see(&key("a"), entry("a", "10.0.0.1:1"), None);
        directory.neglect(&only);
        assert_eq!(directory.seen.len(), 1);
        directory.neglect(&only);
        assert!(directory.seen.is_empty() && directory.interest().is_empty());
    }

    #[test]
    fn s50_a_long_description_of_many_nodes_is_kept_once_and_counted_for_each() {
        let mut service = Service::new("greeter", "v1").with_metadata("x", "y".repeat(200_000));
        for i in 0..50 {
            service = service.with_node(Node::new(i.to_string(), "10.0.0.1:1"));
        }
        let all: Vec<_> = entries(&service).collect();
        assert_eq!(Arc::strong_count(&all[0].1.description), 50);
        let (mut directory, watch) = watched();
        for (key, entry) in &all {
            directory.see(key, entry.clone(), None);
        }
        let weight = directory.weight;
        assert!((10_000_000..11_000_000).contains(&weight), "{weight}");
        directory.lose(&all[0].0);
        directory.see(&all[1].0, entry("1", "10.0.0.1:1"), None);
        assert!(directory.weight < weight - 400_000, "{}", directory.weight);
        // What comes in many messages is not shared, and counted as if it never were.
        for i in 0..2000 {
            directory.see(&key(&format!("more-{i}")), all[2].1.clone(), None);
        }
        assert!(directory.weight <= MOST_BYTES, "{}", directory.weight);
        assert!(watch.is_closed());
        directory.neglect(&None);
        assert_eq!((directory.seen.len(), directory.weight), (0, 0));
    }

    #[test]
    fn a_flood_is_bounded_and_ends_watches() {
        let (mut directory, watch) = watched();
        for i in 0..=MOST_SEEN {
            let id = i.to_string();
            directory.see(&key(&id), entry(&id, "10.0.0.1:1"), None);
        }
        assert!(directory.seen.len() <= MOST_SEEN);
        assert!(watch.is_closed());
    }
}
