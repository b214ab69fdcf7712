//! How a message's fields travel beside its body.
//!
//! A backend with headers of its own (NATS, AMQP, Redis' fields) writes these pairs into them; go-micro's
//! JSON envelope has them in `Header`. `content-type`, `micro-topic` and `micro-id` are go-micro's names.

use std::borrow::Cow;
use std::str;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::check::{check_content_type, check_id, check_key, check_room};
use crate::{DeadLetter, Error, Group, MAX_HOPS, Message, Metadata, Result, Topic, TraceContext};

/// The topic, by its [name on the wire](crate::wire_name).
pub const TOPIC: &str = "micro-topic";
/// The message's id.
pub const ID: &str = "micro-id";
/// What it is about.
pub const KEY: &str = "micro-key";
/// How to read the body.
pub const CONTENT_TYPE: &str = "content-type";
/// Until when it is of use, in milliseconds since the Unix epoch.
pub const DEADLINE: &str = "micro-deadline";
/// When it was published, in milliseconds since the Unix epoch.
pub const TIME: &str = "micro-time";
/// How many messages led to it.
pub const HOPS: &str = "micro-hops";
/// The topic that a dead letter was published to.
pub const DEAD_TOPIC: &str = "micro-dead-topic";
/// The group that could not handle it.
pub const DEAD_GROUP: &str = "micro-dead-group";
/// Why.
pub const DEAD_REASON: &str = "micro-dead-reason";
/// How often it was delivered.
pub const DEAD_DELIVERIES: &str = "micro-dead-deliveries";

/// Whether a name belongs to the broker: a publisher cannot set it, and what is not known of them is
/// dropped on arrival.
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    let name = name.as_bytes();
    name.len() >= 6 && name[..6].eq_ignore_ascii_case(b"micro-")
        || name.eq_ignore_ascii_case(TraceContext::HEADER.as_bytes())
}

/// Gives every pair of a message, the topic aside: names in lower case; values are printable ASCII,
/// except under names that end in `-bin`.
pub fn write(message: &Message, mut put: impl FnMut(&str, &[u8])) {
    put(CONTENT_TYPE, message.content_type.as_bytes());
    let mut text = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            put(name, value.as_bytes());
        }
    };
    text(ID, message.id.as_deref());
    text(KEY, message.key.as_deref());
    let number = |value: u64| value.to_string();
    text(
        DEADLINE,
        message.deadline.map(millis).map(number).as_deref(),
    );
    text(TIME, message.time.map(millis).map(number).as_deref());
    if message.hops > 0 {
        text(HOPS, Some(&number(message.hops.into())));
    }
    if let Some(trace) = message.trace {
        put(TraceContext::HEADER, &trace.encode());
    }
    if let Some(dead) = &message.dead_letter {
        put(DEAD_TOPIC, dead.topic.as_str().as_bytes());
        if let Some(group) = &dead.group {
            put(DEAD_GROUP, group.as_str().as_bytes());
        }
        put(DEAD_REASON, dead.reason.as_bytes());
        put(DEAD_DELIVERIES, dead.deliveries.to_string().as_bytes());
    }
    for (name, value) in message.metadata.iter() {
        put(name, value);
    }
}

/// Reads a message from the pairs that came with its body. The reader knows the topic: what
/// [`TOPIC`] says is for it to compare.
///
/// A name may be written in any case. Of what belongs to the broker, only what is known here is read;
/// of the rest, what cannot be [`Metadata`] is dropped, since a foreign program may send it.
///
/// # Errors
///
/// `InvalidArgument` for an id, a key, a number or a content type that is none; `ResourceExhausted` for
/// more metadata than fit.
pub fn read<'a>(
    topic: Topic,
    pairs: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    body: Bytes,
) -> Result<Message> {
    let mut message = Message::new(topic, body);
    let mut dead = Dead::default();
    for (name, value) in pairs {
        let name = name.to_ascii_lowercase();
        let text = str::from_utf8(value).map_err(|_| bad(&name));
        match &*name {
            CONTENT_TYPE => {
                let text = text?;
                check_content_type(text)?;
                message.content_type = Cow::Owned(text.to_owned());
            }
            ID => message.id = Some(checked(text?, check_id)?),
            KEY => message.key = Some(checked(text?, check_key)?),
            DEADLINE => message.deadline = Some(time(&name, text?)?),
            TIME => message.time = Some(time(&name, text?)?),
            HOPS => {
                message.hops = text?
                    .parse()
                    .ok()
                    .filter(|hops| *hops <= MAX_HOPS)
                    .ok_or_else(|| bad(&name))?;
            }
            // A trace that cannot be read is none (W3C Trace Context §3.2).
            TraceContext::HEADER => message.trace = text.ok().and_then(|text| text.parse().ok()),
            DEAD_TOPIC => dead.topic = Some(text?.parse()?),
            DEAD_GROUP => dead.group = Some(text?.parse()?),
            DEAD_REASON => dead.reason = text?.to_owned(),
            DEAD_DELIVERIES => dead.deliveries = text?.parse().map_err(|_| bad(&name))?,
            _ if is_reserved(&name) => {}
            _ => match message.metadata.insert(&name, value) {
                Err(err) if err.kind() == crate::ErrorKind::InvalidArgument => {}
                inserted => inserted?,
            },
        }
    }
    check_room(&message.metadata)?;
    message.dead_letter = dead
        .topic
        .map(|topic| DeadLetter::read(topic, dead.group, &dead.reason, dead.deliveries))
        .map(Box::new);
    Ok(message)
}

#[derive(Default)]
struct Dead {
    topic: Option<Topic>,
    group: Option<Group>,
    reason: String,
    deliveries: u32,
}

fn bad(name: &str) -> Error {
    Error::invalid_argument("a header of this message cannot be read").with_context(
        "name",
        name.chars()
            .take(40)
            .flat_map(char::escape_debug)
            .collect::<String>(),
    )
}

fn checked(text: &str, check: fn(&str) -> Result<()>) -> Result<Arc<str>> {
    check(text)?;
    Ok(Arc::from(text))
}

/// Milliseconds since the Unix epoch; what lies before it is the epoch.
fn millis(time: SystemTime) -> u64 {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn time(name: &str, text: &str) -> Result<SystemTime> {
    // Beyond the year 9999 it is no time of a message, and adding it might overflow.
    const LAST: u64 = 253_402_300_799_999;
    let millis = text.parse().ok().filter(|millis| *millis <= LAST);
    let millis = millis.ok_or_else(|| bad(name))?;
    Ok(SystemTime::UNIX_EPOCH + Duration::from_millis(millis))
}

/// The metadata of a context in which a message with so many hops is handled.
pub(crate) fn hops(count: u8) -> Metadata {
    static ALL: std::sync::LazyLock<Vec<Metadata>> = std::sync::LazyLock::new(|| {
        let one = |count: u8| {
            let mut metadata = Metadata::new();
            let inserted = metadata.insert(HOPS, count.to_string());
            inserted.expect("a number is printable");
            metadata
        };
        (0..=MAX_HOPS).map(one).collect()
    });
    ALL[usize::from(count.min(MAX_HOPS))].clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn topic() -> Topic {
        Topic::new("orders").unwrap()
    }

    fn at(millis: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
    }

    fn read_back(message: &Message) -> Message {
        let mut pairs = Vec::new();
        write(message, |name, value| {
            pairs.push((name.to_owned(), value.to_vec()))
        });
        let pairs = pairs.iter().map(|(name, value)| (&**name, &**value));
        read(message.topic.clone(), pairs, message.body.clone()).unwrap()
    }

    #[test]
    fn a_message_comes_back_whole() {
        let mut message = Message::new(topic(), "body")
            .with_id("id-1")
            .with_key("key 1")
            .with_content_type("application/json")
            .with_metadata("tenant", "acme")
            .unwrap()
            .with_metadata("raw-bin", [0, 255])
            .unwrap()
            .with_deadline(at(1234))
            .with_trace(
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
                    .parse()
                    .unwrap(),
            );
        message.time = Some(at(1000));
        message.hops = 3;
        assert_eq!(read_back(&message), message);
        let group = Some(Group::new("g").unwrap());
        let dead = DeadLetter::new(topic(), group, &Error::internal("no ü\n"), 4);
        assert_eq!(dead.reason, "INTERNAL: no ??");
        let dead = message.into_dead_letter(Topic::new("x").unwrap(), dead);
        assert_eq!(read_back(&dead), dead);
        let plain = Message::new(topic(), "");
        assert_eq!(read_back(&plain), plain);
    }

    #[test]
    fn s67_what_belongs_to_the_broker_is_not_a_header_of_the_publisher() {
        let pairs: [(&str, &[u8]); 5] = [
            ("Micro-Delivery-No", b"1"),
            ("Micro-From-Service", b"admin"),
            ("Tenant", b"acme"),
            ("Host", b"x"),
            ("not a name", b"\xff"),
        ];
        let message = read(topic(), pairs, Bytes::new()).unwrap();
        let names: Vec<_> = message.metadata.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["tenant"]);
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let refused = |name: &str, value: &[u8]| {
            read(topic(), [(name, value)], Bytes::new())
                .unwrap_err()
                .kind()
        };
        for (name, value) in [
            (ID, "a b"),
            (ID, ""),
            (KEY, "\n"),
            (DEADLINE, "-1"),
            (DEADLINE, "1e3"),
            (TIME, "18446744073709551615"),
            (HOPS, "17"),
            (HOPS, "300"),
            (DEAD_TOPIC, "*"),
            (DEAD_GROUP, "a/b"),
            (DEAD_DELIVERIES, "x"),
            (CONTENT_TYPE, "a\r\nb"),
        ] {
            assert_eq!(
                refused(name, value.as_bytes()),
                ErrorKind::InvalidArgument,
                "{name}: {value}"
            );
        }
        assert_eq!(refused(ID, b"\xff"), ErrorKind::InvalidArgument);
        let long = "y".repeat(Metadata::MAX_BYTES);
        assert_eq!(refused("x", long.as_bytes()), ErrorKind::ResourceExhausted);
        let message = read(
            topic(),
            [("traceparent", b"00-zz".as_slice())],
            Bytes::new(),
        );
        assert_eq!(message.unwrap().trace, None);
    }
}
