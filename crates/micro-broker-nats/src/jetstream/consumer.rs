//! A member's consumer: made, found again after an outage, and made anew where it is lost.

use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use micro_broker_core::{Error, Result, Start};
use micro_nats::async_nats::Client;
use tokio::time::{Instant, sleep};

use crate::jetstream::api::{self, Begin, ConsumerInfo, Fault, nanos, rfc3339};
use crate::jetstream::member::{AGAIN, Member};

/// How long the server waits for a sign of life from whoever has a message, at least and at most. Members
/// give three in that time, however long a handler may take.
const LEASE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));
/// So many messages of a group may be with its members, or wait to be delivered again.
const MOST_OPEN: u32 = 65_536;
/// So many requests of a group's members may stand.
const MOST_WAITING: u32 = 4096;
/// The consumer of a subscriber without a group is kept for so long after its last sign of life.
const INACTIVE: Duration = Duration::from_secs(300);

pub(super) fn begin(start: Start) -> Begin {
    match start {
        Start::Oldest => Begin::All,
        Start::Offset(first) => Begin::ByStartSequence {
            opt_start_seq: first.max(1),
        },
        Start::Time(time) => Begin::ByStartTime {
            opt_start_time: rfc3339(time),
        },
        _ => Begin::New,
    }
}

pub(super) fn removed() -> Error {
    Error::not_found("the group was removed: subscribe again to make it anew")
}

impl Member {
    pub(super) fn created(&self) -> MutexGuard<'_, String> {
        self.created.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lease(&self) -> Duration {
        let lease = Duration::from_millis(self.lease.load(Ordering::Relaxed));
        lease.clamp(Duration::from_millis(100), LEASE.1)
    }

    /// Makes the consumer if it is not there; whether it was made.
    pub(super) async fn make(
        &self,
        client: &Client,
        begin: &Begin,
        deadline: Instant,
    ) -> Result<bool, Fault> {
        let made = match self.look(client, deadline).await {
            Err(fault) if fault.is_no_consumer() => self.create(client, begin, deadline).await,
            looked => return looked.map(|()| false),
        };
        match made {
            // Another member was quicker.
            Err(fault) if fault.is_other_consumer() => {
                self.look(client, deadline).await.map(|()| false)
            }
            Err(fault) => Err(fault),
            Ok(last) => {
                self.hold.begin(last);
                Ok(true)
            }
        }
    }

    /// Looks whether the consumer is there, and how it is.
    async fn look(&self, client: &Client, deadline: Instant) -> Result<(), Fault> {
        let looking = self
            .streams
            .consumer(client, &self.topic, &self.name, deadline);
        let info = looking.await?;
        self.learn(&info);
        Ok(())
    }

    /// Makes the consumer; behind which message it begins.
    async fn create(
        &self,
        client: &Client,
        begin: &Begin,
        deadline: Instant,
    ) -> Result<u64, Fault> {
        let stream = self.streams.names.stream(&self.topic);
        let lasting = self.group().is_some();
        let consumer = api::NewConsumer {
            stream_name: &stream,
            config: api::ConsumerSettings {
                name: &self.name,
                durable_name: lasting.then_some(&self.name),
                begin: begin.clone(),
                ack_policy: "explicit",
                ack_wait: nanos(self.opts.ack_deadline.clamp(LEASE.0, LEASE.1)),
                max_deliver: -1,
                max_ack_pending: MOST_OPEN,
                max_waiting: MOST_WAITING,
                replay_policy: "instant",
                inactive_threshold: (!lasting).then(|| nanos(INACTIVE)),
            },
            action: "create",
        };
        let what = format!("CONSUMER.CREATE.{stream}.{}", self.name);
        let info = api::ask(client, &what, &consumer, deadline).await?;
        self.learn(&info);
        Ok(info.delivered.stream_seq)
    }

    fn learn(&self, info: &ConsumerInfo) {
        let millis = info.config.ack_wait / 1_000_000;
        self.lease.store(millis, Ordering::Relaxed);
    }

    /// After an outage: waits for the server, and sees to it that the consumer is there.
    ///
    /// # Errors
    ///
    /// `NotFound` if the group was removed.
    pub(super) async fn recover(&self) -> Result<Client> {
        loop {
            let deadline = self.streams.deadline();
            let fault = match self.streams.connection.client(deadline).await {
                Ok(client) => match self.restore(&client, deadline).await {
                    Ok(()) => return Ok(client),
                    Err(fault) => fault,
                },
                Err(err) => Fault::Unasked(err),
            };
            if !fault.passes() {
                return Err(fault.into());
            }
            sleep(AGAIN).await;
        }
    }

    async fn restore(&self, client: &Client, deadline: Instant) -> Result<(), Fault> {
        match self.look(client, deadline).await {
            Err(fault) if fault.is_no_stream() => {
                self.streams.forget(&self.topic);
                self.streams.ensure(client, &self.topic, deadline).await?;
            }
            Err(fault) if fault.is_no_consumer() => {}
            looked => return looked,
        }
        let created = self
            .streams
            .info(client, &self.topic, deadline)
            .await?
            .created;
        if *self.created() != created {
            // The server lost all of it: whatever is there now came later.
            tracing::warn!(topic = %self.topic, "the stream is not the one it was: messages may be lost");
            self.make(client, &Begin::All, deadline).await?;
            *self.created() = created;
            return Ok(());
        }
        match self.hold.resume() {
            Some(opt_start_seq) => {
                let begin = Begin::ByStartSequence { opt_start_seq };
                self.create(client, &begin, deadline).await.map(drop)
            }
            None => Err(Fault::Unasked(removed())),
        }
    }
}
