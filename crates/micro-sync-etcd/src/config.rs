//! What the URL says.

use micro_core::url::Options;
use micro_etcd::EtcdConfig;
use micro_sync_core::{Error, Result, Url};

/// Where go-micro keeps its locks.
const PREFIX: &str = "/micro/sync/";

/// How to reach etcd, and where in it the locks are.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EtcdSyncConfig {
    /// How to reach etcd, and who we are.
    pub etcd: EtcdConfig,
    /// What all keys begin with. Default: go-micro's `/micro/sync/`.
    pub prefix: String,
    /// The epoch of all tokens, 0 by default: to be raised, for the whole fleet at once, when etcd was
    /// restored from a backup or begun anew, since its revisions went back then.
    pub epoch: u64,
}

impl Default for EtcdSyncConfig {
    fn default() -> Self {
        Self {
            etcd: EtcdConfig::default(),
            prefix: PREFIX.to_owned(),
            epoch: 0,
        }
    }
}

impl EtcdSyncConfig {
    /// Reads `etcd://user:password@host:2379?prefix=/micro/sync/&epoch=1&…`; the other options are
    /// those of [`EtcdConfig`].
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
        if let Some(epoch) = options.take("epoch")? {
            config.epoch = epoch;
        }
        options.finish()?;
        config.check()?;
        Ok(config)
    }

    pub(crate) fn check(&self) -> Result<()> {
        let name = self.prefix.trim_matches('/');
        if name.is_empty() || self.prefix.len() > 256 || self.prefix.contains(char::is_control) {
            return Err(Error::invalid_argument(
                "a prefix has a name and at most 256 bytes: '/micro/sync/'",
            )
            .with_operation("sync.open")
            .with_context("prefix", self.prefix.escape_debug()));
        }
        self.etcd.check()
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

    fn config(url: &str) -> Result<EtcdSyncConfig> {
        EtcdSyncConfig::from_url(&micro_core::url::resolve(url)?)
    }

    #[test]
    fn the_url_says_it_all_and_debug_does_not() {
        assert_eq!(config("etcd").unwrap(), EtcdSyncConfig::default());
        let read = config("etcd://me:hunter2@a:1?prefix=/x&epoch=3").unwrap();
        assert_eq!((read.prefix.as_str(), read.epoch), ("/x", 3));
        assert!(!format!("{read:?}").contains("hunter2"));
        for url in ["etcd://a?prefix=/", "etcd://a?epoc=1", "etcd://a?epoch=-1"] {
            assert!(config(url).is_err(), "{url}");
        }
    }

    #[test]
    fn keys_are_those_of_go_micro_and_apart() {
        let config = EtcdSyncConfig::default();
        assert_eq!(config.keys_of("", "books"), "/micro/sync/books/");
        assert_eq!(config.keys_of("eu", "books"), "/micro/sync/eu:books/");
    }
}
