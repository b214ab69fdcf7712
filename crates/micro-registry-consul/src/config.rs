//! What the URL says.

use std::time::Duration;

use micro_core::url::{Options, Span, is_loopback};
use micro_core::{Error, Secret};
use micro_http::{Credentials, HttpConfig};
use micro_registry_core::{Result, Url};

/// The port of Consul's HTTP API.
const DEFAULT_PORT: u16 = 8500;
/// Where an agent is that nobody named.
const DEFAULT_ENDPOINT: &str = "127.0.0.1:8500";
/// The header of an ACL token.
const TOKEN: &str = "x-consul-token";

/// How to reach Consul.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConsulConfig {
    /// The agents, credentials, deadlines and TLS. Default: the agent at `127.0.0.1:8500`.
    ///
    /// What is registered belongs to the agent that took it: name further agents only if they may
    /// stand in for the first.
    pub http: HttpConfig,
    /// The datacenter to ask; the agent's own if there is none.
    pub datacenter: Option<String>,
    /// Whether any server may answer, even one that is behind. Default yes, as go-micro does.
    pub stale: bool,
    /// How long a watch's request waits for a change, 1 s to 10 min, give or take a tenth.
    /// Default 60 s.
    pub wait: Duration,
    /// Put before the names of all services, with a `/`: several fleets in one Consul. Default none.
    pub prefix: String,
    /// Whether a loopback address is one of this machine, so that the resolver calls it. Default:
    /// if all agents named are on loopback themselves. Say no if such an agent belongs to a cluster
    /// of several machines.
    pub loopback: Option<bool>,
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
            stale: true,
            wait: Duration::from_secs(60),
            prefix: String::new(),
            loopback: None,
        }
    }

    /// Reads `consul://host:port?endpoint=host:port&token=…&datacenter=dc1&stale=false&wait=60s`
    /// `&prefix=…&loopback=false&timeout=5s&ca=ca.pem&cert=…&key=…&server_name=…`.
    ///
    /// `consul://user:password@host` is HTTP's basic authentication, for a proxy before Consul.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an option that is unknown, given twice or not readable; what reading
    /// the certificates says.
    pub fn from_url(url: &Url) -> Result<Self> {
        let invalid =
            |message: &'static str| Error::invalid_argument(message).with_operation("consul.open");
        if !matches!(url.path(), "" | "/") {
            return Err(invalid(
                "a Consul URL has no path: 'consul://host:8500?prefix=name&option=value'",
            ));
        }
        let mut options = Options::new(url);
        let mut endpoints = options.endpoints(DEFAULT_PORT)?;
        if endpoints.is_empty() {
            endpoints.push(DEFAULT_ENDPOINT.to_owned());
        }
        let mut config = Self::new(endpoints);
        config.http = config.http.with_options(&mut options)?;
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
        config.stale = options.take("stale")?.unwrap_or(config.stale);
        config.loopback = options.take("loopback")?;
        config.prefix = options.take("prefix")?.unwrap_or_default();
        if let Some(Span(wait)) = options.take("wait")? {
            config.wait = wait;
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(600)).contains(&config.wait) {
            return Err(invalid("'wait' is 1s to 10m"));
        }
        options.finish()?;
        Ok(config)
    }

    /// Whether a loopback address is one of this machine.
    pub(crate) fn is_here(&self) -> bool {
        self.loopback.unwrap_or_else(|| {
            let endpoints = &self.http.endpoints;
            endpoints.iter().all(|endpoint| is_loopback(endpoint))
        })
    }
}

#[cfg(test)]
mod tests {
    use micro_core::ErrorKind;

    use super::*;

    fn config(url: &str) -> Result<ConsulConfig> {
        ConsulConfig::from_url(&micro_core::url::resolve(url)?)
    }

    #[test]
    fn a_bare_scheme_is_enough() {
        let config = config("consul").unwrap();
        assert_eq!(config.http.endpoints, [DEFAULT_ENDPOINT]);
        assert!(config.stale && config.is_here());
    }

    #[test]
    fn the_url_says_it_all_and_debug_does_not() {
        let config = config(
            "consul://a:1?endpoint=b&token=hunter2&datacenter=dc2&stale=false&wait=5s&prefix=x&timeout=250ms",
        )
        .unwrap();
        assert_eq!(config.http.endpoints, ["a:1", "b:8500"]);
        assert_eq!(config.http.timeout, Duration::from_millis(250));
        assert_eq!(config.datacenter.as_deref(), Some("dc2"));
        assert_eq!(config.wait, Duration::from_secs(5));
        assert!(!config.stale && !config.is_here());
        assert!(!format!("{config:?}").contains("hunter2"));
        let basic = super::tests::config("consul://me:hunter2@a").unwrap();
        assert!(matches!(basic.http.credentials, Credentials::Basic { .. }));
        assert!(!format!("{basic:?}").contains("hunter2"));
    }

    #[test]
    fn s51_loopback_is_here_only_if_every_agent_is() {
        for (url, here) in [
            ("consul", true),
            ("consul://localhost", true),
            ("consul://[::1]", true),
            ("consul://127.0.0.1?endpoint=10.0.0.1", false),
            ("consul://consul.example", false),
            ("consul://127.0.0.1?loopback=false", false),
            ("consul://10.0.0.1?loopback=true", true),
        ] {
            assert_eq!(config(url).unwrap().is_here(), here, "{url}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for url in [
            "consul://a?tiemout=1s",
            "consul://a?wait=1h",
            "consul://a/prefix",
            "consul://a?stale=perhaps",
            "consul://me:pw@a?token=t",
            "consul://a?cert=x",
        ] {
            let err = config(url).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{url}: {err}");
        }
    }
}
