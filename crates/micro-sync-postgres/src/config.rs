//! What the URL says.

use std::time::Duration;

use micro_core::url::{Options, Span};
use micro_postgres::PostgresConfig;
use micro_sync_core::{Error, Result, Url};

/// How to reach the database, and how its locks are waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PostgresSyncConfig {
    /// How to reach the database, and who we are.
    pub postgres: PostgresConfig,
    /// How often whoever waits or observes looks, on the average: 200 ms by default, at least 10 ms.
    pub poll: Duration,
    /// The epoch of all tokens, 0 by default: to be raised, for the whole fleet at once, when the
    /// database was restored from a backup or lost a commit in a failover, since its tokens went back
    /// then.
    pub epoch: u64,
}

impl Default for PostgresSyncConfig {
    fn default() -> Self {
        Self {
            postgres: PostgresConfig::default(),
            poll: Duration::from_millis(200),
            epoch: 0,
        }
    }
}

impl PostgresSyncConfig {
    /// Reads `postgres://user:password@host:5432/database?poll=200ms&epoch=1&…`; the other options
    /// are those of [`PostgresConfig`].
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an option that is unknown, given twice or not readable.
    pub fn from_url(url: &Url) -> Result<Self> {
        let mut options = Options::new(url);
        let mut config = Self {
            postgres: PostgresConfig::take(url, &mut options)?,
            ..Self::default()
        };
        if let Some(Span(poll)) = options.take("poll")? {
            config.poll = poll;
        }
        if let Some(epoch) = options.take("epoch")? {
            config.epoch = epoch;
        }
        options.finish()?;
        config.check()?;
        Ok(config)
    }

    pub(crate) fn check(&self) -> Result<()> {
        let span = Duration::from_millis(10)..=Duration::from_secs(60);
        if !span.contains(&self.poll) {
            return Err(Error::invalid_argument(
                "poll is between 10 ms and a minute: 'poll=200ms'",
            )
            .with_operation("sync.open")
            .with_context("poll", format_args!("{:?}", self.poll)));
        }
        self.postgres.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> Result<PostgresSyncConfig> {
        PostgresSyncConfig::from_url(&micro_core::url::resolve(url)?)
    }

    #[test]
    fn the_url_says_it_all_and_debug_does_not() {
        assert_eq!(config("postgres").unwrap(), PostgresSyncConfig::default());
        let read = config("postgres://me:hunter2@a/db?poll=1s&epoch=3").unwrap();
        assert_eq!((read.poll, read.epoch), (Duration::from_secs(1), 3));
        assert!(!format!("{read:?}").contains("hunter2"));
        for url in [
            "postgres://a?poll=1ms",
            "postgres://a?pol=1s",
            "postgres://a?epoch=x",
        ] {
            assert!(config(url).is_err(), "{url}");
        }
    }
}
