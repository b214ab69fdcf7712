//! The broker over RabbitMQ.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{FieldTable, ShortString};
use micro_broker_core::{
    Broker, Capabilities, Class, Context, Durability, Error, Group, Handler, MAX_BODY, Message,
    Order, PublishOptions, Reach, Receipt, RemoveOptions, Result, SubscribeOptions, Subscription,
    Topic, async_trait, check_namespace, check_subscription, new_id, prepare,
};
use micro_broker_delivery::{Runner, consume};
use micro_core::Env;
use tokio::time::Instant;

use crate::error::{failed, is_missing};
use crate::link::Link;
use crate::member::{Member, Supply};
use crate::publisher::{Publisher, To};
use crate::subscribed::Subscribed;
use crate::topology::{Names, QueueSpec};
use crate::{Queues, RabbitConfig, SCHEME, wire};

/// A broker over RabbitMQ; clones are the same handle.
#[derive(Clone)]
pub struct RabbitBroker {
    engine: Arc<Engine>,
    closed: Arc<AtomicBool>,
}

/// What a handle's publishers and subscribers share.
pub(crate) struct Engine {
    pub(crate) config: Arc<RabbitConfig>,
    pub(crate) names: Names,
    pub(crate) env: Env,
    pub(crate) publisher: Publisher,
    /// A connection of its own, made for the first subscriber: RabbitMQ stops reading from those that
    /// publish when it is short of memory, and acknowledgements must not wait for that.
    consuming: OnceLock<Link>,
}

impl Engine {
    /// The connection for subscribers.
    pub(crate) fn consuming(&self) -> &Link {
        self.consuming.get_or_init(|| self.link("micro subscriber"))
    }

    fn link(&self, name: &'static str) -> Link {
        Link::open(
            name,
            Arc::clone(&self.config),
            Arc::clone(self.env.random()),
        )
    }

    /// Until when a call that begins now may take.
    pub(crate) fn until(&self) -> Instant {
        Instant::now() + self.config.timeout
    }
}

impl RabbitBroker {
    /// A broker that connects in the background, in the namespace of `env`. Within a tokio runtime.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for settings that do not go together, and for a namespace that is none;
    /// `FailedPrecondition` outside of a tokio runtime.
    pub fn open(config: RabbitConfig, env: &Env) -> Result<Self> {
        config.check()?;
        check_namespace(env.namespace())?;
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(Error::failed_precondition(
                "open this within a tokio runtime: it needs tasks",
            )
            .with_operation("broker.open"));
        }
        if config.shouts() {
            tracing::warn!(
                servers = %config.endpoints.join(" "),
                "the password goes to RabbitMQ unencrypted: turn on TLS with 'amqps', 'tls' or 'ca'"
            );
        }
        let config = Arc::new(config);
        let names = Names::new(&config, env.namespace());
        let random = Arc::clone(env.random());
        let link = Link::open("micro publisher", Arc::clone(&config), random);
        let engine = Engine {
            publisher: Publisher::start(link, names.clone(), config.timeout),
            config,
            names,
            env: env.clone(),
            consuming: OnceLock::new(),
        };
        Ok(Self {
            engine: Arc::new(engine),
            closed: Arc::default(),
        })
    }

    fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::failed_precondition("the broker is closed"));
        }
        Ok(())
    }

    fn durability(&self) -> Durability {
        match self.engine.config.queues {
            // In Raft's log, synced before it is confirmed.
            Queues::Quorum => Durability::Power,
            // Newer ones leave the syncing to the system.
            Queues::Classic => Durability::Process,
        }
    }
}

impl fmt::Debug for RabbitBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitBroker")
            .field("config", &self.engine.config)
            .field("names", &self.engine.names)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Broker for RabbitBroker {
    fn backend(&self) -> &'static str {
        SCHEME
    }

    fn capabilities(&self) -> Capabilities {
        let order = match self.engine.config.ordered {
            true => Order::Stable,
            false => Order::None,
        };
        Capabilities::new(Class::AtLeastOnce, self.durability())
            .with_order(order)
            .with_lasting_groups(true)
            .with_shared(true)
    }

    async fn publish(
        &self,
        cx: &Context,
        message: Message,
        opts: PublishOptions,
    ) -> Result<Receipt> {
        let at = |err: Error| err.with_operation("broker.publish");
        self.check_open().map_err(at)?;
        let env = &self.engine.env;
        let (clock, random) = (&**env.clock(), &**env.random());
        let message = prepare(cx, message, &opts, MAX_BODY, clock, random).map_err(at)?;
        let topic = message.topic.clone();
        let published = self.engine.publisher.publish(
            cx,
            To::Topic(topic.as_str().to_owned()),
            wire::write(&message, 0),
            message.body,
        );
        let published = published.await;
        published.map_err(|err| at(err).with_context("topic", &topic))?;
        let reach = Reach::Stored {
            durability: self.durability(),
            groups: None,
        };
        Ok(Receipt::new(message.id.unwrap_or_default(), reach))
    }

    async fn subscribe(
        &self,
        topic: &Topic,
        opts: SubscribeOptions,
        handler: Arc<dyn Handler>,
    ) -> Result<Subscription> {
        let at = |err: Error| err.with_operation("broker.subscribe");
        self.check_open().map_err(at)?;
        check_subscription(topic, &opts, &self.capabilities()).map_err(at)?;
        let (engine, group) = (&self.engine, opts.group.clone());
        let queue = match &group {
            Some(group) => QueueSpec {
                name: engine.names.group(topic, group),
                lasting: true,
            },
            None => {
                let id = new_id(engine.env.clock().wall(), &**engine.env.random());
                QueueSpec {
                    name: engine.names.alone(topic, &id),
                    lasting: false,
                }
            }
        };
        let runner = Runner::new(handler, opts.clone(), &engine.env);
        let member = Member::new(Arc::clone(engine), topic.clone(), queue, opts);
        let consumption = member.consume(engine.until()).await;
        let consumption = consumption.map_err(|err| at(err).with_context("topic", topic))?;
        let member = Arc::new(member);
        let consuming = consume(Arc::new(Supply(Arc::clone(&member))), runner);
        let control = Subscribed::begin(member, consumption, consuming);
        Ok(Subscription::new(topic.clone(), group, control))
    }

    async fn remove_group(
        &self,
        topic: &Topic,
        group: &Group,
        _opts: RemoveOptions,
    ) -> Result<bool> {
        let engine = &self.engine;
        let name: ShortString = engine.names.group(topic, group).into();
        let removing = async {
            let connection = engine.consuming().connection(engine.until()).await?;
            let channel = connection.create_channel().await.map_err(failed)?;
            // To delete what is not there is a success in RabbitMQ.
            let passive = QueueDeclareOptions {
                passive: true,
                ..QueueDeclareOptions::default()
            };
            let found = channel.queue_declare(name.clone(), passive, FieldTable::default());
            match found.await {
                Ok(_) => {}
                Err(err) if is_missing(&err) => return Ok(false),
                Err(err) => return Err(failed(err)),
            }
            let deleted = channel.queue_delete(name, QueueDeleteOptions::default());
            deleted.await.map_err(failed).map(|_| true)
        };
        let removed = match tokio::time::timeout(engine.config.timeout, removing).await {
            Ok(removed) => removed,
            Err(_) => Err(Error::unavailable("RabbitMQ does not answer in time")),
        };
        removed.map_err(|err| {
            err.with_operation("broker.remove_group")
                .with_context("topic", topic)
                .with_context("group", group)
        })
    }

    async fn close(&self, grace: Duration) -> Result<()> {
        self.closed.store(true, Ordering::Release);
        self.engine.publisher.flush(grace).await.map_err(|left| {
            Error::deadline_exceeded("messages are still on their way to RabbitMQ")
                .with_operation("broker.close")
                .with_context("messages", left)
        })
    }
}
