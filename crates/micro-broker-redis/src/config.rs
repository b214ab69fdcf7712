//! What can be chosen about a broker in Redis.

use std::time::Duration;

use micro_broker_core::{Durability, Error, Result, Url};
use micro_core::url::{Options, Span};
use micro_redis::RedisConfig;

/// Longer times are mistakes.
const LONGEST: Duration = Duration::from_secs(365 * 86400);

/// The settings of a [`RedisBroker`](crate::RedisBroker).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedisBrokerConfig {
    /// The server, and who we are.
    pub server: RedisConfig,
    /// What all keys begin with, in braces: 1 to 64 letters, digits, `.`, `-` and `_`. Default
    /// `micro-broker`. Brokers of one prefix share their topics; those of others have nothing in common.
    pub prefix: String,
    /// How many messages a topic has at most, at least 8: if its slowest group has so many before it, the
    /// topic refuses more. Default 100,000.
    pub max_messages: usize,
    /// How long messages are kept after they were handled, to be had again, if there is room. Default an
    /// hour; zero for not at all.
    pub retain: Duration,
    /// For how long an id that a publisher gave is known. Default 2 min; zero for not at all.
    pub dedup: Duration,
    /// What messages survive, where Redis does not let us ask (`CONFIG GET`). Default: nothing.
    pub durability: Option<Durability>,
}

impl Default for RedisBrokerConfig {
    fn default() -> Self {
        Self {
            server: RedisConfig::default(),
            prefix: "micro-broker".to_owned(),
            max_messages: 100_000,
            retain: Duration::from_secs(3600),
            dedup: Duration::from_secs(120),
            durability: None,
        }
    }
}

impl RedisBrokerConfig {
    /// A broker in this server, with default settings.
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

    /// Sets [`max_messages`](Self::max_messages).
    #[must_use]
    pub fn with_max_messages(mut self, messages: usize) -> Self {
        self.max_messages = messages;
        self
    }

    /// Sets [`retain`](Self::retain).
    #[must_use]
    pub fn with_retain(mut self, time: Duration) -> Self {
        self.retain = time;
        self
    }

    /// Sets [`dedup`](Self::dedup).
    #[must_use]
    pub fn with_dedup(mut self, window: Duration) -> Self {
        self.dedup = window;
        self
    }

    /// Sets [`durability`](Self::durability).
    #[must_use]
    pub fn with_durability(mut self, durability: Durability) -> Self {
        self.durability = Some(durability);
        self
    }

    /// Reads a URL: `redis://user:password@host:6379/0?retain=1h`; the README names the options.
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
        if let Some(messages) = options.take("max_messages")? {
            config.max_messages = messages;
        }
        if let Some(Span(retain)) = options.take("retain")? {
            config.retain = retain;
        }
        if let Some(Span(dedup)) = options.take("dedup")? {
            config.dedup = dedup;
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
        if !(8..=1 << 40).contains(&self.max_messages) {
            return Err(invalid("max_messages is at least 8"));
        }
        for time in [self.retain, self.dedup] {
            if !time.is_zero() && (time < Duration::from_millis(1) || time > LONGEST) {
                return Err(invalid(
                    "retain and dedup are zero, or between a millisecond and a year",
                ));
            }
        }
        if self.durability > Some(Durability::Power) {
            return Err(invalid(
                "a message in one Redis survives a power cut at most: 'power'",
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
    Error::invalid_argument(message).with_operation("broker.open")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> Result<RedisBrokerConfig> {
        RedisBrokerConfig::from_url(&micro_core::url::resolve(url)?)
    }

    #[test]
    fn the_url_says_it_all_and_debug_does_not() {
        assert_eq!(config("redis").unwrap(), RedisBrokerConfig::default());
        let url = "redis://me:hunter2@h/2?prefix=a.B-1&max_messages=9&retain=0s&dedup=5s&durability=process";
        let config = config(url).unwrap();
        assert_eq!(
            (&*config.server.endpoint, config.server.database),
            ("h:6379", 2)
        );
        assert_eq!((&*config.prefix, config.max_messages), ("a.B-1", 9));
        assert_eq!(
            (config.retain, config.dedup),
            (Duration::ZERO, Duration::from_secs(5))
        );
        assert_eq!(config.durability, Some(Durability::Process));
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn what_could_mean_something_else_is_refused() {
        let long = "x".repeat(65);
        for prefix in ["", "a:b", "a%7Db", "%7B", "a%20b", "a%00", "*", "ä", &long] {
            let err = config(&format!("redis://h?prefix={prefix}")).unwrap_err();
            assert!(err.message().starts_with("prefix is"), "{prefix}: {err:?}");
        }
        for option in [
            "max_messages=7",
            "retain=1us",
            "dedup=10000h",
            "durability=quorum",
            "retian=1s",
        ] {
            assert!(config(&format!("redis://h?{option}")).is_err(), "{option}");
        }
    }
}
