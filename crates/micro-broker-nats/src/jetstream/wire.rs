//! A message as NATS has it: its body is the payload, and its fields are headers.
//!
//! The library trims what stands in a header, so a value that has blanks at an end is percent-encoded, and
//! so is one with a percent sign. What is under a name that ends in `-bin` is in base64, as with gRPC.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use micro_broker_core::{Error, Message, Result, Topic, headers};
use micro_nats::async_nats::HeaderMap;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// The header by which the server knows a message again. It is the message's id, too.
pub(crate) const MSG_ID: &str = "Nats-Msg-Id";

/// What a body is without a header that says so.
const BYTES: &str = "application/octet-stream";

/// The most headers that are read.
const MAX_HEADERS: usize = 256;

const ENCODED: &AsciiSet = &CONTROLS.add(b'%').add(b' ');

/// Refuses what the server would take for an order of ours.
pub(crate) fn check(message: &Message) -> Result<()> {
    match message.metadata.iter().find(|(name, _)| is_nats(name)) {
        None => Ok(()),
        Some((name, _)) => Err(Error::invalid_argument(
            "headers that begin with 'nats-' belong to the server",
        )
        .with_context("name", name)),
    }
}

fn is_nats(name: &str) -> bool {
    let name = name.as_bytes();
    name.len() >= 5 && name[..5].eq_ignore_ascii_case(b"nats-")
}

/// The headers of a message that the server is to know by this id.
pub(crate) fn write(message: &Message, msg_id: &str) -> HeaderMap {
    let mut map = HeaderMap::new();
    map.insert(MSG_ID, msg_id);
    headers::write(message, |name, value| {
        let text = String::from_utf8_lossy(value);
        match name {
            headers::CONTENT_TYPE if text == BYTES => {}
            headers::ID if text == msg_id => {}
            _ if name.ends_with("-bin") => map.insert(name, STANDARD_NO_PAD.encode(value)),
            _ if text.contains('%') || text.starts_with(' ') || text.ends_with(' ') => {
                map.insert(name, utf8_percent_encode(&text, ENCODED).to_string());
            }
            _ => map.insert(name, &*text),
        }
    });
    map
}

/// Reads a message. Whoever else writes to the stream is understood as far as it goes.
///
/// # Errors
///
/// Those of [`headers::read`].
pub(crate) fn read(topic: Topic, map: Option<&HeaderMap>, body: Bytes) -> Result<Message> {
    let mut known_by = None;
    let mut pairs: Vec<(&str, Cow<'_, [u8]>)> = Vec::new();
    for (name, values) in map.into_iter().flat_map(HeaderMap::iter) {
        let name: &str = name.as_ref();
        let Some(value) = values.last().map(|value| value.as_str()) else {
            continue;
        };
        if name.eq_ignore_ascii_case(MSG_ID) {
            known_by = Some(value);
        } else if !is_nats(name) && pairs.len() < MAX_HEADERS {
            pairs.extend(decode(name, value).map(|value| (name, value)));
        }
    }
    // A dead letter has its old id, and the server knows it by another.
    if let Some(id) = known_by
        && !pairs
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case(headers::ID))
    {
        pairs.push((headers::ID, Cow::Borrowed(id.as_bytes())));
    }
    let pairs = pairs.iter().map(|(name, value)| (*name, &**value));
    headers::read(topic, pairs, body)
}

/// What is no base64 is dropped, as any foreign header that cannot be ours.
fn decode<'a>(name: &str, value: &'a str) -> Option<Cow<'a, [u8]>> {
    let end = name.len().saturating_sub(4);
    if name.as_bytes()[end..].eq_ignore_ascii_case(b"-bin") {
        let value = value.trim_end_matches('=');
        return STANDARD_NO_PAD.decode(value).ok().map(Cow::Owned);
    }
    if value.contains('%') {
        return Some(percent_decode_str(value).into());
    }
    Some(Cow::Borrowed(value.as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;
    use std::time::{Duration, SystemTime};

    use micro_broker_core::{DeadLetter, ErrorKind, Group};
    use micro_nats::async_nats::{HeaderName, HeaderValue};

    use super::*;

    fn topic() -> Topic {
        Topic::new("orders").unwrap()
    }

    /// As the library reads them: blanks at the ends are gone.
    fn travelled(map: &HeaderMap) -> HeaderMap {
        let trim = |value: &HeaderValue| HeaderValue::from_str(value.as_str().trim()).unwrap();
        map.iter()
            .map(|(name, values)| (name.clone(), trim(values.last().unwrap())))
            .collect()
    }

    fn sample() -> Message {
        let mut message = Message::new(topic(), "tea")
            .with_id("id-1")
            .with_key(" a key ")
            .with_content_type("text/plain; charset=utf-8")
            .with_metadata("tenant", " 100%25 \"\\ ")
            .unwrap()
            .with_metadata("empty", "")
            .unwrap()
            .with_metadata("raw-bin", [0, 255, 10, 13])
            .unwrap();
        message.time = Some(SystemTime::UNIX_EPOCH + Duration::from_millis(5));
        message
    }

    #[test]
    fn a_message_comes_back_whole() {
        let dead = DeadLetter::new(
            topic(),
            Some(Group::new("g").unwrap()),
            &Error::internal(" no "),
            2,
        );
        let letter = sample().into_dead_letter(Topic::new("x").unwrap(), dead);
        for (message, msg_id) in [
            (sample(), "id-1"),
            (letter, "dead 7"),
            (Message::new(topic(), "").with_id("1"), "1"),
        ] {
            let map = travelled(&write(&message, msg_id));
            assert_eq!(map.get(MSG_ID).unwrap().as_str(), msg_id);
            let read = read(message.topic.clone(), Some(&map), message.body.clone());
            assert_eq!(read.unwrap(), message);
        }
    }

    #[test]
    fn what_others_publish_is_read_as_far_as_it_goes() {
        let bare = read(topic(), None, Bytes::from_static(b"x")).unwrap();
        assert_eq!(bare, Message::new(topic(), "x"));
        let mut map = HeaderMap::new();
        map.insert("Tenant", "acme 100%");
        map.insert("raw-bin", "!");
        map.insert("Nats-Expected-Stream", "x");
        map.insert("Content-Type", "a/b");
        let read = read(topic(), Some(&map), Bytes::new()).unwrap();
        assert_eq!(read.metadata.get("tenant"), Some("acme 100%"));
        assert_eq!((read.metadata.len(), &*read.content_type), (1, "a/b"));
    }

    #[test]
    fn s67_a_publisher_gives_the_server_no_orders() {
        for name in ["nats-rollup", "Nats-Msg-Id", "nats-expected-last-sequence"] {
            let message = Message::new(topic(), "x")
                .with_metadata(name, "all")
                .unwrap();
            assert_eq!(
                check(&message).unwrap_err().kind(),
                ErrorKind::InvalidArgument
            );
        }
        assert!(check(&sample()).is_ok());
    }

    #[test]
    fn s67_no_headers_do_harm() {
        let good: Vec<Vec<u8>> = [sample(), Message::new(topic(), "")]
            .iter()
            .map(|message| {
                let lines = write(message, "1");
                let lines = lines
                    .iter()
                    .map(|(name, values)| format!("{name}:{}\n", values[0]));
                lines.collect::<String>().into_bytes()
            })
            .collect();
        let good: Vec<_> = good.iter().map(|bytes| &**bytes).collect();
        micro_conformance::mutation::run(&good, |bytes| {
            let text = String::from_utf8_lossy(bytes);
            let pairs = text.lines().filter_map(|line| {
                let (name, value) = line.split_once(':')?;
                Some((
                    HeaderName::from_str(name).ok()?,
                    HeaderValue::from_str(value).ok()?,
                ))
            });
            let map: HeaderMap = pairs.collect();
            if let Ok(message) = read(topic(), Some(&map), Bytes::new()) {
                assert!(message.topic == topic() && message.hops <= micro_broker_core::MAX_HOPS);
                let again = write(&message, message.id.as_deref().unwrap_or("x"));
                assert!(!again.is_empty());
            }
        });
    }
}
