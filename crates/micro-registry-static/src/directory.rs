//! What is listed, and over it what is registered here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use micro_registry_core::{Endpoint, Event, EventKind, Node, Service};
use tokio::sync::mpsc;

/// Name, version, node id.
pub(crate) type Key = (String, String, String);

/// How many changes a watch may be behind before it ends.
const WATCH_BUFFER: usize = 1024;

/// A node, and how it describes its version.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    metadata: BTreeMap<String, String>,
    endpoints: Vec<Endpoint>,
    node: Node,
}

struct Own {
    entry: Entry,
    /// The later it was registered, the more it has to say about its version.
    order: u64,
    expires: Option<Instant>,
}

struct Watcher {
    only: Option<String>,
    sender: mpsc::Sender<Event>,
}

#[derive(Default)]
pub(crate) struct Directory {
    listed: BTreeMap<Key, Entry>,
    own: BTreeMap<Key, Own>,
    watchers: Vec<Watcher>,
    order: u64,
}

fn entries(service: &Service) -> impl Iterator<Item = (Key, Entry)> {
    service.nodes.iter().map(|node| {
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
        (key, entry)
    })
}

impl Directory {
    /// Replaces the list, in one step.
    pub(crate) fn list(&mut self, services: &[Service]) {
        let listed: BTreeMap<Key, Entry> = services.iter().flat_map(entries).collect();
        let keys: BTreeSet<Key> = self.listed.keys().chain(listed.keys()).cloned().collect();
        for key in keys {
            let entry = listed.get(&key).cloned();
            self.change(&key, |directory| {
                match entry {
                    Some(entry) => directory.listed.insert(key.clone(), entry),
                    None => directory.listed.remove(&key),
                };
            });
        }
    }

    pub(crate) fn register(&mut self, service: &Service, expires: Option<Instant>) {
        for (key, entry) in entries(service) {
            self.order += 1;
            let own = Own {
                entry,
                order: self.order,
                expires,
            };
            self.change(&key, |directory| {
                directory.own.insert(key.clone(), own);
            });
        }
    }

    /// Takes back what was registered here; the id of a node that is only listed, if there is one.
    pub(crate) fn deregister(&mut self, service: &Service) -> Option<String> {
        let mut only_listed = None;
        for (key, _) in entries(service) {
            if self.own.contains_key(&key) {
                self.change(&key, |directory| {
                    directory.own.remove(&key);
                });
            } else if self.listed.contains_key(&key) {
                only_listed = Some(key.2);
            }
        }
        only_listed
    }

    /// Takes back what expired.
    pub(crate) fn expire(&mut self, now: Instant) {
        let expired = |own: &Own| own.expires.is_some_and(|at| at <= now);
        let keys: Vec<Key> = self
            .own
            .iter()
            .filter(|(_, own)| expired(own))
            .map(|(key, _)| key.clone())
            .collect();
        for key in keys {
            self.change(&key, |directory| {
                directory.own.remove(&key);
            });
        }
    }

    /// What is registered here hides what is listed.
    fn visible(&self, key: &Key) -> Option<(&Entry, u64)> {
        if let Some(own) = self.own.get(key) {
            return Some((&own.entry, own.order));
        }
        self.listed.get(key).map(|entry| (entry, 0))
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

    /// One entry per version of a service, or of all.
    pub(crate) fn get(&self, name: Option<&str>) -> Vec<Service> {
        let mut found = BTreeMap::<(&str, &str), (u64, Service)>::new();
        let keys: BTreeSet<&Key> = self
            .listed
            .keys()
            .chain(self.own.keys())
            .filter(|key| name.is_none_or(|name| key.0 == name))
            .collect();
        for key in keys {
            let Some((entry, order)) = self.visible(key) else {
                continue;
            };
            let (newest, service) = found
                .entry((&key.0, &key.1))
                .or_insert_with(|| (0, Service::new(&key.0, &key.1)));
            // Each node describes its version; the last one to speak is right.
            if order > *newest || service.nodes.is_empty() {
                *newest = order;
                service.metadata.clone_from(&entry.metadata);
                service.endpoints.clone_from(&entry.endpoints);
            }
            service.nodes.push(entry.node.clone());
        }
        found.into_values().map(|(_, service)| service).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeter(id: &str, address: &str) -> Service {
        Service::new("greeter", "v1").with_node(Node::new(id, address))
    }

    fn kinds(receiver: &mut mpsc::Receiver<Event>) -> Vec<EventKind> {
        std::iter::from_fn(|| receiver.try_recv().ok())
            .map(|event| event.kind)
            .collect()
    }

    #[test]
    fn a_new_list_tells_what_changed_and_nothing_else() {
        let mut directory = Directory::default();
        directory.list(&[greeter("a", "a:1").with_node(Node::new("b", "b:1"))]);
        let mut watch = directory.watch(None);
        directory.list(&[greeter("a", "a:2").with_node(Node::new("c", "c:1"))]);
        let expected = [EventKind::Update, EventKind::Delete, EventKind::Create];
        assert_eq!(kinds(&mut watch), expected);
        directory.list(&[greeter("c", "c:1").with_node(Node::new("a", "a:2"))]);
        assert_eq!(kinds(&mut watch), []);
    }

    #[test]
    fn what_is_registered_hides_what_is_listed_until_it_goes() {
        let mut directory = Directory::default();
        directory.list(&[greeter("a", "a:1")]);
        let mut watch = directory.watch(Some("greeter".into()));
        directory.register(&greeter("a", "a:2"), None);
        assert_eq!(directory.get(None), [greeter("a", "a:2")]);
        directory.list(&[]);
        assert_eq!(directory.get(None), [greeter("a", "a:2")]);
        directory.list(&[greeter("a", "a:1")]);
        assert_eq!(directory.deregister(&greeter("a", "")), None);
        assert_eq!(directory.get(None), [greeter("a", "a:1")]);
        assert_eq!(kinds(&mut watch), [EventKind::Update, EventKind::Update]);
        let only_listed = directory.deregister(&greeter("a", ""));
        assert_eq!(only_listed.as_deref(), Some("a"));
    }
}
