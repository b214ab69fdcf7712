//! The broker in memory.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use micro_broker_core::{
    Broker, Capabilities, Class, Context, Durability, Error, Group, Handler, MAX_BODY, Message,
    Order, PublishOptions, Receipt, RemoveOptions, Result, Stopped, SubscribeOptions, Subscription,
    SubscriptionControl, Topic, Verdict, async_trait, check_namespace, check_subscription, prepare,
    wire_name,
};
use micro_broker_delivery::{Consuming, Runner, Source, Taken, consume};
use micro_core::Env;

use crate::queue::{Queue, Ticket};
use crate::topics::Topics;
use crate::{MemoryBrokerConfig, SCHEME};

/// After so long a dead letter that found no room is tried again.
const NO_ROOM: Duration = Duration::from_secs(1);

/// A broker in memory; clones are the same handle.
#[derive(Clone)]
pub struct MemoryBroker {
    topics: Arc<Topics>,
    env: Env,
    namespace: Arc<str>,
    closed: Arc<AtomicBool>,
}

impl MemoryBroker {
    /// A broker with default settings, on the system's clock.
    #[must_use]
    pub fn new() -> Self {
        let opened = Self::with_config(MemoryBrokerConfig::default(), &Env::new());
        opened.expect("no namespace is a good one")
    }

    /// A broker in the namespace of `env`.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` if the namespace is none.
    pub fn with_config(config: MemoryBrokerConfig, env: &Env) -> Result<Self> {
        check_namespace(env.namespace())?;
        Ok(Self {
            topics: Arc::new(Topics::new(config, Arc::clone(env.clock()))),
            env: env.clone(),
            namespace: Arc::from(env.namespace()),
            closed: Arc::default(),
        })
    }

    /// Another handle, in another namespace.
    pub(crate) fn in_namespace(&self, namespace: &str) -> Result<Self> {
        check_namespace(namespace)?;
        Ok(Self {
            namespace: Arc::from(namespace),
            closed: Arc::default(),
            ..self.clone()
        })
    }

    pub(crate) fn config(&self) -> &MemoryBrokerConfig {
        self.topics.config()
    }

    fn name<'a>(&self, topic: &'a Topic) -> Cow<'a, str> {
        if self.namespace.is_empty() {
            Cow::Borrowed(topic.as_str())
        } else {
            Cow::Owned(wire_name(&self.namespace, topic))
        }
    }

    fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::failed_precondition("the broker is closed"));
        }
        Ok(())
    }
}

impl Default for MemoryBroker {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBroker")
            .field("config", self.config())
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Broker for MemoryBroker {
    fn backend(&self) -> &'static str {
        SCHEME
    }

    fn capabilities(&self) -> Capabilities {
        let config = self.config();
        Capabilities::new(Class::AtLeastOnce, Durability::Memory)
            .with_order(Order::Always)
            .with_lasting_groups(true)
            .with_dedup((!config.dedup.is_zero()).then_some(config.dedup))
            .with_replay(config.retain > 0)
    }

    async fn publish(
        &self,
        cx: &Context,
        message: Message,
        opts: PublishOptions,
    ) -> Result<Receipt> {
        self.check_open()?;
        let named = message.id.is_some();
        let (clock, random) = (&**self.env.clock(), &**self.env.random());
        let message = prepare(cx, message, &opts, MAX_BODY, clock, random)?;
        let topic = message.topic.clone();
        let published = self.topics.publish(&self.name(&topic), message, named);
        published.map_err(|err| {
            err.with_operation("broker.publish")
                .with_context("topic", topic)
        })
    }

    async fn subscribe(
        &self,
        topic: &Topic,
        opts: SubscribeOptions,
        handler: Arc<dyn Handler>,
    ) -> Result<Subscription> {
        self.check_open()?;
        check_subscription(topic, &opts, &self.capabilities())?;
        let name = self.name(topic).into_owned();
        let group = opts.group.clone();
        let queue = self.topics.join(&name, group.as_ref(), opts.start);
        let member = Member {
            broker: self.clone(),
            name,
            queue,
        };
        let member = Arc::new(member);
        let consuming = consume(Arc::clone(&member), Runner::new(handler, opts, &self.env));
        Ok(Subscription::new(
            topic.clone(),
            group,
            Subscribed { consuming, member },
        ))
    }

    async fn remove_group(
        &self,
        topic: &Topic,
        group: &Group,
        _opts: RemoveOptions,
    ) -> Result<bool> {
        let is = |queue: &Arc<Queue>| queue.group.as_ref() == Some(group);
        Ok(self.topics.leave(&self.name(topic), is))
    }

    async fn close(&self, _grace: Duration) -> Result<()> {
        // What was published is with its groups already.
        self.closed.store(true, Ordering::Release);
        Ok(())
    }
}

/// A member of a group, or a subscriber without one.
struct Member {
    broker: MemoryBroker,
    name: String,
    queue: Arc<Queue>,
}

impl Member {
    /// One without a group takes its queue along.
    fn leave(&self) {
        if self.queue.group.is_none() {
            let queue = |other: &Arc<Queue>| Arc::ptr_eq(other, &self.queue);
            self.broker.topics.leave(&self.name, queue);
        }
    }
}

impl Source for Member {
    type Ticket = Ticket;

    async fn next(&self) -> Result<Taken<Ticket>> {
        let ticket = self.queue.take().await?;
        let entry = ticket.entry();
        Ok(Taken {
            message: Arc::clone(&entry.message),
            deliveries: entry.deliveries,
            offset: entry.offset,
            ticket,
        })
    }

    async fn settle(&self, ticket: Ticket, verdict: Verdict) -> Result<()> {
        match verdict {
            Verdict::Retry(pause) => ticket.later(pause),
            Verdict::Dead(message) => {
                let name = self.broker.name(&message.topic);
                match self.broker.topics.publish(&name, (*message).clone(), false) {
                    Ok(_) => ticket.done(),
                    Err(err) => {
                        ticket.later(NO_ROOM);
                        return Err(err);
                    }
                }
            }
            _ => ticket.done(),
        }
        Ok(())
    }

    async fn extend(&self, _ticket: &Ticket) {}
}

/// Dropping it ends the handlers, and gives back what they had.
struct Subscribed {
    consuming: Consuming,
    member: Arc<Member>,
}

#[async_trait]
impl SubscriptionControl for Subscribed {
    async fn stop(&self, grace: Duration) -> Result<Stopped> {
        self.consuming.stop(grace).await
    }

    async fn ended(&self) -> Error {
        self.consuming.ended().await
    }
}

impl Drop for Subscribed {
    fn drop(&mut self) {
        self.member.leave();
    }
}
