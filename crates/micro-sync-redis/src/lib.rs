#![doc = include_str!("../README.md")]

mod config;
mod coordinator;
mod lease;
mod observer;
mod place;
mod table;
mod words;

use std::sync::Arc;

use micro_sync_core::{Coordinator, Driver, Env, Result, Url, async_trait};

pub use self::config::RedisSyncConfig;
pub use self::coordinator::RedisCoordinator;
pub use micro_redis::RedisConfig;

/// The URL scheme of this backend; `rediss` is the same with TLS.
pub const SCHEME: &str = "redis";

/// Opens `redis:` and `rediss:` URLs: give it to `Drivers::with`.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct RedisDriver {}

#[async_trait]
impl Driver<dyn Coordinator> for RedisDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &RedisConfig::SCHEMES
    }

    async fn open(&self, url: &Url, env: &Env) -> Result<Arc<dyn Coordinator>> {
        let config = RedisSyncConfig::from_url(url)?;
        Ok(Arc::new(RedisCoordinator::open(config, env)?))
    }
}
