#![doc = include_str!("../README.md")]

mod config;
mod lane;
mod layout;
mod registry;
mod view;
mod watch;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use micro_registry_core::{Driver, Env, Registry, Result, Url, async_trait};

pub use self::config::EtcdRegistryConfig;
pub use self::registry::EtcdRegistry;
pub use micro_etcd::EtcdConfig;

/// The URL scheme of this backend.
pub const SCHEME: &str = "etcd";

/// Opens `etcd` URLs: give it to `Drivers::with`.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct EtcdDriver {}

#[async_trait]
impl Driver<dyn Registry> for EtcdDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &[SCHEME]
    }

    async fn open(&self, url: &Url, env: &Env) -> Result<Arc<dyn Registry>> {
        let config = EtcdRegistryConfig::from_url(url)?;
        Ok(Arc::new(EtcdRegistry::new(config, env)?))
    }
}

/// Nothing panics while it holds a lock of ours, so a poisoned one holds whole data.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
