//! Options of the coordinator's methods.

use std::time::Duration;

/// How long a lock outlives a holder that is gone, if nothing else is said.
const TTL: Duration = Duration::from_secs(15);

/// Options for [`Coordinator::lock`](crate::Coordinator::lock) and
/// [`try_lock`](crate::Coordinator::try_lock).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockOptions {
    /// How long the lock stays if its holder is gone, or cannot reach the backend: it is kept alive
    /// meanwhile, however long it is held. 15 s by default; at least
    /// [`Capabilities::min_ttl`](crate::Capabilities::min_ttl), at most [`MAX_TTL`](crate::MAX_TTL).
    pub ttl: Duration,
    /// How long to wait while others have it; asking the backend has a time limit of its own. `None`,
    /// the default, is until the future is dropped.
    pub wait: Option<Duration>,
}

impl Default for LockOptions {
    fn default() -> Self {
        Self {
            ttl: TTL,
            wait: None,
        }
    }
}

impl LockOptions {
    /// Sets [`ttl`](Self::ttl).
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets [`wait`](Self::wait).
    #[must_use]
    pub fn with_wait(mut self, wait: Duration) -> Self {
        self.wait = Some(wait);
        self
    }
}

/// Options for [`Coordinator::elect`](crate::Coordinator::elect).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ElectOptions {
    /// What observers are told of the leader: a node's id, or an address. Empty by default; at most
    /// [`MAX_VALUE`](crate::MAX_VALUE) bytes.
    pub value: String,
    /// How long the leadership stays if the leader is gone; as [`LockOptions::ttl`].
    pub ttl: Duration,
    /// How long to campaign; as [`LockOptions::wait`].
    pub wait: Option<Duration>,
}

impl Default for ElectOptions {
    fn default() -> Self {
        Self {
            value: String::new(),
            ttl: TTL,
            wait: None,
        }
    }
}

impl ElectOptions {
    /// Sets [`value`](Self::value).
    #[must_use]
    pub fn with_value(mut self, value: impl Into<String>) -> Self {
        self.value = value.into();
        self
    }

    /// Sets [`ttl`](Self::ttl).
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets [`wait`](Self::wait).
    #[must_use]
    pub fn with_wait(mut self, wait: Duration) -> Self {
        self.wait = Some(wait);
        self
    }
}
