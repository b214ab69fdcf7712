//! What is known of one service, and what changed in it.

use std::collections::BTreeMap;

use micro_registry_core::{Endpoint, Event, EventKind, Node, Service, check_registration};

use crate::api::Entry;
use crate::layout;

/// One node as it was registered, with the description that came with it.
#[derive(Clone, Debug)]
struct Known {
    node: Node,
    metadata: BTreeMap<String, String>,
    endpoints: Vec<Endpoint>,
    /// When Consul took it: the last one describes its version.
    index: u64,
}

impl Known {
    fn is_same(&self, other: &Self) -> bool {
        self.node == other.node
            && self.metadata == other.metadata
            && self.endpoints == other.endpoints
    }
}

/// The nodes of one service by version and id.
#[derive(Clone, Debug, Default)]
pub(crate) struct View(BTreeMap<(String, String), Known>);

impl View {
    /// Reads an answer; `outer` is what Consul calls the service. What cannot be believed is left
    /// out, and said so.
    pub(crate) fn read(outer: &str, name: &str, entries: Vec<Entry>) -> Self {
        let mut view = Self::default();
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
                tracing::warn!(service = outer, id = ?instance.id, why, "a node in Consul is not used");
            };
            let tags = match layout::read(&instance.tags.unwrap_or_default()) {
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
            let mut address = layout::join(host, instance.port);
            let mut id = instance.id.clone();
            if let Some(mark) = tags.mark {
                id = mark.id;
                // Consul's own fields have the last word; the mark only spells them.
                if layout::split(&mark.address) == (host.clone(), instance.port) {
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
            let known = Known {
                node,
                metadata: tags.service_metadata,
                endpoints: tags.endpoints,
                index: instance.modify_index,
            };
            view.0.insert((tags.version, id), known);
        }
        view
    }

    /// One entry per version, each with its nodes.
    pub(crate) fn services(&self, name: &str) -> Vec<Service> {
        let mut services = BTreeMap::new();
        for ((version, _), known) in &self.0 {
            let service = services
                .entry(version)
                .or_insert_with(|| self.describe(name, version));
            service.nodes.push(known.node.clone());
        }
        services.into_values().collect()
    }

    /// A version without nodes, as its last registration describes it.
    fn describe(&self, name: &str, version: &str) -> Service {
        let mut service = Service::new(name, version);
        let of_version = self.0.iter().filter(|((of, _), _)| of == version);
        if let Some((_, last)) = of_version.max_by_key(|(_, known)| known.index) {
            service.metadata.clone_from(&last.metadata);
            service.endpoints.clone_from(&last.endpoints);
        }
        service
    }

    /// What happened on the way to `next`, node by node: first who went, then who came or changed.
    pub(crate) fn changes(&self, next: &Self, name: &str) -> Vec<Event> {
        let event = |kind, view: &Self, (version, _): &(String, String), node: &Node| {
            Event::new(kind, view.describe(name, version).with_node(node.clone()))
        };
        let mut events = Vec::new();
        for (key, was) in &self.0 {
            if !next.0.contains_key(key) {
                events.push(event(EventKind::Delete, self, key, &was.node));
            }
        }
        for (key, is) in &next.0 {
            match self.0.get(key) {
                None => events.push(event(EventKind::Create, next, key, &is.node)),
                Some(was) if !was.is_same(is) => {
                    events.push(event(EventKind::Update, next, key, &is.node));
                }
                Some(_) => {}
            }
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(json: &str) -> Vec<Entry> {
        serde_json::from_str(json).unwrap()
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
        let services = View::read("greeter", "greeter", entries(answer)).services("greeter");
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
            {"Service":{"ID":"d","Service":"greeter","Address":"10.0.0.1","Port":81}}
        ]"#;
        let view = View::read("greeter", "greeter", entries(answer));
        let ids: Vec<_> = view.0.keys().map(|(_, id)| &**id).collect();
        assert_eq!(ids, ["d"]);
        // One port too large spoils the answer's JSON, not the program.
        assert!(serde_json::from_str::<Vec<Entry>>(&answer.replace("81", "99999")).is_err());
    }
}
