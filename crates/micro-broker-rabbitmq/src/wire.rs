//! A message as AMQP has it: id, content type and time are properties, the rest are headers.

use std::sync::Arc;

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, LongString};
use micro_broker_core::{Message, Result, Topic, headers};

/// How often handlers of the group have failed on this message: ours alone, and dropped by
/// [`headers::read`].
const DELIVERIES: &str = "micro-deliveries";
/// How often a quorum queue has had the message back.
const RETURNS: &str = "x-delivery-count";
/// So often a message may come back unhandled without being suspected: it was on its way to members that
/// were stopped. Then it counts, for its handler may be what ends them.
const INNOCENT: i64 = 20;
/// It survives a restart.
const PERSISTENT: u8 = 2;

/// The properties of a message that handlers have failed on so often.
pub(crate) fn write(message: &Message, failures: u32) -> BasicProperties {
    let mut table = FieldTable::default();
    let mut put = |name: &str, value: &[u8]| {
        table.insert(
            name.into(),
            AMQPValue::LongString(LongString::from(value.to_vec())),
        );
    };
    headers::write(message, |name, value| {
        if !matches!(name, headers::ID | headers::CONTENT_TYPE) {
            put(name, value);
        }
    });
    if failures > 0 {
        put(DELIVERIES, failures.to_string().as_bytes());
    }
    let mut properties = BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_content_type((&*message.content_type).into())
        .with_headers(table);
    if let Some(id) = &message.id {
        properties = properties.with_message_id((&**id).into());
    }
    if let Some(since) = message
        .time
        .and_then(|time| time.duration_since(std::time::SystemTime::UNIX_EPOCH).ok())
    {
        properties = properties.with_timestamp(since.as_secs());
    }
    properties
}

/// Reads a message of a topic; `new_id` names one that a foreign program did not name.
pub(crate) fn read(
    topic: Topic,
    properties: &BasicProperties,
    body: Bytes,
    new_id: impl FnOnce() -> Arc<str>,
) -> Result<Message> {
    let table = properties.headers().iter().flat_map(FieldTable::inner);
    let pairs = table.filter_map(|(name, value)| match value {
        AMQPValue::LongString(value) if !is_rabbits(name.as_str()) => {
            Some((name.as_str(), value.as_bytes()))
        }
        _ => None,
    });
    // The properties outweigh headers of the same name.
    let own = [
        (headers::ID, properties.message_id()),
        (headers::CONTENT_TYPE, properties.content_type()),
    ];
    let own = own
        .iter()
        .filter_map(|(name, value)| Some((*name, value.as_ref()?.as_str().as_bytes())));
    let mut message = headers::read(topic, pairs.chain(own), body)?;
    message.id.get_or_insert_with(new_id);
    Ok(message)
}

/// What RabbitMQ adds itself; it would otherwise pile up with each hop.
fn is_rabbits(name: &str) -> bool {
    name.starts_with("x-first-death-") || name.starts_with("x-last-death-")
}

/// How often the message was delivered to the group, with this time.
pub(crate) fn deliveries(properties: &BasicProperties) -> u32 {
    let header = |name| properties.headers().as_ref()?.inner().get(name);
    let failures = match header(DELIVERIES) {
        Some(AMQPValue::LongString(text)) => str::from_utf8(text.as_bytes())
            .ok()
            .and_then(|text| text.parse().ok()),
        _ => None,
    };
    let returns = match header(RETURNS) {
        Some(AMQPValue::LongLongInt(count)) => *count,
        Some(AMQPValue::LongInt(count)) => i64::from(*count),
        Some(AMQPValue::LongUInt(count)) => i64::from(*count),
        _ => 0,
    };
    let suspicious = returns.saturating_sub(INNOCENT).max(0);
    let suspicious = u32::try_from(suspicious).unwrap_or(u32::MAX);
    failures
        .unwrap_or(0_u32)
        .saturating_add(suspicious)
        .saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic() -> Topic {
        Topic::new("orders").unwrap()
    }

    fn never() -> Arc<str> {
        panic!("it has an id")
    }

    #[test]
    fn a_message_comes_back_whole() {
        let message = Message::new(topic(), "tea")
            .with_id("id:1/a")
            .with_key("customer 7")
            .with_content_type("application/json; charset=utf-8")
            .with_metadata("tenant", "acme")
            .and_then(|message| message.with_metadata("raw-bin", [0, 255, 10]))
            .unwrap();
        let properties = write(&message, 3);
        let read = read(topic(), &properties, message.body.clone(), never).unwrap();
        assert_eq!(read, message);
        assert_eq!(deliveries(&properties), 4);
        assert_eq!(deliveries(&write(&message, 0)), 1);
    }

    #[test]
    fn s67_what_others_say_is_taken_with_care() {
        let mut table = FieldTable::default();
        let mut put = |name: &str, value| {
            table.insert(name.into(), value);
        };
        let text = |text: &str| AMQPValue::LongString(text.into());
        put("micro-deliveries", text("-4"));
        put("micro-id", text("in-a-header"));
        put("micro-delivery-no", text("9"));
        put("x-first-death-queue", text("q"));
        put("x-delivery-count", AMQPValue::LongLongInt(-1));
        put("number", AMQPValue::LongInt(5));
        put("tenant", text("acme"));
        let properties = BasicProperties::default().with_headers(table);
        assert_eq!(deliveries(&properties), 1);
        let message = read(topic(), &properties, Bytes::new(), never).unwrap();
        assert_eq!(message.id.as_deref(), Some("in-a-header"));
        let names: Vec<_> = message.metadata.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["tenant"]);
        let properties = properties.with_message_id("a b".into());
        assert!(read(topic(), &properties, Bytes::new(), never).is_err());
        let bare = BasicProperties::default();
        let message = read(topic(), &bare, Bytes::new(), || "new".into()).unwrap();
        assert_eq!(message.id.as_deref(), Some("new"));
    }

    #[test]
    fn one_that_comes_back_again_and_again_is_suspected() {
        for (returns, expected) in [(0, 1), (20, 1), (21, 2), (30, 11), (i64::MAX, u32::MAX)] {
            let mut table = FieldTable::default();
            table.insert(RETURNS.into(), AMQPValue::LongLongInt(returns));
            let properties = BasicProperties::default().with_headers(table);
            assert_eq!(deliveries(&properties), expected, "{returns}");
        }
    }
}
