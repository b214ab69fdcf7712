//! A [`Registry`] in kubernetes. URL: `kubernetes://host:port`.
//!
//! ```
//! use micro_registry_kubernetes::KubernetesDriver;
//! use micro_registry_core::{Drivers, Env, Node, RegistryExt as _, Service};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> micro_registry_core::Result<()> {
//! let drivers = Drivers::new().with(KubernetesDriver::default());
//! let registry = drivers.open("kubernetes://127.0.0.1:7000", &Env::new()).await?;
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

pub use self::config::KubernetesConfig;
pub use self::registry::KubernetesRegistry;

/// The URL scheme of this backend.
pub const SCHEME: &str = "kubernetes";

/// Opens `kubernetes` URLs: give it to `Drivers::with`.
///
/// What one driver opens at one server and in one namespace shares a directory.
#[derive(Clone, Debug, Default)]
pub struct KubernetesDriver {
    directories: registry::Directories,
}

#[async_trait]
impl Driver<dyn Registry> for KubernetesDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &[SCHEME]
    }

    async fn open(&self, url: &Url, env: &Env) -> Result<Arc<dyn Registry>> {
        let config = KubernetesConfig::from_url(url)?;
        let directory = self.directories.of(&config.endpoints, env.namespace());
        Ok(Arc::new(KubernetesRegistry::new(config, env, directory)))
    }
}
