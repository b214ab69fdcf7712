//! The HTTP broker.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use micro_broker_core::{
    Broker, Capabilities, Class, Context, Durability, Error, Group, Handler, Message, Order,
    PublishOptions, Reach, Receipt, RemoveOptions, Result, Stopped, SubscribeOptions, Subscription,
    SubscriptionControl, Topic, async_trait, check_namespace, check_subscription, prepare,
    wire_name,
};
use micro_broker_delivery::Runner;
use micro_core::Env;
use micro_registry_core::{Node, Registry, Service};
use tokio::sync::OnceCell;

use crate::courier::{Courier, Parcel};
use crate::inlet::{Bury, Subscriber};
use crate::listener::listen;
use crate::outbox::{self, Outbox};
use crate::peers::{BROADCAST, Peers, SERVICE};
use crate::presence::Presence;
use crate::{HttpBrokerConfig, Inlet, SCHEME, frame};

/// A broker without a server: publishers find subscribers through the registry, and post messages to them.
///
/// Clones are the same handle. When the last one and the last subscription are dropped, its tasks end.
#[derive(Clone)]
pub struct HttpBroker(Arc<Owner>);

struct Owner {
    shared: Arc<Shared>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.courier.over.send_replace(true);
    }
}

struct Shared {
    config: HttpBrokerConfig,
    env: Env,
    courier: Arc<Courier>,
    outbox: Option<Outbox>,
    inlet: Arc<Inlet>,
    /// What others call, once the port is bound.
    address: OnceCell<String>,
    /// Part of every subscriber's id, so that nobody guesses one.
    mark: String,
    count: AtomicU64,
    closed: AtomicBool,
}

impl HttpBroker {
    /// A broker over the registry of `env`, and its store if there is to be an outbox. What an earlier
    /// process left in the outbox is handed on.
    ///
    /// # Errors
    ///
    /// `FailedPrecondition` if no registry is open, or no store that is needed; `InvalidArgument` for a
    /// namespace or a table that is none.
    ///
    /// # Panics
    ///
    /// With an outbox, outside of a tokio runtime.
    pub fn open(config: HttpBrokerConfig, env: &Env) -> Result<Self> {
        check_namespace(env.namespace())?;
        let registry = env.get::<dyn Registry>().ok_or_else(|| {
            Error::failed_precondition(
                "the HTTP broker finds subscribers through the registry, and none is open",
            )
            .with_operation("broker.open")
        })?;
        let random = env.random();
        let chance = u128::from(random.next_u64()) << 64 | u128::from(random.next_u64());
        let id = uuid::Builder::from_random_bytes(chance.to_ne_bytes()).into_uuid();
        let mark = format!("go.micro.http.broker-{id}");
        let outbox = config.outbox.as_deref();
        let outbox = outbox
            .map(|table| Outbox::open(table, mark.clone(), env))
            .transpose()?;
        let peers = Peers::new(registry, mark.clone(), &config, env);
        let courier = Arc::new(Courier::new(peers, config.max_pending, env));
        if let Some(outbox) = &outbox {
            let mut over = courier.over.subscribe();
            let resume = outbox.clone().resume(Arc::clone(&courier));
            let finding = courier.busy();
            tokio::spawn(async move {
                let _finding = finding;
                tokio::select! {
                    () = resume => {}
                    _ = over.wait_for(|over| *over) => {}
                }
            });
        }
        let shared = Arc::new(Shared {
            inlet: Arc::new(Inlet::new(config.max_body)),
            config,
            env: env.clone(),
            courier,
            outbox,
            address: OnceCell::new(),
            mark,
            count: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        });
        Ok(Self(Arc::new(Owner { shared })))
    }

    /// Where messages arrive: for a service that serves them on its own port, at the address that
    /// [`served_at`](Self::served_at) is told.
    #[must_use]
    pub fn inlet(&self) -> Arc<Inlet> {
        Arc::clone(&self.0.shared.inlet)
    }

    /// Says that somebody else serves the [`inlet`](Self::inlet), at this address, `host:port`: no port
    /// is bound then. It is for before the first subscription.
    ///
    /// # Errors
    ///
    /// `FailedPrecondition` if there is an address already.
    pub fn served_at(&self, address: impl Into<String>) -> Result<()> {
        self.0.shared.address.set(address.into()).map_err(|_| {
            Error::failed_precondition("messages are received at another address already")
                .with_operation("broker.served_at")
        })
    }
}

impl fmt::Debug for HttpBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpBroker")
            .field("config", &self.0.shared.config)
            .field("address", &self.0.shared.address.get())
            .field("courier", &self.0.shared.courier)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::failed_precondition("the broker is closed"));
        }
        Ok(())
    }

    async fn address(&self) -> Result<&str> {
        let address = self.address.get_or_try_init(|| async {
            let over = self.courier.over.subscribe();
            let bound = listen(&self.config, Arc::clone(&self.inlet), over).await?;
            advertised(&self.config, bound)
        });
        address.await.map(String::as_str)
    }

    /// Sends a message that [`prepare`] made.
    async fn send(&self, cx: &Context, message: Message) -> Result<Receipt> {
        let topic = wire_name(self.env.namespace(), &message.topic);
        let targets = self.courier.peers.of(&topic, cx.deadline()).await?;
        let id = message.id.clone().unwrap_or_else(|| Arc::from(""));
        let is_dead = message.dead_letter.is_some();
        if targets.is_empty() {
            if is_dead {
                tracing::warn!(
                    topic,
                    id = &*id,
                    "a dead letter is lost: nobody subscribes to its topic"
                );
            }
            let nobody = Reach::Delivered {
                acknowledged: 0,
                pending: 0,
                failed: 0,
            };
            return Ok(Receipt::new(id, nobody));
        }
        let parcel = Parcel::new(message, topic);
        let room = self.courier.room(&parcel)?;
        let total = targets.len() as u32;
        if let Some(outbox) = self.outbox.clone() {
            let reach = Reach::Outbox {
                durability: outbox.durability,
            };
            let courier = Arc::clone(&self.courier);
            let receipt = Receipt::new(Arc::clone(&id), reach);
            // In a task, which ends with the write: a record that was written by a call that was dropped is
            // handed on all the same.
            let kept = tokio::spawn(async move {
                let Some(name) = outbox.keep(&id, &parcel, &targets).await? else {
                    return Ok(true);
                };
                let settled = || outbox.settled(name);
                drop(courier.send(parcel, room, targets, outbox::RETRY_FOR, settled));
                Ok(false)
            });
            let kept = kept.await.unwrap_or_else(|err| {
                Err(Error::outcome_unknown("the outbox broke off").with_source(err))
            });
            return kept.map(|duplicate| receipt.with_duplicate(duplicate));
        }
        let settled = || std::future::ready(());
        // A dead letter's subscriber is not waited for: it may be the one whose message died.
        let wait = if is_dead {
            Duration::ZERO
        } else {
            self.config.wait
        };
        let sending = self
            .courier
            .send(parcel, room, targets, self.config.retry_for, settled);
        let tally = sending.wait(cx, wait).await;
        let acknowledged = tally.acknowledged.load(Ordering::Acquire);
        let failed = tally.failed.load(Ordering::Acquire);
        let reach = Reach::Delivered {
            acknowledged,
            pending: total.saturating_sub(acknowledged + failed),
            failed,
        };
        Ok(Receipt::new(id, reach))
    }
}

/// What others call.
fn advertised(config: &HttpBrokerConfig, bound: SocketAddr) -> Result<String> {
    if let Some(address) = &config.advertise {
        return Ok(address.clone());
    }
    if bound.ip().is_unspecified() {
        return Err(Error::invalid_argument(
            "messages are received at every address of this machine: say by 'advertise' which one others call",
        )
        .with_operation("broker.subscribe"));
    }
    Ok(bound.to_string())
}

#[async_trait]
impl Broker for HttpBroker {
    fn backend(&self) -> &'static str {
        SCHEME
    }

    fn capabilities(&self) -> Capabilities {
        let shared = &self.0.shared;
        let (class, durability) = match &shared.outbox {
            Some(outbox) if outbox.durability > Durability::Memory => {
                (Class::AtLeastOnce, outbox.durability)
            }
            _ => (Class::AtMostOnce, Durability::Memory),
        };
        Capabilities::new(class, durability)
            .with_order(Order::Stable)
            .with_shared(shared.courier.peers.registry().capabilities().shared)
            .with_max_body(shared.config.max_body)
    }

    async fn publish(
        &self,
        cx: &Context,
        message: Message,
        opts: PublishOptions,
    ) -> Result<Receipt> {
        let shared = &self.0.shared;
        shared.check_open()?;
        let (clock, random) = (&**shared.env.clock(), &**shared.env.random());
        let message = prepare(cx, message, &opts, shared.config.max_body, clock, random)?;
        let topic = message.topic.clone();
        let sent = shared.send(cx, message).await;
        sent.map_err(|err| {
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
        let shared = &self.0.shared;
        shared.check_open()?;
        check_subscription(topic, &opts, &self.capabilities())?;
        let group = opts.group.clone();
        let version = group.as_ref().map_or(BROADCAST, Group::as_str);
        if group.is_some() && version == BROADCAST {
            return Err(Error::invalid_argument(
                "this name stands for subscribers without a group: choose another",
            )
            .with_context("group", version));
        }
        let address = shared.address().await?;
        let wire_topic = wire_name(shared.env.namespace(), topic);
        let count = shared.count.fetch_add(1, Ordering::Relaxed);
        let id = format!("{wire_topic}-{}-{count}", shared.mark);
        let node = Node::new(&id, address)
            .with_metadata("broker", "http")
            .with_metadata("topic", &wire_topic)
            .with_metadata("accepts", frame::CONTENT_TYPE)
            .with_metadata("secure", shared.config.is_secure().to_string());
        let service = Service::new(SERVICE, version).with_node(node);
        let weak = Arc::downgrade(shared);
        let bury: Bury = Arc::new(move |message| {
            let shared = weak.upgrade();
            Box::pin(async move {
                match shared {
                    Some(shared) => shared.send(&Context::new(), message).await.map(drop),
                    None => Err(Error::cancelled("the broker is gone")),
                }
            })
        });
        let subscriber = Arc::new(Subscriber::new(
            topic.clone(),
            wire_topic,
            Runner::new(handler, opts, &shared.env),
            Arc::clone(shared.env.clock()),
            shared.config.max_waiting,
            bury,
        ));
        // Before the registry knows it: what comes at once finds it.
        let place = Place {
            owner: Arc::clone(&self.0),
            id,
            subscriber,
            presence: Mutex::default(),
        };
        shared.inlet.add(&place.id, Arc::clone(&place.subscriber));
        let registry = shared.courier.peers.registry();
        let mut presence = Presence::new(registry, service);
        presence.begin().await?;
        shared.courier.peers.joined(presence.service.clone());
        place.presence().replace(presence);
        Ok(Subscription::new(topic.clone(), group, place))
    }

    async fn remove_group(
        &self,
        _topic: &Topic,
        _group: &Group,
        _opts: RemoveOptions,
    ) -> Result<bool> {
        // A group is its members: without one, there is nothing.
        Ok(false)
    }

    async fn close(&self, grace: Duration) -> Result<()> {
        let shared = &self.0.shared;
        shared.closed.store(true, Ordering::Release);
        match shared.courier.drained(grace).await {
            // The next process finds them.
            Err(_) if self.capabilities().class == Class::AtLeastOnce => Ok(()),
            drained => drained,
        }
    }
}

/// A subscriber's place: in the inlet, among the peers, in the registry. Dropping it leaves all of them, and
/// ends the handlers.
struct Place {
    owner: Arc<Owner>,
    id: String,
    subscriber: Arc<Subscriber>,
    presence: Mutex<Option<Presence>>,
}

impl Place {
    fn presence(&self) -> std::sync::MutexGuard<'_, Option<Presence>> {
        self.presence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing more arrives; the registry is still to be told.
    fn leave(&self) -> Option<Presence> {
        let shared = &self.owner.shared;
        shared.inlet.remove(&self.id);
        let presence = self.presence().take()?;
        shared.courier.peers.left(&presence.service);
        Some(presence)
    }
}

#[async_trait]
impl SubscriptionControl for Place {
    async fn stop(&self, grace: Duration) -> Result<Stopped> {
        let presence = self.leave();
        let unfinished = self.subscriber.stop(grace).await;
        if let Some(presence) = presence {
            presence.end().await?;
        }
        Ok(Stopped::new(unfinished))
    }

    async fn ended(&self) -> Error {
        // Only its owner ends it.
        std::future::pending().await
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.leave());
        self.subscriber.end();
    }
}
