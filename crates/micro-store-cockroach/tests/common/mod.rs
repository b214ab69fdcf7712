//! What the tests over real servers share.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use micro_core::{Random as _, SystemRandom, url};
use micro_postgres::{Connection, Failure, Pool, Query, Session, tokio_postgres::Row};
use micro_store_cockroach::{CockroachConfig, CockroachStore};
use micro_store_core::{Env, Result, Scope, Table};

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The URL of a server that `cargo xtask services` started; without it, the test is skipped.
pub(crate) fn server(test: &str, variable: &str, name: &str) -> Option<String> {
    if let Ok(url) = std::env::var(variable) {
        return Some(url);
    }
    skip(
        test,
        &format!("{variable} is not set"),
        &format!("cargo xtask services up {name}"),
    );
    None
}

pub(crate) fn postgres(test: &str) -> Option<String> {
    server(test, "MICRO_TEST_POSTGRES_URL", "postgres")
}

/// Says honestly that a test did not run.
pub(crate) fn skip(test: &str, reason: &str, cure: &str) {
    let _ = writeln!(std::io::stderr(), "skipped {test}: {reason}; {cure}");
    if let Some(log) = std::env::var_os("MICRO_SKIP_LOG") {
        let mut log = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(log)
            .unwrap();
        writeln!(log, "{test}\t{reason}\t{cure}").unwrap();
    }
}

/// Shows a figure; the harness keeps what is printed otherwise.
pub(crate) fn figure(text: &str) {
    let _ = writeln!(std::io::stderr(), "figure: {text}");
}

pub(crate) fn with(url: &str, option: &str) -> String {
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}{option}")
}

/// Text for the server that is made up here: the library takes what stands in the program.
pub(crate) fn text(sql: String) -> &'static str {
    Box::leak(sql.into_boxed_str())
}

/// The server, without the store.
pub(crate) struct Raw(Pool);

impl Raw {
    pub(crate) fn new(url: &str) -> Self {
        let config = CockroachConfig::from_url(&url::resolve(url).unwrap()).unwrap();
        let random = Arc::new(SystemRandom);
        Self(Pool::new(config.database, Session::default(), random).unwrap())
    }

    pub(crate) async fn run(&self, sql: &'static str) -> Result<()> {
        self.0
            .attempt(|connection: Connection| async move { connection.run(sql).await })
            .await
    }

    pub(crate) async fn query(&self, sql: &'static str) -> Result<Vec<Row>> {
        self.0
            .attempt(|connection: Connection| async move {
                let rows = connection.query(&Query::new(sql, Vec::new())).await;
                rows.map_err(Failure::harmless)
            })
            .await
    }

    /// A single number.
    pub(crate) async fn number(&self, sql: &'static str) -> i64 {
        self.query(sql).await.unwrap()[0].get(0)
    }
}

/// Tables of one's own, in a schema that the search path leads to.
pub(crate) struct Schema {
    pub(crate) name: String,
    pub(crate) url: String,
    pub(crate) raw: Raw,
}

impl Schema {
    pub(crate) async fn new(url: &str) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("micro_test_{:08x}_{count}", SystemRandom.next_u64() >> 32);
        Self::named(url, &name).await
    }

    pub(crate) async fn named(url: &str, name: &str) -> Self {
        let create = text(format!("CREATE SCHEMA IF NOT EXISTS {name}"));
        let once = with(url, "connections=1");
        Raw::new(&once).run(create).await.expect("a schema is made");
        let url = with(url, &format!("options=-c%20search_path%3D{name}"));
        Self {
            name: name.to_owned(),
            raw: Raw::new(&with(&url, "connections=2")),
            url,
        }
    }

    pub(crate) async fn open(&self) -> CockroachStore {
        self.open_with("connections=10").await
    }

    pub(crate) async fn open_with(&self, options: &str) -> CockroachStore {
        open(&with(&self.url, options))
            .await
            .expect("the store opens")
    }

    pub(crate) async fn remove(self) {
        let drop = text(format!("DROP SCHEMA {} CASCADE", self.name));
        self.raw.run(drop).await.expect("the schema is removed");
    }
}

pub(crate) async fn open(url: &str) -> Result<CockroachStore> {
    let config = CockroachConfig::from_url(&url::resolve(url)?)?;
    CockroachStore::open(config, &Env::new()).await
}

pub(crate) fn orders() -> Scope {
    Scope::new("shop", "orders").unwrap()
}

pub(crate) fn table(store: &CockroachStore) -> Table {
    Table::new(Arc::new(store.clone()), orders())
}
