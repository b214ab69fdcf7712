//! A message as it lies in the table.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use micro_broker_core::{Message, headers};
use micro_core::{Error, ErrorKind, Result};
use micro_store_core::Record;

/// What messages' keys begin with.
pub(crate) const MESSAGES: &str = "m/";
/// What the keys of those begin with that were put aside.
pub(crate) const DEAD: &str = "d/";
/// What the keys begin with that say which message was the last of a message's key.
pub(crate) const HEADS: &str = "k/";

/// The message of the same key that comes before it.
const BEFORE: &str = "micro-outbox-before";
/// Why it was put aside.
const REASON: &str = "micro-outbox-reason";

/// A message that waits.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The key of its record.
    pub(crate) key: String,
    /// The key of the record of the message before it, if it has one.
    pub(crate) before: Option<String>,
    pub(crate) message: Message,
}

impl Entry {
    pub(crate) fn write(&self) -> Record {
        let mut metadata = BTreeMap::new();
        let message = &self.message;
        metadata.insert(headers::TOPIC.to_owned(), message.topic.to_string());
        if let Some(before) = &self.before {
            metadata.insert(BEFORE.to_owned(), before.clone());
        }
        headers::write(message, |name, value| {
            let text = match name.ends_with("-bin") {
                true => STANDARD_NO_PAD.encode(value),
                false => String::from_utf8_lossy(value).into_owned(),
            };
            metadata.insert(name.to_owned(), text);
        });
        let mut record = Record::new(&self.key, message.body.clone());
        record.metadata = metadata;
        record
    }

    /// Reads what [`write`](Self::write) wrote.
    ///
    /// # Errors
    ///
    /// `Corrupt` if it is something else.
    pub(crate) fn read(record: &Record) -> Result<Self> {
        let corrupt = |what: &'static str| {
            Error::new(
                ErrorKind::Corrupt,
                "this record of the outbox is no message",
            )
            .with_context("key", record.key.escape_debug())
            .with_context("what", what)
        };
        let topic = record.metadata.get(headers::TOPIC);
        let topic = topic.and_then(|topic| topic.parse().ok());
        let topic = topic.ok_or_else(|| corrupt("topic"))?;
        let mut pairs = Vec::with_capacity(record.metadata.len());
        for (name, text) in &record.metadata {
            let value = match name.ends_with("-bin") {
                true => STANDARD_NO_PAD
                    .decode(text)
                    .map_err(|_| corrupt("base64"))?,
                false => text.as_bytes().to_vec(),
            };
            pairs.push((&**name, value));
        }
        let pairs = pairs.iter().map(|(name, value)| (*name, &**value));
        let message = headers::read(topic, pairs, record.value.clone())
            .map_err(|err| corrupt("header").with_source(err))?;
        Ok(Self {
            key: record.key.clone(),
            before: record.metadata.get(BEFORE).cloned(),
            message,
        })
    }
}

/// The record as it is put aside.
pub(crate) fn dead(mut record: Record, reason: &Error) -> Record {
    let rest = record.key.strip_prefix(MESSAGES).unwrap_or(&record.key);
    record.key = format!("{DEAD}{rest}");
    record
        .metadata
        .insert(REASON.to_owned(), reason.to_string());
    record
}

#[cfg(test)]
mod tests {
    use micro_broker_core::Topic;

    use super::*;

    fn entry() -> Entry {
        let mut message = Message::new(Topic::new("shop.orders").unwrap(), &b"\0body\xff"[..])
            .with_id("id-1")
            .with_key("customer 3")
            .with_content_type("application/json")
            .with_metadata("tenant", "acme")
            .unwrap()
            .with_metadata("raw-bin", [0, 255])
            .unwrap();
        message.hops = 2;
        Entry {
            key: "m/1-2".to_owned(),
            before: Some("m/0-1".to_owned()),
            message,
        }
    }

    #[test]
    fn a_message_comes_back_whole() {
        let entry = entry();
        let read = Entry::read(&entry.write()).unwrap();
        assert_eq!(read.message, entry.message);
        assert_eq!((read.key, read.before), (entry.key, entry.before));
    }

    #[test]
    fn what_is_no_message_is_told() {
        let with = |name: &str, value: &str| entry().write().with_metadata(name, value);
        for record in [
            Record::new("m/1-2", "x"),
            with(headers::TOPIC, "a/b"),
            with(headers::ID, "a b"),
            with(headers::HOPS, "300"),
            with("raw-bin", "!"),
        ] {
            let err = Entry::read(&record).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Corrupt, "{record:?}");
        }
    }

    #[test]
    fn what_is_put_aside_stays_whole_and_says_why() {
        let record = dead(entry().write(), &Error::invalid_argument("too large"));
        assert_eq!(record.key, "d/1-2");
        assert!(record.metadata[REASON].contains("too large"));
        assert_eq!(Entry::read(&record).unwrap().message, entry().message);
    }
}
