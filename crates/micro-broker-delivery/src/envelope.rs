//! go-micro's JSON: `{"Header":{"Micro-Topic":"…"},"Body":"<base64>"}`.
//!
//! Its brokers send this document over HTTP and NATS, and so do ours.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use micro_broker_core::{Error, Message, Result, Topic, headers};
use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// More headers than metadata have entries, the broker's own beside them.
const MAX_HEADERS: usize = 160;

/// Headers are written with padding or without.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// How many bytes the document of a message takes at most, if its body takes so many.
#[must_use]
pub const fn max_len(max_body: usize) -> usize {
    // Escaped, a character may take six bytes.
    max_body.div_ceil(3) * 4 + 6 * micro_broker_core::Metadata::MAX_BYTES + 4096
}

/// Writes a message. `topic` is its name on the wire.
///
/// Names of headers are written as go's are: `Micro-Topic`. What is under a name that ends in `-bin` is
/// written in base64.
#[must_use]
pub fn encode(message: &Message, topic: &str) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Document<'a> {
        header: Header<'a>,
        body: &'a str,
    }
    let body = STANDARD.encode(&message.body);
    let document = Document {
        header: Header { message, topic },
        body: &body,
    };
    serde_json::to_vec(&document).expect("text is JSON")
}

struct Header<'a> {
    message: &'a Message,
    topic: &'a str,
}

impl Serialize for Header<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry(&titled(headers::TOPIC), self.topic)?;
        let mut written = Ok(());
        headers::write(self.message, |name, value| {
            if written.is_err() {
                return;
            }
            let text = if name.ends_with("-bin") {
                Cow::Owned(LENIENT.encode(value))
            } else {
                String::from_utf8_lossy(value)
            };
            written = map.serialize_entry(&titled(name), &text);
        });
        written?;
        map.end()
    }
}

/// `content-type` as `Content-Type`.
fn titled(name: &str) -> String {
    let mut begin = true;
    name.chars()
        .map(|c| {
            let upper = if begin { c.to_ascii_uppercase() } else { c };
            begin = c == '-';
            upper
        })
        .collect()
}

/// A document that was read.
#[derive(Debug)]
pub struct Envelope {
    pairs: Pairs,
    body: Bytes,
}

/// Reads a document. Time and memory are linear in its length, which the caller bounds.
///
/// # Errors
///
/// `InvalidArgument` if it is no such document.
pub fn decode(json: &[u8]) -> Result<Envelope> {
    #[derive(Deserialize)]
    struct Document<'a> {
        #[serde(rename = "Header", alias = "header", default)]
        header: Option<Pairs>,
        #[serde(rename = "Body", alias = "body", borrow, default)]
        body: Option<Cow<'a, str>>,
    }
    let invalid = |message: &'static str| Error::invalid_argument(message);
    let no_message = || invalid("this is no message: {\"Header\":{…},\"Body\":\"base64\"}");
    // serde would take a list of the fields, too.
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err(no_message());
    }
    // Where and not what: the document may hold secrets.
    let document: Document<'_> = serde_json::from_slice(json)
        .map_err(|err| no_message().with_context("column", err.column()))?;
    let body = STANDARD
        .decode(document.body.as_deref().unwrap_or_default())
        .map_err(|_| invalid("the message's body is not base64"))?;
    Ok(Envelope {
        pairs: document.header.unwrap_or_default(),
        body: body.into(),
    })
}

impl Envelope {
    /// A header, whose name may be written in any case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut pairs = self.pairs.0.iter();
        let found = pairs.find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| &**value)
    }

    /// What the document says its topic is, by its name on the wire.
    #[must_use]
    pub fn topic(&self) -> Option<&str> {
        self.header(headers::TOPIC)
    }

    /// The message, whose topic the reader knows.
    ///
    /// # Errors
    ///
    /// Those of [`headers::read`].
    pub fn into_message(self, topic: Topic) -> Result<Message> {
        let decoded: Vec<_> = self
            .pairs
            .0
            .iter()
            .filter_map(|(name, value)| {
                let bytes = if is_binary(name) {
                    // What is no base64 is dropped as any foreign header that cannot be ours.
                    Cow::Owned(LENIENT.decode(value).ok()?)
                } else {
                    Cow::Borrowed(value.as_bytes())
                };
                Some((&**name, bytes))
            })
            .collect();
        let pairs = decoded.iter().map(|(name, value)| (*name, &**value));
        headers::read(topic, pairs, self.body)
    }
}

fn is_binary(name: &str) -> bool {
    let end = name.len().saturating_sub(4);
    name.as_bytes()[end..].eq_ignore_ascii_case(b"-bin")
}

/// Headers in the order of the document, of which there are only so many.
#[derive(Debug, Default)]
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    if pairs.len() == MAX_HEADERS {
                        return Err(serde::de::Error::custom("too many headers"));
                    }
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

#[cfg(test)]
mod tests {
    use micro_broker_core::ErrorKind;

    use super::*;

    fn topic() -> Topic {
        Topic::new("orders").unwrap()
    }

    fn sample() -> Message {
        Message::new(topic(), "hello\0\u{fc}")
            .with_id("id-1")
            .with_key("a \"key\"")
            .with_content_type("application/json")
            .with_metadata("x-tenant", "acme \\ \"x\"")
            .unwrap()
            .with_metadata("raw-bin", [0, 255, 7])
            .unwrap()
    }

    #[test]
    fn a_message_comes_back_and_is_what_go_micro_writes() {
        let json = encode(&sample(), "orders");
        let text = String::from_utf8(json.clone()).unwrap();
        assert!(text.starts_with(r#"{"Header":{"Micro-Topic":"orders","Content-Type":"application/json","Micro-Id":"id-1""#), "{text}");
        assert!(
            text.contains(r#""X-Tenant":"#) && text.contains(r#""Body":"aGVsbG8Aw7w=""#),
            "{text}"
        );
        assert!(json.len() <= max_len(sample().body.len()));
        let found = decode(&json).unwrap();
        assert_eq!(
            (found.topic(), found.header("X-TENANT")),
            (Some("orders"), Some("acme \\ \"x\""))
        );
        assert_eq!(found.into_message(topic()).unwrap(), sample());
    }

    #[test]
    fn go_s_liberties_are_understood() {
        for json in [
            r#"{"Header":null,"Body":null}"#,
            r#"{}"#,
            r#"{"header":{},"body":"","more":[[[1]]]}"#,
        ] {
            let found = decode(json.as_bytes()).unwrap();
            assert_eq!(found.topic(), None, "{json}");
            assert_eq!(
                found.into_message(topic()).unwrap(),
                Message::new(topic(), "").with_content_type("application/octet-stream")
            );
        }
        let odd =
            br#"{"Header":{"x-bin":"%%","Na\u00efve":"x","Ok":"1","T":"\u00fc"},"Body":"YQ=="}"#;
        let message = decode(odd).unwrap().into_message(topic()).unwrap();
        assert_eq!(
            (message.metadata.len(), message.metadata.get("ok")),
            (1, Some("1"))
        );
    }

    #[test]
    fn s65_what_is_no_document_is_refused() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let many: Vec<_> = (0..100_000).map(|i| format!("\"h{i}\":\"\"")).collect();
        let many = format!("{{\"Header\":{{{}}}}}", many.join(","));
        for json in [
            "null",
            "",
            "{",
            "[]",
            "\"x\"",
            "1e999",
            r#"{"Header":[]}"#,
            r#"{"Header":{"a":1}}"#,
            r#"{"Header":{"a":null}}"#,
            r#"{"Body":"%"}"#,
            r#"{"Body":{}}"#,
            r#"{"Body":"a"}"#,
            r#"{"Header":{},"Header":{}}"#,
            &deep,
            &many,
            "{}{}",
        ] {
            let err = decode(json.as_bytes()).unwrap_err();
            let shown: String = json.chars().take(40).collect();
            assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{shown}");
        }
        // Passed over without a stack.
        assert!(decode(format!("{{\"x\":{deep}}}").as_bytes()).is_ok());
    }

    #[test]
    fn foreign_bytes_never_panic() {
        let ours = encode(&sample(), "orders");
        let good: [&[u8]; 2] = [&ours, br#"{"Header":{"Micro-Topic":"x"},"Body":"YQ=="}"#];
        micro_conformance::mutation::run(&good, |bytes| {
            if let Ok(found) = decode(bytes) {
                let _ = found.into_message(topic());
            }
        });
    }
}
