//! What the URL says.

use micro_core::url::{Options, is_loopback};
use micro_core::{Error, Result, Secret, Url};
use micro_http::{Credentials, HttpConfig};

/// The port of Consul's HTTP API.
const DEFAULT_PORT: u16 = 8500;
/// Where an agent is that nobody named.
pub const DEFAULT_ENDPOINT: &str = "127.0.0.1:8500";
/// The header of an ACL token.
const TOKEN: &str = "x-consul-token";

/// How to reach Consul, and who we are.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConsulConfig {
    /// The agents, credentials, deadlines and TLS. Default: the agent at `127.0.0.1:8500`.
    pub http: HttpConfig,
    /// The datacenter to ask; the agent's own if there is none.
    pub datacenter: Option<String>,
}

impl Default for ConsulConfig {
    fn default() -> Self {
        Self::new(vec![DEFAULT_ENDPOINT.to_owned()])
    }
}

impl ConsulConfig {
    /// The defaults, with these agents (`host:port`).
    #[must_use]
    pub fn new(endpoints: Vec<String>) -> Self {
        Self {
            http: HttpConfig::new(endpoints),
            datacenter: None,
        }
    }

    /// Takes what is ours of a backend's URL and leaves the rest to it:
    /// `consul://host:port?endpoint=host:port&token=…&datacenter=dc1&timeout=5s&connect_timeout=3s`
    /// `&ca=ca.pem&cert=…&key=…&server_name=…`.
    ///
    /// `consul://user:password@host` is HTTP's basic authentication, for a proxy before Consul.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an option that is given twice or not readable; what reading the
    /// certificates says.
    pub fn take(url: &Url, options: &mut Options<'_>) -> Result<Self> {
        let invalid =
            |message: &'static str| Error::invalid_argument(message).with_operation("consul.open");
        if !matches!(url.path(), "" | "/") {
            return Err(invalid(
                "a Consul URL has no path: 'consul://host:8500?prefix=name&option=value'",
            ));
        }
        let mut endpoints = options.endpoints(DEFAULT_PORT)?;
        if endpoints.is_empty() {
            endpoints.push(DEFAULT_ENDPOINT.to_owned());
        }
        let mut config = Self::new(endpoints);
        config.http = config.http.with_options(options)?;
        let token: Option<String> = options.take("token")?;
        config.http.credentials = match (token, options.username()) {
            (Some(_), Some(_)) => {
                return Err(invalid(
                    "a token and a user are both given; Consul itself takes the token",
                ));
            }
            (Some(token), None) => Credentials::Header {
                name: TOKEN,
                value: Secret::new(token),
            },
            (None, Some(username)) => Credentials::Basic {
                username,
                password: options.password().unwrap_or_default(),
            },
            (None, None) => Credentials::None,
        };
        config.datacenter = options.take("datacenter")?;
        Ok(config)
    }

    /// Whether every agent named is on this machine's loopback.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let endpoints = &self.http.endpoints;
        endpoints.iter().all(|endpoint| is_loopback(endpoint))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use micro_core::ErrorKind;

    use super::*;

    fn config(url: &str) -> Result<ConsulConfig> {
        let url = micro_core::url::resolve(url)?;
        let mut options = Options::new(&url);
        let config = ConsulConfig::take(&url, &mut options)?;
        options.finish()?;
        Ok(config)
    }

    #[test]
    fn a_bare_scheme_is_enough() {
        let config = config("consul").unwrap();
        assert_eq!(config.http.endpoints, [DEFAULT_ENDPOINT]);
        assert!(config.is_loopback());
    }

    #[test]
    fn the_url_says_it_all_and_debug_does_not() {
        let read =
            config("consul://a:1?endpoint=b&token=hunter2&datacenter=dc2&timeout=250ms").unwrap();
        assert_eq!(read.http.endpoints, ["a:1", "b:8500"]);
        assert_eq!(read.http.timeout, Duration::from_millis(250));
        assert_eq!(read.datacenter.as_deref(), Some("dc2"));
        assert!(!read.is_loopback() && !format!("{read:?}").contains("hunter2"));
        let basic = config("consul://me:hunter2@a").unwrap();
        assert!(matches!(basic.http.credentials, Credentials::Basic { .. }));
        assert!(!format!("{basic:?}").contains("hunter2"));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for url in [
            "consul://a?tiemout=1s",
            "consul://a/prefix",
            "consul://me:pw@a?token=t",
            "consul://a?cert=x",
        ] {
            let err = config(url).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{url}: {err}");
        }
    }
}
