//! What we ask of JetStream, as the server's own JSON (ADR-8 and the schemas of `nats-server`).
//!
//! The library's structures want fields that servers before 2.10 do not send.

use std::time::{Duration, SystemTime};

use micro_broker_core::{Error, ErrorKind};
use micro_nats::async_nats::client::RequestErrorKind;
use micro_nats::async_nats::{Client, HeaderMap, Request, RequestError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

/// What the server says if there is no such stream.
const STREAM_NOT_FOUND: u32 = 10059;
const CONSUMER_NOT_FOUND: u32 = 10014;
const MESSAGE_NOT_FOUND: u32 = 10037;
/// A stream of this name is there, with other settings.
const STREAM_NAME_IN_USE: u32 = 10058;
/// A consumer of this name is there, or the settings cannot be changed to these.
const CONSUMER_EXISTS: &[u32] = &[10012, 10013, 10105, 10148];
/// The stream cannot take a message: it is full.
const STREAM_STORE_FAILED: u32 = 10077;
/// There is no room on the server, or our account has used its share.
const NO_RESOURCES: &[u32] = &[10002, 10023, 10028, 10047, 10120];
const MESSAGE_TOO_LARGE: u32 = 10054;
const NOT_ENABLED: &[u32] = &[10039, 10076];

/// What became of a request.
#[derive(Debug)]
pub(crate) enum Fault {
    /// Nobody listens: the server has no JetStream, or no stream has this subject.
    Nobody,
    /// The server says no.
    Refused(Refusal),
    /// There is no answer: it may have happened.
    Unanswered(Error),
    /// It was not asked.
    Unasked(Error),
}

/// The server's own error.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Refusal {
    #[serde(default)]
    code: u32,
    #[serde(default)]
    err_code: u32,
    #[serde(default)]
    description: String,
}

impl Fault {
    fn has(&self, err_code: u32) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.err_code == err_code)
    }

    pub(crate) fn is_no_stream(&self) -> bool {
        self.has(STREAM_NOT_FOUND)
    }

    pub(crate) fn is_no_consumer(&self) -> bool {
        self.has(CONSUMER_NOT_FOUND)
    }

    pub(crate) fn is_no_message(&self) -> bool {
        self.has(MESSAGE_NOT_FOUND)
    }

    pub(crate) fn is_other_stream(&self) -> bool {
        self.has(STREAM_NAME_IN_USE)
    }

    pub(crate) fn is_other_consumer(&self) -> bool {
        CONSUMER_EXISTS.iter().any(|code| self.has(*code))
    }

    /// Whether the stream has no room.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.err_code == STREAM_STORE_FAILED
            && refusal.description.contains("maximum"))
    }

    /// Whether the answer is missing, and not one that cannot be read.
    pub(crate) fn is_unanswered(&self) -> bool {
        matches!(self, Self::Unanswered(err) if err.kind() == ErrorKind::Unavailable)
    }

    /// Whether it is worth asking again a little later.
    pub(crate) fn passes(&self) -> bool {
        match self {
            Self::Nobody | Self::Unanswered(_) => true,
            Self::Refused(refusal) => refusal.kind() == ErrorKind::Unavailable,
            Self::Unasked(err) => err.kind() == ErrorKind::Unavailable,
        }
    }
}

impl Refusal {
    fn kind(&self) -> ErrorKind {
        match self.err_code {
            code if NO_RESOURCES.contains(&code) => ErrorKind::ResourceExhausted,
            MESSAGE_TOO_LARGE => ErrorKind::ResourceExhausted,
            code if NOT_ENABLED.contains(&code) => ErrorKind::FailedPrecondition,
            _ if self.code == 503 => ErrorKind::Unavailable,
            _ => ErrorKind::Internal,
        }
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Nobody => Self::failed_precondition(
                "this NATS server has no JetStream for us: start it with '-js', or say 'mode=core'",
            ),
            Fault::Refused(refusal) if NOT_ENABLED.contains(&refusal.err_code) => {
                Fault::Nobody.into()
            }
            Fault::Refused(refusal) => {
                let message = match refusal.kind() {
                    ErrorKind::ResourceExhausted => {
                        "JetStream has no room: raise the limits of the server or account, or lower max_bytes"
                    }
                    ErrorKind::Unavailable => "JetStream is not ready",
                    _ => "JetStream refuses this",
                };
                Self::new(refusal.kind(), message)
                    .with_context("code", refusal.err_code)
                    .with_context("why", refusal.description.escape_debug())
            }
            Fault::Unanswered(err) | Fault::Unasked(err) => err,
        }
    }
}

/// Asks the API.
pub(crate) async fn ask<T: DeserializeOwned>(
    client: &Client,
    what: &str,
    body: &(impl Serialize + Sync),
    deadline: Instant,
) -> Result<T, Fault> {
    let body = serde_json::to_vec(body).expect("our structures are JSON");
    let sending = send(client, format!("$JS.API.{what}"), None, body.into());
    timeout_at(deadline, sending).await.unwrap_or_else(|_| {
        Err(Fault::Unanswered(Error::unavailable(
            "JetStream does not answer in time",
        )))
    })
}

/// Sends something and reads the answer, however long that takes.
pub(crate) async fn send<T: DeserializeOwned>(
    client: &Client,
    subject: String,
    headers: Option<HeaderMap>,
    payload: bytes::Bytes,
) -> Result<T, Fault> {
    #[derive(Deserialize)]
    struct Answer {
        error: Option<Refusal>,
    }
    let mut request = Request::new().payload(payload).timeout(None);
    if let Some(headers) = headers {
        request = request.headers(headers);
    }
    let answer = client
        .send_request(subject, request)
        .await
        .map_err(unsent)?;
    let unread = |err: serde_json::Error| {
        let error = Error::corrupt("JetStream answers what is no answer");
        Fault::Unanswered(error.with_source(err))
    };
    let refused: Answer = serde_json::from_slice(&answer.payload).map_err(unread)?;
    match refused.error {
        Some(refusal) => Err(Fault::Refused(refusal)),
        None => serde_json::from_slice(&answer.payload).map_err(unread),
    }
}

fn unsent(err: RequestError) -> Fault {
    match err.kind() {
        RequestErrorKind::NoResponders => Fault::Nobody,
        RequestErrorKind::MaxPayloadExceeded => Fault::Unasked(
            Error::resource_exhausted(
                "the message is longer than the server allows: raise its max_payload, or lower ours",
            )
            .with_source(err),
        ),
        RequestErrorKind::InvalidSubject => {
            Fault::Unasked(Error::internal("this is no NATS subject").with_source(err))
        }
        RequestErrorKind::TimedOut | RequestErrorKind::Other => {
            Fault::Unanswered(Error::unavailable("the connection to NATS is gone").with_source(err))
        }
    }
}

/// What publishing is answered with.
#[derive(Debug, Deserialize)]
pub(crate) struct Stored {
    pub(crate) seq: u64,
    #[serde(default)]
    pub(crate) duplicate: bool,
}

/// A stream to be made.
#[derive(Debug, Serialize)]
pub(crate) struct NewStream<'a> {
    pub(crate) name: &'a str,
    pub(crate) subjects: [&'a str; 1],
    pub(crate) retention: &'static str,
    pub(crate) discard: &'static str,
    pub(crate) storage: &'static str,
    pub(crate) num_replicas: usize,
    pub(crate) max_bytes: u64,
    pub(crate) max_msgs: i64,
    pub(crate) max_msgs_per_subject: i64,
    pub(crate) max_msg_size: i64,
    pub(crate) max_consumers: i64,
    /// In nanoseconds, as all times here; 0 for as old as they get.
    pub(crate) max_age: u64,
    pub(crate) duplicate_window: u64,
}

#[derive(Debug, Deserialize)]
pub(crate) struct StreamInfo {
    /// One that is made anew under the same name was made at another time.
    pub(crate) created: String,
    pub(crate) config: StreamConfig,
    pub(crate) state: StreamState,
}

#[derive(Debug, Deserialize)]
pub(crate) struct StreamConfig {
    #[serde(default)]
    pub(crate) subjects: Vec<String>,
    #[serde(default)]
    pub(crate) discard: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct StreamState {
    pub(crate) first_seq: u64,
    pub(crate) last_seq: u64,
}

/// A consumer to be made.
#[derive(Debug, Serialize)]
pub(crate) struct NewConsumer<'a> {
    pub(crate) stream_name: &'a str,
    pub(crate) config: ConsumerSettings<'a>,
    /// What servers from 2.10 on heed: one that is there is not changed.
    pub(crate) action: &'static str,
}

#[derive(Debug, Serialize)]
pub(crate) struct ConsumerSettings<'a> {
    pub(crate) name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) durable_name: Option<&'a str>,
    #[serde(flatten)]
    pub(crate) begin: Begin,
    pub(crate) ack_policy: &'static str,
    pub(crate) ack_wait: u64,
    pub(crate) max_deliver: i64,
    pub(crate) max_ack_pending: u32,
    pub(crate) max_waiting: u32,
    pub(crate) replay_policy: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) inactive_threshold: Option<u64>,
}

/// Where a consumer begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "deliver_policy", rename_all = "snake_case")]
pub(crate) enum Begin {
    New,
    All,
    ByStartSequence { opt_start_seq: u64 },
    ByStartTime { opt_start_time: String },
}

#[derive(Debug, Deserialize)]
pub(crate) struct ConsumerInfo {
    pub(crate) config: ConsumerConfig,
    pub(crate) delivered: Position,
    pub(crate) ack_floor: Position,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ConsumerConfig {
    #[serde(default)]
    pub(crate) ack_wait: u64,
}

/// A part of the list of consumers.
#[derive(Debug, Deserialize)]
pub(crate) struct ConsumerPage {
    #[serde(default)]
    pub(crate) total: usize,
    #[serde(default)]
    pub(crate) consumers: Option<Vec<ConsumerState>>,
    /// Those whose server does not answer.
    #[serde(default)]
    pub(crate) missing: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ConsumerState {
    pub(crate) ack_floor: Position,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Position {
    pub(crate) stream_seq: u64,
}

/// Messages that are asked for.
#[derive(Debug, Serialize)]
pub(crate) struct Pull {
    pub(crate) batch: usize,
    pub(crate) expires: u64,
    pub(crate) idle_heartbeat: u64,
}

/// A message as it stands in the stream.
#[derive(Debug, Deserialize)]
pub(crate) struct Kept {
    pub(crate) message: KeptMessage,
}

/// Its bytes are in base64.
#[derive(Debug, Deserialize)]
pub(crate) struct KeptMessage {
    #[serde(default)]
    pub(crate) hdrs: String,
    #[serde(default)]
    pub(crate) data: String,
}

/// An answer that says no more than that it was done.
#[derive(Debug, Deserialize)]
pub(crate) struct Done {
    #[serde(default)]
    pub(crate) success: bool,
}

pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A time as RFC 3339 has it, in UTC. What lies before 1970 is 1970, and after 9999 is 9999.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    const LAST: u64 = 253_402_300_799;
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let seconds = since.as_secs().min(LAST);
    let (days, of_day) = (seconds / 86400, seconds % 86400);
    // The civil calendar from a count of days, in eras of 400 years that begin in March.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let nanos = since.subsec_nanos();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_server_reads_them() {
        let at = |seconds, nanos| SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos);
        for (time, text) in [
            (at(0, 0), "1970-01-01T00:00:00.000000000Z"),
            (at(951_782_400, 5), "2000-02-29T00:00:00.000000005Z"),
            (
                at(1_764_079_199, 999_999_999),
                "2025-11-25T13:59:59.999999999Z",
            ),
            (at(4_107_542_399, 0), "2100-02-28T23:59:59.000000000Z"),
            (at(4_107_542_400, 0), "2100-03-01T00:00:00.000000000Z"),
            (
                at(u64::from(u32::MAX) << 8, 0),
                "9999-12-31T23:59:59.000000000Z",
            ),
        ] {
            assert_eq!(rfc3339(time), text);
        }
        assert!(
            rfc3339(SystemTime::UNIX_EPOCH - Duration::from_secs(9))
                .starts_with("1970-01-01T00:00:00")
        );
    }

    #[test]
    fn a_consumer_is_asked_for_in_the_server_s_words() {
        let text = |begin: &Begin| serde_json::to_string(begin).unwrap();
        assert_eq!(text(&Begin::New), r#"{"deliver_policy":"new"}"#);
        assert_eq!(text(&Begin::All), r#"{"deliver_policy":"all"}"#);
        let from = Begin::ByStartSequence { opt_start_seq: 7 };
        assert_eq!(
            text(&from),
            r#"{"deliver_policy":"by_start_sequence","opt_start_seq":7}"#
        );
        let from = Begin::ByStartTime {
            opt_start_time: "t".to_owned(),
        };
        assert_eq!(
            text(&from),
            r#"{"deliver_policy":"by_start_time","opt_start_time":"t"}"#
        );
    }
}
