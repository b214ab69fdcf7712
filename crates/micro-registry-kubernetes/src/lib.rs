//! A [`Registry`] in Kubernetes, by EndpointSlices. URL: `kubernetes`, within a cluster.
//!
//! ```
//! use micro_registry_core::{Drivers, Env, ErrorKind, RegistryExt as _};
//! use micro_registry_kubernetes::KubernetesDriver;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> micro_registry_core::Result<()> {
//! let drivers = Drivers::new().with(KubernetesDriver);
//! // From outside: an API server by address, such as what `kubectl proxy` opens.
//! let url = "kubernetes://127.0.0.1:1?namespace=shop&timeout=1s";
//! let registry = drivers.open(url, &Env::new()).await?;
//! // It opened without a server; nobody answers there, and that is told by the calls.
//! let err = registry.get("greeter").await.unwrap_err();
//! assert_eq!(err.kind(), ErrorKind::Unavailable);
//! # Ok(())
//! # }
//! ```

mod api;
mod config;
mod names;
mod registry;
mod slice;
mod view;
mod watch;

use std::sync::Arc;

use micro_registry_core::{Driver, Env, Registry, Result, Url, async_trait};

pub use self::config::KubernetesConfig;
pub use self::registry::KubernetesRegistry;

/// The URL scheme of this backend.
pub const SCHEME: &str = "kubernetes";

/// Opens `kubernetes` URLs: give it to `Drivers::with`.
#[derive(Clone, Copy, Debug, Default)]
pub struct KubernetesDriver;

#[async_trait]
impl Driver<dyn Registry> for KubernetesDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &[SCHEME]
    }

    async fn open(&self, url: &Url, env: &Env) -> Result<Arc<dyn Registry>> {
        Ok(Arc::new(KubernetesRegistry::new(
            KubernetesConfig::from_url(url)?,
            env,
        )?))
    }
}
