//! What the URL says.

use std::fmt;
use std::time::Duration;

use micro_core::url::{Options, Span, is_loopback};
use micro_core::{Error, Result, Secret, Url};

/// The port of a server that names none.
const DEFAULT_PORT: u16 = 6379;
/// Longer times are mistakes, and would hold calls for as long.
const LONGEST: Duration = Duration::from_secs(300);

/// How to reach Redis, and who we are.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedisConfig {
    /// The server, as `host:port`.
    pub endpoint: String,
    /// The number of the database: Redis's own, 0 to 65,535.
    pub database: u16,
    /// Who we are, by name; Redis's `default` without it.
    pub username: Option<String>,
    /// How we prove it.
    pub password: Option<Secret>,
    /// Whether to use TLS.
    pub tls: bool,
    /// The authorities to trust, as PEM or the path of it; the platform's without it.
    pub ca: Option<String>,
    /// Our certificate, as PEM or the path of it.
    pub cert: Option<String>,
    /// Its key, as PEM or the path of it.
    pub key: Option<Secret>,
    /// What the server's list of clients calls us.
    pub name: String,
    /// How long one attempt to connect may take.
    pub connect: Duration,
    /// How long one call may take.
    pub timeout: Duration,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            endpoint: format!("127.0.0.1:{DEFAULT_PORT}"),
            database: 0,
            username: None,
            password: None,
            tls: false,
            ca: None,
            cert: None,
            key: None,
            name: "micro".to_owned(),
            connect: Duration::from_secs(5),
            timeout: Duration::from_secs(5),
        }
    }
}

// By hand, so that a field added later is shown only if somebody decides so.
impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("endpoint", &self.endpoint)
            .field("database", &self.database)
            .field("username", &self.username)
            .field("tls", &self.wants_tls())
            .field("name", &self.name)
            .field("connect", &self.connect)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl RedisConfig {
    /// The schemes of a URL: without TLS unless an option asks for it, and with TLS.
    pub const SCHEMES: [&str; 2] = ["redis", "rediss"];

    /// Reads a URL that has no options but those of the README.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an option that is unknown, given twice or not readable, and for
    /// credentials that do not go together.
    pub fn from_url(url: &Url) -> Result<Self> {
        let mut options = Options::new(url);
        let config = Self::take(url, &mut options)?;
        options.finish()?;
        Ok(config)
    }

    /// Takes what is ours of a backend's URL and leaves the rest to it.
    ///
    /// # Errors
    ///
    /// As [`from_url`](Self::from_url), except for unknown options.
    pub fn take(url: &Url, options: &mut Options<'_>) -> Result<Self> {
        let mut config = Self {
            database: database(url.path())?,
            username: options.username(),
            password: options.password(),
            tls: options.take("tls")?.unwrap_or(false) || url.scheme() == Self::SCHEMES[1],
            ca: options.take("ca")?,
            cert: options.take("cert")?,
            key: options.take::<String>("key")?.map(Secret::new),
            ..Self::default()
        };
        let mut endpoints = options.endpoints(DEFAULT_PORT)?;
        if let Some(endpoint) = endpoints.pop() {
            config.endpoint = endpoint;
        }
        if !endpoints.is_empty() {
            return Err(invalid(
                "a Redis URL names one server; replicas and clusters are not followed",
            ));
        }
        if let Some(name) = options.take("name")? {
            config.name = name;
        }
        if let Some(Span(connect)) = options.take("connect")? {
            config.connect = connect;
        }
        if let Some(Span(timeout)) = options.take("timeout")? {
            config.timeout = timeout;
        }
        config.check()?;
        Ok(config)
    }

    /// Checks what fields alone cannot say.
    ///
    /// # Errors
    ///
    /// `InvalidArgument`, saying what does not go together.
    pub fn check(&self) -> Result<()> {
        if self.username.is_some() && self.password.is_none() {
            return Err(invalid(
                "a user needs a password: 'redis://user:password@host'",
            ));
        }
        if self.cert.is_some() != self.key.is_some() {
            return Err(invalid("cert and key come together"));
        }
        for time in [self.connect, self.timeout] {
            if time.is_zero() || time > LONGEST {
                return Err(invalid("connect and timeout are between 1ms and 5m"));
            }
        }
        // Redis refuses spaces in it, too.
        if self.name.len() > 128 || !self.name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(invalid(
                "name has at most 128 letters, digits and signs, and no spaces",
            ));
        }
        if self.endpoint.contains('@') {
            // Not repeated here: a password may stand before it.
            return Err(invalid(
                "an endpoint is 'host:port'; a user stands in 'username' and 'password'",
            ));
        }
        Ok(())
    }

    /// Whether connections must be encrypted.
    #[must_use]
    pub fn wants_tls(&self) -> bool {
        self.tls || self.ca.is_some() || self.cert.is_some()
    }

    /// Whether the server named is on this machine's loopback.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.endpoint)
    }

    /// Whether the password is sent unencrypted where others can hear it.
    pub(crate) fn shouts(&self) -> bool {
        self.password.is_some() && !self.wants_tls() && !self.is_loopback()
    }
}

/// The database that a URL's path names.
fn database(path: &str) -> Result<u16> {
    match path.strip_prefix('/').unwrap_or(path) {
        "" => Ok(0),
        number => number.parse().map_err(|_| {
            invalid("the path of a Redis URL is the number of a database: 'redis://host:6379/3'")
        }),
    }
}

pub(crate) fn invalid(message: &'static str) -> Error {
    Error::invalid_argument(message).with_operation("redis.config")
}

#[cfg(test)]
mod tests {
    use micro_core::ErrorKind;

    use super::*;

    fn config(url: &str) -> Result<RedisConfig> {
        RedisConfig::from_url(&micro_core::url::resolve(url)?)
    }

    #[test]
    fn a_bare_scheme_is_enough() {
        assert_eq!(config("redis").unwrap(), RedisConfig::default());
        assert!(config("rediss").unwrap().wants_tls());
    }

    #[test]
    fn the_url_says_it_all_and_debug_does_not() {
        let url = "rediss://me:hunter2@[::1]:1/7?timeout=250ms&connect=1s&name=x&ca=/ca&cert=/c&key=/hunter2";
        let config = config(url).unwrap();
        assert_eq!((&*config.endpoint, config.database), ("[::1]:1", 7));
        assert_eq!(config.username.as_deref(), Some("me"));
        assert_eq!(config.password, Some(Secret::new("hunter2")));
        assert_eq!(config.key, Some(Secret::new("/hunter2")));
        assert_eq!(config.timeout, Duration::from_millis(250));
        assert!(config.is_loopback() && config.wants_tls());
        assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
    }

    #[test]
    fn a_password_alone_is_that_of_the_default_user() {
        let config = config("redis://:hunter2@a").unwrap();
        assert_eq!((config.username, &*config.endpoint), (None, "a:6379"));
        assert_eq!(config.password, Some(Secret::new("hunter2")));
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for url in [
            "redis://me@a",
            "redis://a/x",
            "redis://a/-1",
            "redis://a/65536",
            "redis://a/1/2",
            "redis://a?endpoint=b",
            "redis://a?cert=/c",
            "redis://a?timeout=0s",
            "redis://a?connect=1h",
            "redis://a?name=a%20b",
            "redis://a?name=a%0d%0ab",
            "redis://a?tls=maybe",
            "redis://a?unknown=1",
        ] {
            let err = config(url).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{url}: {err:?}");
        }
        let config = RedisConfig {
            endpoint: "me:hunter2@a:1".to_owned(),
            ..RedisConfig::default()
        };
        let err = config.check().unwrap_err();
        assert!(!format!("{err:?}").contains("hunter2"), "{err:?}");
    }

    #[test]
    fn a_password_in_the_open_is_noticed() {
        let shouts = |url| config(url).unwrap().shouts();
        assert!(shouts("redis://:p@10.0.0.5"));
        assert!(!shouts("redis://:p@127.0.0.1"));
        assert!(!shouts("rediss://:p@10.0.0.5"));
        assert!(!shouts("redis://10.0.0.5"));
    }
}
