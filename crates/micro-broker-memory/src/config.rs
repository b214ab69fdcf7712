//! What can be chosen about a broker in memory.

use std::time::Duration;

use micro_broker_core::{Error, Result, Url};
use micro_core::url::{Options, Span};

/// The settings of a [`MemoryBroker`](crate::MemoryBroker).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryBrokerConfig {
    /// What the messages that wait for a group may take, and those retained of a topic, in bytes each.
    /// Default 64 MiB.
    pub max_bytes: usize,
    /// How many messages of a topic are kept to be replayed. Default none.
    pub retain: usize,
    /// For how long an id that a publisher gave is known. Default 2 min; zero for not at all.
    pub dedup: Duration,
}

impl Default for MemoryBrokerConfig {
    fn default() -> Self {
        Self {
            max_bytes: 64 << 20,
            retain: 0,
            dedup: Duration::from_secs(120),
        }
    }
}

impl MemoryBrokerConfig {
    /// Sets [`max_bytes`](Self::max_bytes).
    #[must_use]
    pub fn with_max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Sets [`retain`](Self::retain).
    #[must_use]
    pub fn with_retain(mut self, messages: usize) -> Self {
        self.retain = messages;
        self
    }

    /// Sets [`dedup`](Self::dedup).
    #[must_use]
    pub fn with_dedup(mut self, window: Duration) -> Self {
        self.dedup = window;
        self
    }

    /// Reads the options of a `memory:` URL: `?max_bytes=67108864&retain=1000&dedup=2m`.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an unknown option, or a value that is none; `max_bytes` is at least 1.
    pub fn from_url(url: &Url) -> Result<Self> {
        let mut options = Options::new(url);
        let mut config = Self::default();
        if let Some(max_bytes) = options.take("max_bytes")? {
            config.max_bytes = max_bytes;
        }
        if let Some(retain) = options.take("retain")? {
            config.retain = retain;
        }
        if let Some(Span(dedup)) = options.take("dedup")? {
            config.dedup = dedup;
        }
        options.finish()?;
        if config.max_bytes == 0 {
            return Err(Error::invalid_argument("max_bytes must be at least 1")
                .with_operation("broker.open"));
        }
        Ok(config)
    }
}
