//! What a registry holds. The JSON names are go-micro's.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One version of a service, with the nodes that run it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Service {
    /// The name that clients call it by; see [`check_name`](crate::check_name).
    pub name: String,
    /// The version, in any form.
    pub version: String,
    /// Facts about this version.
    #[serde(deserialize_with = "nullable")]
    pub metadata: BTreeMap<String, String>,
    /// What it answers to.
    #[serde(deserialize_with = "nullable")]
    pub endpoints: Vec<Endpoint>,
    /// The nodes that run it.
    #[serde(deserialize_with = "nullable")]
    pub nodes: Vec<Node>,
}

/// go-micro writes empty maps and lists as `null`.
fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Service {
    /// A version of a service, without nodes.
    #[must_use]
    pub fn new(name: impl Into<String>, version: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            version: version.into(),
            ..Self::default()
        }
    }

    /// Adds a node.
    #[must_use]
    pub fn with_node(mut self, node: Node) -> Self {
        self.nodes.push(node);
        self
    }

    /// Adds an endpoint.
    #[must_use]
    pub fn with_endpoint(mut self, endpoint: Endpoint) -> Self {
        self.endpoints.push(endpoint);
        self
    }

    /// Adds a fact.
    #[must_use]
    pub fn with_metadata(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(name.into(), value.into());
        self
    }
}

/// A running instance of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Node {
    /// Unique among all nodes of the service: `greeter-5f0c…`.
    pub id: String,
    /// Where it listens: `host:port`; an IPv6 address stands in brackets.
    pub address: String,
    /// Facts about it: transport, zone, labels. Never secrets, and nothing that security rests on.
    #[serde(deserialize_with = "nullable")]
    pub metadata: BTreeMap<String, String>,
}

impl Node {
    /// A node without metadata.
    #[must_use]
    pub fn new(id: impl Into<String>, address: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            address: address.into(),
            metadata: BTreeMap::new(),
        }
    }

    /// Adds a fact.
    #[must_use]
    pub fn with_metadata(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(name.into(), value.into());
        self
    }
}

/// Something that a service answers to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Endpoint {
    /// `Greeter.Hello`.
    pub name: String,
    /// The request's shape.
    #[serde(deserialize_with = "nullable")]
    pub request: Value,
    /// The reply's shape.
    #[serde(deserialize_with = "nullable")]
    pub response: Value,
    /// Facts about it: `stream`, `description`, `topic`.
    #[serde(deserialize_with = "nullable")]
    pub metadata: BTreeMap<String, String>,
}

impl Endpoint {
    /// An endpoint of which only the name is known.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// Sets the shapes of request and reply.
    #[must_use]
    pub fn with_values(mut self, request: Value, response: Value) -> Self {
        self.request = request;
        self.response = response;
        self
    }

    /// Adds a fact.
    #[must_use]
    pub fn with_metadata(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(name.into(), value.into());
        self
    }
}

/// The shape of a message: a name, a type, and the fields if it has any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Value {
    /// The field's or message's name.
    pub name: String,
    /// The type's name.
    #[serde(rename = "type")]
    pub kind: String,
    /// The fields.
    #[serde(deserialize_with = "nullable")]
    pub values: Vec<Self>,
}

impl Value {
    /// A value without fields.
    #[must_use]
    pub fn new(name: impl Into<String>, kind: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            kind: kind.into(),
            values: Vec::new(),
        }
    }

    /// Adds a field.
    #[must_use]
    pub fn with_value(mut self, value: Self) -> Self {
        self.values.push(value);
        self
    }
}

/// What happened to some nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum EventKind {
    /// They are new.
    Create,
    /// They changed: address, metadata or endpoints.
    Update,
    /// They are gone.
    Delete,
}

/// A change in a registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Event {
    /// What happened.
    #[serde(rename = "action")]
    pub kind: EventKind,
    /// The service with the nodes that it happened to, and no others.
    pub service: Service,
}

impl Event {
    /// A change.
    #[must_use]
    pub fn new(kind: EventKind, service: Service) -> Self {
        Self { kind, service }
    }
}

/// What a registry can do beyond the required behaviour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Nodes registered with a TTL are forgotten when it passes without another registration.
    pub ttl: bool,
    /// Other processes see the same directory.
    pub shared: bool,
    /// Only this machine can see it, so that loopback addresses make sense in it.
    pub local: bool,
    /// A loopback address in it is one of this machine, though others may see the directory too:
    /// its servers all run here, its owner wrote the addresses, or it looks where an address
    /// comes from.
    ///
    /// Without this or [`local`](Self::local), the resolver leaves loopback addresses of a
    /// [`shared`](Self::shared) registry out: another machine's `127.0.0.1` is not ours, and would
    /// lead calls to whatever listens here.
    pub loopback: bool,
}

impl Capabilities {
    /// Sets [`ttl`](Self::ttl).
    #[must_use]
    pub const fn with_ttl(mut self, ttl: bool) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets [`shared`](Self::shared).
    #[must_use]
    pub const fn with_shared(mut self, shared: bool) -> Self {
        self.shared = shared;
        self
    }

    /// Sets [`local`](Self::local).
    #[must_use]
    pub const fn with_local(mut self, local: bool) -> Self {
        self.local = local;
        self
    }

    /// Sets [`loopback`](Self::loopback).
    #[must_use]
    pub const fn with_loopback(mut self, loopback: bool) -> Self {
        self.loopback = loopback;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_go_micro_s() {
        let text = r#"{"name":"go.micro.srv.greeter","version":"latest","metadata":null,"endpoints":[{"name":"Say.Hello","request":{"name":"Request","type":"Request","values":null},"response":{"name":"Response","type":"Response","values":null},"metadata":{}}],"nodes":[{"id":"greeter-1","address":"10.0.0.1:80","metadata":{"protocol":"grpc"}}]}"#;
        let service: Service = serde_json::from_str(text).unwrap();
        assert_eq!(service.endpoints[0].request.kind, "Request");
        assert_eq!(service.nodes[0].metadata["protocol"], "grpc");
        let again: Service =
            serde_json::from_str(&serde_json::to_string(&service).unwrap()).unwrap();
        assert_eq!(service, again);
        assert_eq!(
            serde_json::to_string(&EventKind::Create).unwrap(),
            "\"create\""
        );
    }
}
