#![doc = include_str!("../README.md")]

mod config;
mod source;

use std::sync::Arc;

use micro_config_core::{Driver, Env, Result, Source, async_trait};
use micro_core::Url;

pub use self::config::EtcdSourceConfig;
pub use self::source::EtcdConfigSource;
pub use micro_etcd::EtcdConfig;

/// The URL scheme of this backend.
pub const SCHEME: &str = "etcd";

/// Opens `etcd` URLs: give it to `Drivers::with`.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct EtcdDriver {}

#[async_trait]
impl Driver<dyn Source> for EtcdDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &[SCHEME]
    }

    async fn open(&self, url: &Url, env: &Env) -> Result<Arc<dyn Source>> {
        let config = EtcdSourceConfig::from_url(url)?;
        Ok(Arc::new(EtcdConfigSource::open(config, env)?))
    }
}
