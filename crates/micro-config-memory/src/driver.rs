//! Opening a source by URL.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use micro_config_core::{Driver, Env, Result, Source, async_trait};
use micro_core::Url;
use micro_core::url::Options;

use crate::{MemorySource, SCHEME};

/// Opens [`MemorySource`]s; what it opens under one name and namespace shares its content.
#[derive(Clone, Debug, Default)]
pub struct MemoryDriver {
    opened: Arc<Mutex<BTreeMap<(String, String), MemorySource>>>,
}

impl MemoryDriver {
    /// A driver that has opened nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The source of this name in the default namespace, so that the program can change it.
    #[must_use]
    pub fn source(&self, name: &str) -> MemorySource {
        self.named("", name)
    }

    fn named(&self, namespace: &str, name: &str) -> MemorySource {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened
            .entry((namespace.to_owned(), name.to_owned()))
            .or_insert_with(|| MemorySource::new().with_name(name))
            .clone()
    }
}

#[async_trait]
impl Driver<dyn Source> for MemoryDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &[SCHEME]
    }

    async fn open(&self, url: &Url, env: &Env) -> Result<Arc<dyn Source>> {
        Options::new(url).finish()?;
        Ok(Arc::new(self.named(env.namespace(), url.path())))
    }
}
