//! What the URL says.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use micro_core::url::{Options, Span};
use micro_core::{Error, Result, Secret, Url};

/// The port of an endpoint that names none.
const DEFAULT_PORT: u16 = 2379;
/// Longer times are mistakes, and would hold calls for as long.
const LONGEST: Duration = Duration::from_secs(300);

/// How to reach etcd, and who we are.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EtcdConfig {
    /// The members, as `host:port`. One is used until it cannot be reached, then the next.
    pub endpoints: Vec<String>,
    /// Who we are, by name; with [`password`](Self::password).
    pub username: Option<String>,
    /// How we prove it.
    pub password: Option<Secret>,
    /// Whether to speak TLS. `ca` and `cert` turn it on.
    pub tls: bool,
    /// The authorities to trust, as PEM or the path of it; the platform's without it.
    pub ca: Option<String>,
    /// Our certificate, as PEM or the path of it.
    pub cert: Option<String>,
    /// Its key, as PEM or the path of it.
    pub key: Option<Secret>,
    /// The name that the members' certificates must be for; each endpoint's host without it.
    pub server_name: Option<String>,
    /// How long one attempt to connect to one member may take.
    pub connect_timeout: Duration,
    /// How long one call may take, with the wait for a connection and other members tried.
    pub timeout: Duration,
}

impl Default for EtcdConfig {
    /// `127.0.0.1:2379`, nobody, no TLS, 2 s to connect and 5 s for a call.
    fn default() -> Self {
        Self {
            endpoints: vec![format!("127.0.0.1:{DEFAULT_PORT}")],
            username: None,
            password: None,
            tls: false,
            ca: None,
            cert: None,
            key: None,
            server_name: None,
            connect_timeout: Duration::from_secs(2),
            timeout: Duration::from_secs(5),
        }
    }
}

// By hand, so that a field added later is shown only if somebody decides so.
impl fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdConfig")
            .field("endpoints", &self.endpoints)
            .field("username", &self.username)
            .field("tls", &self.wants_tls())
            .field("connect_timeout", &self.connect_timeout)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl EtcdConfig {
    /// Reads a URL that has no options but those of the README.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an option that is unknown, given twice or not readable, and for
    /// options that do not go together.
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
        if !matches!(url.path(), "" | "/") {
            return Err(invalid(
                "an etcd URL has no path: 'etcd://host:2379?option=value'",
            ));
        }
        let tls: Option<bool> = options.take("tls")?;
        let mut config = Self {
            username: options.username(),
            password: options.password(),
            tls: tls.unwrap_or(false),
            ca: options.take("ca")?,
            cert: options.take("cert")?,
            key: options.take::<String>("key")?.map(Secret::new),
            server_name: options.take("server_name")?,
            ..Self::default()
        };
        if tls == Some(false) && config.wants_tls() {
            return Err(invalid("'tls=false' and 'ca' or 'cert' contradict"));
        }
        let endpoints = options.endpoints(DEFAULT_PORT)?;
        if !endpoints.is_empty() {
            config.endpoints = endpoints;
        }
        if let Some(Span(timeout)) = options.take("connect_timeout")? {
            config.connect_timeout = timeout;
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
        if self.endpoints.is_empty() {
            return Err(invalid("there is no member to connect to"));
        }
        for endpoint in &self.endpoints {
            if http::uri::Authority::try_from(endpoint.as_str()).is_err() {
                return Err(invalid("an endpoint is 'host:port'")
                    .with_context("endpoint", endpoint.escape_debug()));
            }
        }
        if self.username.is_some() != self.password.is_some() {
            return Err(invalid(
                "a user and a password come together: 'etcd://user:password@host'",
            ));
        }
        if self.cert.is_some() != self.key.is_some() {
            return Err(invalid("'cert' and 'key' come together"));
        }
        if self.wants_tls() && cfg!(not(feature = "tls")) {
            return Err(invalid(
                "this program was built without TLS: add the cargo feature \"tls\"",
            ));
        }
        for time in [self.connect_timeout, self.timeout] {
            if time.is_zero() || time > LONGEST {
                return Err(invalid("timeouts are longer than nothing, and at most 5m"));
            }
        }
        Ok(())
    }

    /// Whether connections are encrypted.
    #[must_use]
    pub fn wants_tls(&self) -> bool {
        self.tls || self.ca.is_some() || self.cert.is_some()
    }

    /// Whether every member named is on this machine's loopback.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.endpoints.iter().all(|endpoint| {
            let host = host(endpoint);
            host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
        })
    }
}

/// The host of `host:port`, without brackets.
pub(crate) fn host(endpoint: &str) -> &str {
    let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

pub(crate) fn invalid(message: &'static str) -> Error {
    Error::invalid_argument(message).with_operation("etcd.config")
}

#[cfg(test)]
mod tests {
    use micro_core::ErrorKind;

    use super::*;

    fn config(url: &str) -> Result<EtcdConfig> {
        EtcdConfig::from_url(&micro_core::url::resolve(url)?)
    }

    #[test]
    fn a_bare_scheme_is_enough() {
        assert_eq!(config("etcd").unwrap(), EtcdConfig::default());
    }

    #[test]
    fn the_url_says_it_all_and_debug_shows_no_secret() {
        let read = config("etcd://me:p%40ss@a:1?endpoint=[::1]&timeout=250ms").unwrap();
        assert_eq!(read.endpoints, ["a:1", "[::1]:2379"]);
        assert_eq!(read.password.as_ref().unwrap().expose(), "p@ss");
        assert_eq!(read.timeout, Duration::from_millis(250));
        assert!(!format!("{read:?}").contains("p@ss"));
        assert!(!read.is_loopback());
        assert!(
            config("etcd://[::1]?endpoint=127.0.0.2:1&endpoint=localhost")
                .unwrap()
                .is_loopback()
        );
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for url in [
            "etcd://a?tiemout=1s",
            "etcd://a/path",
            "etcd://me@a",
            "etcd://a?cert=x",
            "etcd://a?key=x",
            "etcd://a?timeout=0s",
            "etcd://a?timeout=1h",
            "etcd://a?tls=false&ca=x",
            "etcd://a?endpoint=",
        ] {
            let err = config(url).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{url}: {err:?}");
        }
    }
}
