//! What this program announces, what it has seen of others, and who watches.
//!
//! Nothing is waited for here, and no packet is sent: it is a state behind a lock.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use micro_registry_core::{Endpoint, Event, EventKind, Node, Service};
use tokio::sync::mpsc;

use crate::txt::Strings;

/// More instances than this are a flood; ours are not counted.
pub(crate) const MOST_SEEN: usize = 10_000;
/// How many events a watcher may leave unread before its watch ends.
const WATCH_BUFFER: usize = 1024;

/// Service, version, node id.
pub(crate) type Key = (String, String, String);

/// A node, with what it says about its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) node: Node,
}

/// A node of this program.
#[derive(Debug)]
struct Own {
    entry: Entry,
    announced: Announced,
    expires: Option<Instant>,
    order: u64,
}

/// What others were told of a node of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Announced {
    /// The instance name, in full.
    pub(crate) fullname: String,
    pub(crate) strings: Strings,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) port: u16,
}

/// A node of another program.
#[derive(Debug)]
struct Seen {
    key: Key,
    entry: Entry,
    order: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Directory {
    own: BTreeMap<Key, Own>,
    /// By instance name, in full.
    seen: BTreeMap<String, Seen>,
    /// A node may be announced under several names.
    names: BTreeMap<Key, BTreeSet<String>>,
    watchers: Vec<Watcher>,
    order: u64,
    flooded: bool,
}

#[derive(Debug)]
struct Watcher {
    only: Option<String>,
    sender: mpsc::Sender<Event>,
}

impl Directory {
    /// Adds or replaces a node of ours; says whether others have to hear of it.
    pub(crate) fn put_own(
        &mut self,
        service: &Service,
        node: &Node,
        announced: Announced,
        expires: Option<Instant>,
    ) -> bool {
        let key = (
            service.name.clone(),
            service.version.clone(),
            node.id.clone(),
        );
        let entry = Entry {
            metadata: service.metadata.clone(),
            endpoints: service.endpoints.clone(),
            node: node.clone(),
        };
        let known = self.own.get_mut(&key);
        if let Some(known) = known
            && known.announced == announced
            && known.entry == entry
        {
            known.expires = expires;
            return false;
        }
        let order = self.next_order();
        self.change(&key.clone(), |directory| {
            let own = Own {
                entry,
                announced,
                expires,
                order,
            };
            directory.own.insert(key, own);
        });
        true
    }

    /// Removes a node of ours, and gives its instance name.
    pub(crate) fn remove_own(&mut self, key: &Key) -> Option<String> {
        let mut removed = None;
        self.change(key, |directory| removed = directory.own.remove(key));
        removed.map(|own| own.announced.fullname)
    }

    /// Whether this is our own voice.
    pub(crate) fn is_own(&self, key: &Key, fullname: &str) -> bool {
        self.own
            .get(key)
            .is_some_and(|own| own.announced.fullname == fullname)
    }

    /// The keys of our nodes whose time is up.
    pub(crate) fn expired(&self, now: Instant) -> Vec<Key> {
        let up = |own: &Own| own.expires.is_some_and(|expires| expires <= now);
        let keys = self.own.iter().filter(|(_, own)| up(own));
        keys.map(|(key, _)| key.clone()).collect()
    }

    /// When the next of our nodes expires.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.own.values().filter_map(|own| own.expires).min()
    }

    /// Takes what another program announces; says whether it is anything new.
    pub(crate) fn see(&mut self, fullname: &str, key: &Key, entry: Entry) -> bool {
        let known = self.seen.get(fullname);
        if let Some(known) = known
            && known.key == *key
            && known.entry == entry
        {
            return false;
        }
        if known.is_none() && self.seen.len() >= MOST_SEEN {
            if !std::mem::replace(&mut self.flooded, true) {
                tracing::warn!(
                    "more than {MOST_SEEN} instances are announced; the rest is ignored"
                );
            }
            return false;
        }
        // It may be another node by now.
        if known.is_some_and(|known| known.key != *key) {
            self.lose(fullname);
        }
        let order = self.next_order();
        self.change(key, |directory| {
            let seen = Seen {
                key: key.clone(),
                entry,
                order,
            };
            directory.seen.insert(fullname.to_owned(), seen);
            let names = directory.names.entry(key.clone()).or_default();
            names.insert(fullname.to_owned());
        });
        true
    }

    /// Forgets what another program announced.
    pub(crate) fn lose(&mut self, fullname: &str) {
        let Some(key) = self.seen.get(fullname).map(|seen| seen.key.clone()) else {
            return;
        };
        self.change(&key, |directory| {
            directory.seen.remove(fullname);
            if let Some(names) = directory.names.get_mut(&key) {
                names.remove(fullname);
                if names.is_empty() {
                    directory.names.remove(&key);
                }
            }
        });
    }

    /// Forgets what was seen, without a word: not everything was heard.
    pub(crate) fn forget(&mut self) {
        self.seen.clear();
        self.names.clear();
    }

    /// Whether this instance is known.
    pub(crate) fn has_seen(&self, fullname: &str) -> bool {
        self.seen.contains_key(fullname)
    }

    /// Ends all watches, so that their owners list again.
    pub(crate) fn end_watches(&mut self) {
        self.watchers.clear();
    }

    fn next_order(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    /// What is known of a node; what we announce ourselves we know best.
    fn visible(&self, key: &Key) -> Option<(&Entry, u64)> {
        if let Some(own) = self.own.get(key) {
            return Some((&own.entry, own.order));
        }
        let names = self.names.get(key)?.iter();
        names
            .filter_map(|name| self.seen.get(name))
            .map(|seen| (&seen.entry, seen.order))
            .max_by_key(|(_, order)| *order)
    }

    /// Changes something about a node, and tells watchers what they can see of it.
    fn change(&mut self, key: &Key, act: impl FnOnce(&mut Self)) {
        let before = self.visible(key).map(|(entry, _)| entry.clone());
        act(self);
        let after = self.visible(key).map(|(entry, _)| entry.clone());
        let (kind, entry) = match (before, after) {
            (None, Some(after)) => (EventKind::Create, after),
            (Some(before), Some(after)) if before != after => (EventKind::Update, after),
            (Some(before), None) => (EventKind::Delete, before),
            _ => return,
        };
        let mut service = Service::new(&key.0, &key.1).with_node(entry.node);
        service.metadata = entry.metadata;
        service.endpoints = entry.endpoints;
        let event = Event::new(kind, service);
        self.watchers.retain(|watcher| {
            let concerned = watcher.only.as_ref().is_none_or(|only| *only == key.0);
            // One that fell behind is dropped: its stream ends after what it holds.
            !watcher.sender.is_closed()
                && (!concerned || watcher.sender.try_send(event.clone()).is_ok())
        });
    }

    pub(crate) fn watch(&mut self, only: Option<String>) -> mpsc::Receiver<Event> {
        self.watchers.retain(|watcher| !watcher.sender.is_closed());
        let (sender, receiver) = mpsc::channel(WATCH_BUFFER);
        self.watchers.push(Watcher { only, sender });
        receiver
    }

    /// Whether anybody watches the service; all of them, for `None`.
    pub(crate) fn is_watched(&self, service: Option<&str>) -> bool {
        self.watchers
            .iter()
            .any(|watcher| watcher.only.as_deref() == service && !watcher.sender.is_closed())
    }

    /// The keys of all nodes of a service, or of all.
    fn keys<'a>(&'a self, service: Option<&'a str>) -> BTreeSet<&'a Key> {
        let from = (
            service.unwrap_or_default().to_owned(),
            String::new(),
            String::new(),
        );
        let of_it = move |key: &&Key| service.is_none_or(|service| key.0 == service);
        let own = self.own.range(from.clone()..).map(|(key, _)| key);
        let seen = self.names.range(from..).map(|(key, _)| key);
        own.take_while(of_it)
            .chain(seen.take_while(of_it))
            .collect()
    }

    /// Whether a node of another program is known.
    pub(crate) fn has_others(&self, service: Option<&str>) -> bool {
        let mut keys = self.keys(service).into_iter();
        keys.any(|key| !self.own.contains_key(key))
    }

    /// One entry per version of a service, or of all.
    pub(crate) fn get(&self, service: Option<&str>) -> Vec<Service> {
        let mut found = BTreeMap::<(&str, &str), (u64, Service)>::new();
        for key in self.keys(service) {
            let Some((entry, order)) = self.visible(key) else {
                continue;
            };
            let (newest, service) = found
                .entry((&key.0, &key.1))
                .or_insert_with(|| (0, Service::new(&key.0, &key.1)));
            service.nodes.push(entry.node.clone());
            // Each node describes its version; the last one to speak is right.
            if order > *newest {
                *newest = order;
                service.metadata.clone_from(&entry.metadata);
                service.endpoints.clone_from(&entry.endpoints);
            }
        }
        found.into_values().map(|(_, service)| service).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> Key {
        ("greeter".into(), "v1".into(), id.into())
    }

    fn entry(id: &str, address: &str, build: &str) -> Entry {
        Entry {
            metadata: BTreeMap::from([("build".into(), build.into())]),
            endpoints: Vec::new(),
            node: Node::new(id, address),
        }
    }

    fn announced(fullname: &str) -> Announced {
        Announced {
            fullname: fullname.into(),
            strings: Strings::new(),
            addresses: Vec::new(),
            port: 1,
        }
    }

    #[test]
    fn s50_a_million_fake_instances_leave_room_and_our_own() {
        let mut directory = Directory::default();
        let service = Service::new("greeter", "v1");
        let node = Node::new("own", "127.0.0.1:1");
        directory.put_own(&service, &node, announced("own"), None);
        let mut entry = entry("fake", "10.0.0.1:1", "1");
        for i in 0..1_000_000 {
            entry.node.id.clear();
            entry.node.id.push_str(&i.to_string());
            let key = key(&entry.node.id);
            directory.see(&key.2, &key, entry.clone());
        }
        assert_eq!(directory.seen.len(), MOST_SEEN);
        assert_eq!(directory.names.len(), MOST_SEEN);
        let found = directory.get(Some("greeter")).remove(0);
        assert_eq!(found.nodes.len(), MOST_SEEN + 1);
        assert!(found.nodes.iter().any(|node| node.id == "own"));
        // What leaves makes room again.
        directory.lose("0");
        directory.see("late", &key("late"), entry);
        assert!(directory.has_seen("late"));
    }

    fn kinds(receiver: &mut mpsc::Receiver<Event>) -> Vec<EventKind> {
        std::iter::from_fn(|| receiver.try_recv().ok())
            .map(|event| event.kind)
            .collect()
    }

    #[test]
    fn what_is_seen_is_told_once() {
        let mut directory = Directory::default();
        let mut watch = directory.watch(Some("greeter".into()));
        let mut other = directory.watch(Some("other".into()));
        directory.see("a", &key("a"), entry("a", "10.0.0.1:1", "1"));
        directory.see("a", &key("a"), entry("a", "10.0.0.1:1", "1"));
        directory.see("a", &key("a"), entry("a", "10.0.0.2:1", "1"));
        directory.lose("a");
        directory.lose("a");
        assert_eq!(
            kinds(&mut watch),
            [EventKind::Create, EventKind::Update, EventKind::Delete]
        );
        assert_eq!(kinds(&mut other), []);
    }

    #[test]
    fn ours_hides_what_others_say_about_it() {
        let mut directory = Directory::default();
        let mut watch = directory.watch(None);
        let service = Service::new("greeter", "v1");
        directory.put_own(
            &service,
            &Node::new("a", "127.0.0.1:1"),
            announced("a"),
            None,
        );
        directory.see("x", &key("a"), entry("a", "10.6.6.6:1", "1"));
        assert_eq!(
            directory.get(Some("greeter"))[0].nodes[0].address,
            "127.0.0.1:1"
        );
        directory.lose("x");
        assert_eq!(directory.remove_own(&key("a")).as_deref(), Some("a"));
        assert_eq!(kinds(&mut watch), [EventKind::Create, EventKind::Delete]);
    }

    #[test]
    fn our_own_nodes_are_not_others() {
        let mut directory = Directory::default();
        let (service, node) = (Service::new("greeter", "v1"), Node::new("a", "10.0.0.1:1"));
        directory.put_own(&service, &node, announced("a"), None);
        assert!(!directory.has_others(Some("greeter")) && !directory.has_others(None));
        directory.see("b", &key("b"), entry("b", "10.0.0.1:1", "1"));
        assert!(directory.has_others(Some("greeter")) && directory.has_others(None));
        assert!(!directory.has_others(Some("greeter2")));
    }

    #[test]
    fn a_node_with_two_names_goes_with_the_last() {
        let mut directory = Directory::default();
        directory.see("x", &key("a"), entry("a", "10.0.0.1:1", "1"));
        directory.see("y", &key("a"), entry("a", "10.0.0.1:1", "2"));
        let mut watch = directory.watch(None);
        directory.lose("x");
        assert_eq!(kinds(&mut watch), []);
        directory.lose("y");
        assert_eq!(kinds(&mut watch), [EventKind::Delete]);
        assert!(!directory.has_others(Some("greeter")));
    }

    #[test]
    fn the_last_node_to_speak_describes_the_version() {
        let mut directory = Directory::default();
        directory.see("a", &key("a"), entry("a", "10.0.0.1:1", "1"));
        directory.see("b", &key("b"), entry("b", "10.0.0.2:1", "2"));
        assert_eq!(directory.get(None)[0].metadata["build"], "2");
        directory.see("a", &key("a"), entry("a", "10.0.0.1:1", "3"));
        let found = directory.get(None);
        assert_eq!((found.len(), found[0].nodes.len()), (1, 2));
        assert_eq!(found[0].metadata["build"], "3");
    }

    #[test]
    fn a_flood_is_bounded_and_ours_stays() {
        let mut directory = Directory::default();
        for i in 0..MOST_SEEN + 100 {
            let id = i.to_string();
            directory.see(&id, &key(&id), entry(&id, "10.0.0.1:1", "1"));
        }
        assert_eq!(directory.seen.len(), MOST_SEEN);
        let service = Service::new("greeter", "v1");
        directory.put_own(
            &service,
            &Node::new("own", "127.0.0.1:1"),
            announced("own"),
            None,
        );
        assert_eq!(directory.get(None)[0].nodes.len(), MOST_SEEN + 1);
    }

    #[test]
    fn a_watcher_that_falls_behind_is_ended() {
        let mut directory = Directory::default();
        let mut watch = directory.watch(None);
        for i in 0..=WATCH_BUFFER {
            let id = i.to_string();
            directory.see(&id, &key(&id), entry(&id, "10.0.0.1:1", "1"));
        }
        assert_eq!(kinds(&mut watch).len(), WATCH_BUFFER);
        assert!(watch.is_closed());
        assert!(!directory.is_watched(None));
    }
}
