//! What is known of one service, and what changed in it.

use std::collections::BTreeMap;
use std::sync::Arc;

use micro_http::Complaints;
use micro_registry_core::{Endpoint, Event, EventKind, Node, Service, check_registration};

use crate::api::Entry;
use crate::layout;

/// How a node describes its version.
#[derive(Debug, Default, PartialEq, Eq)]
struct Description {
    metadata: BTreeMap<String, String>,
    endpoints: Vec<Endpoint>,
}

/// One node as it was registered, with the description that came with it.
#[derive(Clone, Debug)]
struct Known {
    node: Node,
    description: Arc<Description>,
    /// When Consul took it: the last one describes its version.
    index: u64,
}

impl Known {
    fn is_same(&self, other: &Self) -> bool {
        self.node == other.node && self.description == other.description
    }
}

/// The nodes of one service by version and id.
#[derive(Clone, Debug, Default)]
pub(crate) struct View(BTreeMap<(String, String), Known>);

/// What happened to one node. Many may wait, and a version's description may be long: it is written
/// out when its turn comes.
#[derive(Debug)]
pub(crate) struct Change {
    kind: EventKind,
    version: String,
    node: Node,
    description: Arc<Description>,
}

impl Change {
    pub(crate) fn event(self, name: &str) -> Event {
        let service = described(name, &self.version, &self.description);
        Event::new(self.kind, service.with_node(self.node))
    }
}

fn described(name: &str, version: &str, description: &Description) -> Service {
    let mut service = Service::new(name, version);
    service.metadata.clone_from(&description.metadata);
    service.endpoints.clone_from(&description.endpoints);
    service
}

impl View {
    /// Reads an answer; `outer` is what Consul calls the service. What cannot be believed is left
    /// out, and said so.
    pub(crate) fn read(
        outer: &str,
        name: &str,
        entries: Vec<Entry>,
        complaints: &Complaints,
    ) -> Self {
        let mut view = Self::default();
        let mut left = layout::ANSWER_LIMIT;
        for entry in entries {
            let instance = entry.service;
            // Consul does not tell capitals from small letters.
            if instance.service != outer {
                continue;
            }
            let checks = entry.checks.unwrap_or_default();
            if checks.iter().any(|check| check.status == "critical") {
                continue;
            }
            let skip = |why: &str| {
                if complaints.is_new((outer, &instance.id, why)) {
                    tracing::warn!(service = outer, id = ?instance.id, why, "a node in Consul is not used");
                }
            };
            let Ok(port) = u16::try_from(instance.port) else {
                skip("its port is none");
                continue;
            };
            let tags = match layout::read(&instance.tags.unwrap_or_default(), &mut left) {
                Ok(tags) => tags,
                Err(bad) => {
                    skip(bad.text());
                    continue;
                }
            };
            let host = if instance.address.is_empty() {
                &entry.node.address
            } else {
                &instance.address
            };
            let mut address = layout::join(host, port);
            let mut id = instance.id.clone();
            if let Some(mark) = tags.mark {
                id = mark.id;
                // Consul's own fields have the last word; the mark only spells them.
                if layout::split(&mark.address) == (host.clone(), port) {
                    address = mark.address;
                }
            }
            let mut node = Node::new(&id, address);
            node.metadata = tags.node_metadata;
            // Whether its address may be called is for the resolver to judge, as of any registry.
            let service = Service::new(name, &tags.version).with_node(node.clone());
            if check_registration(&service).is_err() {
                skip("its id or address is none");
                continue;
            }
            let description = Description {
                metadata: tags.service_metadata,
                endpoints: tags.endpoints,
            };
            let known = Known {
                node,
                description: Arc::new(description),
                index: instance.modify_index,
            };
            view.0.insert((tags.version, id), known);
        }
        view
    }

    /// One entry per version, each with its nodes.
    pub(crate) fn services(&self, name: &str) -> Vec<Service> {
        let mut services: BTreeMap<&str, Service> = self
            .descriptions()
            .into_iter()
            .map(|(version, last)| (version, described(name, version, &last.description)))
            .collect();
        for ((version, _), known) in &self.0 {
            if let Some(service) = services.get_mut(&**version) {
                service.nodes.push(known.node.clone());
            }
        }
        services.into_values().collect()
    }

    /// By version, the node that describes it: the one that was registered last.
    fn descriptions(&self) -> BTreeMap<&str, &Known> {
        let mut last = BTreeMap::<&str, &Known>::new();
        for ((version, _), known) in &self.0 {
            let of_version = last.entry(version).or_insert(known);
            if known.index >= of_version.index {
                *of_version = known;
            }
        }
        last
    }

    /// What happened on the way to `next`, node by node: first who went, then who came or changed.
    pub(crate) fn changes(&self, next: &Self) -> Vec<Change> {
        let (before, after) = (self.descriptions(), next.descriptions());
        let change = |kind, by: &BTreeMap<&str, &Known>, version: &str, known: &Known| Change {
            kind,
            version: version.to_owned(),
            node: known.node.clone(),
            description: Arc::clone(&by.get(version).unwrap_or(&known).description),
        };
        let mut changes = Vec::new();
        for (key, was) in &self.0 {
            if !next.0.contains_key(key) {
                changes.push(change(EventKind::Delete, &before, &key.0, was));
            }
        }
        for (key, is) in &next.0 {
            match self.0.get(key) {
                None => changes.push(change(EventKind::Create, &after, &key.0, is)),
                Some(was) if !was.is_same(is) => {
                    changes.push(change(EventKind::Update, &after, &key.0, is));
                }
                Some(_) => {}
            }
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> View {
        let entries = serde_json::from_str(json).unwrap();
        View::read("greeter", "greeter", entries, &Complaints::default())
    }

    #[test]
    fn s53_one_node_s_garbage_does_not_cost_the_others() {
        let answer = r#"[
            {"Node":{"Address":"10.0.0.1"},"Service":{"ID":"good","Service":"greeter","Tags":null,"Address":"","Port":80},"Checks":null},
            {"Service":{"ID":"mark","Service":"greeter","Tags":["m-789c00"],"Address":"10.0.0.2","Port":80}},
            {"Service":{"ID":"other","Service":"Greeter","Tags":[],"Address":"10.0.0.2","Port":80}},
            {"Service":{"ID":"critical","Service":"greeter","Tags":[],"Address":"10.0.0.2","Port":80},"Checks":[{"Status":"passing"},{"Status":"critical"}]},
            {"Service":{"ID":"warning","Service":"greeter","Tags":["v=v2"],"Address":"10.0.0.3","Port":80},"Checks":[{"Status":"warning"}]}
        ]"#;
        let services = read(answer).services("greeter");
        let nodes: Vec<_> = services
            .iter()
            .flat_map(|service| &service.nodes)
            .map(|node| (&*node.id, &*node.address))
            .collect();
        assert_eq!(nodes, [("good", "10.0.0.1:80"), ("warning", "10.0.0.3:80")]);
        assert_eq!(services[1].version, "v2");
    }

    #[test]
    fn s51_an_address_that_is_none_is_left_out() {
        let answer = r#"[
            {"Service":{"ID":"a","Service":"greeter","Address":"","Port":0}},
            {"Service":{"ID":"b","Service":"greeter","Address":"ho\u0000st","Port":80}},
            {"Service":{"ID":"c\n","Service":"greeter","Address":"10.0.0.1","Port":80}},
            {"Service":{"ID":"d","Service":"greeter","Address":"10.0.0.1","Port":81}},
            {"Service":{"ID":"e","Service":"greeter","Address":"10.0.0.1","Port":99999}},
            {"Service":{"ID":"f","Service":"greeter","Address":"10.0.0.1","Port":-1}}
        ]"#;
        let view = read(answer);
        let ids: Vec<_> = view.0.keys().map(|(_, id)| &**id).collect();
        assert_eq!(ids, ["d"]);
    }

    #[test]
    fn the_last_registration_describes_its_version() {
        let view = |tags: &str| {
            read(&format!(
                r#"[{{"Service":{{"ID":"a","Service":"greeter","Tags":[{tags}],"Address":"h","Port":1,"ModifyIndex":7}}}},
                    {{"Service":{{"ID":"b","Service":"greeter","Tags":["e={{\"name\":\"Old\"}}"],"Address":"h","Port":2,"ModifyIndex":6}}}}]"#
            ))
        };
        let (before, after) = (view(""), view(r#""e={\"name\":\"New\"}""#));
        let named = |services: &[Service]| {
            let endpoints = services.iter().flat_map(|service| &service.endpoints);
            endpoints.map(|one| one.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(named(&before.services("greeter")), [""; 0]);
        assert_eq!(named(&after.services("greeter")), ["New"]);
        let changes = before.changes(&after).into_iter();
        let events: Vec<_> = changes.map(|change| change.event("greeter")).collect();
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].kind, EventKind::Update);
        assert_eq!(named(&[events[0].service.clone()]), ["New"]);
        // Who goes is described as it was.
        let gone = after.changes(&View::default()).into_iter();
        let gone: Vec<_> = gone.map(|change| change.event("greeter")).collect();
        assert!(gone.iter().all(|event| event.kind == EventKind::Delete));
        assert_eq!(named(&[gone[1].service.clone()]), ["New"]);
    }

    #[test]
    fn s53_any_answer_is_read_or_refused() {
        let good = [
            r#"[{"Node":{"Address":"10.0.0.1"},"Service":{"ID":"a","Service":"greeter","Tags":null,"Address":"","Port":80,"ModifyIndex":1},"Checks":null}]"#,
            r#"[{"Service":{"ID":"b","Service":"greeter","Tags":["v=v2","t={\"zone\":\"x\"}"],"Address":"::1","Port":80},"Checks":[{"Status":"passing"}]}]"#,
        ];
        let complaints = Complaints::default();
        micro_conformance::mutation::run(&good.map(str::as_bytes), |bytes| {
            let Ok(entries) = serde_json::from_slice(bytes) else {
                return;
            };
            let view = View::read("greeter", "greeter", entries, &complaints);
            let services = view.services("greeter");
            for service in &services {
                check_registration(service).unwrap();
            }
            let nodes: usize = services.iter().map(|service| service.nodes.len()).sum();
            assert_eq!(nodes, View::default().changes(&view).len());
        });
    }
}
