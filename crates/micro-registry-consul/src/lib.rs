//! A [`Registry`] in consul. URL: `consul://host:port`.
//!
//! ```
//! use micro_registry_consul::ConsulDriver;
//! use micro_registry_core::{Drivers, Env, Node, RegistryExt as _, Service};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> micro_registry_core::Result<()> {
//! let drivers = Drivers::new().with(ConsulDriver::default());
//! let registry = drivers.open("consul://127.0.0.1:7000", &Env::new()).await?;
//! let service = Service::new("greeter", "v1").with_node(Node::new("a", "127.0.0.1:9"));
//! registry.register(&service, Default::default()).await?;
//! assert_eq!(registry.get("greeter").await?, [service]);
//! # Ok(())
//! # }
//! ```

mod config;
mod registry;

use std::sync::Arc;

use micro_registry_core::{Driver, Env, Registry, Result, Url, async_trait};

pub use self::config::ConsulConfig;
pub use self::registry::ConsulRegistry;

/// The URL scheme of this backend.
pub const SCHEME: &str = "consul";

/// Opens `consul` URLs: give it to `Drivers::with`.
///
/// What one driver opens at one server and in one namespace shares a directory.
#[derive(Clone, Debug, Default)]
pub struct ConsulDriver {
    directories: registry::Directories,
}

#[async_trait]
impl Driver<dyn Registry> for ConsulDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &[SCHEME]
    }

    async fn open(&self, url: &Url, env: &Env) -> Result<Arc<dyn Registry>> {
        let config = ConsulConfig::from_url(url)?;
        let directory = self.directories.of(&config.endpoints, env.namespace());
        Ok(Arc::new(ConsulRegistry::new(config, env, directory)))
    }
}
