//! What the slices say about services, and what changed in it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use micro_http::Complaints;
use micro_registry_core::{Event, EventKind, Node, Service, check_name};

use crate::names;
use crate::slice::{self, Description, Slice};

/// One node, with the description that came with it.
#[derive(Clone, Debug)]
struct Known {
    node: Node,
    description: Arc<Description>,
    /// The last one describes its version.
    described: u64,
}

impl Known {
    fn is_same(&self, other: &Self) -> bool {
        self.node == other.node && self.description == other.description
    }
}

/// By service, version and id.
type Key = (String, String, String);

/// The nodes by service, version and id.
#[derive(Clone, Debug, Default)]
pub(crate) struct View(BTreeMap<Key, Known>);

/// What happened to one node. Many may wait, and a version's description may be long: it is written
/// out when its turn comes.
#[derive(Debug)]
pub(crate) struct Change {
    kind: EventKind,
    name: String,
    version: String,
    node: Node,
    description: Arc<Description>,
}

impl Change {
    pub(crate) fn event(self) -> Event {
        let service = described(&self.name, &self.version, &self.description);
        Event::new(self.kind, service.with_node(self.node))
    }
}

fn described(name: &str, version: &str, description: &Description) -> Service {
    let mut service = Service::new(name, version);
    service.metadata.clone_from(&description.metadata);
    service.endpoints.clone_from(&description.endpoints);
    service
}

/// What is looked for.
#[derive(Clone, Debug)]
pub(crate) struct Look<'a> {
    /// Our namespace.
    pub(crate) namespace: &'a str,
    /// This service, or all.
    pub(crate) only: Option<&'a str>,
    /// The name of the port.
    pub(crate) port: Option<&'a str>,
    /// In milliseconds of Unix time.
    pub(crate) now: u64,
    pub(crate) complaints: &'a Complaints,
}

impl Look<'_> {
    fn skip(&self, slice: &Slice, why: &str) {
        let name = &slice.metadata.name;
        if self.complaints.is_new((name, why)) {
            tracing::warn!(slice = ?name, why, "an EndpointSlice is not used");
        }
    }
}

/// A node that Kubernetes itself wrote down.
struct Found {
    key: Key,
    known: Known,
    ready: bool,
}

impl View {
    /// Reads slices. What cannot be believed is left out, and said so.
    pub(crate) fn read<'a>(slices: impl Iterator<Item = &'a Slice>, look: &Look<'_>) -> Self {
        let mut view = Self::default();
        let mut found = Vec::new();
        let mut slices: Vec<&Slice> = slices.collect();
        // Of a pod with addresses of both kinds, the IPv4 one is used.
        slices.sort_by_key(|slice| slice.address_type != "IPv4");
        for slice in slices {
            if slice.namespace() != look.namespace {
                continue;
            }
            if slice.is_registration() {
                view.add_registration(slice, look);
            } else {
                find(slice, look, &mut found);
            }
        }
        // Who registered by itself says more about itself.
        let registered: BTreeSet<(String, String)> = view
            .0
            .iter()
            .map(|((name, ..), known)| (name.clone(), known.node.address.clone()))
            .collect();
        let ready: BTreeSet<String> = found
            .iter()
            .filter(|found| found.ready)
            .map(|found| found.key.0.clone())
            .collect();
        for Found {
            key,
            known,
            ready: is_ready,
        } in found
        {
            // As kube-proxy does it: pods that terminate and still serve, if there are no others.
            if !is_ready && ready.contains(&key.0) {
                continue;
            }
            if !registered.contains(&(key.0.clone(), known.node.address.clone())) {
                view.0.entry(key).or_insert(known);
            }
        }
        view
    }

    fn add_registration(&mut self, slice: &Slice, look: &Look<'_>) {
        let Some(found) = slice.registration() else {
            look.skip(slice, "its registration is garbage");
            return;
        };
        let label = slice.says(slice::SERVICE_NAME);
        if label != Some(&*names::service(look.namespace, &found.name)) {
            look.skip(slice, "it is registered under another name");
            return;
        }
        if look.only.is_some_and(|only| only != found.name)
            || found.expires.is_some_and(|at| at <= look.now)
        {
            return;
        }
        let key = (
            found.name.clone(),
            found.version.clone(),
            found.node.id.clone(),
        );
        let known = Known {
            node: found.node.clone(),
            description: Arc::clone(&found.description),
            described: found.described,
        };
        self.0.insert(key, known);
    }

    /// One entry per service and version, each with its nodes.
    pub(crate) fn services(&self) -> Vec<Service> {
        let mut services: BTreeMap<(&str, &str), Service> = self
            .descriptions()
            .into_iter()
            .map(|((name, version), last)| {
                let service = described(name, version, &last.description);
                ((name, version), service)
            })
            .collect();
        for ((name, version, _), known) in &self.0 {
            if let Some(service) = services.get_mut(&(&**name, &**version)) {
                service.nodes.push(known.node.clone());
            }
        }
        services.into_values().collect()
    }

    /// By service and version, the node that describes it: the one that was registered last.
    fn descriptions(&self) -> BTreeMap<(&str, &str), &Known> {
        let mut last = BTreeMap::<(&str, &str), &Known>::new();
        for ((name, version, _), known) in &self.0 {
            let of_version = last.entry((name, version)).or_insert(known);
            if known.described >= of_version.described {
                *of_version = known;
            }
        }
        last
    }

    /// What happened on the way to `next`, node by node: first who went, then who came or changed.
    pub(crate) fn changes(&self, next: &Self) -> Vec<Change> {
        let (before, after) = (self.descriptions(), next.descriptions());
        let change = |kind, by: &BTreeMap<(&str, &str), &Known>, key: &Key, known: &Known| {
            let last = by.get(&(&*key.0, &*key.1)).unwrap_or(&known);
            Change {
                kind,
                name: key.0.clone(),
                version: key.1.clone(),
                node: known.node.clone(),
                description: Arc::clone(&last.description),
            }
        };
        let mut changes = Vec::new();
        for (key, was) in &self.0 {
            if !next.0.contains_key(key) {
                changes.push(change(EventKind::Delete, &before, key, was));
            }
        }
        for (key, is) in &next.0 {
            match self.0.get(key) {
                None => changes.push(change(EventKind::Create, &after, key, is)),
                Some(was) if !was.is_same(is) => {
                    changes.push(change(EventKind::Update, &after, key, is));
                }
                Some(_) => {}
            }
        }
        changes
    }
}

/// The service that a slice of Kubernetes' own is about.
fn name_of(slice: &Slice, look: &Look<'_>) -> Option<String> {
    let label = slice.says(slice::SERVICE_NAME)?;
    let name = match (slice.says(slice::NAME), look.only) {
        (Some(name), _) => name,
        (None, Some(only)) if names::service(look.namespace, only) == label => only,
        (None, None) if look.namespace.is_empty() => label,
        _ => return None,
    };
    let wanted = look.only.is_none_or(|only| only == name);
    (wanted && check_name(name).is_ok()).then(|| name.to_owned())
}

/// The nodes in a slice that Kubernetes' own controller, or somebody else, wrote.
fn find(slice: &Slice, look: &Look<'_>, found: &mut Vec<Found>) {
    let Some(name) = name_of(slice, look) else {
        return;
    };
    let Some(port) = port_of(slice, look.port) else {
        if !slice.endpoints.is_empty() {
            look.skip(
                slice,
                "none of its TCP ports is named 'micro' or 'grpc', or is the only one",
            );
        }
        return;
    };
    let version = slice
        .says(slice::VERSION)
        .or_else(|| slice.says("app.kubernetes.io/version"))
        .unwrap_or_default();
    let meta = &slice.metadata;
    let metadata = meta
        .annotations
        .iter()
        .chain(&meta.labels)
        .filter(|(name, _)| !is_internal(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let description = Arc::new(Description {
        metadata,
        endpoints: Vec::new(),
    });
    for endpoint in &slice.endpoints {
        let conditions = &endpoint.conditions;
        // Unset means unknown, which readers take as ready and not terminating.
        let ready = conditions.ready.unwrap_or(true) && !conditions.terminating.unwrap_or(false);
        let serves = conditions.serving.unwrap_or(false);
        if !ready && !serves {
            continue;
        }
        // Further addresses are for nobody (API reference of EndpointSlice).
        let Some(host) = endpoint.addresses.first() else {
            continue;
        };
        let address = match (host.parse::<IpAddr>(), &*slice.address_type) {
            (Ok(ip), "IPv4" | "IPv6") => SocketAddr::new(ip, port).to_string(),
            (Err(_), "FQDN") => format!("{host}:{port}"),
            _ => {
                look.skip(slice, "an address is none of its type");
                continue;
            }
        };
        let pod = endpoint
            .target_ref
            .as_ref()
            .filter(|target| target.kind == "Pod" && !target.name.is_empty())
            .map(|target| &target.name);
        let id = pod.or(endpoint.hostname.as_ref()).unwrap_or(&address);
        let mut node = Node::new(id, &address);
        for (name, value) in [("zone", &endpoint.zone), ("host", &endpoint.node_name)] {
            if let Some(value) = value {
                node = node.with_metadata(name, value);
            }
        }
        let service = Service::new(&name, version).with_node(node.clone());
        if micro_registry_core::check_registration(&service).is_err() {
            look.skip(slice, "an endpoint has no sound name and address");
            continue;
        }
        found.push(Found {
            key: (name.clone(), version.to_owned(), id.clone()),
            known: Known {
                node,
                description: Arc::clone(&description),
                described: 0,
            },
            ready,
        });
    }
}

/// What Kubernetes and we ourselves keep in labels and annotations.
fn is_internal(name: &str) -> bool {
    let domain = name.split_once('/').map_or("", |(domain, _)| domain);
    ["kubernetes.io", "k8s.io", "micro.mu"]
        .iter()
        .any(|own| domain == *own || domain.ends_with(&format!(".{own}")))
}

fn port_of(slice: &Slice, wanted: Option<&str>) -> Option<u16> {
    let ports: Vec<(&str, u16)> = slice
        .ports
        .iter()
        .filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP")
        .filter_map(|port| {
            let number = port.port.filter(|number| *number != 0)?;
            Some((port.name.as_deref().unwrap_or_default(), number))
        })
        .collect();
    let named = |wanted: &str| {
        let port = ports.iter().find(|(name, _)| *name == wanted);
        port.map(|(_, number)| *number)
    };
    match (wanted, &ports[..]) {
        (Some(wanted), _) => named(wanted),
        (None, [(_, only)]) => Some(*only),
        (None, _) => named("micro").or_else(|| named("grpc")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    fn slices(json: &str) -> Vec<Slice> {
        let objects: Vec<serde_json::Value> = serde_json::from_str(json).unwrap();
        objects.into_iter().filter_map(crate::api::parse).collect()
    }

    fn look(only: Option<&str>) -> Look<'_> {
        static COMPLAINTS: LazyLock<Complaints> = LazyLock::new(Complaints::default);
        Look {
            namespace: "",
            only,
            port: None,
            now: 0,
            complaints: &COMPLAINTS,
        }
    }

    fn nodes(services: &[Service]) -> Vec<(&str, &str)> {
        services
            .iter()
            .flat_map(|service| &service.nodes)
            .map(|node| (&*node.id, &*node.address))
            .collect()
    }

    /// As a controller writes them, shortened.
    const CONTROLLER: &str = r#"[
      {"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","addressType":"IPv4",
       "metadata":{"name":"greeter-x7","resourceVersion":"9","labels":{
         "kubernetes.io/service-name":"go-micro-srv-greeter","endpointslice.kubernetes.io/managed-by":"endpointslice-controller.k8s.io",
         "micro.mu/name":"go.micro.srv.greeter","app.kubernetes.io/version":"1.2","team":"hello"}},
       "endpoints":[
         {"addresses":["10.1.0.1"],"conditions":{"ready":true,"serving":true,"terminating":false},"zone":"eu-1a","nodeName":"n1","targetRef":{"kind":"Pod","name":"greeter-1"}},
         {"addresses":["10.1.0.2"],"conditions":{"ready":false,"serving":true,"terminating":true},"targetRef":{"kind":"Pod","name":"greeter-2"}},
         {"addresses":["10.1.0.3"],"conditions":{"ready":false,"serving":false},"targetRef":{"kind":"Pod","name":"greeter-3"}}],
       "ports":[{"name":"http","port":80,"protocol":"TCP"},{"name":"grpc","port":81,"protocol":"TCP"}]},
      {"addressType":"IPv4","metadata":{"name":"greeter-x8","labels":{"kubernetes.io/service-name":"go-micro-srv-greeter","micro.mu/name":"go.micro.srv.greeter","app.kubernetes.io/version":"1.2","team":"hello"}},
       "endpoints":[{"addresses":["10.1.0.4"],"conditions":{}}],"ports":[{"name":null,"port":82}]},
      {"addressType":"IPv6","metadata":{"name":"greeter-x6","labels":{"kubernetes.io/service-name":"go-micro-srv-greeter","micro.mu/name":"go.micro.srv.greeter","app.kubernetes.io/version":"1.2","team":"hello"}},
       "endpoints":[{"addresses":["fd00::1"],"conditions":{"ready":true},"targetRef":{"kind":"Pod","name":"greeter-1"}},
                    {"addresses":["fd00::9"],"conditions":{"ready":true},"targetRef":{"kind":"Pod","name":"greeter-9"}}],"ports":[{"name":"micro","port":83}]}
    ]"#;

    #[test]
    fn slices_of_kubernetes_own_controller_are_read() {
        let slices = slices(CONTROLLER);
        let found = View::read(slices.iter(), &look(Some("go.micro.srv.greeter"))).services();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].version, "1.2");
        assert_eq!(
            found[0].metadata,
            BTreeMap::from([("team".into(), "hello".into())])
        );
        assert_eq!(
            nodes(&found),
            [
                ("10.1.0.4:82", "10.1.0.4:82"),
                ("greeter-1", "10.1.0.1:81"),
                ("greeter-9", "[fd00::9]:83")
            ]
        );
        assert_eq!(found[0].nodes[1].metadata["zone"], "eu-1a");
        let all = View::read(slices.iter(), &look(None)).services();
        assert_eq!(all[0].name, "go.micro.srv.greeter");
        // Another name that would be the same Service.
        let other = View::read(slices.iter(), &look(Some("go-micro-srv-greeter")));
        assert!(other.services().is_empty());
    }

    #[test]
    fn pods_that_terminate_serve_if_nobody_else_does() {
        let mut slices = slices(CONTROLLER);
        slices.truncate(1);
        slices[0].endpoints.remove(0);
        let found = View::read(slices.iter(), &look(Some("go.micro.srv.greeter"))).services();
        assert_eq!(nodes(&found), [("greeter-2", "10.1.0.2:81")]);
    }

    fn registration(id: &str, change: impl FnOnce(&mut Slice)) -> Slice {
        let service = Service::new("greeter", "v1").with_node(Node::new(id, "10.0.0.1:80"));
        let mut slice = Slice::write(id.to_owned(), "", &service, 1, 1000, None).unwrap();
        change(&mut slice);
        slice
    }

    #[test]
    fn s53_one_slice_s_garbage_does_not_cost_the_others() {
        let annotate = |slice: &mut Slice, name: &str, value: &str| {
            slice
                .metadata
                .annotations
                .insert(name.to_owned(), value.to_owned());
        };
        let slices = [
            registration("good", |_| {}),
            registration("json", |slice| {
                annotate(slice, "micro.mu/registration", "{")
            }),
            registration("schema", |slice| {
                annotate(slice, "micro.mu/registration", "[1]")
            }),
            registration("control", |slice| {
                let text = r#"{"name":"greeter","nodes":[{"id":"a\nb","address":"h:1"}]}"#;
                annotate(slice, "micro.mu/registration", text);
            }),
            registration("other", |slice| {
                let text = r#"{"name":"billing","nodes":[{"id":"a","address":"h:1"}]}"#;
                annotate(slice, "micro.mu/registration", text);
            }),
            registration("ttl", |slice| annotate(slice, "micro.mu/ttl-ms", "soon")),
        ];
        let found = View::read(slices.iter(), &look(None)).services();
        assert_eq!(nodes(&found), [("good", "10.0.0.1:80")]);
        assert!(crate::api::parse(serde_json::json!({"ports": [{"port": 99_999}]})).is_none());
    }

    #[test]
    fn s53_any_answer_is_read_or_left_out() {
        let registration = serde_json::to_string(&[registration("good", |_| {})]).unwrap();
        micro_conformance::mutation::run(
            &[CONTROLLER.as_bytes(), registration.as_bytes()],
            |bytes| {
                let Ok(objects) = serde_json::from_slice::<Vec<serde_json::Value>>(bytes) else {
                    return;
                };
                let slices: Vec<Slice> =
                    objects.into_iter().filter_map(crate::api::parse).collect();
                for only in [None, Some("greeter"), Some("go.micro.srv.greeter")] {
                    let view = View::read(slices.iter(), &look(only));
                    let services = view.services();
                    for service in &services {
                        micro_registry_core::check_registration(service).unwrap();
                        assert!(only.is_none_or(|only| only == service.name));
                    }
                    let nodes: usize = services.iter().map(|service| service.nodes.len()).sum();
                    assert_eq!(nodes, View::default().changes(&view).len());
                }
            },
        );
    }

    #[test]
    fn s52_what_is_too_long_is_refused_where_it_is_written() {
        let service = Service::new("greeter", "v1")
            .with_node(Node::new("a", "h:1").with_metadata("k", "x".repeat(1 << 20)));
        let err = Slice::write("a".to_owned(), "", &service, 1, 1, None).unwrap_err();
        assert_eq!(err.kind(), micro_core::ErrorKind::InvalidArgument);
    }

    #[test]
    fn s51_a_registration_at_loopback_is_not_shown_to_others() {
        for (address, shown) in [
            ("127.0.0.1:80", 0),
            ("[::1]:80", 0),
            ("169.254.169.254:80", 0),
            ("10.0.0.1:80", 1),
            ("[2001:db8::1]:80", 1),
        ] {
            let service = Service::new("greeter", "v1").with_node(Node::new("a", address));
            let slice = Slice::write("a".to_owned(), "", &service, 1, 1, None).unwrap();
            assert_eq!(slice.endpoints.len(), shown, "{address}");
        }
    }
}
