//! The table, and every statement that there is.
//!
//! A row is a name, and stays for ever, since its token may only grow. Who has it is its owner until it
//! expires, by the server's clock. All of it is SQL that PostgreSQL and CockroachDB have in common.

use micro_core::Result;
use micro_postgres::tokio_postgres::Row;
use micro_postgres::{Connection, Failure, Pool, Query, Session};
use micro_sync_core::{Error, FencingToken, Leader};

/// A token that was given out and then forgotten would be given again: whatever the server's setting
/// is, a commit is on disk before we are told.
pub(crate) const SESSION: Session = Session::new("SET synchronous_commit = on;", "");

const CREATE: &str = "CREATE TABLE IF NOT EXISTS micro_locks (\
     namespace text NOT NULL, \
     name text NOT NULL, \
     token bigint NOT NULL, \
     owner text, \
     value bytea NOT NULL, \
     expires timestamptz NOT NULL, \
     PRIMARY KEY (namespace, name))";

/// Done twice by the same owner it changes nothing but the end, and says the same token.
const TAKE: &str = "INSERT INTO micro_locks AS l (namespace, name, token, owner, value, expires) \
     VALUES ($1, $2, 1, $3, $4, clock_timestamp() + $5::float8 * interval '1 second') \
     ON CONFLICT (namespace, name) DO UPDATE SET \
     token = CASE WHEN l.owner = excluded.owner THEN l.token ELSE l.token + 1 END, \
     owner = excluded.owner, value = excluded.value, expires = excluded.expires \
     WHERE l.owner IS NULL OR l.owner = excluded.owner OR l.expires <= clock_timestamp() \
     RETURNING token";

const RENEW: &str = "UPDATE micro_locks \
     SET expires = clock_timestamp() + $5::float8 * interval '1 second' \
     WHERE namespace = $1 AND name = $2 AND token = $3 AND owner = $4 \
     AND expires > clock_timestamp()";

const VERIFY: &str = "SELECT token FROM micro_locks \
     WHERE namespace = $1 AND name = $2 AND token = $3 AND owner = $4 \
     AND expires > clock_timestamp()";

/// Done twice it finds what it has left: as long as nobody came after us, it was us who left it.
const END: &str = "UPDATE micro_locks SET owner = NULL, value = '', expires = clock_timestamp() \
     WHERE namespace = $1 AND name = $2 AND token = $3 AND (owner = $4 OR owner IS NULL)";

const LEADER: &str = "SELECT token, value FROM micro_locks \
     WHERE namespace = $1 AND name = $2 AND owner IS NOT NULL AND expires > clock_timestamp()";

/// Who makes the table at the same time has made it, or will have in a moment: unique_violation,
/// duplicate_object, duplicate_table, and internal_error for "tuple concurrently updated".
const RACES: [&str; 4] = ["23505", "42710", "42P07", "XX000"];

/// undefined_table.
const MISSING: &str = "42P01";

/// Whose, and which.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// Makes the table if it is not there; many may do so at once.
pub(crate) async fn prepare(pool: &Pool) -> Result<()> {
    pool.attempt(async |connection: Connection| {
        // First, since who may not make tables may still use one that is there.
        match connection.prepare(LEADER).await {
            Err(failure) if is(&failure, &[MISSING]) => {}
            other => return other,
        }
        match connection.run(CREATE).await {
            Err(failure) if is(&failure, &RACES) => Err(failure.again()),
            other => other.map_err(Failure::again),
        }
    })
    .await
}

fn is(failure: &Failure, codes: &[&str]) -> bool {
    failure
        .code()
        .is_some_and(|code| codes.contains(&code.code()))
}

/// Takes a name for an owner; its token, or `None` if another has it.
pub(crate) async fn take(
    pool: &Pool,
    key: &Key,
    owner: &str,
    value: &str,
    ttl: f64,
) -> Result<Option<i64>> {
    let value = value.as_bytes();
    let rows = pool
        .attempt(async |connection: Connection| {
            let query = Query::new(TAKE, vec![&key.namespace, &key.name, &owner, &value, &ttl]);
            connection.query(&query).await.map_err(Failure::again)
        })
        .await?;
    rows.first().map(|row| column(row, 0)).transpose()
}

/// Renews; whether it is still there.
pub(crate) async fn renew(
    pool: &Pool,
    key: &Key,
    token: i64,
    owner: &str,
    ttl: f64,
) -> Result<bool> {
    change(
        pool,
        RENEW,
        &[&key.namespace, &key.name, &token, &owner, &ttl],
    )
    .await
}

/// Whether it is still there.
pub(crate) async fn verify(pool: &Pool, key: &Key, token: i64, owner: &str) -> Result<bool> {
    let rows = pool
        .attempt(async |connection: Connection| {
            let query = Query::new(VERIFY, vec![&key.namespace, &key.name, &token, &owner]);
            connection.query(&query).await.map_err(Failure::harmless)
        })
        .await?;
    Ok(!rows.is_empty())
}

/// Ends it; whether it was still there.
pub(crate) async fn end(pool: &Pool, key: &Key, token: i64, owner: &str) -> Result<bool> {
    change(pool, END, &[&key.namespace, &key.name, &token, &owner]).await
}

type Params<'a> = &'a [&'a (dyn micro_postgres::tokio_postgres::types::ToSql + Sync)];

/// A change that may be made twice.
async fn change(pool: &Pool, sql: &'static str, params: Params<'_>) -> Result<bool> {
    let changed = pool
        .attempt(async |connection: Connection| {
            let query = Query::new(sql, params.to_vec());
            connection.change(&query).await.map_err(Failure::again)
        })
        .await?;
    Ok(changed > 0)
}

/// Who has it.
pub(crate) async fn leader(pool: &Pool, key: &Key, epoch: u64) -> Result<Option<Leader>> {
    let rows = pool
        .attempt(async |connection: Connection| {
            let query = Query::new(LEADER, vec![&key.namespace, &key.name]);
            connection.query(&query).await.map_err(Failure::harmless)
        })
        .await?;
    let leader = |row: &Row| {
        let value: Vec<u8> = column(row, 1)?;
        let value = String::from_utf8_lossy(&value);
        Ok(Leader::new(value, token(epoch, column(row, 0)?)))
    };
    rows.first().map(leader).transpose()
}

fn column<'a, T: micro_postgres::tokio_postgres::types::FromSql<'a>>(
    row: &'a Row,
    at: usize,
) -> Result<T> {
    row.try_get(at).map_err(|err| {
        Error::failed_precondition("the table 'micro_locks' is another one than ours")
            .with_source(err)
    })
}

/// The token of a row.
pub(crate) fn token(epoch: u64, seq: i64) -> FencingToken {
    FencingToken::new(epoch, u64::try_from(seq).unwrap_or_default())
}
