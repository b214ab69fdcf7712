//! What the URL says.

use std::time::Duration;

use micro_consul::ConsulConfig;
use micro_core::Error;
use micro_core::url::{Options, Span};
use micro_registry_core::{Result, Url};

/// How to reach Consul, and how to use it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConsulRegistryConfig {
    /// How to reach Consul, and who we are. Default: the agent at `127.0.0.1:8500`.
    ///
    /// What is registered belongs to the agent that took it: name further agents only if they may
    /// stand in for the first.
    pub consul: ConsulConfig,
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

impl Default for ConsulRegistryConfig {
    fn default() -> Self {
        Self {
            consul: ConsulConfig::default(),
            stale: true,
            wait: Duration::from_secs(60),
            prefix: String::new(),
            loopback: None,
        }
    }
}

impl ConsulRegistryConfig {
    /// Reads `consul://host:port?stale=false&wait=60s&prefix=…&loopback=false&…`; the other options
    /// are those of [`ConsulConfig::take`].
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an option that is unknown, given twice or not readable; what reading
    /// the certificates says.
    pub fn from_url(url: &Url) -> Result<Self> {
        let mut options = Options::new(url);
        let mut config = Self {
            consul: ConsulConfig::take(url, &mut options)?,
            ..Self::default()
        };
        config.stale = options.take("stale")?.unwrap_or(config.stale);
        config.loopback = options.take("loopback")?;
        config.prefix = options.take("prefix")?.unwrap_or_default();
        if let Some(Span(wait)) = options.take("wait")? {
            config.wait = wait;
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(600)).contains(&config.wait) {
            return Err(
                Error::invalid_argument("'wait' is 1s to 10m").with_operation("consul.open")
            );
        }
        options.finish()?;
        Ok(config)
    }

    /// Whether a loopback address is one of this machine.
    pub(crate) fn is_here(&self) -> bool {
        self.loopback.unwrap_or_else(|| self.consul.is_loopback())
    }
}

#[cfg(test)]
mod tests {
    use micro_core::ErrorKind;

    use super::*;

    fn config(url: &str) -> Result<ConsulRegistryConfig> {
        ConsulRegistryConfig::from_url(&micro_core::url::resolve(url)?)
    }

    #[test]
    fn a_bare_scheme_is_enough() {
        let config = config("consul").unwrap();
        assert!(config.stale && config.is_here());
    }

    #[test]
    fn the_url_says_it_all_and_debug_does_not() {
        let config = config(
            "consul://a:1?endpoint=b&token=hunter2&datacenter=dc2&stale=false&wait=5s&prefix=x",
        )
        .unwrap();
        assert_eq!(config.consul.http.endpoints, ["a:1", "b:8500"]);
        assert_eq!(config.consul.datacenter.as_deref(), Some("dc2"));
        assert_eq!(config.wait, Duration::from_secs(5));
        assert!(!config.stale && !config.is_here());
        assert!(!format!("{config:?}").contains("hunter2"));
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
        ] {
            let err = config(url).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{url}: {err}");
        }
    }
}
