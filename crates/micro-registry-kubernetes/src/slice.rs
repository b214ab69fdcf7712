//! EndpointSlices (`discovery.k8s.io/v1`), as far as a registry needs them.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use micro_core::Error;
use micro_registry_core::{Node, Result, Service};
use serde::{Deserialize, Deserializer, Serialize};

pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Who manages the slices that `register` writes.
pub(crate) const MICRO: &str = "micro";
/// The name of a service as clients call it: a label of a Service, which Kubernetes copies.
pub(crate) const NAME: &str = "micro.mu/name";
/// The namespace of ours that a service is in.
pub(crate) const NAMESPACE: &str = "micro.mu/namespace";
/// The version of a service.
pub(crate) const VERSION: &str = "micro.mu/version";
/// The service with one node, as JSON with go-micro's names.
const REGISTRATION: &str = "micro.mu/registration";
/// When the registration changed, in microseconds of Unix time: the last one describes its version.
const DESCRIBED: &str = "micro.mu/described";
/// When it was renewed, in milliseconds of Unix time.
const RENEWED: &str = "micro.mu/renewed";
/// How long it holds without renewal, in milliseconds.
const TTL: &str = "micro.mu/ttl-ms";

/// Annotations have 256 KiB together; the others are short.
const REGISTRATION_LIMIT: usize = 200 << 10;

/// An object, as it is written and read.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Slice {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) metadata: Meta,
    pub(crate) address_type: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) endpoints: Vec<Endpoint>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) ports: Vec<Port>,
    /// What the annotations say, once somebody asked: a watch looks at all slices at every change.
    #[serde(skip)]
    read: OnceLock<Option<Registration>>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Meta {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) resource_version: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Endpoint {
    #[serde(deserialize_with = "nullable")]
    pub(crate) addresses: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) conditions: Conditions,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hostname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) node_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) zone: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) target_ref: Option<Target>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Conditions {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ready: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) serving: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) terminating: Option<bool>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Target {
    pub(crate) kind: String,
    pub(crate) name: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Port {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) protocol: Option<String>,
}

/// Kubernetes, being written in Go, has `null` for what is empty.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// How a node describes its version.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Description {
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) endpoints: Vec<micro_registry_core::Endpoint>,
}

/// What `register` wrote.
#[derive(Clone, Debug)]
pub(crate) struct Registration {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) node: Node,
    pub(crate) description: Arc<Description>,
    pub(crate) described: u64,
    /// When it is over, in milliseconds of Unix time.
    pub(crate) expires: Option<u64>,
}

impl Slice {
    /// A slice for a service with one node.
    pub(crate) fn write(
        name: String,
        namespace: &str,
        service: &Service,
        described: u64,
        renewed: u64,
        ttl: Option<Duration>,
    ) -> Result<Self> {
        let json = serde_json::to_string(service).map_err(|err| {
            Error::internal("a registration cannot be written as JSON").with_source(err)
        })?;
        if json.len() > REGISTRATION_LIMIT {
            return Err(Error::invalid_argument(
                "metadata and endpoints of a registration are too long for Kubernetes' annotations: shorten them",
            )
            .with_context("bytes", json.len())
            .with_context("limit", REGISTRATION_LIMIT));
        }
        let mut slice = Self {
            api_version: "discovery.k8s.io/v1".to_owned(),
            kind: "EndpointSlice".to_owned(),
            address_type: "IPv4".to_owned(),
            ..Self::default()
        };
        let meta = &mut slice.metadata;
        meta.name = name;
        let k8s = crate::names::service(namespace, &service.name);
        meta.labels = [(SERVICE_NAME, &*k8s), (MANAGED_BY, MICRO)]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        meta.annotations = [
            (NAMESPACE, namespace.to_owned()),
            (REGISTRATION, json),
            (DESCRIBED, described.to_string()),
            (RENEWED, renewed.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        if let Some(ttl) = ttl {
            let ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
            meta.annotations.insert(TTL.to_owned(), ms.to_string());
        }
        slice.show(service);
        Ok(slice)
    }

    /// Shows the node to other readers of slices, if its address is one that they can have: the
    /// API server refuses loopback addresses. Ours read the annotation.
    fn show(&mut self, service: &Service) {
        let Some(node) = service.nodes.first() else {
            return;
        };
        let Ok(socket) = node.address.parse::<std::net::SocketAddr>() else {
            return;
        };
        let ip = socket.ip().to_canonical();
        let link_local = match ip {
            std::net::IpAddr::V4(ip) => ip.is_link_local(),
            std::net::IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || link_local {
            return;
        }
        if ip.is_ipv6() {
            "IPv6".clone_into(&mut self.address_type);
        }
        self.endpoints = vec![Endpoint {
            addresses: vec![ip.to_string()],
            conditions: Conditions {
                ready: Some(true),
                ..Conditions::default()
            },
            ..Endpoint::default()
        }];
        self.ports = vec![Port {
            name: Some("micro".to_owned()),
            port: Some(socket.port()),
            protocol: Some("TCP".to_owned()),
        }];
    }

    /// Whether `register` wrote it, here or elsewhere.
    pub(crate) fn is_registration(&self) -> bool {
        self.metadata
            .labels
            .get(MANAGED_BY)
            .is_some_and(|by| by == MICRO)
    }

    /// A label, or else an annotation.
    pub(crate) fn says(&self, name: &str) -> Option<&str> {
        let meta = &self.metadata;
        let value = meta.labels.get(name).or_else(|| meta.annotations.get(name));
        value.map(String::as_str)
    }

    /// The namespace of ours that it is in.
    pub(crate) fn namespace(&self) -> &str {
        self.says(NAMESPACE).unwrap_or_default()
    }

    /// What was registered, if it is whole. It does not change any more once it was asked for.
    pub(crate) fn registration(&self) -> Option<&Registration> {
        self.read.get_or_init(|| self.read_registration()).as_ref()
    }

    fn read_registration(&self) -> Option<Registration> {
        let annotations = &self.metadata.annotations;
        let number = |name: &str| annotations.get(name)?.parse::<u64>().ok();
        let mut service: Service = serde_json::from_str(annotations.get(REGISTRATION)?).ok()?;
        micro_registry_core::check_registration(&service).ok()?;
        let expires = match annotations.get(TTL) {
            None => None,
            Some(ttl) => {
                let ttl: u64 = ttl.parse().ok()?;
                // Half as long again: the clock of who wrote it is not ours.
                Some(number(RENEWED)?.saturating_add(ttl.saturating_add(ttl / 2)))
            }
        };
        let node = service.nodes.pop().filter(|_| service.nodes.is_empty())?;
        Some(Registration {
            name: service.name,
            version: service.version,
            node,
            description: Arc::new(Description {
                metadata: service.metadata,
                endpoints: service.endpoints,
            }),
            described: number(DESCRIBED)?,
            expires,
        })
    }
}
