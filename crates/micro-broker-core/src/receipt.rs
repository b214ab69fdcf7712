//! How far a message got.

use std::sync::Arc;

use crate::Durability;

/// What [`Broker::publish`](crate::Broker::publish) answers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// The message's id.
    pub id: Arc<str>,
    /// How far it got.
    pub reach: Reach,
    /// Whether it was there already under this id, and was not published again.
    pub duplicate: bool,
    /// Its place in the topic, if the backend [replays](crate::Capabilities::replay).
    pub offset: Option<u64>,
}

impl Receipt {
    /// The message of this id got so far.
    #[must_use]
    pub fn new(id: Arc<str>, reach: Reach) -> Self {
        Self {
            id,
            reach,
            duplicate: false,
            offset: None,
        }
    }

    /// Sets [`duplicate`](Self::duplicate).
    #[must_use]
    pub fn with_duplicate(mut self, duplicate: bool) -> Self {
        self.duplicate = duplicate;
        self
    }

    /// Sets [`offset`](Self::offset).
    #[must_use]
    pub fn with_offset(mut self, offset: Option<u64>) -> Self {
        self.offset = offset;
        self
    }
}

/// How far a message got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reach {
    /// The broker keeps it, so that it survives this, for every group it has, and delivers it from now on.
    Stored {
        /// What it survives.
        durability: Durability,
        /// How many groups, and subscribers without one, it is kept for; `None` if the engine does not say.
        groups: Option<u32>,
    },
    /// The publisher keeps it, so that it survives this, and delivers it from now on.
    Outbox {
        /// What it survives.
        durability: Durability,
    },
    /// The publisher handed it to subscribers itself. All three are zero if there is nobody.
    Delivered {
        /// So many groups, and subscribers without one, have handled it, or have it among their dead letters.
        acknowledged: u32,
        /// So many have not yet; this process goes on trying.
        pending: u32,
        /// So many could not be reached, and nobody goes on trying.
        failed: u32,
    },
}
