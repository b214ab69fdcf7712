//! Options of the broker's methods.

use std::time::{Duration, SystemTime};

use crate::{Group, Random, Topic};

/// Options for [`Broker::publish`](crate::Broker::publish).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PublishOptions {
    /// Whether the context's deadline becomes the message's. An event is to outlive the request that
    /// caused it, so it does not without this.
    pub carry_deadline: bool,
}

impl PublishOptions {
    /// Sets [`carry_deadline`](Self::carry_deadline).
    #[must_use]
    pub fn with_carry_deadline(mut self, carry: bool) -> Self {
        self.carry_deadline = carry;
        self
    }
}

/// Options for [`Broker::subscribe`](crate::Broker::subscribe).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubscribeOptions {
    /// Who shares the messages with this subscriber. Without a group it gets every message, from now
    /// until it ends.
    pub group: Option<Group>,
    /// Says that no group is meant, where one is the default: a `micro` service subscribes in the group of
    /// its own name.
    pub broadcast: bool,
    /// How many messages are handled at once. Default 16, at most [`MAX_CONCURRENCY`](crate::MAX_CONCURRENCY).
    pub concurrency: usize,
    /// How long a handler may take before its message is delivered again, unless it
    /// [tells of progress](crate::Delivery::progress). Default 30 s, at least 1 ms.
    pub ack_deadline: Duration,
    /// How often a message is delivered to the group before it is a dead letter. Default 5.
    pub max_deliveries: u32,
    /// The pauses before a message is delivered again.
    pub backoff: Backoff,
    /// Where dead letters go.
    pub dead_letters: DeadLetters,
    /// Where a group that is new, or a subscriber without a group, begins.
    pub start: Start,
}

impl Default for SubscribeOptions {
    fn default() -> Self {
        Self {
            group: None,
            broadcast: false,
            concurrency: 16,
            ack_deadline: Duration::from_secs(30),
            max_deliveries: 5,
            backoff: Backoff::default(),
            dead_letters: DeadLetters::Usual,
            start: Start::New,
        }
    }
}

impl SubscribeOptions {
    /// Sets [`group`](Self::group).
    #[must_use]
    pub fn with_group(mut self, group: impl Into<Option<Group>>) -> Self {
        self.group = group.into();
        self
    }

    /// Sets [`broadcast`](Self::broadcast).
    #[must_use]
    pub fn with_broadcast(mut self, broadcast: bool) -> Self {
        self.broadcast = broadcast;
        self
    }

    /// Sets [`concurrency`](Self::concurrency).
    #[must_use]
    pub fn with_concurrency(mut self, concurrency: usize) -> Self {
        self.concurrency = concurrency;
        self
    }

    /// Sets [`ack_deadline`](Self::ack_deadline).
    #[must_use]
    pub fn with_ack_deadline(mut self, deadline: Duration) -> Self {
        self.ack_deadline = deadline;
        self
    }

    /// Sets [`max_deliveries`](Self::max_deliveries).
    #[must_use]
    pub fn with_max_deliveries(mut self, deliveries: u32) -> Self {
        self.max_deliveries = deliveries;
        self
    }

    /// Sets [`backoff`](Self::backoff).
    #[must_use]
    pub fn with_backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Sets [`dead_letters`](Self::dead_letters).
    #[must_use]
    pub fn with_dead_letters(mut self, dead_letters: DeadLetters) -> Self {
        self.dead_letters = dead_letters;
        self
    }

    /// Sets [`start`](Self::start).
    #[must_use]
    pub fn with_start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }
}

/// The pauses before a message is delivered again: doubled each time, and shortened by chance by up to
/// half, so that those that failed together do not come back together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backoff {
    /// The longest first pause. Default 200 ms.
    pub first: Duration,
    /// The longest pause at all. Default 30 s.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(200),
            max: Duration::from_secs(30),
        }
    }
}

impl Backoff {
    /// These pauses.
    #[must_use]
    pub const fn new(first: Duration, max: Duration) -> Self {
        Self { first, max }
    }

    /// The pause after so many deliveries, counted from one.
    #[must_use]
    pub fn pause(&self, deliveries: u32, random: &dyn Random) -> Duration {
        let doubled = 1_u32
            .checked_shl(deliveries.saturating_sub(1).min(30))
            .unwrap_or(u32::MAX);
        let longest = self.first.saturating_mul(doubled).min(self.max);
        let nanos = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
        let half = nanos / 2;
        Duration::from_nanos(nanos - random.next_u64() % (half + 1))
    }
}

/// Where a group's dead letters go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeadLetters {
    /// To the group's [own topic](Topic::dead_letter).
    #[default]
    Usual,
    /// To this topic.
    To(Topic),
    /// Nowhere: they are dropped, and the log says so.
    Nowhere,
}

/// Where a new group begins. One that is there goes on where it stands.
///
/// All but [`New`](Self::New) want [`Capabilities::replay`](crate::Capabilities::replay).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Start {
    /// With what is published from now on.
    #[default]
    New,
    /// With the oldest message that is kept.
    Oldest,
    /// With this message, or the oldest behind it that is kept.
    Offset(u64),
    /// With the oldest message that is kept and was published at this time or later, by the broker's clock.
    Time(SystemTime),
}

/// Options for [`Broker::remove_group`](crate::Broker::remove_group).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RemoveOptions {}

#[cfg(test)]
mod tests {
    use micro_core::SeededRandom;

    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound() {
        let random = SeededRandom::new(3);
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for (deliveries, longest) in [(1, 100), (2, 200), (3, 400), (5, 1000), (u32::MAX, 1000)] {
            for _ in 0..100 {
                let pause = backoff.pause(deliveries, &random).as_millis();
                assert!(
                    (longest / 2..=longest).contains(&pause),
                    "{pause} after {deliveries}"
                );
            }
        }
        assert_eq!(
            Backoff::new(Duration::ZERO, Duration::ZERO).pause(1, &random),
            Duration::ZERO
        );
    }
}
