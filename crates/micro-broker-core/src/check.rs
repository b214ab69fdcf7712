//! What all backends refuse alike, and what they make of a message.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::nack::dead_letter_topic;
use crate::{
    Capabilities, Clock, Context, Error, Message, Metadata, PublishOptions, Random, Result, Start,
    SubscribeOptions, Topic, headers,
};

/// The largest body unless a backend says otherwise ([`Capabilities::max_body`]): 1 MiB.
pub const MAX_BODY: usize = 1 << 20;

/// The longest id, in bytes.
pub const MAX_ID: usize = 128;

/// The longest key, in bytes.
pub const MAX_KEY: usize = 256;

/// The most messages that a subscriber handles at once.
pub const MAX_CONCURRENCY: usize = 4096;

/// The most messages that lead to another, each published by the handler of the one before.
pub const MAX_HOPS: u8 = 16;

const MAX_CONTENT_TYPE: usize = 128;

/// What a handler's context adds to the message's metadata takes so many bytes.
const HANDLER_METADATA: usize = 64;

pub(crate) fn check_id(id: &str) -> Result<()> {
    if (1..=MAX_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    Err(Error::invalid_argument(
        "a message's id has 1 to 128 characters of printable ASCII, without spaces",
    ))
}

pub(crate) fn check_key(key: &str) -> Result<()> {
    if (1..=MAX_KEY).contains(&key.len()) && key.bytes().all(is_printable) {
        return Ok(());
    }
    Err(Error::invalid_argument(
        "a message's key has 1 to 256 characters of printable ASCII",
    ))
}

pub(crate) fn check_content_type(content_type: &str) -> Result<()> {
    if content_type.len() <= MAX_CONTENT_TYPE && content_type.bytes().all(is_printable) {
        return Ok(());
    }
    Err(Error::invalid_argument(
        "a content type has at most 128 characters of printable ASCII",
    ))
}

fn is_printable(byte: u8) -> bool {
    matches!(byte, b' '..=b'~')
}

/// Checks a message that is to be published: its id, key, content type, the size of its body, and its
/// metadata, of which each name has one value and none belongs to the broker.
///
/// # Errors
///
/// `InvalidArgument`, saying what is allowed; `ResourceExhausted` if the body is too large.
pub fn check_message(message: &Message, max_body: usize) -> Result<()> {
    if message.body.len() > max_body {
        return Err(Error::resource_exhausted(
            "the message is too large: keep the body in a store, and send where",
        )
        .with_context("bytes", message.body.len())
        .with_context("limit", max_body));
    }
    if let Some(id) = &message.id {
        check_id(id)?;
    }
    if let Some(key) = &message.key {
        check_key(key)?;
    }
    check_content_type(&message.content_type)?;
    let metadata = &message.metadata;
    check_room(metadata)?;
    for (i, (name, _)) in metadata.iter().enumerate() {
        check_name(name)?;
        if metadata.iter().take(i).any(|(before, _)| before == name) {
            return Err(Error::invalid_argument(
                "a message's header has one value; this one has several",
            )
            .with_context("name", name));
        }
    }
    Ok(())
}

/// Whether a handler's context can hold them.
pub(crate) fn check_room(metadata: &Metadata) -> Result<()> {
    let fits = metadata.len() < Metadata::MAX_ENTRIES
        && metadata.size() + HANDLER_METADATA <= Metadata::MAX_BYTES;
    if fits {
        return Ok(());
    }
    Err(
        Error::resource_exhausted("the message's headers are too many or too large")
            .with_context("limit", Metadata::MAX_BYTES - HANDLER_METADATA),
    )
}

fn check_name(name: &str) -> Result<()> {
    if headers::is_reserved(name) {
        return Err(Error::invalid_argument(
            "'traceparent' and headers that begin with 'micro-' belong to the broker",
        )
        .with_context("name", name));
    }
    Ok(())
}

/// Makes of what is given to [`Broker::publish`](crate::Broker::publish) the message that travels: with an
/// id, a time, and what the context brings.
///
/// A header of the message outweighs the context's outgoing one of the same name.
///
/// # Errors
///
/// Those of [`check_message`] and [`Context::check`]; `FailedPrecondition` beyond [`MAX_HOPS`].
pub fn prepare(
    cx: &Context,
    mut message: Message,
    opts: &PublishOptions,
    max_body: usize,
    clock: &dyn Clock,
    random: &dyn Random,
) -> Result<Message> {
    cx.check()?;
    check_message(&message, max_body)?;
    let wall = clock.wall();
    if let Some(hops) = cx.metadata().get(headers::HOPS) {
        let led: u8 = hops.parse().unwrap_or(MAX_HOPS);
        message.hops = message.hops.max(led.saturating_add(1));
    }
    if message.hops > MAX_HOPS {
        return Err(Error::failed_precondition(
            "handlers answer messages with messages in a circle: this would be the 17th in a row",
        )
        .with_context("topic", &message.topic));
    }
    if !cx.outgoing().is_empty() {
        message.metadata = joined(message.metadata, cx.outgoing())?;
    }
    message.trace = message.trace.or_else(|| cx.trace());
    if opts.carry_deadline
        && let Some(left) = cx.remaining()
    {
        let at = wall + left;
        message.deadline = Some(message.deadline.map_or(at, |known| known.min(at)));
    }
    message.deadline = message.deadline.map(whole_millis);
    message.time = Some(whole_millis(wall));
    if message.id.is_none() {
        message.id = Some(new_id(wall, random));
    }
    Ok(message)
}

/// The message's own pairs, and those of the context whose names it has not.
fn joined(mut own: Metadata, outgoing: &Metadata) -> Result<Metadata> {
    for (name, value) in outgoing.iter() {
        check_name(name)?;
        if !own.contains(name) {
            own.insert(name, value)?;
        }
    }
    check_room(&own)?;
    Ok(own)
}

/// As precise as it travels.
fn whole_millis(time: SystemTime) -> SystemTime {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => SystemTime::UNIX_EPOCH + Duration::from_millis(since.as_millis() as u64),
        Err(_) => SystemTime::UNIX_EPOCH,
    }
}

/// A new id: a UUID of version 7 (RFC 9562), which begins with the time.
#[must_use]
pub fn new_id(wall: SystemTime, random: &dyn Random) -> Arc<str> {
    let since = wall
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let mut chance = [0; 10];
    chance[..8].copy_from_slice(&random.next_u64().to_ne_bytes());
    chance[8..].copy_from_slice(&random.next_u64().to_ne_bytes()[..2]);
    let id =
        uuid::Builder::from_unix_timestamp_millis(since.as_millis() as u64, &chance).into_uuid();
    let mut text = uuid::Uuid::encode_buffer();
    Arc::from(&*id.hyphenated().encode_lower(&mut text))
}

/// The context in which a message is handled: with its headers, its trace and its deadline. The canceller
/// ends what the handler began with it.
///
/// # Errors
///
/// `ResourceExhausted` if the message's metadata leave no room.
pub fn received_context(
    message: &Message,
    clock: &Arc<dyn Clock>,
) -> Result<(Context, micro_core::Canceller)> {
    let mut metadata = message.metadata.clone();
    metadata.extend(&headers::hops(message.hops))?;
    let (mut cx, canceller) = Context::serve(Some(Arc::clone(clock)), metadata);
    if let Some(trace) = message.trace {
        cx = cx.with_trace(trace);
    }
    if let Some(deadline) = message.deadline {
        let left = deadline.duration_since(clock.wall()).unwrap_or_default();
        cx = cx.with_timeout(left);
    }
    Ok((cx, canceller))
}

/// Checks what is given to [`Broker::subscribe`](crate::Broker::subscribe).
///
/// # Errors
///
/// `InvalidArgument`, saying what is allowed; `Unimplemented` if a start is asked for that the backend
/// cannot give.
pub fn check_subscription(
    topic: &Topic,
    opts: &SubscribeOptions,
    capabilities: &Capabilities,
) -> Result<()> {
    let invalid = |message: &'static str| Err(Error::invalid_argument(message));
    if opts.broadcast && opts.group.is_some() {
        return invalid("a subscriber of a group gets no broadcast: leave one of them out");
    }
    if !(1..=MAX_CONCURRENCY).contains(&opts.concurrency) {
        return invalid("a subscriber handles 1 to 4096 messages at once");
    }
    if opts.ack_deadline < Duration::from_millis(1)
        || opts.ack_deadline > Duration::from_secs(86400)
    {
        return invalid("an acknowledgement deadline lies between a millisecond and a day");
    }
    if opts.max_deliveries == 0 {
        return invalid("a message is delivered at least once: max_deliveries is 0");
    }
    if dead_letter_topic(topic, opts.group.as_ref(), opts)?.as_ref() == Some(topic) {
        return invalid("dead letters would come back: they go to the topic that they are from");
    }
    if opts.start != Start::New && !capabilities.replay {
        return Err(Error::unimplemented(
            "this broker keeps no message that was handled, so none can be had again",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use micro_core::{SeededRandom, SystemClock};

    use super::*;
    use crate::{Backoff, Class, DeadLetters, Durability, ErrorKind, Group, TraceContext};

    fn topic() -> Topic {
        Topic::new("orders").unwrap()
    }

    fn prepared(cx: &Context, message: Message, opts: &PublishOptions) -> Result<Message> {
        prepare(cx, message, opts, 100, &SystemClock, &SeededRandom::new(1))
    }

    fn publish(cx: &Context, message: Message) -> Result<Message> {
        prepared(cx, message, &PublishOptions::default())
    }

    #[test]
    fn what_travels_has_an_id_a_time_and_what_the_context_brings() {
        let trace = TraceContext::root(&SeededRandom::new(2));
        let cx = Context::new()
            .with_trace(trace)
            .with_timeout(Duration::from_secs(5))
            .with_metadata("tenant", "acme")
            .unwrap()
            .with_metadata("colour", "red")
            .unwrap();
        let message = || {
            Message::new(topic(), "x")
                .with_metadata("colour", "blue")
                .unwrap()
        };
        let plain = publish(&cx, message()).unwrap();
        let id = plain.id.as_deref().unwrap();
        assert_eq!((id.len(), id.as_bytes()[14]), (36, b'7'), "{id}");
        assert_ne!(publish(&cx, message()).unwrap().time, None);
        assert_eq!(plain.trace, Some(trace));
        assert_eq!(plain.metadata.get("tenant"), Some("acme"));
        assert_eq!(plain.metadata.get("colour"), Some("blue"));
        // An event outlives the request that caused it, unless it is not to.
        assert_eq!((plain.deadline, plain.hops), (None, 0));
        let opts = PublishOptions::default().with_carry_deadline(true);
        let brief = prepared(&cx, message(), &opts).unwrap();
        let left = brief.deadline.unwrap().duration_since(SystemClock.wall());
        assert!(left.unwrap() <= Duration::from_secs(5));
        let own = publish(&cx, message().with_id("mine")).unwrap();
        assert_eq!(own.id.as_deref(), Some("mine"));
    }

    #[test]
    fn what_cannot_travel_is_refused() {
        let refused = |message: Message| publish(&Context::new(), message).unwrap_err().kind();
        let message = || Message::new(topic(), "x");
        assert_eq!(
            refused(Message::new(topic(), vec![0; 101])),
            ErrorKind::ResourceExhausted
        );
        for id in ["", "a b", "ü", "a\n", &"x".repeat(129)] {
            assert_eq!(
                refused(message().with_id(id)),
                ErrorKind::InvalidArgument,
                "{id}"
            );
        }
        for key in ["", "a\0", "ü", &"x".repeat(257)] {
            assert_eq!(
                refused(message().with_key(key)),
                ErrorKind::InvalidArgument,
                "{key}"
            );
        }
        assert_eq!(
            refused(message().with_content_type("a\r\nb")),
            ErrorKind::InvalidArgument
        );
        let mut twice = message();
        twice.metadata.append("a", "1").unwrap();
        twice.metadata.append("a", "2").unwrap();
        assert_eq!(refused(twice), ErrorKind::InvalidArgument);
        let large = message()
            .with_metadata("a", "x".repeat(Metadata::MAX_BYTES - 40))
            .unwrap();
        assert_eq!(refused(large), ErrorKind::ResourceExhausted);
    }

    #[test]
    fn s67_a_publisher_cannot_set_what_belongs_to_the_broker() {
        for name in ["micro-id", "Micro-Hops", "micro-delivery-no", "traceparent"] {
            let message = Message::new(topic(), "x").with_metadata(name, "1").unwrap();
            let err = publish(&Context::new(), message).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{name}");
            let cx = Context::new().with_metadata(name, "1").unwrap();
            let err = publish(&cx, Message::new(topic(), "x")).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{name}");
        }
    }

    #[test]
    fn s68_messages_in_a_circle_come_to_an_end() {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let mut message = publish(&Context::new(), Message::new(topic(), "x")).unwrap();
        let mut rounds = 0;
        let err = loop {
            let (cx, _canceller) = received_context(&message, &clock).unwrap();
            // A handler's derived context is of the same chain.
            let cx = cx.with_timeout(Duration::from_secs(9));
            match publish(&cx, Message::new(topic(), "x")) {
                Ok(next) => message = next,
                Err(err) => break err,
            }
            rounds += 1;
            assert_eq!(message.hops, rounds);
        };
        assert_eq!(
            (err.kind(), rounds),
            (ErrorKind::FailedPrecondition, MAX_HOPS)
        );
    }

    #[test]
    fn a_call_that_is_over_publishes_nothing() {
        let cx = Context::new().with_timeout(Duration::ZERO);
        let err = publish(&cx, Message::new(topic(), "x")).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::DeadlineExceeded);
        let (cx, canceller) = Context::new().with_cancel();
        canceller.cancel();
        let err = publish(&cx, Message::new(topic(), "x")).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Cancelled);
    }

    #[test]
    fn bad_subscriptions_are_refused() {
        let capabilities = Capabilities::new(Class::AtMostOnce, Durability::Memory);
        let check = |opts: SubscribeOptions| {
            check_subscription(&topic(), &opts, &capabilities).map_err(|err| err.kind())
        };
        let good = SubscribeOptions::default;
        assert_eq!(check(good()), Ok(()));
        for bad in [
            good().with_concurrency(0),
            good().with_concurrency(MAX_CONCURRENCY + 1),
            good().with_ack_deadline(Duration::ZERO),
            good().with_ack_deadline(Duration::MAX),
            good().with_max_deliveries(0),
            good().with_dead_letters(DeadLetters::To(topic())),
            good()
                .with_group(Group::new("mailer").unwrap())
                .with_broadcast(true),
        ] {
            assert_eq!(check(bad), Err(ErrorKind::InvalidArgument));
        }
        assert_eq!(
            check(good().with_start(Start::Oldest)),
            Err(ErrorKind::Unimplemented)
        );
        // A name that is too long for its dead letters is told so now, not when one dies.
        let long = Topic::new(&"x".repeat(120)).unwrap();
        let opts = good()
            .with_group(Group::new("mailer").unwrap())
            .with_backoff(Backoff::default());
        assert!(check_subscription(&long, &opts, &capabilities).is_err());
        let opts = opts.with_dead_letters(DeadLetters::Nowhere);
        assert!(check_subscription(&long, &opts, &capabilities).is_ok());
    }
}
