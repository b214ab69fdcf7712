#![doc = include_str!("../README.md")]

mod config;
mod coordinator;
mod lease;
mod observer;
mod queue;

use std::sync::Arc;

use micro_sync_core::{Coordinator, Driver, Env, Result, Url, async_trait};

pub use self::config::EtcdSyncConfig;
pub use self::coordinator::EtcdCoordinator;
pub use micro_etcd::EtcdConfig;

/// The URL scheme of this backend.
pub const SCHEME: &str = "etcd";

/// Opens `etcd` URLs: give it to `Drivers::with`.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct EtcdDriver {}

#[async_trait]
impl Driver<dyn Coordinator> for EtcdDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &[SCHEME]
    }

    async fn open(&self, url: &Url, env: &Env) -> Result<Arc<dyn Coordinator>> {
        let config = EtcdSyncConfig::from_url(url)?;
        Ok(Arc::new(EtcdCoordinator::open(config, env)?))
    }
}
