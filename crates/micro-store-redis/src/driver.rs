//! Opening a store in Redis by URL.

use std::sync::Arc;

use micro_redis::RedisConfig;
use micro_store_core::{Driver, Env, Result, Store, Url, async_trait};

use crate::{RedisStore, RedisStoreConfig};

/// Opens `redis:` and `rediss:` URLs; each opening has a connection of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct RedisDriver;

#[async_trait]
impl Driver<dyn Store> for RedisDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &RedisConfig::SCHEMES
    }

    async fn open(&self, url: &Url, env: &Env) -> Result<Arc<dyn Store>> {
        let config = RedisStoreConfig::from_url(url)?;
        Ok(Arc::new(RedisStore::open(config, env.random()).await?))
    }
}
