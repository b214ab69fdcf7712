//! What the URL says.

use micro_config_core::{Error, Result};
use micro_core::Url;
use micro_core::url::Options;
use micro_etcd::EtcdConfig;

/// Where go-micro keeps its configuration.
const PREFIX: &str = "/micro/config/";

/// How to reach etcd, and where in it the configuration is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EtcdSourceConfig {
    /// How to reach etcd, and who we are.
    pub etcd: EtcdConfig,
    /// What all keys begin with. Default: go-micro's `/micro/config/`.
    pub prefix: String,
    /// The most bytes of keys and values together; 1 MiB by default.
    pub max_bytes: usize,
}

impl Default for EtcdSourceConfig {
    fn default() -> Self {
        Self {
            etcd: EtcdConfig::default(),
            prefix: PREFIX.to_owned(),
            max_bytes: 1024 * 1024,
        }
    }
}

impl EtcdSourceConfig {
    /// Reads `etcd://user:password@host:2379?prefix=/micro/config/&max_bytes=1048576&…`; the other
    /// options are those of [`EtcdConfig`].
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an option that is unknown, given twice or not readable.
    pub fn from_url(url: &Url) -> Result<Self> {
        let mut options = Options::new(url);
        let mut config = Self {
            etcd: EtcdConfig::take(url, &mut options)?,
            ..Self::default()
        };
        if let Some(prefix) = options.take("prefix")? {
            config.prefix = prefix;
        }
        if let Some(max_bytes) = options.take("max_bytes")? {
            config.max_bytes = max_bytes;
        }
        options.finish()?;
        config.check()?;
        Ok(config)
    }

    pub(crate) fn check(&self) -> Result<()> {
        let name = self.prefix.trim_matches('/');
        if name.is_empty() || self.prefix.len() > 256 || self.prefix.contains(char::is_control) {
            return Err(Error::invalid_argument(
                "a prefix has a name and at most 256 bytes: '/micro/config/'",
            )
            .with_operation("config.open")
            .with_context("prefix", self.prefix.escape_debug()));
        }
        self.etcd.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> Result<EtcdSourceConfig> {
        EtcdSourceConfig::from_url(&micro_core::url::resolve(url)?)
    }

    #[test]
    fn the_url_says_it_all_and_debug_does_not() {
        assert_eq!(config("etcd").unwrap(), EtcdSourceConfig::default());
        let read = config("etcd://me:hunter2@a:1?prefix=/x/&max_bytes=9").unwrap();
        assert_eq!((read.prefix.as_str(), read.max_bytes), ("/x/", 9));
        assert!(!format!("{read:?}").contains("hunter2"));
        for url in [
            "etcd://a?prefix=/",
            "etcd://a?prefx=/x/",
            "etcd://a?max_bytes=-1",
        ] {
            assert!(config(url).is_err(), "{url}");
        }
    }
}
