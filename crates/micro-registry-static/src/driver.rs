//! Opening a static registry by URL.

use std::sync::Arc;

use micro_registry_core::{Driver, Env, Registry, Result, Url, async_trait};

use crate::{SCHEME, StaticConfig, StaticRegistry};

/// Opens `static` URLs.
#[derive(Clone, Copy, Debug, Default)]
pub struct StaticDriver;

#[async_trait]
impl Driver<dyn Registry> for StaticDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &[SCHEME]
    }

    async fn open(&self, url: &Url, env: &Env) -> Result<Arc<dyn Registry>> {
        let config = StaticConfig::from_url(url)?;
        Ok(Arc::new(StaticRegistry::open(config, env).await?))
    }
}
