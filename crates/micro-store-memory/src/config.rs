//! What can be chosen about a store in memory.

use micro_store_core::{Error, Result, Url};

/// The settings of a [`MemoryStore`](crate::MemoryStore).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryConfig {
    /// What keys, values and metadata may take together, in bytes. Default 1 GiB.
    pub max_bytes: u64,
    /// How many changes a watcher may leave unread before its watch ends with an error. Default 1,024.
    pub watch_buffer: usize,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            max_bytes: 1 << 30,
            watch_buffer: 1024,
        }
    }
}

impl MemoryConfig {
    /// Sets [`max_bytes`](Self::max_bytes).
    #[must_use]
    pub fn with_max_bytes(mut self, max_bytes: u64) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    /// Sets [`watch_buffer`](Self::watch_buffer).
    #[must_use]
    pub fn with_watch_buffer(mut self, watch_buffer: usize) -> Self {
        self.watch_buffer = watch_buffer;
        self
    }

    /// Reads the options of a `memory:` URL: `?max_bytes=1073741824&watch_buffer=1024`.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an unknown option, or a number that is none or zero.
    pub fn from_url(url: &Url) -> Result<Self> {
        let mut options = micro_core::url::Options::new(url);
        let mut config = Self::default();
        if let Some(max_bytes) = options.take("max_bytes")? {
            config.max_bytes = max_bytes;
        }
        if let Some(watch_buffer) = options.take("watch_buffer")? {
            config.watch_buffer = watch_buffer;
        }
        options.finish()?;
        if config.max_bytes == 0 || config.watch_buffer == 0 {
            return Err(
                Error::invalid_argument("max_bytes and watch_buffer must be at least 1")
                    .with_operation("store.open"),
            );
        }
        Ok(config)
    }
}
