//! Opening a registry over NATS by URL.

use std::sync::Arc;

use micro_registry_core::{Driver, Env, Registry, Result, Url, async_trait};

use crate::{NatsRegistry, NatsRegistryConfig, SCHEME};

/// Opens `nats` URLs.
#[derive(Clone, Copy, Debug, Default)]
pub struct NatsDriver;

#[async_trait]
impl Driver<dyn Registry> for NatsDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &[SCHEME]
    }

    async fn open(&self, url: &Url, env: &Env) -> Result<Arc<dyn Registry>> {
        let config = NatsRegistryConfig::from_url(url)?;
        Ok(Arc::new(NatsRegistry::open(config, env)?))
    }
}
