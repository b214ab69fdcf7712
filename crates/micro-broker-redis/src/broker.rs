//! The broker of this crate.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use micro_broker_core::{
    Broker, Capabilities, Class, Context, Error, Group, Handler, MAX_BODY, Message, Order,
    PublishOptions, Reach, Receipt, RemoveOptions, Result, Start, SubscribeOptions, Subscription,
    Topic, async_trait, check_namespace, check_subscription, prepare,
};
use micro_broker_delivery::{Runner, consume};
use micro_core::Env;
use micro_redis::redis::Value;
use micro_redis::{Effect, Link};
use tokio::time::sleep;

use crate::care;
use crate::entry::{self, before_millis, before_offset, bytes, nonsense};
use crate::member::{Member, Subscribed};
use crate::queue::{Queue, millis};
use crate::scripts::{PUBLISH, of_topic};
use crate::site::Site;
use crate::{RedisBrokerConfig, SCHEME};

/// A broker in Redis; clones are the same handle.
#[derive(Clone)]
pub struct RedisBroker(Arc<Site>);

impl RedisBroker {
    /// Opens the broker in the namespace of `env`, and asks the server how it is set up.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for settings that do not go together; `Unavailable` if the server cannot be
    /// reached; `Unauthenticated` and `PermissionDenied` if it refuses us, or something that we need;
    /// `FailedPrecondition` if it is a replica, or of a cluster, or drops keys when it is full; outside of
    /// a tokio runtime, too.
    pub async fn open(config: RedisBrokerConfig, env: &Env) -> Result<Self> {
        let open = async {
            config.check()?;
            check_namespace(env.namespace())?;
            Site::open(config, env).await
        };
        let site = open
            .await
            .map_err(|err| err.with_operation("broker.open"))?;
        Ok(Self(Arc::new(site)))
    }

    /// Sends a message that [`prepare`] made; `named` says that its id is the publisher's own. `sent` is set
    /// when it may have been published.
    async fn send(&self, message: &Message, named: bool, sent: &AtomicBool) -> Result<Receipt> {
        let site = &*self.0;
        let id = message.id.clone().unwrap_or_default();
        let mut invocation = of_topic(&PUBLISH, &site.root, &site.name(&message.topic));
        let known = named && !site.config.dedup.is_zero();
        invocation
            .arg(site.config.max_messages)
            .arg(millis(site.config.retain))
            .arg(if known { &*id } else { "" })
            .arg(millis(site.config.dedup));
        entry::write(message, &mut invocation);
        let deadline = site.connection.deadline();
        let link = site.connection.link(deadline).await?;
        sent.store(true, Ordering::Relaxed);
        let answer = link
            .run(&PUBLISH, &invocation, Effect::Change, deadline)
            .await?;
        self.receipt(id, &link, answer)
    }

    fn receipt(&self, id: Arc<str>, link: &Link, answer: Value) -> Result<Receipt> {
        let Value::Array(parts) = answer else {
            return Err(nonsense());
        };
        let mut parts = parts.into_iter();
        let text = |part: Option<Value>| part.and_then(bytes);
        let what = text(parts.next()).ok_or_else(nonsense)?;
        let which = text(parts.next()).ok_or_else(nonsense)?;
        let which = String::from_utf8_lossy(&which);
        let duplicate = match &*what {
            b"stored" => false,
            b"duplicate" => true,
            b"full" => {
                let group = if which.starts_with('~') { "" } else { &which };
                return Err(Error::resource_exhausted(
                    "a group of this topic has too much before it already: publish more slowly, or give it more members",
                )
                .with_context("group", group)
                .with_context("max_messages", self.0.config.max_messages));
            }
            _ => return Err(nonsense()),
        };
        let Some(Value::Int(groups)) = parts.next() else {
            return Err(nonsense());
        };
        let reach = Reach::Stored {
            durability: self.0.durability(Some(link)),
            groups: u32::try_from(groups).ok(),
        };
        let replays = !self.0.config.retain.is_zero();
        Ok(Receipt::new(id, reach)
            .with_duplicate(duplicate)
            .with_offset(entry::offset(&which).filter(|_| replays)))
    }
}

/// Returns when the call is over.
async fn over(cx: &Context) {
    let late = async {
        match cx.remaining() {
            Some(left) => sleep(left).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = cx.cancelled() => {}
        () = late => {}
    }
}

/// The id behind which a new group begins.
fn behind(start: Start) -> String {
    match start {
        Start::Oldest => "0-0".to_owned(),
        Start::Offset(offset) => before_offset(offset),
        Start::Time(time) => {
            // Redis counts whole ones, and what it counts as the same one may be later.
            let since = time.duration_since(SystemTime::UNIX_EPOCH);
            let millis = since.unwrap_or_default().as_millis();
            before_millis(u64::try_from(millis).unwrap_or(u64::MAX))
        }
        _ => "$".to_owned(),
    }
}

impl fmt::Debug for RedisBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RedisBroker").field(&self.0).finish()
    }
}

#[async_trait]
impl Broker for RedisBroker {
    fn backend(&self) -> &'static str {
        SCHEME
    }

    fn capabilities(&self) -> Capabilities {
        let config = &self.0.config;
        Capabilities::new(Class::AtLeastOnce, self.0.durability(None))
            .with_order(Order::Always)
            .with_lasting_groups(true)
            .with_dedup((!config.dedup.is_zero()).then_some(config.dedup))
            .with_replay(!config.retain.is_zero())
            .with_shared(true)
    }

    async fn publish(
        &self,
        cx: &Context,
        message: Message,
        opts: PublishOptions,
    ) -> Result<Receipt> {
        let (topic, sent) = (message.topic.clone(), AtomicBool::new(false));
        let publish = async {
            self.0.check_open()?;
            let named = message.id.is_some();
            let (clock, random) = (&**self.0.env.clock(), &**self.0.env.random());
            let message = prepare(cx, message, &opts, MAX_BODY, clock, random)?;
            tokio::select! {
                biased;
                published = self.send(&message, named, &sent) => published,
                () = over(cx) => Err(if sent.load(Ordering::Relaxed) {
                    Error::outcome_unknown(
                        "the call was over before Redis answered: the message may have been published",
                    )
                } else if cx.is_cancelled() {
                    Error::cancelled("the caller gave up")
                } else {
                    Error::deadline_exceeded("the time for the call ran out")
                }),
            }
        };
        publish.await.map_err(|err| {
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
        let subscribe = async {
            self.0.check_open()?;
            check_subscription(topic, &opts, &self.capabilities())?;
            let group = opts.group.clone();
            let name = group.as_ref().map(Group::as_str);
            let queue = Arc::new(Queue::new(&self.0, topic, name, opts.ack_deadline));
            // First: what is given up from here on is taken back.
            let care = care::begin(&queue);
            queue.create(&behind(opts.start)).await?;
            let member = Arc::new(Member::begin(queue, opts.clone(), care)?);
            let runner = Runner::new(handler, opts, &self.0.env);
            let consuming = consume(Arc::clone(&member), runner);
            let subscribed = Subscribed { consuming, member };
            Ok(Subscription::new(topic.clone(), group, subscribed))
        };
        subscribe.await.map_err(|err: Error| {
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
        let queue = Queue::new(&self.0, topic, Some(group.as_str()), Duration::ZERO);
        let removed = queue.remove(true).await;
        removed.map_err(|err| {
            err.with_operation("broker.remove_group")
                .with_context("topic", topic)
        })
    }

    async fn close(&self, _grace: Duration) -> Result<()> {
        // What was published is with its groups already.
        self.0.close();
        Ok(())
    }
}
