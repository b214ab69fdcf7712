//! The broker over NATS.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use micro_broker_core::{
    Broker, Capabilities, Class, Context, Error, Group, Handler, Message, PublishOptions, Reach,
    Receipt, RemoveOptions, Result, SubscribeOptions, Subscription, Topic, async_trait,
    check_namespace, check_subscription, prepare,
};
use micro_core::Env;
use micro_nats::Connection;

use crate::jetstream::{self, Streams};
use crate::names::Names;
use crate::plain::{self, Plain};
use crate::{Mode, NatsBrokerConfig, SCHEME};

/// A broker over NATS; clones are the same handle.
#[derive(Clone)]
pub struct NatsBroker(Arc<Shared>);

struct Shared {
    config: NatsBrokerConfig,
    env: Env,
    engine: Engine,
    closed: AtomicBool,
}

enum Engine {
    JetStream(Arc<Streams>),
    Core(Arc<Plain>),
}

impl NatsBroker {
    /// Begins to connect in the background; the server need not be there yet.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for settings that do not go together, and for a namespace that is none;
    /// `FailedPrecondition` outside of a tokio runtime.
    pub fn open(config: NatsBrokerConfig, env: &Env) -> Result<Self> {
        config.check()?;
        check_namespace(env.namespace())?;
        let names = Names::new(env.namespace());
        let connection = Connection::open(config.server.clone(), env.random(), true)?;
        let engine = match config.mode {
            Mode::JetStream => {
                let streams = Streams::new(connection, names, config.clone(), env);
                Engine::JetStream(Arc::new(streams))
            }
            Mode::Core => Engine::Core(Arc::new(Plain::new(connection, names, env))),
        };
        Ok(Self(Arc::new(Shared {
            config,
            env: env.clone(),
            engine,
            closed: AtomicBool::new(false),
        })))
    }
}

impl Shared {
    fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::failed_precondition("the broker is closed"));
        }
        Ok(())
    }

    async fn publish(&self, cx: &Context, message: &Message) -> Result<Receipt> {
        let id = message.id.clone().unwrap_or_else(|| Arc::from(""));
        let reach = Reach::Stored {
            durability: self.config.survives(),
            groups: None,
        };
        let receipt = Receipt::new(Arc::clone(&id), reach);
        match &self.engine {
            Engine::JetStream(streams) => {
                let stored = streams.publish(cx, message, &id).await?;
                Ok(receipt
                    .with_offset(Some(stored.seq))
                    .with_duplicate(stored.duplicate))
            }
            Engine::Core(plain) => {
                plain.publish(cx, message).await?;
                Ok(receipt)
            }
        }
    }
}

impl fmt::Debug for NatsBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsBroker")
            .field("config", &self.0.config)
            .field("namespace", &self.0.env.namespace())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Broker for NatsBroker {
    fn backend(&self) -> &'static str {
        SCHEME
    }

    fn capabilities(&self) -> Capabilities {
        let config = &self.0.config;
        let (durability, max_body) = (config.survives(), config.max_body());
        match config.mode {
            Mode::JetStream => Capabilities::new(Class::AtLeastOnce, durability)
                .with_lasting_groups(true)
                .with_dedup(Some(config.dedup))
                .with_replay(true),
            Mode::Core => Capabilities::new(Class::AtMostOnce, durability),
        }
        .with_shared(true)
        .with_max_body(max_body)
    }

    async fn publish(
        &self,
        cx: &Context,
        message: Message,
        opts: PublishOptions,
    ) -> Result<Receipt> {
        let shared = &self.0;
        shared.check_open()?;
        let (clock, random) = (&**shared.env.clock(), &**shared.env.random());
        let message = prepare(cx, message, &opts, shared.config.max_body(), clock, random)?;
        let published = shared.publish(cx, &message).await;
        published.map_err(|err| {
            err.with_operation("broker.publish")
                .with_context("topic", &message.topic)
        })
    }

    async fn subscribe(
        &self,
        topic: &Topic,
        opts: SubscribeOptions,
        handler: Arc<dyn Handler>,
    ) -> Result<Subscription> {
        let shared = &self.0;
        shared.check_open()?;
        check_subscription(topic, &opts, &self.capabilities())?;
        let subscribed = match &shared.engine {
            Engine::JetStream(streams) => {
                jetstream::subscribe(streams, topic, opts, handler, &shared.env).await
            }
            Engine::Core(plain) => plain::subscribe(plain, topic, opts, handler).await,
        };
        subscribed.map_err(|err| {
            err.with_operation("broker.subscribe")
                .with_context("topic", topic)
        })
    }

    async fn remove_group(
        &self,
        topic: &Topic,
        group: &Group,
        _opts: RemoveOptions,
    ) -> Result<bool> {
        match &self.0.engine {
            Engine::JetStream(streams) => {
                let removed = streams.remove_group(topic, group).await;
                removed.map_err(|err| err.with_operation("broker.remove_group"))
            }
            // A group is its members: without one, there is nothing.
            Engine::Core(_) => Ok(false),
        }
    }

    async fn close(&self, _grace: Duration) -> Result<()> {
        // What was published is with the server already.
        self.0.closed.store(true, Ordering::Release);
        Ok(())
    }
}
