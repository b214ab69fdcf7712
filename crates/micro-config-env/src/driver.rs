//! Opening the source by URL.

use std::sync::Arc;

use micro_config_core::{Driver, Env, Result, Source, async_trait};
use micro_core::Url;

use crate::{EnvConfig, EnvSource, SCHEME};

/// Opens [`EnvSource`]s.
#[derive(Clone, Copy, Debug, Default)]
pub struct EnvDriver;

#[async_trait]
impl Driver<dyn Source> for EnvDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &[SCHEME]
    }

    async fn open(&self, url: &Url, _env: &Env) -> Result<Arc<dyn Source>> {
        Ok(Arc::new(EnvSource::with_config(EnvConfig::from_url(url)?)))
    }
}
