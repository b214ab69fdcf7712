#![doc = include_str!("../README.md")]

mod config;
mod coordinator;
mod doors;
mod observer;
mod row;
mod table;

use std::sync::Arc;

use micro_sync_core::{Coordinator, Driver, Env, Result, Url, async_trait};

pub use self::config::PostgresSyncConfig;
pub use self::coordinator::PostgresCoordinator;
pub use micro_postgres::PostgresConfig;

/// The URL scheme of this backend.
pub const SCHEME: &str = "postgres";

/// Opens `postgres:`, `postgresql:`, `cockroach:` and `cockroachdb:` URLs; which database it is, the
/// server says.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct PostgresDriver {}

#[async_trait]
impl Driver<dyn Coordinator> for PostgresDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &[SCHEME, "postgresql", "cockroach", "cockroachdb"]
    }

    async fn open(&self, url: &Url, env: &Env) -> Result<Arc<dyn Coordinator>> {
        let config = PostgresSyncConfig::from_url(url)?;
        Ok(Arc::new(PostgresCoordinator::open(config, env)?))
    }
}
