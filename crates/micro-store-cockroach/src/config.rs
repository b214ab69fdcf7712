//! What can be chosen about a store in a database.

use std::time::Duration;

use micro_core::url::{Options, Span};
use micro_postgres::PostgresConfig;
use micro_store_core::{Error, Result, Url};

/// The settings of a [`CockroachStore`](crate::CockroachStore).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CockroachConfig {
    /// The database and the way to it.
    pub database: PostgresConfig,
    /// How often records that have expired or were deleted are looked for, to remove them for good:
    /// at random between half of it and one and a half. Default 30 s.
    pub purge: Duration,
}

impl Default for CockroachConfig {
    fn default() -> Self {
        Self {
            database: PostgresConfig::default(),
            purge: Duration::from_secs(30),
        }
    }
}

impl CockroachConfig {
    /// A store in this database, with default settings.
    #[must_use]
    pub fn new(database: PostgresConfig) -> Self {
        Self {
            database,
            ..Self::default()
        }
    }

    /// Sets [`purge`](Self::purge).
    #[must_use]
    pub fn with_purge(mut self, purge: Duration) -> Self {
        self.purge = purge;
        self
    }

    /// Reads a URL: `postgres://user:password@host:5432/database?option=value`.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an option that is unknown, given twice or not readable, and for what does
    /// not go together.
    pub fn from_url(url: &Url) -> Result<Self> {
        let mut options = Options::new(url);
        let mut config = Self::new(PostgresConfig::take(url, &mut options)?);
        if let Some(Span(purge)) = options.take("purge")? {
            config.purge = purge;
        }
        options.finish()?;
        config.check()?;
        Ok(config)
    }

    pub(crate) fn check(&self) -> Result<()> {
        let hour = Duration::from_secs(3600);
        if (Duration::from_millis(10)..=hour).contains(&self.purge) {
            return Ok(());
        }
        Err(Error::invalid_argument("purge is between 10ms and 1h").with_operation("store.open"))
    }
}

#[cfg(test)]
mod tests {
    use micro_store_core::ErrorKind;

    use super::*;

    fn config(url: &str) -> Result<CockroachConfig> {
        CockroachConfig::from_url(&micro_core::url::resolve(url)?)
    }

    #[test]
    fn the_url_says_it_all_and_debug_does_not() {
        let config = config("postgres://me:hunter2@db:1/shop?purge=5s&timeout=1s").unwrap();
        assert_eq!(config.purge, Duration::from_secs(5));
        assert_eq!(config.database.endpoints, ["db:1"]);
        assert_eq!(config.database.timeout, Duration::from_secs(1));
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn what_nobody_can_mean_is_refused() {
        for url in [
            "postgres://a?purge=0s",
            "postgres://a?purge=2h",
            "postgres://a?prune=1s",
            "cockroach://a?timeout=0s",
        ] {
            let err = config(url).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{url}: {err:?}");
        }
    }
}
