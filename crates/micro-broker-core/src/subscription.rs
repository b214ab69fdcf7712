//! The handle of a subscriber.

use std::fmt;
use std::time::Duration;

use crate::{Error, Group, Result, Topic, async_trait};

/// A subscriber that is there. Dropping it ends it at once: handlers are dropped, and what they had goes
/// to other members of the group.
#[must_use = "a subscription ends when it is dropped"]
pub struct Subscription {
    topic: Topic,
    group: Option<Group>,
    control: Box<dyn SubscriptionControl>,
}

impl Subscription {
    /// The handle of what this controls; for backends.
    pub fn new(topic: Topic, group: Option<Group>, control: impl SubscriptionControl) -> Self {
        Self {
            topic,
            group,
            control: Box::new(control),
        }
    }

    /// What it is subscribed to.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// Its group.
    #[must_use]
    pub fn group(&self) -> Option<&Group> {
        self.group.as_ref()
    }

    /// Takes no new message, and waits until those being handled are, for at most `grace`; then those
    /// that are left are dropped, and delivered again to others.
    ///
    /// # Errors
    ///
    /// `Unavailable` if the engine could not be told; the handlers have ended all the same.
    pub async fn stop(self, grace: Duration) -> Result<Stopped> {
        self.control.stop(grace).await
    }

    /// Waits until it has ended by itself, and says why. It does so only for good: a lost connection is
    /// not the end, for it is made anew.
    pub async fn ended(&self) -> Error {
        self.control.ended().await
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("topic", &self.topic)
            .field("group", &self.group)
            .finish_non_exhaustive()
    }
}

/// What a stopped subscriber left behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stopped {
    /// How many handlers had not returned in time.
    pub unfinished: usize,
}

impl Stopped {
    /// So many handlers had not returned.
    #[must_use]
    pub fn new(unfinished: usize) -> Self {
        Self { unfinished }
    }
}

/// What a backend gives for a [`Subscription`]. Dropping it ends the subscriber.
#[async_trait]
pub trait SubscriptionControl: Send + Sync + 'static {
    /// As [`Subscription::stop`].
    async fn stop(&self, grace: Duration) -> Result<Stopped>;

    /// As [`Subscription::ended`].
    async fn ended(&self) -> Error;
}
