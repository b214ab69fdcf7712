//! Opening the registry by URL: `filedir:///var/run/fleet` or `filedir:./fleet?poll=100ms`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use micro_core::url::{Options, Span};
use micro_registry_core::{Driver, Env, Error, Registry, Result, Url, async_trait};

use crate::{FileDirRegistry, SCHEME};

/// The settings of a [`FileDirRegistry`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileDirConfig {
    /// The folder; it is made if it is not there.
    pub folder: PathBuf,
    /// How often a watch looks for changes: 100 ms.
    pub poll: Duration,
}

impl FileDirConfig {
    /// The settings for a folder.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            poll: Duration::from_millis(100),
        }
    }

    /// Sets [`poll`](Self::poll).
    #[must_use]
    pub fn with_poll(mut self, poll: Duration) -> Self {
        self.poll = poll;
        self
    }

    /// Reads a `filedir:` URL.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` if it names no folder or has unknown options.
    pub fn from_url(url: &Url) -> Result<Self> {
        let invalid = |message: &'static str| {
            Error::invalid_argument(message).with_operation("registry.open")
        };
        if url.has_host() || url.path().is_empty() {
            return Err(invalid(
                "write 'filedir:///absolute/folder' or 'filedir:./relative/folder'",
            ));
        }
        let mut options = Options::new(url);
        let mut config = Self::new(url.path());
        if let Some(Span(poll)) = options.take("poll")? {
            config.poll = poll;
        }
        options.finish()?;
        if config.poll < Duration::from_millis(10) {
            return Err(invalid("poll must be at least 10ms"));
        }
        Ok(config)
    }
}

/// Opens `filedir:` URLs.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileDirDriver;

#[async_trait]
impl Driver<dyn Registry> for FileDirDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &[SCHEME]
    }

    async fn open(&self, url: &Url, env: &Env) -> Result<Arc<dyn Registry>> {
        let config = FileDirConfig::from_url(url)?;
        Ok(Arc::new(FileDirRegistry::open(config, env)?))
    }
}

#[cfg(test)]
mod tests {
    use micro_registry_core::Drivers;

    use super::*;

    #[test]
    fn urls_name_folders() {
        let folder = |url: &str| {
            let url = micro_core::url::resolve(url)?;
            FileDirConfig::from_url(&url)
        };
        assert_eq!(
            folder("filedir:///var/run/fleet").unwrap(),
            FileDirConfig::new("/var/run/fleet")
        );
        assert_eq!(
            folder("filedir:./fleet?poll=1s").unwrap(),
            FileDirConfig::new("./fleet").with_poll(Duration::from_secs(1))
        );
        for url in [
            "filedir",
            "filedir:",
            "filedir://host/fleet",
            "filedir:./fleet?pol=1s",
            "filedir:./fleet?poll=1ms",
        ] {
            assert!(folder(url).is_err(), "{url}");
        }
    }

    #[tokio::test]
    async fn it_is_found_by_its_scheme() {
        let folder = tempfile::tempdir().unwrap();
        let drivers = Drivers::<dyn Registry>::new().with(FileDirDriver);
        let url = format!("filedir://{}", folder.path().display());
        let registry = drivers.open(&url, &Env::new()).await.unwrap();
        assert_eq!(registry.backend(), SCHEME);
    }
}
