//! Runs the suite of the interface against a real PostgreSQL: `MICRO_TEST_POSTGRES_URL` says where.

mod common;

use std::process::ExitCode;
use std::sync::Arc;

use micro_conformance::sync::{Place, Subject, Thief};
use micro_core::{Env, SystemRandom, url};
use micro_postgres::{Pool, PostgresConfig, Query, Session};
use micro_sync_core::{Drivers, Result, async_trait};
use micro_sync_postgres::PostgresDriver;

/// Gives the row to nobody, as an operator would.
struct Clearer {
    pool: Pool,
    namespace: String,
}

#[async_trait]
impl Thief for Clearer {
    async fn take(&self, name: &str) -> Result<()> {
        const CLEAR: &str = "UPDATE micro_locks SET owner = NULL \
             WHERE namespace = $1 AND name = $2 AND owner IS NOT NULL";
        let cleared = self
            .pool
            .attempt(async |connection| {
                let query = Query::new(CLEAR, vec![&self.namespace, &name]);
                connection.change(&query).await
            })
            .await?;
        assert_eq!(cleared, 1, "nobody holds {name}");
        Ok(())
    }
}

fn main() -> ExitCode {
    let Some(server) = common::server("postgres sync conformance") else {
        return ExitCode::SUCCESS;
    };
    micro_conformance::sync::run(async move |place: Place| {
        // One place is one namespace, below which the cases have theirs.
        let namespace = match place.env().namespace() {
            "" => place.id().to_owned(),
            theirs => format!("{}:{theirs}", place.id()),
        };
        let env: Env = place.env().clone().with_namespace(&namespace);
        let coordinator = Drivers::new()
            .with(PostgresDriver::default())
            .open(&server, &env)
            .await?;
        let config = PostgresConfig::from_url(&url::resolve(&server)?)?;
        let pool = Pool::new(config, Session::default(), Arc::new(SystemRandom))?;
        Ok(Subject::new(coordinator).with_thief(Clearer { pool, namespace }))
    })
}
