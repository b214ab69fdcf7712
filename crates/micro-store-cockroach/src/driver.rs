//! Opening a store in a database by URL.

use std::sync::Arc;

use micro_store_core::{Driver, Env, Result, Store, Url, async_trait};

use crate::{CockroachConfig, CockroachStore, SCHEME};

/// Opens `cockroach:`, `cockroachdb:`, `postgres:` and `postgresql:` URLs: they mean the same, but for
/// port, user and database where the URL names none. Which database it is, the server says.
#[derive(Clone, Copy, Debug, Default)]
pub struct CockroachDriver;

#[async_trait]
impl Driver<dyn Store> for CockroachDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &[SCHEME, "cockroachdb", "postgres", "postgresql"]
    }

    async fn open(&self, url: &Url, env: &Env) -> Result<Arc<dyn Store>> {
        let config = CockroachConfig::from_url(url)?;
        Ok(Arc::new(CockroachStore::open(config, env).await?))
    }
}
