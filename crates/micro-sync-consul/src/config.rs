//! What the URL says.

use micro_consul::ConsulConfig;
use micro_core::url::Options;
use micro_sync_core::{Error, Result, Url};

const PREFIX: &str = "micro/sync/";

/// How to reach Consul, and where in it the locks are.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConsulSyncConfig {
    /// How to reach Consul, and who we are.
    pub consul: ConsulConfig,
    /// What all keys begin with. Default: `micro/sync/`.
    pub prefix: String,
    /// The epoch of all tokens, 0 by default: to be raised, for the whole fleet at once, when Consul was
    /// restored from a snapshot or begun anew, since its indexes went back then.
    pub epoch: u64,
}

impl Default for ConsulSyncConfig {
    fn default() -> Self {
        Self {
            consul: ConsulConfig::default(),
            prefix: PREFIX.to_owned(),
            epoch: 0,
        }
    }
}

impl ConsulSyncConfig {
    /// Reads `consul://host:8500?prefix=micro/sync/&epoch=1&…`; the other options are those of
    /// [`ConsulConfig`].
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an option that is unknown, given twice or not readable; what reading the
    /// certificates says.
    pub fn from_url(url: &Url) -> Result<Self> {
        let mut options = Options::new(url);
        let mut config = Self {
            consul: ConsulConfig::take(url, &mut options)?,
            ..Self::default()
        };
        if let Some(prefix) = options.take("prefix")? {
            config.prefix = prefix;
        }
        if let Some(epoch) = options.take("epoch")? {
            config.epoch = epoch;
        }
        options.finish()?;
        config.check()?;
        Ok(config)
    }

    pub(crate) fn check(&self) -> Result<()> {
        // Consul's keys begin without a slash, and an agent that cleans paths would change others.
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b".-_/:".contains(&byte);
        let parts = || self.prefix.trim_end_matches('/').split('/');
        if self.prefix.len() <= 256
            && self.prefix.bytes().all(good)
            && parts().all(|part| !matches!(part, "" | "." | ".."))
        {
            return Ok(());
        }
        Err(Error::invalid_argument(
            "a prefix has at most 256 letters, digits, '.', '-', '_', ':' and '/', and does not begin with '/': 'micro/sync/'",
        )
        .with_operation("sync.open")
        .with_context("prefix", self.prefix.escape_debug()))
    }

    /// What the keys of a name begin with, those of all who hold it or wait for it.
    pub(crate) fn keys_of(&self, namespace: &str, name: &str) -> String {
        let prefix = self.prefix.trim_end_matches('/');
        if namespace.is_empty() {
            return format!("{prefix}/{name}/");
        }
        // No name has a colon in it, so no lock of one namespace is one of another.
        format!("{prefix}/{namespace}:{name}/")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> Result<ConsulSyncConfig> {
        ConsulSyncConfig::from_url(&micro_core::url::resolve(url)?)
    }

    #[test]
    fn the_url_says_it_all_and_debug_does_not() {
        let read = config("consul").unwrap();
        assert_eq!((read.prefix.as_str(), read.epoch), (PREFIX, 0));
        let read = config("consul://a:1?prefix=x/y&epoch=3&token=hunter2").unwrap();
        assert_eq!((read.prefix.as_str(), read.epoch), ("x/y", 3));
        assert!(!format!("{read:?}").contains("hunter2"));
        for url in [
            "consul://a?prefix=/",
            "consul://a?prefix=/x",
            "consul://a?prefix=x//y",
            "consul://a?prefix=..",
            "consul://a?prefix=x%3Fy",
            "consul://a?epoc=1",
            "consul://a?epoch=-1",
        ] {
            assert!(config(url).is_err(), "{url}");
        }
    }

    #[test]
    fn namespaces_are_apart() {
        let config = ConsulSyncConfig::default();
        assert_eq!(config.keys_of("", "books"), "micro/sync/books/");
        assert_eq!(config.keys_of("eu", "books"), "micro/sync/eu:books/");
    }
}
