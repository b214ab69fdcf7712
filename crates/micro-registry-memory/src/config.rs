//! What can be chosen about a registry in memory.

use micro_registry_core::{Error, Result, Url};

/// How many events a watcher may leave unread.
const WATCH_BUFFER: usize = 1024;

/// The settings of a [`MemoryRegistry`](crate::MemoryRegistry).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryConfig {
    /// How many events a watcher may leave unread before its watch ends with an error: 1024.
    pub watch_buffer: usize,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            watch_buffer: WATCH_BUFFER,
        }
    }
}

impl MemoryConfig {
    /// Sets [`watch_buffer`](Self::watch_buffer).
    #[must_use]
    pub fn with_watch_buffer(mut self, watch_buffer: usize) -> Self {
        self.watch_buffer = watch_buffer;
        self
    }

    /// Reads the options of a `memory:` URL: `?watch_buffer=1024`.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an unknown option, or a buffer of none.
    pub fn from_url(url: &Url) -> Result<Self> {
        let mut options = micro_core::url::Options::new(url);
        let mut config = Self::default();
        if let Some(watch_buffer) = options.take("watch_buffer")? {
            config.watch_buffer = watch_buffer;
        }
        options.finish()?;
        if config.watch_buffer == 0 {
            return Err(Error::invalid_argument(
                "watch_buffer must be at least 1, or every watch would end at once",
            )
            .with_operation("registry.open"));
        }
        Ok(config)
    }
}
