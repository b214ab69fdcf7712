//! What the URL says.

use std::time::Duration;

use micro_core::url::{Options, Span};
use micro_redis::RedisConfig;
use micro_sync_core::{Error, Result, Url};

/// How to reach Redis, and where in it the locks are.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedisSyncConfig {
    /// How to reach Redis, and who we are.
    pub server: RedisConfig,
    /// What all keys begin with, in braces: 1 to 64 letters, digits, `.`, `-` and `_`. Default
    /// `micro-sync`.
    pub prefix: String,
    /// How often whoever observes looks, on the average: 200 ms by default, at least 10 ms.
    pub poll: Duration,
    /// The epoch of all tokens, 0 by default: to be raised, for the whole fleet at once, when Redis was
    /// replaced by one whose clock is behind.
    pub epoch: u64,
}

impl Default for RedisSyncConfig {
    fn default() -> Self {
        Self {
            server: RedisConfig::default(),
            prefix: "micro-sync".to_owned(),
            poll: Duration::from_millis(200),
            epoch: 0,
        }
    }
}

impl RedisSyncConfig {
    /// Reads `redis://user:password@host:6379/0?prefix=micro-sync&poll=200ms&epoch=1&…`; the other options
    /// are those of [`RedisConfig`].
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an option that is unknown, given twice or not readable.
    pub fn from_url(url: &Url) -> Result<Self> {
        let mut options = Options::new(url);
        let mut config = Self {
            server: RedisConfig::take(url, &mut options)?,
            ..Self::default()
        };
        if let Some(prefix) = options.take("prefix")? {
            config.prefix = prefix;
        }
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
        let sign = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        // A brace would end the hash tag, and a colon would end the prefix.
        if !(1..=64).contains(&self.prefix.len()) || !self.prefix.bytes().all(sign) {
            return Err(invalid(
                "prefix is 1 to 64 letters, digits, '.', '-' and '_'",
            ));
        }
        let span = Duration::from_millis(10)..=Duration::from_secs(60);
        if !span.contains(&self.poll) {
            return Err(invalid("poll is between 10 ms and a minute: 'poll=200ms'"));
        }
        self.server.check()
    }
}

fn invalid(message: &'static str) -> Error {
    Error::invalid_argument(message).with_operation("sync.open")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> Result<RedisSyncConfig> {
        RedisSyncConfig::from_url(&micro_core::url::resolve(url)?)
    }

    #[test]
    fn the_url_says_it_all_and_debug_does_not() {
        assert_eq!(config("redis").unwrap(), RedisSyncConfig::default());
        let read = config("redis://me:hunter2@a/1?poll=1s&epoch=3&prefix=x").unwrap();
        assert_eq!((read.poll, read.epoch), (Duration::from_secs(1), 3));
        assert_eq!((&*read.prefix, read.server.database), ("x", 1));
        assert!(!format!("{read:?}").contains("hunter2"));
        for url in [
            "redis://a?poll=1ms",
            "redis://a?pol=1s",
            "redis://a?epoch=x",
            "redis://a?prefix=a:b",
            "redis://a?prefix=%7D",
        ] {
            assert!(config(url).is_err(), "{url}");
        }
    }
}
