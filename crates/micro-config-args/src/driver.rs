//! Opening the source by URL.

use std::sync::Arc;

use micro_config_core::{Driver, Env, Result, Source, async_trait};
use micro_core::Url;
use micro_core::url::Options;

use crate::{ArgsSource, SCHEME};

/// Opens the [`ArgsSource`] of the program's own command line.
#[derive(Clone, Copy, Debug, Default)]
pub struct ArgsDriver;

#[async_trait]
impl Driver<dyn Source> for ArgsDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &[SCHEME]
    }

    async fn open(&self, url: &Url, _env: &Env) -> Result<Arc<dyn Source>> {
        Options::new(url).finish()?;
        Ok(Arc::new(ArgsSource::from_args(std::env::args_os())?))
    }
}
