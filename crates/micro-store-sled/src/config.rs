//! What can be chosen about a store in a directory.

use std::path::{Path, PathBuf};

use micro_core::url::{Options, file_path};
use micro_embedded::EngineConfig;
use micro_store_core::{Error, Result, Url};

/// The settings of a [`SledStore`](crate::SledStore).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SledConfig {
    /// The directory. It is made if it is not there; its parent must be.
    pub directory: PathBuf,
    /// What sled may keep in memory of its pages, in bytes, about. Default 64 MiB.
    pub cache_bytes: u64,
}

impl SledConfig {
    /// A store in this directory, with default settings.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            cache_bytes: 64 << 20,
        }
    }

    /// Sets [`cache_bytes`](Self::cache_bytes).
    #[must_use]
    pub fn with_cache_bytes(mut self, cache_bytes: u64) -> Self {
        self.cache_bytes = cache_bytes;
        self
    }
}

impl EngineConfig for SledConfig {
    fn directory(&self) -> &Path {
        &self.directory
    }

    /// `sled:./data?cache_bytes=67108864`
    fn from_url(url: &Url) -> Result<Self> {
        let mut options = Options::new(url);
        let mut config = Self::new(file_path(url)?);
        if let Some(cache_bytes) = options.take("cache_bytes")? {
            config.cache_bytes = cache_bytes;
        }
        options.finish()?;
        if config.cache_bytes < 1 << 20 {
            return Err(
                Error::invalid_argument("cache_bytes is 1048576 (1 MiB) at least")
                    .with_operation("store.open"),
            );
        }
        Ok(config)
    }
}
