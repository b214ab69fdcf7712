//! Opening a broker in Redis by URL.

use std::sync::Arc;

use micro_broker_core::{Broker, Driver, Env, Result, Url, async_trait};
use micro_redis::RedisConfig;

use crate::{RedisBroker, RedisBrokerConfig};

/// Opens `redis:` and `rediss:` URLs; each opening has a connection of its own.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct RedisDriver {}

#[async_trait]
impl Driver<dyn Broker> for RedisDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &RedisConfig::SCHEMES
    }

    async fn open(&self, url: &Url, env: &Env) -> Result<Arc<dyn Broker>> {
        let config = RedisBrokerConfig::from_url(url)?;
        Ok(Arc::new(RedisBroker::open(config, env).await?))
    }
}
