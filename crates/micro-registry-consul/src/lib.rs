//! A [`Registry`] in Consul, in go-micro's layout. URL: `consul://host:port`.
//!
//! ```
//! use micro_registry_consul::ConsulDriver;
//! use micro_registry_core::{Drivers, Env, ErrorKind, RegistryExt as _};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> micro_registry_core::Result<()> {
//! let drivers = Drivers::new().with(ConsulDriver);
//! let registry = drivers.open("consul://127.0.0.1:1?timeout=1s", &Env::new()).await?;
//! // It opened without a server; nobody answers there, and that is told by the calls.
//! let err = registry.get("greeter").await.unwrap_err();
//! assert_eq!(err.kind(), ErrorKind::Unavailable);
//! # Ok(())
//! # }
//! ```

mod api;
mod config;
mod layout;
mod registry;
mod view;
mod watch;

use std::sync::Arc;

use micro_registry_core::{Driver, Env, Registry, Result, Url, async_trait};

pub use self::config::ConsulRegistryConfig;
pub use self::registry::ConsulRegistry;
pub use micro_consul::ConsulConfig;

/// The URL scheme of this backend.
pub const SCHEME: &str = "consul";

/// Opens `consul` URLs: give it to `Drivers::with`.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConsulDriver;

#[async_trait]
impl Driver<dyn Registry> for ConsulDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &[SCHEME]
    }

    async fn open(&self, url: &Url, env: &Env) -> Result<Arc<dyn Registry>> {
        Ok(Arc::new(ConsulRegistry::new(
            ConsulRegistryConfig::from_url(url)?,
            env,
        )?))
    }
}
