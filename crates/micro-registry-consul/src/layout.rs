//! go-micro's layout: what is in tags, and what a service is called.
//!
//! go-micro writes a tag per metadata pair of a node (`t-`), per endpoint (`e-`) and for the version
//! (`v-`), each the hexadecimal digits of a zlib stream (RFC 1950); it also reads plain ones with
//! `=` for `-`. What it has no place for stands in tags that it does not look at: a pair of the
//! service's metadata (`s-`), and the node's id and address as they are (`m-`).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use micro_core::Error;
use micro_registry_core::{Endpoint, Node, Result, Service, check_name};
use miniz_oxide::deflate::compress_to_vec_zlib;
use miniz_oxide::inflate::{TINFLStatus, decompress_to_vec_zlib_with_limit};
use serde::{Deserialize, Serialize};

/// A tag holds at most so many bytes once it is inflated.
pub(crate) const TAG_LIMIT: usize = 16 << 10;
/// All tags of a node together hold at most so many.
pub(crate) const NODE_LIMIT: usize = 256 << 10;
/// All tags of an answer together hold at most so many.
pub(crate) const ANSWER_LIMIT: usize = 32 << 20;

/// What a node's tags say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tags {
    pub(crate) version: String,
    pub(crate) node_metadata: BTreeMap<String, String>,
    pub(crate) service_metadata: BTreeMap<String, String>,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) mark: Option<Mark>,
}

/// What Consul's own fields cannot say of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    pub(crate) id: String,
    pub(crate) address: String,
}

/// Why a node's tags are not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    /// It inflates beyond the limit.
    Bomb,
    /// It bears our mark, and that is garbage.
    Mark,
}

impl Bad {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Bomb => "its tags inflate beyond the limit",
            Self::Mark => "its mark is garbage",
        }
    }
}

/// The tags of one node of `service`.
pub(crate) fn tags(service: &Service, node: &Node, mark: Option<&Mark>) -> Result<Vec<String>> {
    let mut tags = Vec::new();
    for (name, value) in &node.metadata {
        tags.push(tag('t', &json(&BTreeMap::from([(name, value)]))?)?);
    }
    for endpoint in &service.endpoints {
        tags.push(tag('e', &json(endpoint)?)?);
    }
    tags.push(tag('v', service.version.as_bytes())?);
    for (name, value) in &service.metadata {
        tags.push(tag('s', &json(&BTreeMap::from([(name, value)]))?)?);
    }
    if let Some(mark) = mark {
        tags.push(tag('m', &json(mark)?)?);
    }
    Ok(tags)
}

fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value)
        .map_err(|err| Error::internal("a registration cannot be written as JSON").with_source(err))
}

fn tag(kind: char, data: &[u8]) -> Result<String> {
    if data.len() > TAG_LIMIT {
        return Err(Error::invalid_argument(
            "a metadata pair, an endpoint or the version is too long for Consul's tags: shorten it",
        )
        .with_context("kind", kind)
        .with_context("bytes", data.len())
        .with_context("limit", TAG_LIMIT));
    }
    let packed = compress_to_vec_zlib(data, 6);
    let mut tag = String::with_capacity(2 + 2 * packed.len());
    tag.push(kind);
    tag.push('-');
    for byte in packed {
        let _ = write!(tag, "{byte:02x}");
    }
    Ok(tag)
}

/// Reads tags, and takes what they inflate to from `left`. What is none of ours is left alone:
/// others tag their services too.
pub(crate) fn read(tags: &[String], left: &mut usize) -> Result<Tags, Bad> {
    let mine = NODE_LIMIT.min(*left);
    let mut rest = mine;
    let read = read_within(tags, &mut rest);
    *left -= mine - rest;
    read
}

fn read_within(tags: &[String], left: &mut usize) -> Result<Tags, Bad> {
    let mut read = Tags::default();
    let mut versioned = false;
    for tag in tags {
        let Some((kind, data)) = unpack(tag, left)? else {
            // A zlib stream begins with 78: this is a mark, and its node is not what it seems to be.
            if tag.starts_with("m-78") {
                return Err(Bad::Mark);
            }
            continue;
        };
        let pair = || serde_json::from_slice::<BTreeMap<String, String>>(&data).ok();
        match kind {
            b't' => read.node_metadata.extend(pair().unwrap_or_default()),
            b's' => read.service_metadata.extend(pair().unwrap_or_default()),
            b'e' => {
                let endpoint = serde_json::from_slice::<Endpoint>(&data).ok();
                let named = endpoint.filter(|endpoint| !endpoint.name.is_empty());
                read.endpoints.extend(named);
            }
            b'v' if !versioned => {
                if let Ok(version) = String::from_utf8(data) {
                    read.version = version;
                    versioned = true;
                }
            }
            b'm' => {
                let mark = serde_json::from_slice(&data).map_err(|_| Bad::Mark)?;
                read.mark = Some(mark);
            }
            _ => {}
        }
    }
    Ok(read)
}

/// The versions among the tags of all nodes of a service; what they inflate to is taken from `left`.
pub(crate) fn versions(tags: &[String], left: &mut usize) -> Vec<String> {
    let mut versions: Vec<String> = tags
        .iter()
        .filter(|tag| tag.starts_with('v'))
        .filter_map(|tag| {
            let (_, data) = unpack(tag, left).ok()??;
            String::from_utf8(data).ok()
        })
        .collect();
    versions.sort_unstable();
    versions.dedup();
    versions
}

fn unpack(tag: &str, left: &mut usize) -> Result<Option<(u8, Vec<u8>)>, Bad> {
    let bytes = tag.as_bytes();
    let &[
        kind @ (b't' | b'e' | b'v' | b's' | b'm'),
        form @ (b'-' | b'='),
        ref rest @ ..,
    ] = bytes
    else {
        return Ok(None);
    };
    let data = if form == b'=' {
        if matches!(kind, b's' | b'm') {
            return Ok(None);
        }
        if rest.len() > TAG_LIMIT {
            return Err(Bad::Bomb);
        }
        rest.to_vec()
    } else {
        let Some(packed) = unhex(rest) else {
            return Ok(None);
        };
        match decompress_to_vec_zlib_with_limit(&packed, TAG_LIMIT.min(*left)) {
            Ok(data) => data,
            Err(err) if err.status == TINFLStatus::HasMoreOutput => return Err(Bad::Bomb),
            Err(_) => return Ok(None),
        }
    };
    *left = left.checked_sub(data.len()).ok_or(Bad::Bomb)?;
    Ok(Some((kind, data)))
}

fn unhex(digits: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let (pairs, []) = digits.as_chunks::<2>() else {
        return None;
    };
    pairs
        .iter()
        .map(|[high, low]| u8::try_from(digit(*high)? << 4 | digit(*low)?).ok())
        .collect()
}

/// What separates our services from others' in the same Consul.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scope(String);

impl Scope {
    /// The default namespace without a prefix adds nothing: those names are go-micro's.
    pub(crate) fn new(prefix: &str, namespace: &str) -> Self {
        let mut scope = String::new();
        if !prefix.is_empty() {
            scope.push_str(&escape(prefix));
            scope.push('/');
        }
        if !namespace.is_empty() {
            scope.push_str(&escape(namespace));
            scope.push(':');
        }
        Self(scope)
    }

    /// What Consul calls a service.
    pub(crate) fn outer(&self, name: &str) -> String {
        format!("{}{name}", self.0)
    }

    /// What we call it, if it is one of ours.
    pub(crate) fn inner<'a>(&self, name: &'a str) -> Option<&'a str> {
        name.strip_prefix(&*self.0)
            .filter(|name| check_name(name).is_ok())
    }

    /// The id under which the agent knows a node.
    ///
    /// It is the node's own, as go-micro does it, if that is unique by itself. Others say all that
    /// they depend on, without capitals: Consul does not tell them from small letters.
    pub(crate) fn service_id(&self, service: &Service, id: &str) -> String {
        let plain = self.0.is_empty()
            && id
                .strip_prefix(&*service.name)
                .and_then(|rest| rest.strip_prefix('-'))
                .is_some_and(is_uuid)
            && !id.bytes().any(|byte| byte.is_ascii_uppercase());
        if plain {
            return id.to_owned();
        }
        [&*self.0, &service.name, &service.version, id]
            .map(escape)
            .join("~")
    }
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text
            .bytes()
            .all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

/// Small letters, digits, `.` and `-` stand for themselves.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "_{byte:02x}");
        }
    }
    out
}

/// `host:port` as Consul has it, in two parts. An address of another form is the host, without port.
pub(crate) fn split(address: &str) -> (String, u16) {
    let parts = address.rsplit_once(':').and_then(|(host, port)| {
        let port: u16 = port.parse().ok()?;
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        Some((bare.unwrap_or(host).to_owned(), port))
    });
    parts.unwrap_or_else(|| (address.to_owned(), 0))
}

/// The two parts as `host:port`.
pub(crate) fn join(host: &str, port: u16) -> String {
    if host.contains(':') && port != 0 {
        format!("[{host}]:{port}")
    } else if port != 0 {
        format!("{host}:{port}")
    } else {
        host.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(tags: &[String]) -> Result<Tags, Bad> {
        super::read(tags, &mut ANSWER_LIMIT.clone())
    }

    fn versions(tags: &[String]) -> Vec<String> {
        super::versions(tags, &mut ANSWER_LIMIT.clone())
    }

    fn packed(kind: char, data: &[u8]) -> String {
        let hex = compress_to_vec_zlib(data, 9)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>();
        format!("{kind}-{hex}")
    }

    #[test]
    fn go_micro_s_tags_are_read() {
        // As go-micro writes "latest", and the old plain forms.
        let tags = [
            "v-789cca492c492d2e01040000ffff08cc028e",
            r#"t={"region":"eu"}"#,
            r#"e={"name":"Say.Hello","request":null,"response":null,"metadata":null}"#,
        ]
        .map(str::to_owned);
        let read = read(&tags).unwrap();
        assert_eq!(read.version, "latest");
        assert_eq!(read.node_metadata["region"], "eu");
        assert_eq!(read.endpoints[0].name, "Say.Hello");
        assert_eq!(versions(&tags), ["latest"]);
    }

    #[test]
    fn tags_come_back() {
        let node = Node::new("a", "h:1").with_metadata("größe", "1\n2");
        let service = Service::new("greeter", "v1")
            .with_metadata("team", "x")
            .with_endpoint(Endpoint::new("Say.Hello"));
        let mark = Mark {
            id: "a".to_owned(),
            address: "h:1".to_owned(),
        };
        let read = read(&tags(&service, &node, Some(&mark)).unwrap()).unwrap();
        assert_eq!(read.version, "v1");
        assert_eq!(read.node_metadata, node.metadata);
        assert_eq!(read.service_metadata, service.metadata);
        assert_eq!(read.endpoints, service.endpoints);
        assert_eq!(read.mark, Some(mark));
    }

    #[test]
    fn s48_a_tag_that_inflates_without_end_is_refused() {
        let bomb = packed('t', &vec![b' '; 64 << 20]);
        assert!(bomb.len() < 200 << 10, "{}", bomb.len());
        assert_eq!(read(&[bomb]).unwrap_err(), Bad::Bomb);
        // Many that are small enough each.
        let many = vec![packed('t', &vec![b' '; TAG_LIMIT]); 100];
        assert_eq!(read(&many).unwrap_err(), Bad::Bomb);
        assert!(read(&many[..4]).is_ok());
        let plain = format!("t={}", "x".repeat(TAG_LIMIT + 1));
        assert_eq!(read(&[plain]).unwrap_err(), Bad::Bomb);
        // Many nodes that are small enough each.
        let mut left = 3 * NODE_LIMIT + NODE_LIMIT / 2;
        let node = vec![packed('t', &vec![b' '; TAG_LIMIT]); NODE_LIMIT / TAG_LIMIT];
        let good = (0..100).filter(|_| super::read(&node, &mut left).is_ok());
        assert_eq!((good.count(), left), (3, 0));
    }

    #[test]
    fn s52_metadata_beyond_the_limit_are_refused_where_they_are_written() {
        let node = Node::new("a", "h:1").with_metadata("k", "x".repeat(1 << 20));
        let err = tags(&Service::new("greeter", "v1"), &node, None).unwrap_err();
        assert_eq!(err.kind(), micro_core::ErrorKind::InvalidArgument);
    }

    #[test]
    fn s53_garbage_is_left_alone_or_refused() {
        let foreign = [
            "",
            "t",
            "t-",
            "v-1.2",
            "e-commerce",
            "t-shirt",
            "v-cafe",
            "t-789c",
            "s=1",
            "m=1",
            "v-zz",
            "t={}x",
            "e=[]",
            "primary",
            "ü-1",
        ]
        .map(str::to_owned);
        assert_eq!(read(&foreign).unwrap(), Tags::default());
        assert_eq!(read(&[packed('m', b"[]")]).unwrap_err(), Bad::Mark);
        assert_eq!(read(&["m-789c00000000".to_owned()]).unwrap_err(), Bad::Mark);
        assert_eq!(read(&[packed('v', b"\xff\xfe")]).unwrap().version, "");
    }

    #[test]
    fn s53_any_tag_is_read_or_left_alone() {
        let node = Node::new("a", "h:1").with_metadata("zone", "x");
        let service = Service::new("greeter", "v1")
            .with_metadata("team", "x")
            .with_endpoint(Endpoint::new("Say.Hello"));
        let mark = Mark {
            id: "a".to_owned(),
            address: "h:1".to_owned(),
        };
        let mut good = tags(&service, &node, Some(&mark)).unwrap();
        good.extend([r#"t={"region":"eu"}"#, "v=1", "e={\"name\":\"A.B\"}"].map(str::to_owned));
        let good: Vec<&[u8]> = good.iter().map(String::as_bytes).collect();
        micro_conformance::mutation::run(&good, |bytes| {
            let text = String::from_utf8_lossy(bytes).into_owned();
            // As it is, and as what is inflated.
            let inner = ['t', 'e', 'v', 's', 'm'].map(|kind| packed(kind, bytes));
            for tag in inner.into_iter().chain([text]) {
                let mut left = NODE_LIMIT;
                if let Ok(read) = super::read(&[tag], &mut left) {
                    assert!(
                        read.endpoints
                            .iter()
                            .all(|endpoint| !endpoint.name.is_empty())
                    );
                }
                assert!(left >= NODE_LIMIT - TAG_LIMIT);
            }
        });
    }

    #[test]
    fn names_and_ids_do_not_run_together() {
        let plain = Scope::new("", "");
        let service = Service::new("greeter", "v1");
        let id = "greeter-5f0c1b9e-0000-4000-8000-000000000001";
        assert_eq!(plain.service_id(&service, id), id);
        assert_eq!(plain.outer("greeter"), "greeter");
        assert_eq!(plain.inner("staging:greeter"), None);
        let staging = Scope::new("", "staging");
        assert_eq!(staging.inner(&staging.outer("greeter")), Some("greeter"));
        assert_eq!(staging.inner("staging-2:greeter"), None);
        let mut ids: Vec<String> = ["A", "a", "a/b", "größe", "greeter-1"]
            .iter()
            .flat_map(|id| {
                let other = Service::new("greeter", "v2");
                [
                    plain.service_id(&service, id),
                    plain.service_id(&other, id),
                    staging.service_id(&service, id),
                ]
            })
            .map(|id| id.to_lowercase())
            .collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 15);
    }

    #[test]
    fn addresses_are_split_and_joined() {
        for address in ["127.0.0.1:80", "[::1]:80", "h.example:443", "name", "unix"] {
            let (host, port) = split(address);
            assert_eq!(join(&host, port), address);
        }
        assert_eq!(split("[::1]:80"), ("::1".to_owned(), 80));
    }
}
