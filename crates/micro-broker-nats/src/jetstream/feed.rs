//! A member's way of getting messages: it asks for as many as it can handle, and is sent them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use micro_nats::async_nats::{Client, HeaderMap, Message, StatusCode, Subject, Subscriber};
use micro_nats::{Connection, Status};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::jetstream::api::{Pull, nanos};

/// A request stands for so long at most.
const EXPIRES: Duration = Duration::from_secs(30);
/// While it stands, the server says so often that it is there.
const HEARTBEAT: Duration = Duration::from_secs(3);
/// If it does not, the request is lost.
const SILENCE: Duration = Duration::from_secs(7);

/// A message, with its place in the stream, and how often it was delivered.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) message: Message,
    pub(crate) reply: Subject,
    pub(crate) seq: u64,
    pub(crate) deliveries: u32,
}

/// What was heard instead of a message.
#[derive(Debug)]
pub(crate) enum Instead {
    /// A request is over.
    Over,
    /// Requests are gone: it has to be looked whether the consumer is there.
    Lost,
    /// The consumer was removed.
    Removed,
    /// The connection is gone for good.
    Closed,
}

/// A subscription of one connection, and what was asked for on it.
#[derive(Debug)]
pub(crate) struct Feed {
    pub(crate) client: Arc<Client>,
    inbox: Subscriber,
    reply: Subject,
    /// Where one asks.
    subject: Subject,
    /// So many messages may still come.
    asked: usize,
    heard: Instant,
    status: watch::Receiver<Status>,
    epoch: u64,
}

impl Feed {
    pub(crate) fn new(
        client: Client,
        inbox: Subscriber,
        reply: Subject,
        subject: Subject,
        mut status: watch::Receiver<Status>,
    ) -> Self {
        let epoch = status.borrow_and_update().epoch;
        Self {
            client: Arc::new(client),
            inbox,
            reply,
            subject,
            asked: 0,
            heard: Instant::now(),
            status,
            epoch,
        }
    }

    /// Asks for more, if there is room for many more messages than may still come.
    pub(crate) async fn ask(&mut self, room: usize) {
        let more = room.saturating_sub(self.asked);
        if more == 0 || more * 2 < room && self.asked > 0 {
            return;
        }
        let pull = Pull {
            batch: more,
            expires: nanos(EXPIRES),
            idle_heartbeat: nanos(HEARTBEAT),
        };
        let body = serde_json::to_vec(&pull).expect("numbers are JSON");
        // Counted before it is sent: dropped in between, the silence that follows brings it to light.
        self.asked += more;
        self.heard = Instant::now();
        let (subject, reply) = (self.subject.clone(), self.reply.clone());
        if let Err(err) = self
            .client
            .publish_with_reply(subject, reply, body.into())
            .await
        {
            tracing::debug!(error = %err, "messages could not be asked for");
            self.asked -= more;
        }
    }

    /// What comes next. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Arrived, Instead> {
        loop {
            let message = match self.inbox.next().now_or_never() {
                Some(message) => message,
                None => {
                    let epoch = self.epoch;
                    let reconnected = async {
                        let is_new = |status: &Status| status.up && status.epoch != epoch;
                        let found = self.status.wait_for(is_new).await;
                        found.map_or(epoch, |status| status.epoch)
                    };
                    tokio::select! {
                        biased;
                        message = self.inbox.next() => message,
                        epoch = reconnected => {
                            self.epoch = epoch;
                            return Err(self.lost());
                        }
                        () = sleep_until(self.heard + SILENCE) => return Err(self.lost()),
                    }
                }
            };
            let Some(message) = message else {
                return Err(Instead::Closed);
            };
            self.heard = Instant::now();
            if let Some(heard) = self.read(message) {
                return heard;
            }
        }
    }

    fn lost(&mut self) -> Instead {
        self.asked = 0;
        self.heard = Instant::now();
        Instead::Lost
    }

    /// Tells messages from what the server says about requests (ADR-9, ADR-13).
    fn read(&mut self, mut message: Message) -> Option<Result<Arrived, Instead>> {
        let Some(status) = message.status else {
            let reply = message.reply.take()?;
            // Whatever else somebody sends here is none of the stream's.
            let (seq, deliveries) = place(&reply)?;
            self.asked = self.asked.saturating_sub(1);
            return Some(Ok(Arrived {
                message,
                reply,
                seq,
                deliveries,
            }));
        };
        const CONFLICT: u16 = 409;
        let says = message.description.as_deref().unwrap_or_default();
        match status.as_u16() {
            100 => None,
            CONFLICT if says.eq_ignore_ascii_case("Consumer Deleted") => {
                Some(Err(Instead::Removed))
            }
            _ if status == StatusCode::NO_RESPONDERS => Some(Err(self.lost())),
            // A request is over, and says how much of it was left.
            _ => match pending(message.headers.as_ref()) {
                Some(left) => {
                    self.asked = self.asked.saturating_sub(left);
                    Some(Err(Instead::Over))
                }
                None => Some(Err(self.lost())),
            },
        }
    }

    /// Ends the subscription, and says where what it still had is to be given back. If this returns, all
    /// that was sent on the connection before has reached the server.
    pub(crate) async fn end(
        &mut self,
        connection: &Connection,
        deadline: Instant,
    ) -> micro_broker_core::Result<Vec<Subject>> {
        let ending = connection.end(&self.client, [&mut self.inbox], deadline);
        ending.await?;
        let mut left = Vec::new();
        while let Some(Some(message)) = self.inbox.next().now_or_never() {
            let is_message = message.status.is_none();
            left.extend(
                message
                    .reply
                    .filter(|reply| is_message && place(reply).is_some()),
            );
        }
        Ok(left)
    }
}

fn pending(headers: Option<&HeaderMap>) -> Option<usize> {
    headers?.get("Nats-Pending-Messages")?.as_str().parse().ok()
}

/// The sequence number of a message, and how often it was delivered, from where it is answered (ADR-15).
fn place(reply: &str) -> Option<(u64, u32)> {
    let tokens = reply.strip_prefix("$JS.ACK.")?.split('.');
    // Longer ones begin with a domain and an account.
    let skipped = match tokens.clone().count() {
        7 => 2,
        9.. => 4,
        _ => return None,
    };
    let mut tokens = tokens.skip(skipped);
    let deliveries: u64 = tokens.next()?.parse().ok()?;
    let seq = tokens.next()?.parse().ok()?;
    Some((seq, u32::try_from(deliveries).unwrap_or(u32::MAX).max(1)))
}

/// A server's word with a number.
pub(crate) fn nak_in(pause: Duration) -> Bytes {
    format!("-NAK {{\"delay\":{}}}", nanos(pause)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_says_its_place() {
        for (reply, expected) in [
            ("$JS.ACK.s.c.3.70.9.1664000000000000000.5", Some((70, 3))),
            (
                "$JS.ACK._.hash.s.c.3.70.9.1664000000000000000.5.token",
                Some((70, 3)),
            ),
            (
                "$JS.ACK._.hash.s.c.3.70.9.1664000000000000000.5",
                Some((70, 3)),
            ),
            ("$JS.ACK.s.c.99999999999.70.9.1.5", Some((70, u32::MAX))),
            ("$JS.ACK.s.c.-1.70.9.1.5", None),
            ("$JS.ACK.s.c.3.x.9.1.5", None),
            ("$JS.ACK.s.c.3.70.9.1", None),
            ("$JS.ACK.", None),
            ("_INBOX.x.s.c.3.70.9.1.5", None),
            ("", None),
        ] {
            assert_eq!(place(reply), expected, "{reply}");
        }
    }

    #[test]
    fn s69_no_reply_subject_does_harm() {
        micro_conformance::mutation::run(
            &[
                b"$JS.ACK.s.c.3.70.9.1664000000000000000.5",
                b"$JS.ACK._.h.s.c.3.70.9.1.5.t",
            ],
            |bytes| {
                if let Some((_, deliveries)) = place(&String::from_utf8_lossy(bytes)) {
                    assert!(deliveries > 0);
                }
            },
        );
    }

    #[test]
    fn a_pause_is_told_in_nanoseconds() {
        assert_eq!(
            nak_in(Duration::from_millis(20)),
            "-NAK {\"delay\":20000000}"
        );
    }
}
