//! The streams of topics, and publishing to them.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use micro_broker_core::{Context, Error, Group, Message, Result, Topic};
use micro_core::Env;
use micro_nats::Connection;
use micro_nats::async_nats::Client;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::NatsBrokerConfig;
use crate::call::Call;
use crate::jetstream::api::{self, ConsumerInfo, Done, Fault, Stored, StreamInfo, nanos};
use crate::jetstream::wire;
use crate::names::{self, Names};

/// So many streams are remembered to be there; then it is looked again.
const MOST_KNOWN: usize = 16_384;

/// How often room is made for one message.
const MOST_CLEARINGS: u32 = 3;

/// How often a consumer is removed that the server cannot remove.
const MOST_REMOVALS: u32 = 5;

/// Before the server is asked again for what it could not do at once.
const AGAIN: Duration = Duration::from_millis(20);

/// The streams of a namespace.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) connection: Connection,
    pub(crate) names: Names,
    pub(crate) config: NatsBrokerConfig,
    pub(crate) env: Env,
    known: Mutex<HashSet<Topic>>,
    /// One at a time: what one cleared away may do for all.
    clearing: tokio::sync::Mutex<()>,
}

impl Streams {
    pub(crate) fn new(
        connection: Connection,
        names: Names,
        config: NatsBrokerConfig,
        env: &Env,
    ) -> Self {
        Self {
            connection,
            names,
            config,
            env: env.clone(),
            known: Mutex::default(),
            clearing: tokio::sync::Mutex::default(),
        }
    }

    /// How long a call may take that says nothing of it.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.config.server.timeout
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashSet<Topic>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn forget(&self, topic: &Topic) {
        self.known().remove(topic);
    }

    /// Makes the topic's stream if it is not there.
    pub(crate) async fn ensure(
        &self,
        client: &Client,
        topic: &Topic,
        deadline: Instant,
    ) -> Result<(), Fault> {
        if self.known().contains(topic) {
            return Ok(());
        }
        let (name, subject) = (self.names.stream(topic), self.names.subject(topic));
        let config = &self.config;
        let stream = api::NewStream {
            name: &name,
            subjects: [&subject],
            retention: "limits",
            discard: "new",
            storage: config.storage.name(),
            num_replicas: config.replicas,
            max_bytes: config.max_bytes,
            max_msgs: -1,
            max_msgs_per_subject: -1,
            max_msg_size: -1,
            max_consumers: -1,
            max_age: config.max_age.map_or(0, nanos),
            duplicate_window: nanos(config.dedup),
        };
        let made = api::ask(client, &format!("STREAM.CREATE.{name}"), &stream, deadline).await;
        let info: StreamInfo = match made {
            // With the settings of whoever came first.
            Err(fault) if fault.is_other_stream() => self.info(client, topic, deadline).await?,
            made => made?,
        };
        if info.config.subjects != [subject] || info.config.discard != "new" {
            return Err(Fault::Unasked(
                Error::failed_precondition(
                    "a stream of this name is there that is not ours: it has other subjects, or discards old messages",
                )
                .with_context("stream", name),
            ));
        }
        let mut known = self.known();
        if known.len() >= MOST_KNOWN {
            known.clear();
        }
        known.insert(topic.clone());
        Ok(())
    }

    pub(crate) async fn info(
        &self,
        client: &Client,
        topic: &Topic,
        deadline: Instant,
    ) -> Result<StreamInfo, Fault> {
        let what = format!("STREAM.INFO.{}", self.names.stream(topic));
        api::ask(client, &what, &json!({}), deadline).await
    }

    /// Publishes a message, until the server says that it has it. It is sent again after a lost
    /// connection: the server knows it by `msg_id`.
    ///
    /// # Errors
    ///
    /// Those of [`micro_broker_core::Broker::publish`].
    pub(crate) async fn publish(
        &self,
        cx: &Context,
        message: &Message,
        msg_id: &str,
    ) -> Result<Stored> {
        wire::check(message)?;
        let call = Call::new(cx, self.config.server.timeout);
        call.run(cx, self.try_publish(message, msg_id, &call)).await
    }

    async fn try_publish(&self, message: &Message, msg_id: &str, call: &Call) -> Result<Stored> {
        let deadline = call.deadline;
        let topic = &message.topic;
        let mut clearings = 0;
        let mut status = self.connection.status();
        loop {
            let client = self.connection.client(deadline).await?;
            let epoch = status.borrow_and_update().epoch;
            self.ensure(&client, topic, deadline).await?;
            let again = call.set_sent(true);
            let sending = api::send::<Stored>(
                &client,
                self.names.subject(topic),
                Some(wire::write(message, msg_id)),
                message.body.clone(),
            );
            let answer = tokio::select! {
                biased;
                answer = sending => answer,
                // The answer is lost with the connection.
                _ = status.wait_for(|status| status.up && status.epoch != epoch) => continue,
            };
            let fault = match answer {
                Ok(stored) => {
                    // It may be the one that was sent before.
                    let duplicate = stored.duplicate && !again;
                    return Ok(Stored {
                        duplicate,
                        ..stored
                    });
                }
                Err(fault) => fault,
            };
            if fault.is_unanswered() && Instant::now() < deadline {
                // The client broke off.
                sleep(AGAIN).await;
            } else if matches!(fault, Fault::Nobody) {
                // Somebody removed the stream. This time, it did not arrive.
                call.set_sent(again);
                self.forget(topic);
                sleep(AGAIN).await;
            } else if fault.is_full() {
                call.set_sent(again);
                clearings += 1;
                if clearings > MOST_CLEARINGS
                    || !self.clear(&client, topic, clearings, deadline).await?
                {
                    return Err(Error::resource_exhausted(
                        "the topic is full: its slowest group has all of it before it",
                    )
                    .with_context("max_bytes", self.config.max_bytes));
                }
            } else {
                call.set_sent(again || matches!(fault, Fault::Unanswered(_)));
                return Err(fault.into());
            }
        }
    }

    /// Makes room in a full stream: the older half of what every group has handled goes, and at the third
    /// time all of it. Whether there was something.
    async fn clear(
        &self,
        client: &Client,
        topic: &Topic,
        round: u32,
        deadline: Instant,
    ) -> Result<bool, Fault> {
        let _turn = self.clearing.lock().await;
        let state = self.info(client, topic, deadline).await?.state;
        let Some(floor) = self
            .handled(client, topic, state.last_seq, deadline)
            .await?
        else {
            return Ok(false);
        };
        if floor < state.first_seq {
            return Ok(false);
        }
        let count = floor - state.first_seq + 1;
        let goes = if round < MOST_CLEARINGS {
            count.div_ceil(2)
        } else {
            count
        };
        let what = format!("STREAM.PURGE.{}", self.names.stream(topic));
        // Up to this one, which stays.
        let body = json!({ "seq": state.first_seq + goes });
        let _: Done = api::ask(client, &what, &body, deadline).await?;
        tracing::debug!(%topic, messages = goes, "handled messages made room for new ones");
        Ok(true)
    }

    /// Up to where every group has handled everything; `None` if that cannot be known.
    async fn handled(
        &self,
        client: &Client,
        topic: &Topic,
        last: u64,
        deadline: Instant,
    ) -> Result<Option<u64>, Fault> {
        let what = format!("CONSUMER.LIST.{}", self.names.stream(topic));
        let mut floor = last;
        let mut offset = 0;
        loop {
            let body = json!({ "offset": offset });
            let page: api::ConsumerPage = api::ask(client, &what, &body, deadline).await?;
            if page.missing.is_some_and(|missing| !missing.is_empty()) {
                return Ok(None);
            }
            let consumers = page.consumers.unwrap_or_default();
            for consumer in &consumers {
                floor = floor.min(consumer.ack_floor.stream_seq);
            }
            offset += consumers.len();
            if consumers.is_empty() || offset >= page.total {
                return Ok(Some(floor));
            }
        }
    }

    /// Removes a group; whether it was there.
    pub(crate) async fn remove_group(&self, topic: &Topic, group: &Group) -> Result<bool> {
        let deadline = self.deadline();
        let client = self.connection.client(deadline).await?;
        let removed = self
            .remove_consumer(&client, topic, &names::consumer(group), deadline)
            .await;
        removed.map_err(Error::from)
    }

    pub(crate) async fn remove_consumer(
        &self,
        client: &Client,
        topic: &Topic,
        consumer: &str,
        deadline: Instant,
    ) -> Result<bool, Fault> {
        let what = format!("CONSUMER.DELETE.{}.{consumer}", self.names.stream(topic));
        let mut tries = 0;
        loop {
            match api::ask::<Done>(client, &what, &json!({}), deadline).await {
                Ok(done) => return Ok(done.success),
                Err(fault) if fault.is_no_consumer() || fault.is_no_stream() => return Ok(false),
                // Server 2.9 fails if it was just writing the consumer's files.
                Err(Fault::Refused(_)) if tries < MOST_REMOVALS => tries += 1,
                Err(fault) => return Err(fault),
            }
            sleep(AGAIN).await;
        }
    }

    pub(crate) async fn consumer(
        &self,
        client: &Client,
        topic: &Topic,
        consumer: &str,
        deadline: Instant,
    ) -> Result<ConsumerInfo, Fault> {
        let what = format!("CONSUMER.INFO.{}.{consumer}", self.names.stream(topic));
        api::ask(client, &what, &json!({}), deadline).await
    }
}
