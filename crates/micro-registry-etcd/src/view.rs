//! What is registered, as far as somebody reads it: of one lookup, or of a watch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use micro_etcd::{Change, KeyValue};
use micro_registry_core::{Event, EventKind, Service};
use tokio::time::Instant;

use crate::layout::{Entry, Identity, Layout};
use crate::lock;

/// So long nothing more is said about what was left out.
const QUIET: Duration = Duration::from_secs(60);

/// Says that entries were left out, but not for each and every one.
#[derive(Debug, Default)]
pub(crate) struct Noise {
    said: Mutex<(Option<Instant>, u64)>,
}

impl Noise {
    pub(crate) fn say(&self, key: &[u8], why: &str) {
        let now = Instant::now();
        let mut said = lock(&self.said);
        said.1 += 1;
        if said.0.is_some_and(|at| now < at + QUIET) {
            return;
        }
        let key: String = String::from_utf8_lossy(key)
            .chars()
            .take(200)
            .flat_map(char::escape_debug)
            .collect();
        tracing::warn!(
            key,
            why,
            count = said.1,
            "an entry in etcd is no registration and is left out"
        );
        *said = (Some(now), 0);
    }
}

/// The entries below some prefix.
#[derive(Clone, Debug)]
pub(crate) struct View {
    layout: Layout,
    noise: Arc<Noise>,
    entries: BTreeMap<Bytes, Entry>,
}

impl View {
    pub(crate) fn new(layout: Layout, noise: Arc<Noise>) -> Self {
        Self {
            layout,
            noise,
            entries: BTreeMap::new(),
        }
    }

    /// Adds what was read.
    pub(crate) fn add(&mut self, found: &KeyValue) {
        match self.layout.read(found) {
            Ok(entry) => {
                self.entries.insert(found.key.clone(), entry);
            }
            Err(why) => self.noise.say(&found.key, why),
        }
    }

    /// The services: one for each version, with its nodes.
    ///
    /// A version is described by the entry that was written last.
    pub(crate) fn services(&self) -> Vec<Service> {
        let mut services: BTreeMap<(&str, &str), (i64, Service)> = BTreeMap::new();
        for entry in self.entries.values() {
            if !self.is_shown(entry) {
                continue;
            }
            let Entry {
                service,
                mod_revision,
            } = entry;
            match services.entry((&service.name, &service.version)) {
                std::collections::btree_map::Entry::Vacant(place) => {
                    place.insert((*mod_revision, service.clone()));
                }
                std::collections::btree_map::Entry::Occupied(mut place) => {
                    let (newest, known) = place.get_mut();
                    known.nodes.push(entry.node().clone());
                    if *mod_revision > *newest {
                        *newest = *mod_revision;
                        known.metadata.clone_from(&service.metadata);
                        known.endpoints.clone_from(&service.endpoints);
                    }
                }
            }
        }
        services.into_values().map(|(_, service)| service).collect()
    }

    /// Takes changes in their order, and says what happened to nodes.
    pub(crate) fn apply(&mut self, changes: Vec<Change>) -> Vec<Event> {
        let mut events = Events::default();
        for change in changes {
            self.apply_one(change, &mut events);
        }
        events.all
    }

    fn apply_one(&mut self, change: Change, events: &mut Events) {
        let known = self.entries.get(&change.key);
        if known.is_some_and(|known| change.revision <= known.mod_revision) {
            return;
        }
        let entry = change.now.and_then(|now| match self.layout.read(&now) {
            Ok(entry) => Some(entry),
            Err(why) => {
                self.noise.say(&now.key, why);
                None
            }
        });
        if let (Some(known), Some(entry)) = (known, &entry)
            && known.identity() == entry.identity()
            && entry.is_older_than(known)
        {
            self.noise
                .say(&change.key, "it is of an earlier program: a replay");
            return;
        }
        // What a key no longer is goes before what it is now.
        let mut touched: Vec<Identity> = known
            .into_iter()
            .chain(&entry)
            .map(Entry::identity)
            .collect();
        touched.dedup();
        let before: Vec<_> = touched.iter().map(|one| self.shown(one).cloned()).collect();
        match entry {
            Some(entry) => self.entries.insert(change.key, entry),
            None => self.entries.remove(&change.key),
        };
        for (identity, before) in touched.iter().zip(before) {
            events.add(change.revision, before.as_ref(), self.shown(identity));
        }
    }

    /// Becomes another view, which was read anew, and says what happened to nodes.
    pub(crate) fn replace(&mut self, new: Self) -> Vec<Event> {
        let old = std::mem::replace(self, new);
        let all: BTreeSet<Identity> = old
            .entries
            .values()
            .chain(self.entries.values())
            .map(Entry::identity)
            .collect();
        let mut events = Events::default();
        // Those that left first and together: see `Events::add`.
        let (here, gone): (Vec<_>, Vec<_>) = all.iter().partition(|one| self.shown(one).is_some());
        for identity in gone.into_iter().chain(here) {
            events.add(0, old.shown(identity), self.shown(identity));
        }
        events.all
    }

    /// The entry of a node. It may have two, if its key was not free when it came.
    fn shown(&self, identity: &Identity) -> Option<&Entry> {
        [self.layout.key(identity), self.layout.other_key(identity)]
            .iter()
            .filter_map(|key| self.entries.get(key))
            .filter(|entry| entry.identity() == *identity)
            .reduce(|one, other| {
                let newer = other.mod_revision > one.mod_revision;
                if one.is_older_than(other) || newer && !other.is_older_than(one) {
                    other
                } else {
                    one
                }
            })
    }

    fn is_shown(&self, entry: &Entry) -> bool {
        let shown = self.shown(&entry.identity());
        shown.is_some_and(|shown| std::ptr::eq(shown, entry))
    }
}

/// Events, with the nodes together that one revision changed in the same way.
#[derive(Default)]
struct Events {
    all: Vec<Event>,
    revision: i64,
}

impl Events {
    fn add(&mut self, revision: i64, before: Option<&Entry>, after: Option<&Entry>) {
        let (kind, entry) = match (before, after) {
            (None, None) => return,
            (None, Some(after)) => (EventKind::Create, after),
            (Some(before), None) => (EventKind::Delete, before),
            (Some(before), Some(after)) if before.service == after.service => return,
            (Some(_), Some(after)) => (EventKind::Update, after),
        };
        let service = &entry.service;
        // A deletion of many at once must look like one: whoever calls these nodes may doubt it.
        if let Some(last) = self.all.last_mut()
            && self.revision == revision
            && last.kind == kind
            && (&last.service.name, &last.service.version) == (&service.name, &service.version)
            && (kind == EventKind::Delete
                || (&last.service.metadata, &last.service.endpoints)
                    == (&service.metadata, &service.endpoints))
        {
            last.service.nodes.push(entry.node().clone());
            return;
        }
        self.revision = revision;
        self.all.push(Event::new(kind, service.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::tests::found;

    fn view() -> View {
        View::new(Layout::new("/r/", ""), Arc::default())
    }

    fn value(version: &str, id: &str, address: &str, generation: u64) -> String {
        format!(
            r#"{{"name":"greeter","version":"{version}","nodes":[{{"id":"{id}","address":"{address}","metadata":{{"micro-generation":"{generation}"}}}}]}}"#
        )
    }

    fn change(key: &str, value: Option<&str>, revision: i64) -> Change {
        let now = value.map(|value| found(key, value, revision));
        Change::new(Bytes::copy_from_slice(key.as_bytes()), revision, now)
    }

    fn said(events: &[Event]) -> Vec<(EventKind, &str, Vec<&str>)> {
        events
            .iter()
            .map(|event| {
                let nodes = event.service.nodes.iter().map(|node| &*node.id).collect();
                (event.kind, &*event.service.version, nodes)
            })
            .collect()
    }

    use EventKind::{Create, Delete, Update};

    #[test]
    fn s54_replays_are_ignored() {
        let mut view = view();
        let (one, two) = (value("v1", "a", "h:1", 1), value("v1", "a", "h:2", 2));
        let events = view.apply(vec![change("/r/greeter/a", Some(&two), 5)]);
        assert_eq!(said(&events), [(Create, "v1", vec!["a"])]);
        // An earlier revision, and an earlier program.
        for (value, revision) in [(&one, 4), (&two, 5), (&one, 6)] {
            assert!(
                view.apply(vec![change("/r/greeter/a", Some(value), revision)])
                    .is_empty()
            );
        }
        assert_eq!(view.services()[0].nodes[0].address, "h:2");
        let three = value("v1", "a", "h:3", 3);
        let events = view.apply(vec![change("/r/greeter/a", Some(&three), 7)]);
        assert_eq!(said(&events), [(Update, "v1", vec!["a"])]);
    }

    #[test]
    fn a_node_at_two_keys_is_one_node() {
        let mut view = view();
        let value = value("v1", "a", "h:1", 1);
        let (first, other) = ("/r/greeter/a", "/r/greeter/a/v1");
        assert_eq!(view.apply(vec![change(first, Some(&value), 1)]).len(), 1);
        assert!(view.apply(vec![change(other, Some(&value), 2)]).is_empty());
        assert_eq!(view.services()[0].nodes.len(), 1);
        assert!(
            view.apply(vec![change(first, None, 3)]).is_empty(),
            "it is still there"
        );
        let events = view.apply(vec![change(other, None, 4)]);
        assert_eq!(said(&events), [(Delete, "v1", vec!["a"])]);
        assert!(view.services().is_empty());
    }

    #[test]
    fn what_one_revision_deletes_is_one_event_and_a_new_version_comes_after_the_old_one_left() {
        let mut view = view();
        for (i, id) in ["a", "b", "c"].iter().enumerate() {
            let revision = i64::try_from(i).unwrap() + 1;
            let key = format!("/r/greeter/{id}");
            view.apply(vec![change(
                &key,
                Some(&value("v1", id, "h:1", 1)),
                revision,
            )]);
        }
        let events = view.apply(vec![
            change("/r/greeter/a", None, 5),
            change("/r/greeter/b", None, 5),
            change("/r/greeter/c", Some(&value("v2", "c", "h:1", 2)), 6),
        ]);
        assert_eq!(
            said(&events),
            [
                (Delete, "v1", vec!["a", "b"]),
                (Delete, "v1", vec!["c"]),
                (Create, "v2", vec!["c"])
            ]
        );
    }

    #[test]
    fn another_view_takes_its_place_by_its_differences() {
        let key = |id: &str| format!("/r/greeter/{id}");
        let read = |ids: &[(&str, &str)]| {
            let mut view = view();
            for (id, address) in ids {
                view.add(&found(&key(id), &value("v1", id, address, 1), 9));
            }
            view
        };
        let mut view = read(&[("a", "h:1"), ("b", "h:1"), ("c", "h:1"), ("d", "h:1")]);
        let events = view.replace(read(&[
            ("b", "h:2"),
            ("c", "h:1"),
            ("e", "h:1"),
            ("f", "h:1"),
        ]));
        assert_eq!(
            said(&events),
            [
                (Delete, "v1", vec!["a", "d"]),
                (Update, "v1", vec!["b"]),
                (Create, "v1", vec!["e", "f"]),
            ]
        );
    }
}
