//! Opening a source by URL.

use std::sync::Arc;

use micro_config_core::{Driver, Env, Result, Source, async_trait};
use micro_core::Url;

use crate::{FileConfig, FileSource, SCHEME};

/// Opens [`FileSource`]s.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileDriver;

#[async_trait]
impl Driver<dyn Source> for FileDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &[SCHEME]
    }

    async fn open(&self, url: &Url, env: &Env) -> Result<Arc<dyn Source>> {
        let source = FileSource::with_config(FileConfig::from_url(url)?);
        Ok(Arc::new(source.with_clock(Arc::clone(env.clock()))))
    }
}
