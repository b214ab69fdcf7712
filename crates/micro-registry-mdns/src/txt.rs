//! The TXT record of a node: what people and other tools can read, and the rest as JSON.
//!
//! | key | what |
//! | --- | --- |
//! | `txtvers` | `1` |
//! | `service`, `version`, `id` | as they are; without `id` the instance name counts |
//! | `ns` | the namespace; absent for the default one |
//! | `ttl` | after how many seconds of silence the node is gone |
//! | `addr` | the address, if SRV and A or AAAA do not say it |
//! | `n.<name>`, `s.<name>` | metadata of the node and of the service |
//! | `j0`, `j1`, … | JSON in pieces: what does not fit above, and the endpoints |

use std::collections::BTreeMap;
use std::time::Duration;

use micro_registry_core::{Endpoint, Error, Result, Value};
use serde::{Deserialize, Serialize};

/// A character string of a TXT record holds no more (RFC 1035); here key, `=` and value.
const STRING: usize = 255;
/// A packet holds 9000 bytes at most (RFC 6762 section 17), with names and other records.
pub(crate) const LARGEST: usize = 8000;
/// What others send is read up to here.
const LARGEST_READ: usize = 16 * 1024;
/// A piece of JSON.
const PIECE: usize = 240;
/// So deep may shapes of messages be nested.
const DEEPEST: usize = 16;

/// What a node says about itself, besides SRV and A or AAAA.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Announcement {
    pub(crate) service: String,
    pub(crate) version: String,
    pub(crate) namespace: String,
    pub(crate) id: Option<String>,
    pub(crate) ttl: Option<Duration>,
    pub(crate) address: Option<String>,
    pub(crate) node: BTreeMap<String, String>,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) endpoints: Vec<Endpoint>,
}

/// What has no plain form.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Rest {
    /// Keys of the table above whose values are too long.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    x: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    n: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    s: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    e: Vec<ShortEndpoint>,
}

/// An endpoint: name, metadata, request, response.
type ShortEndpoint = (
    String,
    BTreeMap<String, String>,
    Option<Short>,
    Option<Short>,
);

/// A shape: name, type, fields.
#[derive(Debug, Serialize, Deserialize)]
struct Short(String, String, Vec<Self>);

/// Keys and values in the order in which they are sent.
pub(crate) type Strings = Vec<(String, Vec<u8>)>;

impl Announcement {
    /// The strings of the record.
    ///
    /// Endpoints are left out bit by bit if not everything fits: first their shapes, then their
    /// metadata, then all of them. Metadata never are.
    pub(crate) fn encode(&self) -> Result<Strings> {
        let mut strings = Strings::new();
        let mut rest = Rest::default();
        let ttl = self.ttl.map(|ttl| ttl.as_secs().max(1).to_string());
        let namespace = Some(&self.namespace).filter(|namespace| !namespace.is_empty());
        let fixed = [
            ("txtvers", Some("1")),
            ("service", Some(&*self.service)),
            ("version", Some(&*self.version)),
            ("ns", namespace.map(String::as_str)),
            ("id", self.id.as_deref()),
            ("ttl", ttl.as_deref()),
            ("addr", self.address.as_deref()),
        ];
        for (key, value) in fixed {
            let Some(value) = value else { continue };
            if key.len() + 1 + value.len() <= STRING {
                strings.push((key.to_owned(), value.as_bytes().to_vec()));
            } else {
                rest.x.insert(key.to_owned(), value.to_owned());
            }
        }
        spread("n.", &self.node, &mut strings, &mut rest.n);
        spread("s.", &self.metadata, &mut strings, &mut rest.s);
        for detail in 0..4 {
            rest.e = shorten(&self.endpoints, detail);
            let pieces = pieces(&rest)?;
            if size(&strings) + size(&pieces) <= LARGEST {
                strings.extend(pieces);
                return Ok(strings);
            }
        }
        Err(Error::invalid_argument(
            "the metadata are too large for multicast DNS, which carries 8000 bytes per node; use fewer, or another registry",
        )
        .with_context("service", &self.service))
    }

    /// Reads a record of ours; `None` if it is none, or too large.
    pub(crate) fn decode(strings: &[(&str, &[u8])]) -> Option<Self> {
        let all: usize = strings
            .iter()
            .map(|(key, value)| key.len() + value.len() + 2)
            .sum();
        if all > LARGEST_READ {
            return None;
        }
        let mut read = Self::default();
        let mut fixed = BTreeMap::<String, String>::new();
        let mut json = BTreeMap::<u32, &[u8]>::new();
        for &(key, value) in strings {
            if let Some(piece) = key.strip_prefix('j').and_then(|piece| piece.parse().ok()) {
                json.insert(piece, value);
                continue;
            }
            let Ok(value) = std::str::from_utf8(value) else {
                continue;
            };
            let map = match key.split_at_checked(2) {
                Some(("n.", name)) => Some((&mut read.node, name)),
                Some(("s.", name)) => Some((&mut read.metadata, name)),
                _ => None,
            };
            match map {
                Some((map, name)) => map.insert(name.to_owned(), value.to_owned()),
                None => fixed.insert(key.to_ascii_lowercase(), value.to_owned()),
            };
        }
        // A gap means that a piece is lost: then the JSON is, and what is plain is not.
        let whole = json.keys().copied().eq(0..u32::try_from(json.len()).ok()?);
        let json: Vec<u8> = json.into_values().flatten().copied().collect();
        if whole && !json.is_empty() {
            let rest: Rest = serde_json::from_slice(&json).ok()?;
            fixed.extend(rest.x);
            read.node.extend(rest.n);
            read.metadata.extend(rest.s);
            read.endpoints = rest.e.into_iter().map(endpoint).collect();
        }
        read.service = fixed.remove("service")?;
        read.version = fixed.remove("version").unwrap_or_default();
        read.namespace = fixed.remove("ns").unwrap_or_default();
        read.id = fixed.remove("id").filter(|id| !id.is_empty());
        read.address = fixed.remove("addr");
        read.ttl = fixed
            .remove("ttl")
            .and_then(|ttl| ttl.parse().ok())
            .map(|ttl: u64| Duration::from_secs(ttl.clamp(1, 3600)));
        Some(read)
    }
}

/// Puts metadata into strings of their own if they can be, else into `rest`.
fn spread(
    prefix: &str,
    metadata: &BTreeMap<String, String>,
    strings: &mut Strings,
    rest: &mut BTreeMap<String, String>,
) {
    let mut taken = std::collections::BTreeSet::new();
    for (name, value) in metadata {
        // RFC 6763 section 6.4: printable ASCII without `=`, and the case does not tell keys apart.
        let plain = !name.is_empty()
            && name
                .bytes()
                .all(|byte| matches!(byte, 0x20..=0x7e) && byte != b'=')
            && prefix.len() + name.len() + 1 + value.len() <= STRING;
        if plain && taken.insert(name.to_ascii_lowercase()) {
            strings.push((format!("{prefix}{name}"), value.as_bytes().to_vec()));
        } else {
            rest.insert(name.clone(), value.clone());
        }
    }
}

fn pieces(rest: &Rest) -> Result<Strings> {
    let json = serde_json::to_vec(rest).map_err(|err| {
        Error::internal("the description cannot be written as JSON").with_source(err)
    })?;
    if json == b"{}" {
        return Ok(Strings::new());
    }
    let pieces = json.chunks(PIECE).enumerate();
    Ok(pieces
        .map(|(i, piece)| (format!("j{i}"), piece.to_vec()))
        .collect())
}

/// What the strings take in the record.
fn size(strings: &[(String, Vec<u8>)]) -> usize {
    strings
        .iter()
        .map(|(key, value)| key.len() + value.len() + 2)
        .sum()
}

/// The endpoints with less and less detail: 0 is all of it, 3 none.
fn shorten(endpoints: &[Endpoint], detail: u8) -> Vec<ShortEndpoint> {
    if detail == 3 {
        return Vec::new();
    }
    let shape = |value: &Value| {
        let known = detail == 0 && *value != Value::default();
        known.then(|| short(value, DEEPEST))
    };
    let endpoints = endpoints.iter().map(|endpoint| {
        let metadata = if detail < 2 {
            endpoint.metadata.clone()
        } else {
            BTreeMap::new()
        };
        (
            endpoint.name.clone(),
            metadata,
            shape(&endpoint.request),
            shape(&endpoint.response),
        )
    });
    endpoints.collect()
}

fn short(value: &Value, depth: usize) -> Short {
    let fields = if depth == 0 { &[][..] } else { &value.values };
    let fields = fields.iter().map(|field| short(field, depth - 1));
    Short(value.name.clone(), value.kind.clone(), fields.collect())
}

fn endpoint((name, metadata, request, response): ShortEndpoint) -> Endpoint {
    let shape = |short: Option<Short>| short.map(long).unwrap_or_default();
    let mut endpoint = Endpoint::new(name).with_values(shape(request), shape(response));
    endpoint.metadata = metadata;
    endpoint
}

/// The nesting is bounded by the JSON reader, which gives up at 128 levels.
fn long(Short(name, kind, fields): Short) -> Value {
    let mut value = Value::new(name, kind);
    value.values = fields.into_iter().map(long).collect();
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(strings: &Strings) -> Option<Announcement> {
        let strings: Vec<_> = strings
            .iter()
            .map(|(key, value)| (&**key, &**value))
            .collect();
        Announcement::decode(&strings)
    }

    fn greeter() -> Announcement {
        Announcement {
            service: "greeter".to_owned(),
            version: "v1".to_owned(),
            id: Some("greeter-1".to_owned()),
            ttl: Some(Duration::from_secs(30)),
            ..Announcement::default()
        }
    }

    fn shape(fields: usize) -> Value {
        let mut value = Value::new("HelloRequest", "HelloRequest");
        for i in 0..fields {
            value = value.with_value(Value::new(format!("field_{i}"), "string"));
        }
        value
    }

    #[test]
    fn a_simple_node_is_readable() {
        let mut simple = greeter();
        simple.node.insert("transport".into(), "grpc".into());
        let strings = simple.encode().unwrap();
        let text: Vec<String> = strings
            .iter()
            .map(|(key, value)| format!("{key}={}", String::from_utf8_lossy(value)))
            .collect();
        assert_eq!(
            text,
            [
                "txtvers=1",
                "service=greeter",
                "version=v1",
                "id=greeter-1",
                "ttl=30",
                "n.transport=grpc"
            ]
        );
        assert_eq!(decode(&strings), Some(simple));
    }

    #[test]
    fn everything_comes_back_and_every_string_fits() {
        let mut odd = greeter();
        odd.namespace = "staging".into();
        odd.id = Some("x".repeat(512));
        odd.address = Some("[2001:db8::7]:80".into());
        for (name, value) in [
            ("", "no name"),
            ("Case", "upper"),
            ("case", "lower"),
            ("größe", "東京 🦀"),
            ("a=b", "c=d"),
            ("new\nline", "new\nline"),
            ("empty", ""),
            ("long", &"y".repeat(1000)),
        ] {
            odd.node.insert(name.into(), value.into());
            odd.metadata.insert(name.into(), value.into());
        }
        odd.endpoints = vec![
            Endpoint::new("Greeter.Hello").with_values(shape(3), shape(1)),
            Endpoint::new("Greeter.Watch").with_metadata("stream", "true"),
        ];
        let strings = odd.encode().unwrap();
        for (key, value) in &strings {
            assert!(key.len() + 1 + value.len() <= STRING, "{key}");
            assert!(key.is_ascii() && !key.contains('='), "{key}");
        }
        let keys: std::collections::BTreeSet<_> =
            strings.iter().map(|(key, _)| key.to_lowercase()).collect();
        assert_eq!(keys.len(), strings.len());
        assert_eq!(decode(&strings), Some(odd));
    }

    #[test]
    fn endpoints_give_way_and_metadata_do_not() {
        let mut large = greeter();
        large.node.insert("zone".into(), "a".into());
        large.endpoints = (0..20)
            .map(|i| {
                Endpoint::new(format!("Greeter.Method{i}"))
                    .with_values(shape(30), shape(30))
                    .with_metadata("description", "What it does.")
            })
            .collect();
        let read = decode(&large.encode().unwrap()).unwrap();
        assert_eq!(read.endpoints.len(), 20);
        assert_eq!(read.endpoints[0].request, Value::default());
        assert_eq!(read.endpoints[0].metadata.len(), 1);

        large.endpoints = (0..5000)
            .map(|i| Endpoint::new(format!("Greeter.Method{i}")))
            .collect();
        let strings = large.encode().unwrap();
        assert!(size(&strings) <= LARGEST);
        let read = decode(&strings).unwrap();
        assert!(read.endpoints.is_empty());
        assert_eq!(read.node["zone"], "a");

        large.node.insert("huge".into(), "z".repeat(9000));
        let err = large.encode().unwrap_err();
        assert_eq!(
            err.kind(),
            micro_registry_core::ErrorKind::InvalidArgument,
            "{err}"
        );
    }

    #[test]
    fn shapes_that_never_end_do() {
        let mut deep = Value::new("deepest", "t");
        for _ in 0..1000 {
            deep = Value::new("level", "t").with_value(deep);
        }
        let mut nested = greeter();
        nested.endpoints = vec![Endpoint::new("Deep").with_values(deep, Value::default())];
        let read = decode(&nested.encode().unwrap()).unwrap();
        assert_eq!(read.endpoints.len(), 1);
    }

    #[test]
    fn s48_more_text_than_is_ever_announced_is_refused() {
        // 64 KiB as DNS can carry it; nothing is packed, so nothing grows when it is read.
        let mut bomb = vec![("service".to_owned(), b"greeter".to_vec())];
        bomb.extend((0..256).map(|i| (format!("n.{i}"), vec![b'x'; 250])));
        assert_eq!(decode(&bomb), None);
        let garbage = vec![
            ("service".to_owned(), b"greeter".to_vec()),
            ("j0".to_owned(), b"789c4b4c4c".to_vec()),
        ];
        assert_eq!(decode(&garbage), None);
    }

    #[test]
    fn what_is_not_ours_is_none() {
        let strings = |pairs: &[(&str, &[u8])]| -> Strings {
            pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), value.to_vec()))
                .collect()
        };
        // No service.
        assert_eq!(decode(&strings(&[("path", b"/")])), None);
        assert_eq!(decode(&Strings::new()), None);
        // Broken JSON.
        let broken = strings(&[("service", b"greeter"), ("j0", b"{\"n\":")]);
        assert_eq!(decode(&broken), None);
        // JSON deeper than any shape.
        let deep = format!("{{\"e\":[[\"x\",{{}},{}", "[\"\",\"\",[".repeat(400));
        let mut bomb = strings(&[("service", b"greeter")]);
        for (i, piece) in deep.as_bytes().chunks(PIECE).enumerate() {
            bomb.push((format!("j{i}"), piece.to_vec()));
        }
        assert_eq!(decode(&bomb), None);
        // Too large.
        let mut large = strings(&[("service", b"greeter")]);
        for i in 0..100 {
            large.push((format!("n.{i}"), vec![b'x'; 240]));
        }
        assert_eq!(decode(&large), None);
        // A lost piece, bytes that are no text, a key of one byte, a TTL out of range: the rest is read.
        let odd = strings(&[
            ("SERVICE", b"greeter"),
            ("j1", b"lost its beginning"),
            ("n.bytes", b"\xff\xfe"),
            ("n", b"x"),
            ("ttl", b"99999999"),
            ("\u{e9}", b"x"),
        ]);
        let read = decode(&odd).unwrap();
        assert_eq!(read.service, "greeter");
        assert!(read.node.is_empty());
        assert_eq!(read.ttl, Some(Duration::from_secs(3600)));
    }
}
