//! The trait of this crate.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::{
    Context, Group, Handler, Message, PublishOptions, Receipt, RemoveOptions, Result,
    SubscribeOptions, Subscription, Topic, async_trait,
};

/// How often a message is delivered that was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Class {
    /// At most once, if a process ends meanwhile; while all live, it is delivered again after a failure.
    AtMostOnce,
    /// At least once, whatever ends within what [`Durability`] names.
    AtLeastOnce,
}

/// What a kept message survives. Each level includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Durability {
    /// Nothing: it is in the memory of the broker.
    Memory,
    /// The end of the broker's process.
    Process,
    /// The loss of power.
    Power,
    /// The loss of a minority of the machines.
    Quorum,
}

/// How far messages of one key are in order. Whatever it is, two of one key are handled in no group at
/// once if it is not [`None`](Self::None).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Order {
    /// Not at all.
    None,
    /// While the members of the group stay the same.
    Stable,
    /// Also while members come and go.
    Always,
}

/// What a broker can do beyond the required behaviour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// How often a message is delivered.
    pub class: Class,
    /// What a published message survives.
    pub durability: Durability,
    /// How far messages of one key are in order.
    pub order: Order,
    /// Whether a group without members is still there, and gets messages, until it is
    /// [removed](Broker::remove_group).
    pub lasting_groups: bool,
    /// For how long an id is known, so that a message is not published twice.
    pub dedup: Option<Duration>,
    /// Whether messages are kept after they were handled, and can be had again.
    pub replay: bool,
    /// Whether other processes get the messages.
    pub shared: bool,
    /// The largest body, in bytes.
    pub max_body: usize,
}

impl Capabilities {
    /// The least that a broker of this class and durability does.
    #[must_use]
    pub const fn new(class: Class, durability: Durability) -> Self {
        Self {
            class,
            durability,
            order: Order::None,
            lasting_groups: false,
            dedup: None,
            replay: false,
            shared: false,
            max_body: crate::MAX_BODY,
        }
    }

    /// Sets [`order`](Self::order).
    #[must_use]
    pub const fn with_order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// Sets [`lasting_groups`](Self::lasting_groups).
    #[must_use]
    pub const fn with_lasting_groups(mut self, lasting: bool) -> Self {
        self.lasting_groups = lasting;
        self
    }

    /// Sets [`dedup`](Self::dedup).
    #[must_use]
    pub const fn with_dedup(mut self, window: Option<Duration>) -> Self {
        self.dedup = window;
        self
    }

    /// Sets [`replay`](Self::replay).
    #[must_use]
    pub const fn with_replay(mut self, replay: bool) -> Self {
        self.replay = replay;
        self
    }

    /// Sets [`shared`](Self::shared).
    #[must_use]
    pub const fn with_shared(mut self, shared: bool) -> Self {
        self.shared = shared;
        self
    }

    /// Sets [`max_body`](Self::max_body).
    #[must_use]
    pub const fn with_max_body(mut self, bytes: usize) -> Self {
        self.max_body = bytes;
        self
    }
}

/// Messages by topic.
///
/// A handle is cheap to share behind [`Arc`]. Topics stand within the namespace of the
/// [`Env`](crate::Env) that it was opened with. Put `#[async_trait]` on the impl.
///
/// Errors common to all: `InvalidArgument` and `ResourceExhausted` for what the checks of this crate
/// refuse, `ResourceExhausted` also if something is full, `Unavailable` if the engine cannot be reached,
/// `FailedPrecondition` once it is [closed](Self::close).
#[async_trait]
pub trait Broker: fmt::Debug + Send + Sync + 'static {
    /// The backend's name, as in its URL scheme: `"http"`, `"nats"`.
    fn backend(&self) -> &'static str;

    /// What this backend can do beyond the required behaviour.
    fn capabilities(&self) -> Capabilities;

    /// Publishes a message. The context's deadline and cancellation end the call; its trace and outgoing
    /// metadata travel along.
    ///
    /// A dropped call has published the message or has not.
    ///
    /// # Errors
    ///
    /// Those of all; `DeadlineExceeded` and `Cancelled` by the context, `OutcomeUnknown` if the message may
    /// have been published, `FailedPrecondition` if it would be the end of too long a chain of messages
    /// that handlers published. With all but `OutcomeUnknown`, nothing has happened.
    async fn publish(
        &self,
        cx: &Context,
        message: Message,
        opts: PublishOptions,
    ) -> Result<Receipt>;

    /// Subscribes to a topic. When this returns, the subscriber, and its group if it is new, gets what is
    /// published from then on.
    ///
    /// What a group's members ask for may differ, as in a fleet that is being updated: each goes by its
    /// own options.
    ///
    /// # Errors
    ///
    /// Those of all; `Unimplemented` if [`Start`](crate::Start) wants what
    /// [`Capabilities::replay`] lacks.
    async fn subscribe(
        &self,
        topic: &Topic,
        opts: SubscribeOptions,
        handler: Arc<dyn Handler>,
    ) -> Result<Subscription>;

    /// Removes a group and what is kept for it; says whether there was something. Members that are there
    /// get nothing more, until they subscribe again.
    ///
    /// # Errors
    ///
    /// Those of all.
    async fn remove_group(&self, topic: &Topic, group: &Group, opts: RemoveOptions)
    -> Result<bool>;

    /// Refuses new messages and subscribers, and waits until what this process still has to hand on is
    /// handed on. Subscribers that are there go on.
    ///
    /// # Errors
    ///
    /// `DeadlineExceeded` if that takes longer than `grace`; its context says how many messages are left.
    async fn close(&self, grace: Duration) -> Result<()>;
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<B: Broker + ?Sized> Broker for Arc<B> {
    fn backend(&self) -> &'static str {
        (**self).backend()
    }

    fn capabilities(&self) -> Capabilities {
        (**self).capabilities()
    }

    async fn publish(
        &self,
        cx: &Context,
        message: Message,
        opts: PublishOptions,
    ) -> Result<Receipt> {
        (**self).publish(cx, message, opts).await
    }

    async fn subscribe(
        &self,
        topic: &Topic,
        opts: SubscribeOptions,
        handler: Arc<dyn Handler>,
    ) -> Result<Subscription> {
        (**self).subscribe(topic, opts, handler).await
    }

    async fn remove_group(
        &self,
        topic: &Topic,
        group: &Group,
        opts: RemoveOptions,
    ) -> Result<bool> {
        (**self).remove_group(topic, group, opts).await
    }

    async fn close(&self, grace: Duration) -> Result<()> {
        (**self).close(grace).await
    }
}

// `Broker` must stay usable as a trait object.
const _: fn(&dyn Broker) = |_| ();
