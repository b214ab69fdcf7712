//! Locks in PostgreSQL beside the client library by itself, with the same two statements, prepared.
//!
//! It wants a server: `MICRO_TEST_POSTGRES_URL`.

use std::sync::Arc;
use std::time::Duration;

use micro_core::{Env, url};
use micro_postgres::PostgresConfig;
use micro_postgres::tokio_postgres::config::SslMode;
use micro_postgres::tokio_postgres::{Client, Config, NoTls, Statement};
use micro_sync_core::Coordinator;
use micro_sync_postgres::{PostgresCoordinator, PostgresSyncConfig};
use tokio::net::TcpStream;

use super::{TTL, alone, runtime, server};
use crate::figures::{Figure, number};
use crate::options::Options;
use crate::report::Findings;
use crate::table::Table;
use crate::{Result, clock};

const CREATE: &str = "SET synchronous_commit = on; \
     CREATE TABLE IF NOT EXISTS micro_bench_locks (name text PRIMARY KEY, token bigint NOT NULL, \
     owner text, value bytea NOT NULL, expires timestamptz NOT NULL)";

const TAKE: &str = "INSERT INTO micro_bench_locks AS l (name, token, owner, value, expires) \
     VALUES ($1, 1, $2, '', clock_timestamp() + $3::float8 * interval '1 second') \
     ON CONFLICT (name) DO UPDATE SET \
     token = l.token + 1, owner = excluded.owner, expires = excluded.expires \
     WHERE l.owner IS NULL OR l.expires <= clock_timestamp() RETURNING token";

const END: &str = "UPDATE micro_bench_locks SET owner = NULL, expires = clock_timestamp() \
     WHERE name = $1 AND token = $2 AND owner = $3";

pub(super) fn run(options: &Options) -> Result<Findings> {
    match server("MICRO_TEST_POSTGRES_URL", "postgres") {
        Some(url) => runtime()?.block_on(measure(options, &url)),
        None => Ok(Findings::default()),
    }
}

async fn measure(options: &Options, url: &str) -> Result<Findings> {
    let config = PostgresSyncConfig::from_url(&url::resolve(url)?)?;
    let raw = Raw::open(&config.postgres).await?;
    let env = Env::new().with_namespace("bench");
    let ours: Arc<dyn Coordinator> = Arc::new(PostgresCoordinator::open(config, &env)?);
    let time = Duration::from_secs_f64(options.seconds);
    let (mut theirs, mut our) = (Vec::new(), Vec::new());
    for _ in 0..options.pairs {
        theirs.push(raw.for_so_long(time).await?);
        our.push(alone(&ours, time).await?);
    }
    let ratio = Figure::ratio("postgres_lock_vs_raw", &our, &theirs);
    let mut table = Table::new(
        "A lock in PostgreSQL, had and let go of, per second",
        ["tokio-postgres", "micro", "ratio"],
    );
    table.row(vec![
        number(Figure::new("theirs", "1/s", theirs).median()),
        number(Figure::new("ours", "1/s", our).median()),
        number(ratio.median()),
    ]);
    Ok(Findings {
        tables: vec![table],
        figures: vec![ratio],
    })
}

struct Raw {
    client: Client,
    take: Statement,
    end: Statement,
}

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
        let socket = TcpStream::connect(endpoint).await?;
        socket.set_nodelay(true)?;
        let (client, connection) = login.connect_raw(socket, NoTls).await?;
        tokio::spawn(connection);
        client.batch_execute(CREATE).await?;
        Ok(Self {
            take: client.prepare(TAKE).await?,
            end: client.prepare(END).await?,
            client,
        })
    }

    async fn for_so_long(&self, time: Duration) -> Result<f64> {
        let (name, ttl) = ("bench", TTL.as_secs_f64());
        let begun = clock::now();
        let mut count = 0;
        while begun.elapsed() < time {
            let owner = format!("{count:032x}");
            let rows = self
                .client
                .query(&self.take, &[&name, &owner, &ttl])
                .await?;
            let token: i64 = rows.first().ok_or("another has it")?.get(0);
            let ended = self
                .client
                .execute(&self.end, &[&name, &token, &owner])
                .await?;
            if ended != 1 {
                return Err("it was not ours".into());
            }
            count += 1;
        }
        Ok(f64::from(count) / begun.elapsed().as_secs_f64())
    }
}
