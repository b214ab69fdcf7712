//! A message between our own peers: its headers, length-prefixed, and its body as it is.
//!
//! ```text
//! frame  = length of all pairs (u32), pairs, body
//! pair   = length of the name (u16), name, length of the value (u16), value
//! ```
//!
//! Lengths are big-endian. go-micro's JSON costs an encoding to base64 and back, and a third more bytes. A
//! frame begins with NUL, as its pairs take less than 16 MiB, and JSON never does: so whoever reads a
//! request knows which it is.
//!
//! Headers of a message are not made headers of HTTP, where some names mean something to whoever is on
//! the way.

use bytes::{BufMut as _, Bytes};
use micro_broker_core::{Error, Message, Metadata, Result, Topic, headers};

/// What a subscriber says in the registry that it takes, and a request that it holds.
pub(crate) const CONTENT_TYPE: &str = "application/vnd.micro.message";

/// More than metadata may take, the broker's own headers beside them.
const MAX_HEAD: usize = Metadata::MAX_BYTES + 8192;

/// More headers than metadata have entries, the broker's own beside them.
const MAX_PAIRS: usize = 160;

/// The begin of a message's frame; its body follows. `topic` is its name on the wire.
pub(crate) fn head(message: &Message, topic: &str) -> Bytes {
    let mut head = Vec::with_capacity(256);
    head.put_u32(0);
    let mut pair = |name: &str, value: &[u8]| {
        // What `prepare` lets through is far shorter.
        for part in [name.as_bytes(), value] {
            let length = u16::try_from(part.len()).unwrap_or(u16::MAX);
            head.put_u16(length);
            head.extend_from_slice(&part[..length.into()]);
        }
    };
    pair(headers::TOPIC, topic.as_bytes());
    headers::write(message, pair);
    let length = u32::try_from(head.len() - 4).unwrap_or(u32::MAX);
    head[..4].copy_from_slice(&length.to_be_bytes());
    head.into()
}

/// Whether these bytes are meant as a frame.
pub(crate) fn is_frame(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0)
}

/// A frame that was read.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    pairs: Vec<(&'a str, &'a [u8])>,
    body: Bytes,
}

impl<'a> Frame<'a> {
    /// Reads a frame. Nothing is copied.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` if it is none.
    pub(crate) fn read(frame: &'a Bytes) -> Result<Self> {
        let bad = || Error::invalid_argument("this is no frame of a message");
        let (length, rest) = frame.split_first_chunk().ok_or_else(bad)?;
        let length = u32::from_be_bytes(*length) as usize;
        if length > MAX_HEAD {
            return Err(bad());
        }
        let mut head = rest.get(..length).ok_or_else(bad)?;
        let mut pairs = Vec::with_capacity(8);
        while !head.is_empty() {
            let name = part(&mut head).ok_or_else(bad)?;
            let value = part(&mut head).ok_or_else(bad)?;
            let name = str::from_utf8(name).map_err(|_| bad())?;
            if pairs.len() == MAX_PAIRS {
                return Err(bad());
            }
            pairs.push((name, value));
        }
        Ok(Self {
            pairs,
            body: frame.slice(4 + length..),
        })
    }

    /// What it says its topic is, by its name on the wire.
    pub(crate) fn topic(&self) -> Option<&'a [u8]> {
        let mut pairs = self.pairs.iter();
        let found = pairs.find(|(name, _)| name.eq_ignore_ascii_case(headers::TOPIC));
        found.map(|(_, value)| *value)
    }

    /// The message, whose topic the reader knows.
    ///
    /// # Errors
    ///
    /// Those of [`headers::read`].
    pub(crate) fn into_message(self, topic: Topic) -> Result<Message> {
        headers::read(topic, self.pairs, self.body)
    }
}

/// Takes bytes that follow their length.
fn part<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = from.split_first_chunk()?;
    let (part, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
    *from = rest;
    Some(part)
}

#[cfg(test)]
mod tests {
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

    fn framed(message: &Message) -> Bytes {
        [head(message, "shop.orders"), message.body.clone()]
            .concat()
            .into()
    }

    #[test]
    fn a_message_comes_back() {
        let bytes = framed(&sample());
        assert!(is_frame(&bytes) && !is_frame(b"{}") && !is_frame(b""));
        let frame = Frame::read(&bytes).unwrap();
        assert_eq!(frame.topic(), Some(&b"shop.orders"[..]));
        assert_eq!(frame.into_message(topic()).unwrap(), sample());
        let plain = framed(&Message::new(topic(), ""));
        let frame = Frame::read(&plain).unwrap();
        assert_eq!(
            frame.into_message(topic()).unwrap(),
            Message::new(topic(), "")
        );
    }

    #[test]
    fn s65_what_is_no_frame_is_refused() {
        let good = |bytes: &[u8]| Frame::read(&Bytes::copy_from_slice(bytes)).is_ok();
        for bytes in [
            &b""[..],
            b"\0\0\0",
            b"\0\0\0\x01",
            b"\xff\xff\xff\xff",
            b"\0\0\0\x01\0",
            b"\0\0\0\x02\0\x05",
            b"\0\0\0\x03\0\x01a",
            b"\0\0\0\x05\0\x01a\0\x01",
            b"\0\0\0\x05\0\x01a\0\x01body",
            b"\0\0\0\x05\0\x01\xff\0\0",
        ] {
            assert!(!good(bytes), "{bytes:?}");
        }
        // Of empty pairs, and of a head, there are only so many and so much.
        let zeros = |length: usize| {
            let mut frame = u32::try_from(length).unwrap().to_be_bytes().to_vec();
            frame.resize(4 + length, 0);
            frame
        };
        assert!(good(&zeros(4 * MAX_PAIRS)) && !good(&zeros(4 * MAX_PAIRS + 4)));
        let mut long = zeros(MAX_HEAD + 4);
        long[6] = 0xff;
        long[7] = 0xff;
        assert!(!good(&long));
    }

    #[test]
    fn any_bytes_are_a_message_or_refused() {
        let mut dead = sample();
        dead.hops = 2;
        let good = [
            framed(&sample()),
            framed(&dead),
            framed(&Message::new(topic(), "")),
        ];
        let good: Vec<&[u8]> = good.iter().map(|bytes| &bytes[..]).collect();
        micro_conformance::mutation::run(&good, |bytes| {
            let bytes = Bytes::copy_from_slice(bytes);
            if let Ok(frame) = Frame::read(&bytes)
                && let Ok(message) = frame.into_message(topic())
            {
                // What was read can be written, and read again.
                let again = framed(&message);
                let again = Frame::read(&again).unwrap().into_message(topic());
                assert_eq!(again.unwrap(), message);
            }
        });
    }
}
