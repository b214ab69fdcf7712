//! The file's JSON: go-micro's services, strictly.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;

use micro_registry_core::{Endpoint, Node, Service, check_name};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use crate::address;
use crate::config::VERSION;

/// No more nodes are taken.
const MOST_NODES: usize = 100_000;

/// The whole file.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    services: Vec<Listed>,
}

/// A service, checked while it is read, so that an error says the line.
struct Listed(Service);

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RawService {
    name: Name,
    #[serde(default = "latest")]
    version: Text,
    #[serde(default)]
    metadata: Facts,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
    nodes: Vec<RawNode>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNode {
    id: Option<Text>,
    address: Address,
    #[serde(default)]
    metadata: Facts,
    /// How large its share of the calls is; 100 without it.
    weight: Option<Weight>,
}

struct Name(String);
struct Text(String);
struct Address(String);
struct Weight(u32);
#[derive(Default)]
struct Facts(BTreeMap<String, String>);

fn latest() -> Text {
    Text(VERSION.to_owned())
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        check_name(&name).map_err(|err| D::Error::custom(err.message()))?;
        Ok(Self(name))
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() || text.len() > 512 || text.contains(char::is_control) {
            return Err(D::Error::custom(
                "an id or a version has 1 to 512 bytes and no control characters",
            ));
        }
        Ok(Self(text))
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        address::check(&text)
            .map_err(|why| D::Error::custom(format!("{why}: \"{}\"", text.escape_debug())))?;
        Ok(Self(text))
    }
}

impl<'de> Deserialize<'de> for Weight {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let weight = u32::deserialize(deserializer)?;
        if weight > 1_000_000 {
            return Err(D::Error::custom("a weight is at most 1000000"));
        }
        Ok(Self(weight))
    }
}

impl<'de> Deserialize<'de> for Facts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Once(PhantomData<()>);
        impl<'de> Visitor<'de> for Once {
            type Value = Facts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Facts, A::Error> {
                let mut facts = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, String>()? {
                    if facts.contains_key(&name) {
                        return Err(A::Error::custom(format!("\"{name}\" is there twice")));
                    }
                    facts.insert(name, value);
                }
                Ok(Facts(facts))
            }
        }
        deserializer.deserialize_map(Once(PhantomData))
    }
}

impl<'de> Deserialize<'de> for Listed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = RawService::deserialize(deserializer)?;
        let mut service = Service::new(raw.name.0, raw.version.0);
        service.metadata = raw.metadata.0;
        service.endpoints = raw.endpoints;
        let mut ids = BTreeSet::new();
        for raw in raw.nodes {
            let address = raw.address.0;
            let id = match raw.id {
                Some(Text(id)) => id,
                None => format!("{}-{address}", service.name),
            };
            if !ids.insert(id.clone()) {
                return Err(D::Error::custom(format!(
                    "two nodes of \"{}\" have the id \"{}\"",
                    service.name,
                    id.escape_debug()
                )));
            }
            let mut node = Node::new(id, address);
            node.metadata = raw.metadata.0;
            if let Some(Weight(weight)) = raw.weight {
                // Where selectors look for it.
                node.metadata
                    .insert("weight".to_owned(), weight.to_string());
            }
            service.nodes.push(node);
        }
        Ok(Self(service))
    }
}

/// Reads a whole file, or says what is wrong with it and in which line.
pub(crate) fn parse(text: &[u8]) -> Result<Vec<Service>, String> {
    if text.iter().all(u8::is_ascii_whitespace) {
        return Err("the file is empty; write {\"services\": []} if that is meant".to_owned());
    }
    let file: File = serde_json::from_slice(text).map_err(|err| printable(&err.to_string()))?;
    let services: Vec<Service> = file.services.into_iter().map(|listed| listed.0).collect();
    let mut versions = BTreeSet::new();
    let mut nodes = 0;
    for service in &services {
        nodes += service.nodes.len();
        if !versions.insert((&service.name, &service.version)) {
            return Err(format!(
                "version \"{}\" of \"{}\" is listed twice",
                service.version.escape_debug(),
                service.name
            ));
        }
    }
    if nodes > MOST_NODES {
        return Err(format!("the file lists more than {MOST_NODES} nodes"));
    }
    Ok(services)
}

/// A reason may quote what the file holds, and is to be one line of a log.
fn printable(why: &str) -> String {
    let mut shown = String::new();
    for c in why.chars() {
        if c.is_control() {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_read() {
        let text = br#"{"services": [{
            "name": "greeter", "version": "v2", "metadata": {"team": "hello"},
            "endpoints": [{"name": "Greeter.Hello"}],
            "nodes": [
                {"id": "a", "address": "10.0.0.1:80", "metadata": {"zone": "x"}, "weight": 200},
                {"address": "10.0.0.2:80"}
            ]}, {"name": "billing", "nodes": []}]}"#;
        let expected = Service::new("greeter", "v2")
            .with_metadata("team", "hello")
            .with_endpoint(Endpoint::new("Greeter.Hello"))
            .with_node(
                Node::new("a", "10.0.0.1:80")
                    .with_metadata("zone", "x")
                    .with_metadata("weight", "200"),
            )
            .with_node(Node::new("greeter-10.0.0.2:80", "10.0.0.2:80"));
        let expected = [expected, Service::new("billing", "latest")];
        assert_eq!(parse(text).unwrap(), expected);
    }

    #[test]
    fn s53_what_is_wrong_is_refused_with_its_line() {
        let node = |node: &str| {
            format!("{{\"services\": [\n{{\"name\": \"a\", \"nodes\": [\n{node}\n]}}]}}")
        };
        for (text, said, line) in [
            (String::new(), "is empty", ""),
            (" \n".to_owned(), "is empty", ""),
            ("[]".to_owned(), "expected", "line 1"),
            ("{}".to_owned(), "services", "line 1"),
            ("\u{feff}{\"services\": []}".to_owned(), "expected value", "line 1"),
            ("{\"services\": []} x".to_owned(), "trailing", "line 1"),
            ("{\"services\": [], \"services\": []}".to_owned(), "duplicate", "line 1"),
            ("{\"servises\": []}".to_owned(), "servises", "line 1"),
            (node("{\"address\": \"10.0.0.1:0\"}"), "port 0", "line 3"),
            (node("{\"address\": \"0.0.0.0:1\"}"), "unspecified", "line 3"),
            (node("{\"address\": \"a\\u0000:1\"}"), "control", "line 3"),
            (node("{\"address\": \"a:1\", \"adress\": \"\"}"), "adress", "line 3"),
            (node("{\"address\": \"a:1\", \"weight\": -1}"), "-1", "line 3"),
            (node("{\"address\": \"a:1\", \"weight\": 4294967296}"), "u32", "line 3"),
            (node("{\"address\": \"a:1\", \"weight\": 1e400}"), "number", "line 3"),
            (node("{\"address\": \"a:1\", \"id\": \"\"}"), "id", "line 3"),
            (
                node("{\"address\": \"a:1\", \"metadata\": {\"x\": \"1\", \"x\": \"2\"}}"),
                "twice",
                "line 3",
            ),
            (node("{\"address\": \"a:1\"},\n{\"address\": \"a:1\"}"), "two nodes", "line 5"),
            (node("{\"id\": \"a\"}"), "address", "line 3"),
            (
                "{\"services\": [\n{\"name\": \"../a\", \"nodes\": []}]}".to_owned(),
                "name",
                "line 2",
            ),
            (
                "{\"services\": [{\"name\": \"a\", \"nodes\": []},{\"name\": \"a\", \"nodes\": []}]}"
                    .to_owned(),
                "listed twice",
                "",
            ),
            ("[".repeat(10_000), "line 1", "line 1"),
        ] {
            let why = parse(text.as_bytes()).unwrap_err();
            assert!(why.contains(said), "{text}: {why}");
            assert!(why.contains(line), "{text}: {why}");
        }
        assert!(parse(b"{\"services\": \xff}").is_err());
    }

    #[test]
    fn s53_any_file_is_a_list_or_refused() {
        let good = [
            &br#"{"services": [{"name": "greeter", "version": "v2", "metadata": {"team": "hello"},
                "endpoints": [{"name": "Greeter.Hello"}], "nodes": [
                {"id": "a", "address": "10.0.0.1:80", "metadata": {"zone": "x"}, "weight": 200}]}]}"#[..],
            br#"{"services":[{"name":"a","nodes":[{"address":"a.example:1"},{"address":"[::1]:2"}]},{"name":"b","nodes":[]}]}"#,
        ];
        micro_conformance::mutation::run(&good, |bytes| {
            // Refused with a reason that is fit for one line of a log.
            let services = match parse(bytes) {
                Ok(services) => services,
                Err(why) => return assert!(!why.contains(char::is_control), "{why:?}"),
            };
            for service in services {
                check_name(&service.name).unwrap();
                for node in &service.nodes {
                    assert_eq!(address::check(&node.address), Ok(()));
                }
            }
        });
    }

    #[test]
    fn no_beginning_of_a_file_is_a_file() {
        let text =
            br#"{"services":[{"name":"a","nodes":[{"address":"a:1"}]},{"name":"b","nodes":[]}]}"#;
        assert!(parse(text).is_ok());
        for end in 0..text.len() {
            assert!(parse(&text[..end]).is_err(), "{end}");
        }
    }
}
