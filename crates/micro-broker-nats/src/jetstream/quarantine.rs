//! Messages that our client library cannot bear: each time one is delivered, the connection breaks.
//!
//! The server's API shows them in base64, so they are found, published as dead letters, and deleted.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use micro_broker_core::{Error, Topic};
use micro_nats::async_nats::Client;
use serde_json::json;
use tokio::time::Instant;

use crate::jetstream::api::{self, ConsumerInfo, Done, Fault, Kept};
use crate::jetstream::streams::Streams;

/// So many are looked at, of the oldest and of the newest that a consumer has delivered.
const LOOKS: u64 = 64;

/// One that was found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) seq: u64,
    pub(crate) body: Vec<u8>,
    pub(crate) error: Error,
}

/// Looks through what a consumer has delivered and nobody has acknowledged.
pub(crate) async fn find(
    streams: &Streams,
    client: &Client,
    topic: &Topic,
    consumer: &ConsumerInfo,
    deadline: Instant,
) -> Result<Vec<Found>, Fault> {
    let what = format!("STREAM.MSG.GET.{}", streams.names.stream(topic));
    let (first, last) = (
        consumer.ack_floor.stream_seq + 1,
        consumer.delivered.stream_seq,
    );
    let newest = last.saturating_sub(LOOKS - 1).max(first + LOOKS);
    let mut found = Vec::new();
    for seq in (first..first + LOOKS)
        .chain(newest..=last)
        .filter(|seq| *seq <= last)
    {
        let kept = match api::ask::<Kept>(client, &what, &json!({ "seq": seq }), deadline).await {
            Err(fault) if fault.is_no_message() => continue,
            kept => kept?.message,
        };
        let read = |text: &str| STANDARD.decode(text).unwrap_or_default();
        if !is_bearable(&read(&kept.hdrs)) {
            found.push(Found {
                seq,
                body: read(&kept.data),
                error: Error::invalid_argument("the headers of this message break the connection"),
            });
        }
    }
    Ok(found)
}

/// Deletes a message from the topic, for all its groups.
pub(crate) async fn delete(
    streams: &Streams,
    client: &Client,
    topic: &Topic,
    seq: u64,
    deadline: Instant,
) -> Result<(), Fault> {
    let what = format!("STREAM.MSG.DELETE.{}", streams.names.stream(topic));
    let body = json!({ "seq": seq, "no_erase": true });
    match api::ask::<Done>(client, &what, &body, deadline).await {
        Err(fault) if !fault.is_no_message() => Err(fault),
        _ => Ok(()),
    }
}

/// What async-nats 0.51 reads: lines of UTF-8, each a name of printable ASCII, a colon, and a value without
/// a carriage return.
fn is_bearable(headers: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(headers) else {
        return false;
    };
    let fits = |line: &str| {
        let pair = line.split_once(':');
        pair.is_some_and(|(name, value)| {
            name.bytes().all(|byte| byte.is_ascii_graphic()) && !value.contains('\r')
        })
    };
    let mut lines = text.lines().skip(1).filter(|line| !line.is_empty());
    lines.all(|line| line.starts_with(char::is_whitespace) && !line.contains('\r') || fits(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_breaks_the_library_is_told_from_what_does_not() {
        for (headers, bearable) in [
            ("", true),
            ("NATS/1.0\r\n\r\n", true),
            ("NATS/1.0\r\nNats-Msg-Id:1\r\nTenant: a:b \r\n\r\n", true),
            ("NATS/1.0\r\nA: b\r\n folded\r\n\r\n", true),
            ("NATS/1.0\r\nA: \u{fc}\r\n\r\n", true),
            ("NATS/1.0\r\nA: b\rc\r\n\r\n", false),
            ("NATS/1.0\r\nA: b\r\n fol\rded\r\n\r\n", false),
            ("NATS/1.0\r\nno colon\r\n\r\n", false),
            ("NATS/1.0\r\na b: c\r\n\r\n", false),
            ("NATS/1.0\r\n\u{fc}: c\r\n\r\n", false),
        ] {
            assert_eq!(is_bearable(headers.as_bytes()), bearable, "{headers:?}");
        }
        assert!(!is_bearable(b"NATS/1.0\r\nA: \xff\r\n\r\n"));
    }
}
