//! The source of this crate.

use std::path::PathBuf;
use std::sync::Arc;

use micro_config_core::{Layer, LayerStream, Rank, Result, Source, async_trait};
use micro_core::{Clock, SystemClock};

use crate::{FileConfig, follow};

/// A file or a directory of files.
#[derive(Clone, Debug)]
pub struct FileSource {
    config: Arc<FileConfig>,
    clock: Arc<dyn Clock>,
}

impl FileSource {
    /// The file or directory at this path.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::with_config(FileConfig::new(path))
    }

    /// A directory with a secret in each file, such as `/run/secrets`.
    #[must_use]
    pub fn secrets(path: impl Into<PathBuf>) -> Self {
        Self::with_config(FileConfig::new(path).with_secrets(true))
    }

    /// A file or directory with options.
    #[must_use]
    pub fn with_config(config: FileConfig) -> Self {
        Self {
            config: Arc::new(config),
            clock: Arc::new(SystemClock),
        }
    }

    /// Takes the wall time, which says how old a file is, from this clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }
}

#[async_trait]
impl Source for FileSource {
    fn backend(&self) -> &'static str {
        crate::SCHEME
    }

    fn describe(&self) -> String {
        let what = if self.config.secrets {
            "secrets"
        } else {
            "file"
        };
        let path = self.config.path.display().to_string();
        format!("{what} {}", path.escape_debug())
    }

    fn rank(&self) -> Rank {
        Rank::File
    }

    async fn load(&self) -> Result<Layer> {
        self.config.check()?;
        follow::load(Arc::clone(&self.config), Arc::clone(&self.clock)).await
    }

    async fn watch(&self) -> Result<LayerStream> {
        self.config.check()?;
        Ok(follow::watch(
            Arc::clone(&self.config),
            Arc::clone(&self.clock),
        ))
    }
}
