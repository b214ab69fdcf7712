//! The store in PostgreSQL beside the client library by itself, with prepared statements: one and ten at
//! a time, each with a connection. What is written by hand here promises the same: a version that grows
//! with every write and is returned, an expiry, a table among others.
//!
//! It wants a server: `MICRO_TEST_POSTGRES_URL`.

use std::sync::Arc;
use std::time::Duration;

use micro_core::{Env, Random as _, SeededRandom};
use micro_postgres::PostgresConfig;
use micro_postgres::tokio_postgres::config::SslMode;
use micro_postgres::tokio_postgres::{Client, Config, NoTls, Statement};
use micro_store_cockroach::{CockroachConfig, CockroachStore};
use micro_store_core::{Record, Scope, Table as Records, WriteOptions};
use tokio::net::TcpStream;

use crate::figures::{Figure, number};
use crate::options::Options;
use crate::report::Findings;
use crate::table::Table;
use crate::{Result, clock};

/// So many records there are.
const KEYS: u64 = 10_000;
const VALUE: &[u8] = &[7; 100];
const DATABASE: &[u8] = b"bench";
const TABLE: &[u8] = b"records";
/// The most who call at a time.
const MANY: usize = 10;

const CREATE: &str = "CREATE SEQUENCE IF NOT EXISTS micro_bench_versions; \
     CREATE TABLE IF NOT EXISTS micro_bench (db BYTEA NOT NULL, tbl BYTEA NOT NULL, \
     key BYTEA NOT NULL, value BYTEA NOT NULL, metadata BYTEA NOT NULL, expires_at INT8, \
     version INT8 NOT NULL, PRIMARY KEY (db, tbl, key))";

const WRITE: &str = "INSERT INTO micro_bench (db, tbl, key, value, metadata, expires_at, version) \
     VALUES ($1, $2, $3, $4, '', NULL, nextval('micro_bench_versions')) \
     ON CONFLICT (db, tbl, key) DO UPDATE SET value = excluded.value, \
     metadata = excluded.metadata, expires_at = excluded.expires_at, version = excluded.version \
     RETURNING version";

const READ: &str = "SELECT version, expires_at, value, metadata FROM micro_bench \
     WHERE db = $1 AND tbl = $2 AND key = $3 \
     AND (expires_at IS NULL OR expires_at > floor(extract(epoch FROM now()) * 1000)::INT8)";

pub(super) fn run(options: &Options) -> Result<Findings> {
    let Ok(url) = std::env::var("MICRO_TEST_POSTGRES_URL") else {
        eprintln!(
            "store: PostgreSQL is left out, for MICRO_TEST_POSTGRES_URL is not set: \
             cargo xtask services up postgres"
        );
        return Ok(Findings::default());
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(measure(options, &url))
}

async fn measure(options: &Options, url: &str) -> Result<Findings> {
    let url = micro_core::url::resolve(url)?;
    let config = CockroachConfig::from_url(&url)?;
    let raw = Arc::new(Raw::open(&config.database).await?);
    let store = CockroachStore::open(config, &Env::new()).await;
    let store = store?;
    let scope = Scope::new("bench", "records")?;
    let ours = Records::new(Arc::new(store), scope);
    let mut table = Table::new(
        "Records of 100 bytes in PostgreSQL, calls per second",
        ["call", "at a time", "tokio-postgres", "micro", "ratio"],
    );
    let mut figures = Vec::new();
    for n in 0..KEYS {
        raw.write(0, n).await?;
        write(&ours, n).await?;
    }
    let time = Duration::from_secs_f64(options.seconds);
    for (call, at_a_time) in [("write", 1), ("write", MANY), ("read", 1), ("read", MANY)] {
        let (mut theirs, mut our) = (Vec::new(), Vec::new());
        for _ in 0..options.pairs {
            let (raw, ours) = (Arc::clone(&raw), ours.clone());
            let writes = call == "write";
            let by_raw = move |task, n| {
                let raw = Arc::clone(&raw);
                async move {
                    match writes {
                        true => raw.write(task, n).await,
                        false => raw.read(task, n).await,
                    }
                }
            };
            let by_us = move |_, n| {
                let ours = ours.clone();
                async move {
                    match writes {
                        true => write(&ours, n).await,
                        false => read(&ours, n).await,
                    }
                }
            };
            theirs.push(together(at_a_time, time, by_raw).await?);
            our.push(together(at_a_time, time, by_us).await?);
        }
        let ratio = Figure::ratio(format!("postgres_{call}_{at_a_time}_vs_raw"), &our, &theirs);
        table.row(vec![
            call.to_owned(),
            at_a_time.to_string(),
            number(Figure::new("theirs", "1/s", theirs).median()),
            number(Figure::new("ours", "1/s", our).median()),
            number(ratio.median()),
        ]);
        figures.push(ratio);
    }
    Ok(Findings {
        tables: vec![table],
        figures,
    })
}

fn key(n: u64) -> String {
    format!("{:016}", n % KEYS)
}

async fn write(records: &Records, n: u64) -> Result<(), String> {
    let record = Record::new(key(n), VALUE);
    let written = records.write(record, WriteOptions::default()).await;
    written.map(drop).map_err(|err| err.to_string())
}

async fn read(records: &Records, n: u64) -> Result<(), String> {
    let read = records.read(&key(n)).await;
    read.map(drop).map_err(|err| err.to_string())
}

/// The client library, a connection for each who calls.
struct Raw(Vec<(Client, Statement, Statement)>);

impl Raw {
    async fn open(config: &PostgresConfig) -> Result<Self> {
        let mut login = Config::new();
        login
            .user(&config.username)
            .dbname(&config.database)
            .ssl_mode(SslMode::Disable);
        if let Some(password) = &config.password {
            login.password(password.expose());
        }
        let endpoint = config.endpoints.first().ok_or("there is no server")?;
        let mut all = Vec::new();
        for _ in 0..MANY {
            let socket = TcpStream::connect(endpoint).await?;
            socket.set_nodelay(true)?;
            let (client, connection) = login.connect_raw(socket, NoTls).await?;
            tokio::spawn(connection);
            client.batch_execute(CREATE).await?;
            let write = client.prepare(WRITE).await?;
            let read = client.prepare(READ).await?;
            all.push((client, write, read));
        }
        Ok(Self(all))
    }

    async fn write(&self, task: usize, n: u64) -> Result<(), String> {
        let (client, write, _) = &self.0[task];
        let key = key(n);
        let rows = client
            .query(write, &[&DATABASE, &TABLE, &key.as_bytes(), &VALUE])
            .await
            .map_err(|err| err.to_string())?;
        let version: i64 = rows.first().ok_or("it is not written")?.get(0);
        match version > 0 {
            true => Ok(()),
            false => Err("it has no version".to_owned()),
        }
    }

    async fn read(&self, task: usize, n: u64) -> Result<(), String> {
        let (client, _, read) = &self.0[task];
        let key = key(n);
        let rows = client
            .query(read, &[&DATABASE, &TABLE, &key.as_bytes()])
            .await
            .map_err(|err| err.to_string())?;
        let value: Vec<u8> = rows.first().ok_or("it is not there")?.get(2);
        match value.len() == VALUE.len() {
            true => Ok(()),
            false => Err("it is another value".to_owned()),
        }
    }
}

/// Calls per second of so many tasks.
async fn together<F>(
    tasks: usize,
    time: Duration,
    call: impl Fn(usize, u64) -> F + Clone + Send + Sync + 'static,
) -> Result<f64>
where
    F: Future<Output = Result<(), String>> + Send,
{
    let begun = clock::now();
    let tasks: Vec<_> = (0..tasks)
        .map(|task| {
            let call = call.clone();
            tokio::spawn(async move {
                let random = SeededRandom::new(task as u64);
                let mut count = 0;
                while begun.elapsed() < time {
                    call(task, random.next_u64()).await?;
                    count += 1;
                }
                Ok::<u32, String>(count)
            })
        })
        .collect();
    let mut count = 0;
    for task in tasks {
        count += task.await??;
    }
    Ok(f64::from(count) / begun.elapsed().as_secs_f64())
}
