//! What is said on the subjects: go-micro's JSON.

use std::collections::BTreeMap;

use bytes::Bytes;
use micro_registry_core::{Endpoint, Error, Node, Result, Service, Value, check_name};
use serde::{Deserialize, Serialize};

/// Nothing longer is read, whatever the server lets through.
pub(crate) const LONGEST_MESSAGE: usize = 1024 * 1024;
/// What is said about one node, its version's description included, is no longer than this, so that
/// it passes a server with the default limit of 1 MiB.
const LONGEST_NODE: usize = 256 * 1024;
/// Nor is one message of ours, unless a single node is.
const LONGEST_ANSWER: usize = 256 * 1024;
/// A message with more nodes is not believed.
const MOST_NODES: usize = 10_000;
/// Nor is one whose description, told to watches with each of its nodes, comes to more.
const MOST_TOLD: usize = 16 * 1024 * 1024;

/// go-micro's `registry.Result`. It has no JSON names, so Go writes the fields' own, and reads
/// them in any case.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Message {
    #[serde(rename = "Service", alias = "service")]
    pub(crate) service: Option<Service>,
    #[serde(rename = "Action", alias = "action")]
    pub(crate) action: String,
}

/// What a message on the watch subject says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// These nodes are there.
    Put(Service),
    /// These are gone.
    Delete(Service),
}

/// What a query asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Query {
    Get(String),
    List,
}

impl Query {
    /// The query's message, as go-micro writes it.
    pub(crate) fn write(&self) -> Result<Bytes> {
        match self {
            Self::Get(name) => write("get", Some(Service::new(name, ""))),
            Self::List => write("list", None),
        }
    }

    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        let message = read_message(payload)?;
        match &*message.action {
            "get" => {
                let name = message.service?.name;
                check_name(&name).is_ok().then_some(Self::Get(name))
            }
            "list" => Some(Self::List),
            _ => None,
        }
    }
}

/// A message for the watch subject.
pub(crate) fn write(action: &str, service: Option<Service>) -> Result<Bytes> {
    let message = Message {
        service,
        action: action.to_owned(),
    };
    to_json(&message)
}

/// An answer to a query.
pub(crate) fn write_answer(service: &Service) -> Result<Bytes> {
    to_json(service)
}

fn to_json<T: Serialize>(value: &T) -> Result<Bytes> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|err| Error::internal("a service cannot be written as JSON").with_source(err))
}

/// Refuses a registration that is too long to be told.
pub(crate) fn check_size(service: &Service) -> Result<()> {
    for part in one_by_one(service) {
        if write_answer(&part)?.len() > LONGEST_NODE {
            return Err(Error::invalid_argument(
                "a node, its metadata and its service's endpoints may have 256 KiB as JSON",
            )
            .with_context("service", &service.name)
            .with_context("limit", LONGEST_NODE));
        }
    }
    Ok(())
}

fn one_by_one(service: &Service) -> impl Iterator<Item = Service> {
    service.nodes.iter().map(|node| {
        let mut part = service.clone();
        part.nodes = vec![node.clone()];
        part
    })
}

/// The service in parts that are short enough for a message each; mostly one.
pub(crate) fn parts(service: Service) -> Vec<Service> {
    let length = |service: &Service| write_answer(service).map_or(0, |json| json.len());
    let told = description_weight(&service).saturating_mul(service.nodes.len());
    if service.nodes.len() < 2 || (length(&service) <= LONGEST_ANSWER && told <= MOST_TOLD) {
        return vec![service];
    }
    let (mut left, mut right) = (service.clone(), service);
    right.nodes = left.nodes.split_off(left.nodes.len() / 2);
    let mut all = parts(left);
    all.extend(parts(right));
    all
}

fn read_message(payload: &[u8]) -> Option<Message> {
    if payload.len() > LONGEST_MESSAGE {
        return None;
    }
    serde_json::from_slice(payload).ok()
}

pub(crate) fn read_change(payload: &[u8]) -> Option<Change> {
    let message = read_message(payload)?;
    let service = message.service?;
    match &*message.action {
        // What go-micro's option `RegisterAction` may say.
        "create" | "update" | "put" => believed(service).map(Change::Put),
        "delete" => {
            // An id is enough to go.
            let sound = check_name(&service.name).is_ok()
                && is_plain(&service.version)
                && service.nodes.len() <= MOST_NODES;
            let mut service = sound.then_some(service)?;
            service
                .nodes
                .retain(|node| !node.id.is_empty() && is_plain(&node.id));
            (!service.nodes.is_empty()).then_some(Change::Delete(service))
        }
        _ => None,
    }
}

/// An answer, if it can be read and answers the question.
pub(crate) fn read_answer(payload: &[u8], name: Option<&str>) -> Option<Service> {
    if payload.len() > LONGEST_MESSAGE {
        return None;
    }
    let service: Service = serde_json::from_slice(payload).ok()?;
    if name.is_some_and(|name| name != service.name) {
        return None;
    }
    believed(service)
}

/// The service with those nodes that could be one, if there are any.
fn believed(mut service: Service) -> Option<Service> {
    let described = description_weight(&service);
    if check_name(&service.name).is_err()
        || !is_plain(&service.version)
        || service.nodes.len() > MOST_NODES
        || described > LONGEST_NODE
        || described.saturating_mul(service.nodes.len()) > MOST_TOLD
    {
        return None;
    }
    let before = service.nodes.len();
    service.nodes.retain(|node| {
        !node.id.is_empty()
            && is_plain(&node.id)
            && !node.address.is_empty()
            && is_plain(&node.address)
            && node_weight(node) <= LONGEST_NODE
    });
    if service.nodes.len() < before {
        tracing::debug!(
            service = %service.name,
            nodes = before - service.nodes.len(),
            "nodes that cannot be any are ignored"
        );
    }
    (!service.nodes.is_empty()).then_some(service)
}

fn is_plain(text: &str) -> bool {
    text.len() <= 512 && !text.contains(char::is_control)
}

/// About how many bytes a node takes, never more than as JSON.
pub(crate) fn node_weight(node: &Node) -> usize {
    node.id.len() + node.address.len() + pairs_weight(&node.metadata)
}

/// The same of what describes the version.
pub(crate) fn description_weight(service: &Service) -> usize {
    fn value(one: &Value) -> usize {
        let values: usize = one.values.iter().map(value).sum();
        32 + one.name.len() + one.kind.len() + values
    }
    let endpoint = |one: &Endpoint| {
        one.name.len() + value(&one.request) + value(&one.response) + pairs_weight(&one.metadata)
    };
    pairs_weight(&service.metadata) + service.endpoints.iter().map(endpoint).sum::<usize>()
}

fn pairs_weight(pairs: &BTreeMap<String, String>) -> usize {
    pairs
        .iter()
        .map(|(name, value)| 6 + name.len() + value.len())
        .sum()
}

#[cfg(test)]
mod tests {
    use micro_registry_core::{Endpoint, Value};

    use super::*;

    fn greeter(id: &str) -> Service {
        Service::new("greeter", "v1").with_node(Node::new(id, "10.0.0.1:80"))
    }

    #[test]
    fn queries_are_go_micro_s() {
        // Taken off the wire of go-micro v6.
        let get = br#"{"Service":{"name":"greeter","version":"","metadata":null,"endpoints":null,"nodes":null},"Action":"get"}"#;
        assert_eq!(Query::read(get), Some(Query::Get("greeter".to_owned())));
        let list = br#"{"Service":null,"Action":"list"}"#;
        assert_eq!(Query::read(list), Some(Query::List));
        for query in [Query::Get("greeter".to_owned()), Query::List] {
            assert_eq!(Query::read(&query.write().unwrap()), Some(query));
        }
        let ours = Query::List.write().unwrap();
        assert_eq!(ours, &list[..]);
    }

    #[test]
    fn changes_are_go_micro_s() {
        // Taken off the wire of go-micro v6.
        let put = br#"{"Service":{"name":"greeter","version":"v1","metadata":{"by":"go"},"endpoints":[{"request":{"name":"Req","type":"Req","values":null},"response":{"name":"Rsp","type":"Rsp","values":null},"metadata":{"stream":"true"},"name":"Greeter.Hello"}],"nodes":[{"metadata":{"zone":"g"},"id":"go-1","address":"10.0.0.9:80"}]},"Action":"create"}"#;
        let endpoint = Endpoint::new("Greeter.Hello")
            .with_values(Value::new("Req", "Req"), Value::new("Rsp", "Rsp"))
            .with_metadata("stream", "true");
        let expected = Service::new("greeter", "v1")
            .with_metadata("by", "go")
            .with_endpoint(endpoint)
            .with_node(Node::new("go-1", "10.0.0.9:80").with_metadata("zone", "g"));
        assert_eq!(read_change(put), Some(Change::Put(expected.clone())));
        let written = write("delete", Some(expected.clone())).unwrap();
        assert_eq!(read_change(&written), Some(Change::Delete(expected)));
        let lower = br#"{"service":{"name":"greeter","nodes":[{"id":"a"}]},"action":"delete"}"#;
        assert!(matches!(read_change(lower), Some(Change::Delete(_))));
    }

    #[test]
    fn s53_garbage_and_other_names_are_skipped() {
        for payload in [
            &b""[..],
            b"null",
            b"[]",
            b"{}",
            b"{\"Service\":null,\"Action\":\"create\"}",
            b"{\"Service\":{},\"Action\":\"get\"}",
            b"{\"Service\":null,\"Action\":\"get\"}",
            b"{\"Service\":{\"name\":\"greeter\",\"nodes\":[null]},\"Action\":\"create\"}",
            b"{\"Service\":{\"name\":\"../x\",\"nodes\":[{\"id\":\"a\",\"address\":\"b:1\"}]},\"Action\":\"create\"}",
            b"\xff\xfe",
            &b"[".repeat(10_000),
        ] {
            assert_eq!(Query::read(payload), None);
            assert_eq!(read_change(payload), None);
            assert_eq!(read_answer(payload, None), None);
        }
        let answer = write_answer(&greeter("a")).unwrap();
        assert!(read_answer(&answer, Some("greeter")).is_some());
        assert_eq!(read_answer(&answer, Some("billing")), None);
    }

    #[test]
    fn s52_nodes_that_cannot_be_any_are_skipped_and_the_others_kept() {
        let service = greeter("good")
            .with_node(Node::new("", "10.0.0.2:80"))
            .with_node(Node::new("a\r\nb", "10.0.0.2:80"))
            .with_node(Node::new("c", "10.0.0.2:80\r\nX: y"))
            .with_node(Node::new("d", ""))
            .with_node(Node::new("e", "10.0.0.2:80").with_metadata("x", "y".repeat(300_000)));
        let answer = write_answer(&service).unwrap();
        assert_eq!(read_answer(&answer, None), Some(greeter("good")));
        let long = greeter("a").with_metadata("x", "y".repeat(LONGEST_MESSAGE));
        assert_eq!(read_answer(&write_answer(&long).unwrap(), None), None);
        assert!(check_size(&long).is_err());
        assert!(check_size(&greeter("a")).is_ok());
    }

    #[test]
    fn s50_a_long_description_of_many_nodes_is_not_believed() {
        let mut service = Service::new("greeter", "v1").with_metadata("x", "y".repeat(200_000));
        for i in 0..2000 {
            service = service.with_node(Node::new(i.to_string(), "10.0.0.1:80"));
        }
        let answer = write_answer(&service).unwrap();
        assert!(answer.len() < LONGEST_MESSAGE);
        assert_eq!(read_answer(&answer, None), None);
        assert_eq!(
            read_change(&write("create", Some(service.clone())).unwrap()),
            None
        );
        // Our own comes in parts that are.
        let parts = parts(service);
        let read = parts.iter().map(|part| {
            let answer = write_answer(part).unwrap();
            read_answer(&answer, None).unwrap().nodes.len()
        });
        assert_eq!(read.sum::<usize>(), 2000);
        // Whoever says goodbye says no more than an id.
        let long = greeter(&"a".repeat(513)).with_node(Node::new("b", ""));
        let Some(Change::Delete(left)) = read_change(&write("delete", Some(long)).unwrap()) else {
            panic!("nobody left");
        };
        assert_eq!(left.nodes, [Node::new("b", "")]);
    }

    #[test]
    fn s53_any_bytes_are_read_or_skipped() {
        let service = greeter("a")
            .with_node(Node::new("b", "[::1]:80").with_metadata("zone", "x"))
            .with_metadata("team", "hello")
            .with_endpoint(Endpoint::new("Greeter.Hello").with_metadata("stream", "true"));
        let good = [
            Query::Get("greeter".to_owned()).write().unwrap(),
            Query::List.write().unwrap(),
            write("create", Some(service.clone())).unwrap(),
            write("delete", Some(service.clone())).unwrap(),
            write_answer(&service).unwrap(),
        ];
        let good: Vec<&[u8]> = good.iter().map(|bytes| &**bytes).collect();
        micro_conformance::mutation::run(&good, |bytes| {
            if let Some(Query::Get(name)) = Query::read(bytes) {
                assert!(check_name(&name).is_ok());
            }
            let put = match read_change(bytes) {
                Some(Change::Put(service)) => Some(service),
                Some(Change::Delete(service)) => {
                    assert!(service.nodes.iter().all(|node| !node.id.is_empty()));
                    None
                }
                None => None,
            };
            for service in put.into_iter().chain(read_answer(bytes, None)) {
                micro_registry_core::check_registration(&service).unwrap();
                // What was believed is believed again.
                let again = write_answer(&service).unwrap();
                assert_eq!(read_answer(&again, Some(&service.name)), Some(service));
            }
        });
    }

    #[test]
    fn long_answers_come_in_parts() {
        let mut service = Service::new("greeter", "v1");
        for i in 0..100 {
            let node = Node::new(format!("node-{i}"), "10.0.0.1:80");
            service = service.with_node(node.with_metadata("x", "y".repeat(10_000)));
        }
        let all = parts(service);
        assert!(all.len() > 1);
        let lengths = all.iter().map(|part| write_answer(part).unwrap().len());
        assert!(lengths.max() <= Some(LONGEST_ANSWER));
        let nodes: usize = all.iter().map(|part| part.nodes.len()).sum();
        assert_eq!(nodes, 100);
    }
}
