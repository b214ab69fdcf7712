//! What the URL says.

use micro_core::url::Options;
use micro_etcd::EtcdConfig;
use micro_registry_core::{Error, Result, Url};

/// Where go-micro keeps its services.
const PREFIX: &str = "/micro/registry/";

/// How to reach etcd, and where in it the services are.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EtcdRegistryConfig {
    /// How to reach etcd, and who we are.
    pub etcd: EtcdConfig,
    /// What all keys begin with. Default: go-micro's `/micro/registry/`.
    pub prefix: String,
    /// Whether loopback addresses of nodes make sense on this machine. Default: if all members
    /// named are on loopback themselves. Say no if such a member is a tunnel to elsewhere.
    pub loopback: Option<bool>,
}

impl Default for EtcdRegistryConfig {
    fn default() -> Self {
        Self {
            etcd: EtcdConfig::default(),
            prefix: PREFIX.to_owned(),
            loopback: None,
        }
    }
}

impl EtcdRegistryConfig {
    /// Reads `etcd://user:password@host:2379?prefix=/micro/registry/&loopback=false&…`; the other
    /// options are those of [`EtcdConfig`].
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an option that is unknown, given twice or not readable.
    pub fn from_url(url: &Url) -> Result<Self> {
        let mut options = Options::new(url);
        let mut config = Self {
            etcd: EtcdConfig::take(url, &mut options)?,
            loopback: options.take("loopback")?,
            ..Self::default()
        };
        if let Some(prefix) = options.take("prefix")? {
            config.prefix = prefix;
        }
        options.finish()?;
        config.check()?;
        Ok(config)
    }

    /// Checks what fields alone cannot say.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a prefix that is none.
    pub(crate) fn check(&self) -> Result<()> {
        self.etcd.check()?;
        let name = self.prefix.trim_end_matches('/');
        if name.is_empty() || self.prefix.len() > 256 || self.prefix.contains(char::is_control) {
            return Err(Error::invalid_argument(
                "a prefix has a name and at most 256 bytes: '/micro/registry/'",
            )
            .with_operation("registry.open")
            .with_context("prefix", self.prefix.escape_debug()));
        }
        Ok(())
    }

    /// Whether loopback addresses are of this machine.
    pub(crate) fn believes_loopback(&self) -> bool {
        self.loopback.unwrap_or_else(|| self.etcd.is_loopback())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> Result<EtcdRegistryConfig> {
        EtcdRegistryConfig::from_url(&micro_core::url::resolve(url)?)
    }

    #[test]
    fn a_bare_scheme_is_enough() {
        assert_eq!(config("etcd").unwrap(), EtcdRegistryConfig::default());
        assert!(config("etcd").unwrap().believes_loopback());
    }

    #[test]
    fn the_url_says_it_all_and_debug_does_not() {
        let config = config("etcd://me:hunter2@a:1?endpoint=b:2&prefix=/x/&loopback=true").unwrap();
        assert_eq!(config.etcd.endpoints, ["a:1", "b:2"]);
        assert_eq!(config.prefix, "/x/");
        assert!(config.believes_loopback());
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for url in [
            "etcd://a?tiemout=1s",
            "etcd://a?prefix=",
            "etcd://a?prefix=//",
            "etcd://a?prefix=a%0Ab",
        ] {
            assert!(config(url).is_err(), "{url}");
        }
        assert!(!config("etcd://10.0.0.1").unwrap().believes_loopback());
    }
}
