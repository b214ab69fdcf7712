//! Exchanges and queues: their names, and how they are made.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Connection, ExchangeKind};
use micro_broker_core::{Group, Result, Topic};

use crate::error::{failed, is_another};
use crate::{Queues, RabbitConfig};

/// More than any message is delivered: RabbitMQ 4 drops messages after 20 deliveries unless it is told
/// otherwise, and we count ourselves.
const NO_LIMIT: i64 = 1_000_000_000;

/// What all names of a namespace begin with, and what they are made by.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    exchange: String,
}

impl Names {
    pub(crate) fn new(config: &RabbitConfig, namespace: &str) -> Self {
        Self {
            // Neither part has a colon.
            exchange: match namespace {
                "" => config.exchange.clone(),
                _ => format!("{}:{namespace}", config.exchange),
            },
        }
    }

    /// The exchange that messages of the namespace are published to, by their topic as the key.
    pub(crate) fn exchange(&self) -> &str {
        &self.exchange
    }

    /// The queue of a group. Neither topics nor groups have a slash.
    pub(crate) fn group(&self, topic: &Topic, group: &Group) -> String {
        format!("{}/{topic}/{group}", self.exchange)
    }

    /// The queue of a subscriber without a group; no group's name begins so.
    pub(crate) fn alone(&self, topic: &Topic, id: &str) -> String {
        format!("{}/{topic}/~{id}", self.exchange)
    }
}

/// A queue that is there, or is to be made.
#[derive(Clone, Debug)]
pub(crate) struct QueueSpec {
    pub(crate) name: String,
    /// Whether it outlives its consumers.
    pub(crate) lasting: bool,
}

fn arguments(config: &RabbitConfig, lasting: bool) -> FieldTable {
    let mut arguments = FieldTable::default();
    let mut set = |name: &str, value| {
        arguments.insert(name.into(), value);
    };
    let text = |text: &str| AMQPValue::LongString(text.into());
    set("x-overflow", text("reject-publish"));
    set(
        "x-max-length",
        AMQPValue::LongLongInt(config.max_length.into()),
    );
    let bytes = i64::try_from(config.max_bytes).unwrap_or(i64::MAX);
    set("x-max-length-bytes", AMQPValue::LongLongInt(bytes));
    if !lasting {
        let millis = i32::try_from(config.expires.as_millis()).unwrap_or(i32::MAX);
        set("x-expires", AMQPValue::LongInt(millis));
        return arguments;
    }
    if config.queues == Queues::Quorum {
        set("x-queue-type", text("quorum"));
        set("x-delivery-limit", AMQPValue::LongLongInt(NO_LIMIT));
    }
    if config.ordered {
        set("x-single-active-consumer", AMQPValue::Boolean(true));
    }
    arguments
}

/// Makes the exchange if it is not there.
pub(crate) async fn make_exchange(connection: &Connection, names: &Names) -> Result<()> {
    let exchange = Thing::Exchange(names.exchange().into());
    make(connection, &exchange).await
}

/// Makes the queue if it is not there, and binds it to the topic.
pub(crate) async fn make_queue(
    connection: &Connection,
    config: &RabbitConfig,
    names: &Names,
    topic: &Topic,
    queue: &QueueSpec,
) -> Result<()> {
    let name: ShortString = queue.name.as_str().into();
    let thing = Thing::Queue(name.clone(), arguments(config, queue.lasting));
    make(connection, &thing).await?;
    let channel = connection.create_channel().await.map_err(failed)?;
    let bound = channel.queue_bind(
        name,
        names.exchange().into(),
        topic.as_str().into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    bound.await.map_err(failed)
}

/// What can be made.
enum Thing {
    Exchange(ShortString),
    Queue(ShortString, FieldTable),
}

impl Thing {
    fn name(&self) -> &str {
        match self {
            Self::Exchange(name) | Self::Queue(name, _) => name.as_str(),
        }
    }

    /// Makes it; passively, it is only looked whether it is there. A refusal closes the channel.
    async fn declare(&self, channel: Channel, passive: bool) -> lapin::Result<()> {
        match self {
            Self::Exchange(name) => {
                let opts = ExchangeDeclareOptions {
                    passive,
                    durable: true,
                    ..ExchangeDeclareOptions::default()
                };
                let (name, kind) = (name.clone(), ExchangeKind::Topic);
                let declared = channel.exchange_declare(name, kind, opts, FieldTable::default());
                declared.await
            }
            Self::Queue(name, arguments) => {
                let opts = QueueDeclareOptions {
                    passive,
                    durable: true,
                    ..QueueDeclareOptions::default()
                };
                let declared = channel.queue_declare(name.clone(), opts, arguments.clone());
                declared.await.map(drop)
            }
        }
    }
}

/// Makes something; what is there already with other settings, or may only be made by somebody else, is
/// used as it is.
async fn make(connection: &Connection, thing: &Thing) -> Result<()> {
    let channel = connection.create_channel().await.map_err(failed)?;
    let refusal = match thing.declare(channel, false).await {
        Err(err) if is_another(&err) => err,
        made => return made.map_err(failed),
    };
    let channel = connection.create_channel().await.map_err(failed)?;
    let name = thing.name();
    if thing.declare(channel, true).await.is_err() {
        return Err(failed(refusal).with_context("name", name));
    }
    tracing::warn!(
        name,
        why = %refusal,
        "this is used as it is in RabbitMQ: we did not make it, and would make it otherwise"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_apart_and_fit() {
        let config = RabbitConfig::default();
        let topic = Topic::new("shop.orders").unwrap();
        let names = Names::new(&config, "");
        assert_eq!(names.exchange(), "micro");
        let group = Group::new("mailer").unwrap();
        assert_eq!(names.group(&topic, &group), "micro/shop.orders/mailer");
        let names = Names::new(&config, "eu");
        assert_eq!(names.group(&topic, &group), "micro:eu/shop.orders/mailer");
        assert_eq!(names.alone(&topic, "7"), "micro:eu/shop.orders/~7");
        let config = RabbitConfig {
            exchange: "x".repeat(20),
            ..config
        };
        let names = Names::new(&config, &"n".repeat(64));
        let (topic, group) = ("t".repeat(128), "g".repeat(40));
        let (topic, group) = (Topic::new(&topic).unwrap(), Group::new(&group).unwrap());
        assert_eq!(names.group(&topic, &group).len(), 255);
    }
}
