//! A message as an entry of a stream: its headers are fields, and so is its body.

use bytes::Bytes;
use micro_broker_core::{Error, Message, Result, Topic, headers};
use micro_redis::redis::{Cmd, Value};

/// The field of the body: a name that no publisher can set.
const BODY: &str = "micro-body";

/// How many of an id's bits count the entries of its millisecond.
const NUMBER_BITS: u32 = 20;

/// Adds the fields of a message to a command.
pub(crate) fn write(message: &Message, cmd: &mut Cmd) {
    headers::write(message, |name, value| {
        cmd.arg(name).arg(value);
    });
    cmd.arg(BODY).arg(&*message.body);
}

/// Reads the message of an entry. Whoever writes to the stream by other means is read as far as it goes.
pub(crate) fn read(topic: &Topic, fields: Vec<Value>) -> (Bytes, Result<Message>) {
    let mut body = Bytes::new();
    let mut pairs: Vec<(String, Bytes)> = Vec::with_capacity(fields.len() / 2);
    let mut fields = fields.into_iter();
    while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
        let (Some(name), Some(value)) = (bytes(name), bytes(value)) else {
            continue;
        };
        match std::str::from_utf8(&name) {
            Ok(BODY) => body = value,
            Ok(name) => pairs.push((name.to_owned(), value)),
            // No header of ours.
            Err(_) => {}
        }
    }
    let pairs = pairs.iter().map(|(name, value)| (&**name, &**value));
    let message = headers::read(topic.clone(), pairs, body.clone());
    (body, message)
}

/// A text of Redis's.
pub(crate) fn bytes(value: Value) -> Option<Bytes> {
    match value {
        Value::BulkString(bytes) => Some(Bytes::from(bytes)),
        Value::SimpleString(text) => Some(Bytes::from(text)),
        _ => None,
    }
}

/// The offset of an entry: the milliseconds of its id, and behind them its number among those of the same.
pub(crate) fn offset(id: &str) -> Option<u64> {
    let (millis, number) = id.split_once('-')?;
    let (millis, number): (u64, u64) = (millis.parse().ok()?, number.parse().ok()?);
    let fits = millis < 1 << (64 - NUMBER_BITS) && number < 1 << NUMBER_BITS;
    fits.then_some((millis << NUMBER_BITS) | number)
}

/// The id behind which a group begins whose first entry has this offset.
pub(crate) fn before_offset(offset: u64) -> String {
    before(offset >> NUMBER_BITS, offset & ((1 << NUMBER_BITS) - 1))
}

/// The id behind which a group begins with the entries of this millisecond.
pub(crate) fn before_millis(millis: u64) -> String {
    before(millis, 0)
}

fn before(millis: u64, number: u64) -> String {
    match (millis, number) {
        (0, 0 | 1) => "0-0".to_owned(),
        (millis, 0) => format!("{}-{}", millis - 1, u64::MAX),
        (millis, number) => format!("{millis}-{}", number - 1),
    }
}

/// What a script never says.
pub(crate) fn nonsense() -> Error {
    Error::corrupt("Redis answers what our scripts do not say: somebody else writes to our keys")
}

#[cfg(test)]
mod tests {
    use micro_broker_core::ErrorKind;
    use micro_redis::redis::Arg;

    use super::*;

    fn fields(message: &Message) -> Vec<Value> {
        let mut cmd = Cmd::new();
        write(message, &mut cmd);
        let text = |arg: Arg<&[u8]>| match arg {
            Arg::Simple(bytes) => Value::BulkString(bytes.to_vec()),
            _ => panic!("it is a text"),
        };
        cmd.args_iter().map(text).collect()
    }

    #[test]
    fn a_message_comes_back_whole() {
        let topic = Topic::new("orders").unwrap();
        let message = Message::new(topic.clone(), vec![0, 255, 10])
            .with_id("1")
            .with_key("a key")
            .with_metadata("tenant", "acme")
            .unwrap();
        assert_eq!(read(&topic, fields(&message)).1.unwrap(), message);
    }

    #[test]
    fn what_others_write_is_read_as_far_as_it_goes() {
        let topic = Topic::new("orders").unwrap();
        let text = |text: &[u8]| Value::BulkString(text.to_vec());
        let odd = vec![
            text(b"x"),
            text(b"y"),
            text(b"\xff"),
            text(b"z"),
            Value::Nil,
            Value::Int(1),
            text(b"w"),
        ];
        let (body, message) = read(&topic, odd);
        let message = message.unwrap();
        assert_eq!((body.len(), message.metadata.get("x")), (0, Some("y")));
        let bad = vec![
            text(b"micro-body"),
            text(b"tea"),
            text(b"micro-id"),
            text(b"a b"),
        ];
        let (body, message) = read(&topic, bad);
        assert_eq!(body, "tea");
        assert_eq!(message.unwrap_err().kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn s66_no_bytes_of_an_entry_do_harm() {
        const BETWEEN: u8 = 0x1e;
        let topic = Topic::new("orders").unwrap();
        let message = Message::new(topic.clone(), "tea")
            .with_id("1")
            .with_key("k")
            .with_metadata("tenant", "acme")
            .unwrap();
        let texts = fields(&message).into_iter().filter_map(bytes);
        let good = texts.collect::<Vec<_>>().join(&BETWEEN);
        micro_conformance::mutation::run(&[&good], |changed| {
            let texts = changed.split(|byte| *byte == BETWEEN);
            let fields = texts.map(|text| Value::BulkString(text.to_vec())).collect();
            if let (body, Ok(message)) = read(&topic, fields) {
                assert_eq!((&message.topic, &message.body), (&topic, &body));
            }
        });
    }

    #[test]
    fn offsets_are_in_the_order_of_ids() {
        for (id, expected) in [
            ("0-1", Some(1)),
            ("1-0", Some(1 << 20)),
            ("1764079200000-3", Some((1_764_079_200_000 << 20) + 3)),
            ("1-1048576", None),
            ("17592186044416-0", None),
            ("x", None),
            ("-", None),
        ] {
            assert_eq!(offset(id), expected, "{id}");
        }
        assert_eq!(before_offset(0), "0-0");
        assert_eq!(before_offset(1 << 20), format!("0-{}", u64::MAX));
        assert_eq!(before_offset((5 << 20) + 3), "5-2");
        assert_eq!(before_millis(7), format!("6-{}", u64::MAX));
    }
}
