//! What can be chosen about a store in a file.

use std::path::{Path, PathBuf};

use micro_core::url::{Options, file_path};
use micro_embedded::EngineConfig;
use micro_store_core::{Error, Result, Url};

/// The settings of a [`RedbStore`](crate::RedbStore).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedbConfig {
    /// The directory. It is made if it is not there; its parent must be.
    pub directory: PathBuf,
    /// What redb may keep in memory of the file, in bytes. Default 64 MiB.
    pub cache_bytes: usize,
    /// Whether the whole file is read and checked when it is opened, so that a change from outside is
    /// found as `Corrupt` then. Default: only after a crash.
    pub check: bool,
    /// Whether a commit waits for the disk twice, so that not even one who chooses the values *and* the
    /// moment of a power cut can make redb take a half-written commit for a whole one. Default: no.
    pub two_phase: bool,
}

impl RedbConfig {
    /// A store in this directory, with default settings.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            cache_bytes: 64 << 20,
            check: false,
            two_phase: false,
        }
    }

    /// Sets [`cache_bytes`](Self::cache_bytes).
    #[must_use]
    pub fn with_cache_bytes(mut self, cache_bytes: usize) -> Self {
        self.cache_bytes = cache_bytes;
        self
    }

    /// Sets [`check`](Self::check).
    #[must_use]
    pub fn with_check(mut self, check: bool) -> Self {
        self.check = check;
        self
    }

    /// Sets [`two_phase`](Self::two_phase).
    #[must_use]
    pub fn with_two_phase(mut self, two_phase: bool) -> Self {
        self.two_phase = two_phase;
        self
    }
}

impl EngineConfig for RedbConfig {
    fn directory(&self) -> &Path {
        &self.directory
    }

    /// `redb:./data?cache_bytes=67108864&check=true&two_phase=true`
    fn from_url(url: &Url) -> Result<Self> {
        let mut options = Options::new(url);
        let mut config = Self::new(file_path(url)?);
        if let Some(cache_bytes) = options.take("cache_bytes")? {
            config.cache_bytes = cache_bytes;
        }
        if let Some(check) = options.take("check")? {
            config.check = check;
        }
        if let Some(two_phase) = options.take("two_phase")? {
            config.two_phase = two_phase;
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
