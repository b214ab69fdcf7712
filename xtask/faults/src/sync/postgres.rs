//! A PostgreSQL of the campaign's own.

use std::sync::Arc;

use micro_core::{SystemRandom, url};
use micro_postgres::{Connection, Failure, Pool, PostgresConfig, Query, Session};

use super::engine::{Engine, Left};
use crate::Result;
use crate::store::postgres::{Server, programs};

/// Rows that somebody has, by the server's clock, as the holders' time is.
const HELD: &str = "SELECT count(*) FROM micro_locks \
     WHERE owner IS NOT NULL AND expires > clock_timestamp()";
/// What sessions hold, and poolers would leak.
const BY_SESSIONS: &str = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";

/// A single server.
pub(super) struct Postgres(Server);

impl Engine for Postgres {
    const NAME: &'static str = "postgres";
    const CURE: &'static str = "PostgreSQL is not installed; apt-get install postgresql";

    fn is_installed() -> bool {
        programs().is_some()
    }

    async fn start() -> Result<Self> {
        let mut server = Server::new(programs().ok_or(Self::CURE)?)?;
        server.start().await?;
        Ok(Self(server))
    }

    async fn run(&mut self) -> Result<()> {
        self.0.start().await
    }

    fn kill(&mut self) {
        self.0.kill();
    }

    fn url(&self) -> String {
        self.0.url()
    }

    async fn left(&self) -> Result<Left> {
        let config = PostgresConfig::from_url(&url::resolve(&self.url())?)?;
        let pool = Pool::new(config, Session::default(), Arc::new(SystemRandom))?;
        let mut left = Vec::new();
        for (what, sql) in [("rows", HELD), ("session_locks", BY_SESSIONS)] {
            let rows = pool
                .attempt(async |connection: Connection| {
                    let query = Query::new(sql, Vec::new());
                    connection.query(&query).await.map_err(Failure::harmless)
                })
                .await?;
            let count: i64 = rows.first().ok_or("a count has a row")?.try_get(0)?;
            left.push((what, usize::try_from(count)?));
        }
        Ok(left)
    }
}
