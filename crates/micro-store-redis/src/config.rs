//! What can be chosen about a store in Redis.

use micro_core::url::Options;
use micro_redis::RedisConfig;
use micro_store_core::{Durability, Error, Result, Url};

/// The settings of a [`RedisStore`](crate::RedisStore).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedisStoreConfig {
    /// The server, and who we are.
    pub server: RedisConfig,
    /// What all keys begin with, in braces: 1 to 64 letters, digits, `.`, `-` and `_`. Default
    /// `micro`. Stores of one prefix share their records; those of others have nothing in common.
    pub prefix: String,
    /// Whether Redis may drop records to make room: changes then survive nothing. Default: no, and
    /// a server that is set up so is refused.
    pub evict: bool,
    /// What changes survive, where Redis does not let us ask (`CONFIG GET`). Default: nothing.
    pub durability: Option<Durability>,
}

impl Default for RedisStoreConfig {
    fn default() -> Self {
        Self {
            server: RedisConfig::default(),
            prefix: "micro".to_owned(),
            evict: false,
            durability: None,
        }
    }
}

impl RedisStoreConfig {
    /// A store in this server, with default settings.
    #[must_use]
    pub fn new(server: RedisConfig) -> Self {
        Self {
            server,
            ..Self::default()
        }
    }

    /// Sets [`prefix`](Self::prefix).
    #[must_use]
    pub fn with_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Sets [`evict`](Self::evict).
    #[must_use]
    pub fn with_evict(mut self, evict: bool) -> Self {
        self.evict = evict;
        self
    }

    /// Sets [`durability`](Self::durability).
    #[must_use]
    pub fn with_durability(mut self, durability: Durability) -> Self {
        self.durability = Some(durability);
        self
    }

    /// Reads a URL: `redis://user:password@host:6379/0?prefix=shop`; the README names the options.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an unknown option, a value that cannot be read, or what does not go
    /// together.
    pub fn from_url(url: &Url) -> Result<Self> {
        let mut options = Options::new(url);
        let mut config = Self::new(RedisConfig::take(url, &mut options)?);
        if let Some(prefix) = options.take("prefix")? {
            config.prefix = prefix;
        }
        if let Some(evict) = options.take("evict")? {
            config.evict = evict;
        }
        if let Some(durability) = options.take::<String>("durability")? {
            config.durability = Some(level(&durability)?);
        }
        options.finish()?;
        config.check()?;
        Ok(config)
    }

    /// Checks what fields alone cannot say.
    ///
    /// # Errors
    ///
    /// `InvalidArgument`, saying what is allowed.
    pub fn check(&self) -> Result<()> {
        let sign = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        // A brace would end the hash tag, and a colon would end the prefix.
        if !(1..=64).contains(&self.prefix.len()) || !self.prefix.bytes().all(sign) {
            return Err(invalid(
                "prefix is 1 to 64 letters, digits, '.', '-' and '_'",
            ));
        }
        if self.durability > Some(Durability::Power) {
            return Err(invalid(
                "a change in one Redis survives a power cut at most: 'power'",
            ));
        }
        self.server.check()
    }
}

fn level(text: &str) -> Result<Durability> {
    match text {
        "memory" => Ok(Durability::Memory),
        "process" => Ok(Durability::Process),
        "power" => Ok(Durability::Power),
        _ => Err(invalid("durability is 'memory', 'process' or 'power'")),
    }
}

fn invalid(message: &'static str) -> Error {
    Error::invalid_argument(message).with_operation("store.open")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> Result<RedisStoreConfig> {
        RedisStoreConfig::from_url(&micro_core::url::resolve(url)?)
    }

    #[test]
    fn the_url_says_it_all() {
        assert_eq!(config("redis").unwrap(), RedisStoreConfig::default());
        let config = config("redis://h/2?prefix=a.B-1&evict=true&durability=process").unwrap();
        assert_eq!(config.server.endpoint, "h:6379");
        assert_eq!((&*config.prefix, config.evict), ("a.B-1", true));
        assert_eq!(config.durability, Some(Durability::Process));
    }

    #[test]
    fn s56_a_prefix_that_could_mean_something_else_is_refused() {
        let long = "x".repeat(65);
        for prefix in ["", "a:b", "a%7Db", "%7B", "a%20b", "a%00", "*", "ä", &long] {
            let err = config(&format!("redis://h?prefix={prefix}")).unwrap_err();
            assert!(err.message().starts_with("prefix is"), "{prefix}: {err:?}");
        }
        assert!(config("redis://h?durability=quorum").is_err());
        let more = RedisStoreConfig::default().with_durability(Durability::Quorum);
        assert!(more.check().is_err());
    }
}
