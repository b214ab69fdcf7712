//! A subscriber: its queue, and what comes out of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Acker, Channel, Consumer};
use micro_broker_core::{
    Context, Error, Message, NackExt as _, Result, SubscribeOptions, Topic, Verdict, after_failure,
    new_id,
};
use micro_broker_delivery::{Keyed, KeyedQueue, Source, Taken};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::broker::Engine;
use crate::error::{again, failed};
use crate::publisher::To;
use crate::settling::Settling;
use crate::topology::{QueueSpec, make_exchange, make_queue};
use crate::wire;

/// So many messages of a subscriber may wait for their next try; with more, it takes nothing new until one
/// of them is due.
const WAITING: usize = 64;
/// RabbitMQ takes a message back that nobody answered for within half an hour, and closes the channel.
const LONGEST_PAUSE: Duration = Duration::from_secs(10 * 60);
/// After so long something that failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// What a subscriber is, whatever its connection.
pub(crate) struct Member {
    pub(crate) engine: Arc<Engine>,
    pub(crate) topic: Topic,
    pub(crate) queue: QueueSpec,
    opts: SubscribeOptions,
    arrived: Mutex<Arrived>,
    ready: Notify,
    pub(crate) settling: Settling,
}

#[derive(Default)]
struct Arrived {
    waiting: KeyedQueue<Item>,
    over: Option<Arc<Error>>,
}

/// A message that has arrived.
struct Item {
    message: Arc<Message>,
    deliveries: u32,
    acker: Acker,
    /// The key that no other is to be handled beside.
    key: Option<Arc<str>>,
}

impl Keyed for Item {
    fn key(&self) -> Option<&Arc<str>> {
        self.key.as_ref()
    }
}

/// A channel with a consumer. When it is closed, the messages it was given go to others.
pub(crate) struct Consumption {
    pub(crate) channel: Channel,
    pub(crate) consumer: Consumer,
}

/// By what a message is settled.
pub(crate) struct Ticket {
    member: Arc<Member>,
    message: Arc<Message>,
    deliveries: u32,
    acker: Acker,
    key: Option<Arc<str>>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(key) = &self.key
            && self.member.arrived().waiting.release(key)
        {
            self.member.ready.notify_one();
        }
    }
}

impl Member {
    pub(crate) fn new(
        engine: Arc<Engine>,
        topic: Topic,
        queue: QueueSpec,
        opts: SubscribeOptions,
    ) -> Self {
        Self {
            engine,
            topic,
            queue,
            opts,
            arrived: Mutex::default(),
            ready: Notify::new(),
            settling: Settling::new(),
        }
    }

    fn arrived(&self) -> MutexGuard<'_, Arrived> {
        // Nothing panics under it.
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the queue if it is not there, and begins to consume it.
    pub(crate) async fn consume(&self, until: Instant) -> Result<Consumption> {
        let engine = &self.engine;
        let consuming = async {
            let connection = engine.consuming().connection(until).await?;
            make_exchange(&connection, &engine.names).await?;
            let (config, names) = (&engine.config, &engine.names);
            make_queue(&connection, config, names, &self.topic, &self.queue).await?;
            let channel = connection.create_channel().await.map_err(failed)?;
            let prefetch = u16::try_from(self.opts.concurrency + WAITING).unwrap_or(u16::MAX);
            let qos = channel.basic_qos(prefetch, BasicQosOptions::default());
            qos.await.map_err(failed)?;
            let consumer = channel.basic_consume(
                self.queue.name.as_str().into(),
                "".into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            );
            let consumer = consumer.await.map_err(failed)?;
            Ok(Consumption { channel, consumer })
        };
        match timeout_at(until, consuming).await {
            Ok(consuming) => consuming,
            Err(_) => Err(Error::unavailable("RabbitMQ does not answer in time")),
        }
    }

    /// Takes in what is delivered until the consumer ends; what ended it, if that is known.
    pub(crate) async fn take_in(self: &Arc<Self>, consumer: &mut Consumer) -> Option<lapin::Error> {
        while let Some(delivery) = consumer.next().await {
            match delivery {
                Ok(delivery) => self.arrive(delivery),
                Err(err) => return Some(err),
            }
        }
        None
    }

    fn arrive(self: &Arc<Self>, delivery: Delivery) {
        let Delivery {
            properties,
            data,
            acker,
            ..
        } = delivery;
        let deliveries = wire::deliveries(&properties);
        let body = Bytes::from(data);
        let env = &self.engine.env;
        let name = || new_id(env.clock().wall(), &**env.random());
        match wire::read(self.topic.clone(), &properties, body.clone(), name) {
            Ok(message) => {
                let ordered = self.engine.config.ordered && self.queue.lasting;
                let item = Item {
                    key: message.key.clone().filter(|_| ordered),
                    message: Arc::new(message),
                    deliveries,
                    acker,
                };
                self.arrived().waiting.push(item);
                self.ready.notify_one();
            }
            Err(error) => {
                let message = Message::new(self.topic.clone(), body).with_id(name());
                tracing::warn!(
                    topic = %self.topic, %error,
                    "a message of somebody else's cannot be read and goes to the dead letters"
                );
                let (group, error) = (self.opts.group.as_ref(), error.reject());
                let random = &**self.engine.env.random();
                let verdict =
                    after_failure(&message, group, &self.opts, deliveries, &error, random);
                self.do_later(verdict, Arc::new(message), deliveries, acker);
            }
        }
    }

    /// Forgets what has arrived and is not being handled: it goes to others, or comes again.
    pub(crate) fn forget(&self) -> Vec<Acker> {
        let mut arrived = self.arrived();
        let mut ackers = Vec::new();
        while let Some(item) = arrived.waiting.pop() {
            if let Some(key) = &item.key {
                arrived.waiting.release(key);
            }
            ackers.push(item.acker);
        }
        // What stands behind keys that are being handled is freed with them, and cannot be settled.
        ackers
    }

    /// Nothing more will come.
    pub(crate) fn end(&self, why: Error) {
        self.arrived().over = Some(Arc::new(why));
        self.ready.notify_one();
    }

    /// What is not done at once. The message counts as being handled until it is done, so it comes again
    /// if that fails.
    fn do_later(
        self: &Arc<Self>,
        verdict: Verdict,
        message: Arc<Message>,
        deliveries: u32,
        acker: Acker,
    ) {
        let (pause, to, message, failures) = match verdict {
            // A copy that says how often it was tried, so that another member knows.
            Verdict::Retry(pause) => {
                let to = To::Queue(self.queue.name.clone());
                (pause.min(LONGEST_PAUSE), to, message, deliveries)
            }
            Verdict::Dead(dead) => {
                let to = To::Topic(dead.topic.as_str().to_owned());
                (Duration::ZERO, to, Arc::from(dead), 0)
            }
            Verdict::Ack | Verdict::Drop | _ => {
                self.settling.after(Duration::ZERO, async move {
                    let _ = acker.ack(BasicAckOptions::default()).await;
                });
                return;
            }
        };
        let engine = Arc::clone(&self.engine);
        self.settling.after(pause, async move {
            let cx = Context::new();
            let properties = wire::write(&message, failures);
            // On a channel that is closed it cannot be settled any more: then it has come again.
            while acker.usable() {
                let published = engine.publisher.publish(
                    &cx,
                    to.clone(),
                    properties.clone(),
                    message.body.clone(),
                );
                match published.await {
                    Ok(()) => {
                        let _ = acker.ack(BasicAckOptions::default()).await;
                        return;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a message is not handed on yet");
                        tokio::time::sleep(AGAIN).await;
                    }
                }
            }
        });
    }
}

/// A subscriber's messages, for its handlers.
pub(crate) struct Supply(pub(crate) Arc<Member>);

impl Source for Supply {
    type Ticket = Ticket;

    async fn next(&self) -> Result<Taken<Ticket>> {
        loop {
            // Behind the lock: a ticket that is dropped takes it.
            let next = {
                let mut arrived = self.0.arrived();
                match arrived.waiting.pop() {
                    Some(item) => Some(item),
                    None => match &arrived.over {
                        Some(why) => return Err(again(why)),
                        None => None,
                    },
                }
            };
            let Some(item) = next else {
                self.0.ready.notified().await;
                continue;
            };
            let ticket = Ticket {
                member: Arc::clone(&self.0),
                message: Arc::clone(&item.message),
                deliveries: item.deliveries,
                acker: item.acker,
                key: item.key,
            };
            // It came on a channel that is closed by now: it comes again.
            if !ticket.acker.usable() {
                continue;
            }
            return Ok(Taken {
                message: item.message,
                deliveries: item.deliveries,
                offset: None,
                ticket,
            });
        }
    }

    async fn settle(&self, ticket: Ticket, verdict: Verdict) -> Result<()> {
        if verdict != Verdict::Ack && verdict != Verdict::Drop {
            let (message, acker) = (Arc::clone(&ticket.message), ticket.acker.clone());
            self.0.do_later(verdict, message, ticket.deliveries, acker);
            return Ok(());
        }
        match ticket.acker.ack(BasicAckOptions::default()).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::unavailable(
                "the connection to RabbitMQ was lost before the message was settled",
            )),
            Err(err) => Err(failed(err)),
        }
    }

    async fn extend(&self, _ticket: &Ticket) {
        // What is being handled has no deadline in RabbitMQ, for half an hour.
    }
}
