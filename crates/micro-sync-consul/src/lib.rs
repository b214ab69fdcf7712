#![doc = include_str!("../README.md")]

mod config;
mod coordinator;
mod lease;
mod observer;
mod queue;

use std::sync::Arc;

use micro_sync_core::{Coordinator, Driver, Env, Result, Url, async_trait};

pub use self::config::ConsulSyncConfig;
pub use self::coordinator::ConsulCoordinator;
pub use micro_consul::ConsulConfig;

/// The URL scheme of this backend.
pub const SCHEME: &str = "consul";

/// Opens `consul` URLs: give it to `Drivers::with`.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct ConsulDriver {}

#[async_trait]
impl Driver<dyn Coordinator> for ConsulDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &[SCHEME]
    }

    async fn open(&self, url: &Url, env: &Env) -> Result<Arc<dyn Coordinator>> {
        let config = ConsulSyncConfig::from_url(url)?;
        Ok(Arc::new(ConsulCoordinator::open(config, env)?))
    }
}
