//! Keys and values, as go-micro has them.
//!
//! A node is a key `<prefix><service>/<node>` whose value is the service as JSON with that node
//! alone. A slash in the node's id is written as `-`. The version is not in the key: where another
//! version, or another id that is written the same, has the key already, a node of ours goes to a
//! key below it, which go-micro reads as well.

use bytes::Bytes;
use micro_etcd::{KeyValue, Keys};
use micro_registry_core::{Error, Node, Result, Service, check_registration};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

/// Longer values are not read, and not written. etcd takes 1.5 MiB, which as metadata of one node
/// would be an attack on everybody who looks.
pub(crate) const MAX_VALUE: usize = 256 << 10;

/// What would end a part of a key.
const PART: &AsciiSet = &CONTROLS.add(b'/').add(b'%');

/// When the program of a node started, in its metadata.
const GENERATION: &str = "micro-generation";

/// Where the keys of one directory are.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// It ends with a slash.
    prefix: String,
}

/// Which node of which version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Identity {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) id: String,
}

/// A node as it stands in etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// With one node.
    pub(crate) service: Service,
    pub(crate) mod_revision: i64,
}

impl Identity {
    pub(crate) fn new(service: &Service, node: &Node) -> Self {
        Self {
            name: service.name.clone(),
            version: service.version.clone(),
            id: node.id.clone(),
        }
    }
}

impl Entry {
    pub(crate) fn identity(&self) -> Identity {
        Identity::new(&self.service, self.node())
    }

    pub(crate) fn node(&self) -> &Node {
        &self.service.nodes[0]
    }

    /// When its program started, if it says so.
    pub(crate) fn generation(&self) -> Option<u64> {
        self.node().metadata.get(GENERATION)?.parse().ok()
    }

    /// The generation in a value of ours.
    pub(crate) fn generation_of(value: &[u8]) -> Option<u64> {
        let service: Service = serde_json::from_slice(value).ok()?;
        service
            .nodes
            .first()?
            .metadata
            .get(GENERATION)?
            .parse()
            .ok()
    }

    /// Whether it is of an earlier program than `other`, and so a replay.
    pub(crate) fn is_older_than(&self, other: &Self) -> bool {
        matches!((self.generation(), other.generation()), (Some(ours), Some(theirs)) if ours < theirs)
    }
}

impl Layout {
    /// The default namespace adds nothing, so that it is shared with go-micro. Another one stands
    /// beside it, where no prefix of the one is a prefix of the other.
    pub(crate) fn new(prefix: &str, namespace: &str) -> Self {
        let name = prefix.trim_end_matches('/');
        let prefix = match namespace {
            "" => format!("{name}/"),
            namespace => format!("{name}.{}/", utf8_percent_encode(namespace, PART)),
        };
        Self { prefix }
    }

    /// The keys of all services.
    pub(crate) fn all(&self) -> Keys {
        Keys::prefix(self.prefix.clone())
    }

    /// The keys of one service.
    pub(crate) fn of(&self, name: &str) -> Keys {
        Keys::prefix(format!("{}{name}/", self.prefix))
    }

    /// Where go-micro has a node.
    pub(crate) fn key(&self, identity: &Identity) -> Bytes {
        let Identity { name, id, .. } = identity;
        format!("{}{name}/{}", self.prefix, id.replace('/', "-")).into()
    }

    /// Where a node goes if another one has its key.
    pub(crate) fn other_key(&self, identity: &Identity) -> Bytes {
        let Identity { name, version, id } = identity;
        let (id, version) = (
            utf8_percent_encode(id, PART),
            utf8_percent_encode(version, PART),
        );
        format!("{}{name}/{id}/{version}", self.prefix).into()
    }

    /// The value of a node.
    pub(crate) fn value(service: &Service, node: &Node) -> Result<Bytes> {
        let mut alone = Service::new(&service.name, &service.version).with_node(node.clone());
        alone.metadata.clone_from(&service.metadata);
        alone.endpoints.clone_from(&service.endpoints);
        let value = serde_json::to_vec(&alone).map_err(|err| {
            Error::invalid_argument("the registration cannot be written as JSON").with_source(err)
        })?;
        if value.len() > MAX_VALUE {
            return Err(Error::invalid_argument(
                "a registration has at most 256 KiB as JSON: put less into metadata and endpoints",
            )
            .with_context("node", &node.id)
            .with_context("bytes", value.len()));
        }
        Ok(value.into())
    }

    /// Reads a key and its value, which anybody may have written.
    pub(crate) fn read(&self, found: &KeyValue) -> Result<Entry, &'static str> {
        let key = std::str::from_utf8(&found.key).map_err(|_| "the key is no text")?;
        let (name, _) = key
            .strip_prefix(&*self.prefix)
            .and_then(|key| key.split_once('/'))
            .ok_or("the key is not of the form <service>/<node>")?;
        if found.value.len() > MAX_VALUE {
            return Err("the value is longer than 256 KiB");
        }
        let service: Service =
            serde_json::from_slice(&found.value).map_err(|_| "the value is no service in JSON")?;
        if service.name != name {
            return Err("the value is of a service of another name");
        }
        if service.nodes.len() != 1 {
            return Err("the value has not just one node");
        }
        // Names, ids and addresses in which something hides: a line break, most of all.
        check_registration(&service).map_err(|_| "the name, id or address is none")?;
        if service.version.len() > 512 || service.version.contains(char::is_control) {
            return Err("the version has a control character, or is endless");
        }
        let entry = Entry {
            service,
            mod_revision: found.mod_revision,
        };
        let identity = entry.identity();
        if found.key != self.key(&identity) && found.key != self.other_key(&identity) {
            return Err("the key is another node's");
        }
        Ok(entry)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use micro_registry_core::{Endpoint, Value};

    use super::*;

    fn layout() -> Layout {
        Layout::new("/micro/registry/", "")
    }

    pub(crate) fn found(key: &str, value: &str, mod_revision: i64) -> KeyValue {
        let mut found = KeyValue::default();
        found.key = Bytes::copy_from_slice(key.as_bytes());
        found.value = Bytes::copy_from_slice(value.as_bytes());
        found.mod_revision = mod_revision;
        found
    }

    /// What go-micro v2 writes for this service: `encoding/json` of its `registry.Service`.
    const GO_KEY: &str = "/micro/registry/go.micro.srv.greeter/go.micro.srv.greeter-5f0c";
    const GO_VALUE: &str = r#"{"name":"go.micro.srv.greeter","version":"latest","metadata":null,"endpoints":[{"name":"Say.Hello","request":{"name":"Request","type":"Request","values":null},"response":{"name":"Response","type":"Response","values":null},"metadata":{}}],"nodes":[{"id":"go.micro.srv.greeter-5f0c","address":"10.0.0.1:8080","metadata":{"protocol":"grpc","registry":"etcd"}}]}"#;

    fn greeter() -> Service {
        Service::new("go.micro.srv.greeter", "latest")
            .with_endpoint(Endpoint::new("Say.Hello").with_values(
                Value::new("Request", "Request"),
                Value::new("Response", "Response"),
            ))
            .with_node(
                Node::new("go.micro.srv.greeter-5f0c", "10.0.0.1:8080")
                    .with_metadata("protocol", "grpc")
                    .with_metadata("registry", "etcd"),
            )
    }

    #[test]
    fn keys_and_values_are_go_micro_s() {
        let service = greeter();
        let identity = Identity::new(&service, &service.nodes[0]);
        assert_eq!(layout().key(&identity), GO_KEY);
        assert_eq!(
            layout().read(&found(GO_KEY, GO_VALUE, 3)).unwrap().service,
            service
        );

        let ours = Layout::value(&service, &service.nodes[0]).unwrap();
        // Go writes an empty list as null and we as a list: it reads either.
        let same_to_go = |text: &str| {
            text.replace("null", "[]")
                .replace("\"metadata\":[]", "\"metadata\":{}")
        };
        assert_eq!(std::str::from_utf8(&ours).unwrap(), same_to_go(GO_VALUE));
    }

    #[test]
    fn a_node_has_a_key_of_its_own_beside_go_micro_s() {
        let identity = |version: &str, id: &str| Identity {
            name: "greeter".to_owned(),
            version: version.to_owned(),
            id: id.to_owned(),
        };
        let layout = layout();
        assert_eq!(
            layout.key(&identity("v1", "a/b")),
            "/micro/registry/greeter/a-b"
        );
        let mut others: Vec<_> = [
            ("v1", "a/b"),
            ("v1", "a-b"),
            ("v2", "a-b"),
            ("", "a-b"),
            ("b", "a"),
            ("%", "a"),
            ("%25", "a"),
        ]
        .iter()
        .map(|(version, id)| layout.other_key(&identity(version, id)))
        .collect();
        assert_eq!(others[0], "/micro/registry/greeter/a%2Fb/v1");
        others.sort();
        others.dedup();
        assert_eq!(others.len(), 7);
    }

    #[test]
    fn namespaces_have_prefixes_of_their_own() {
        let prefix = |namespace| Layout::new("/micro/registry", namespace).prefix;
        assert_eq!(prefix(""), "/micro/registry/");
        assert_eq!(prefix("a"), "/micro/registry.a/");
        assert_eq!(prefix("a/b"), "/micro/registry.a%2Fb/");
    }

    #[test]
    fn s53_what_is_no_registration_is_not_read() {
        let layout = layout();
        let key = "/micro/registry/greeter/a";
        let good = r#"{"name":"greeter","version":"v1","nodes":[{"id":"a","address":"h:1"}]}"#;
        assert!(layout.read(&found(key, good, 1)).is_ok());
        assert!(
            layout
                .read(&found("/micro/registry/greeter/a/v1", good, 1))
                .is_ok()
        );
        let long = format!(
            r#"{{"name":"greeter","metadata":{{"a":"{}"}}}}"#,
            "x".repeat(1 << 20)
        );
        for (key, value) in [
            (key, ""),
            (key, "garbage"),
            (key, "null"),
            (key, "[]"),
            (key, r#"{"name":7}"#),
            (key, r#"{"nodes":[{"id":"a","address":"h:1"}]}"#),
            (key, &good.replace("greeter", "billing")),
            (key, &good.replace("\"a\"", "\"b\"")),
            (key, &good.replace("h:1", "")),
            (key, &good.replace("h:1", r"h:1\r\nx: y")),
            (key, &good.replace("v1", r"v1\n")),
            (key, r#"{"name":"greeter","version":"v1","nodes":[]}"#),
            (
                key,
                r#"{"name":"greeter","nodes":[{"id":"a","address":"h:1"},{"id":"b","address":"h:1"}]}"#,
            ),
            (key, &long),
            ("/micro/registry/greeter", good),
            ("/micro/registry/greeter/b", good),
            ("/micro/registry/greeter/a/v2", good),
            ("/elsewhere/greeter/a", good),
        ] {
            let shown: String = value.chars().take(80).collect();
            assert!(
                layout.read(&found(key, value, 1)).is_err(),
                "{key}: {shown}"
            );
        }
        let mut binary = found("", good, 1);
        binary.key = Bytes::from_static(b"/micro/registry/greeter/\xff");
        assert!(layout.read(&binary).is_err());
    }

    #[test]
    fn s52_a_registration_of_a_mebibyte_is_refused() {
        let service = Service::new("greeter", "v1").with_metadata("long", "x".repeat(1 << 20));
        assert!(Layout::value(&service, &Node::new("a", "h:1")).is_err());
    }
}
