//! Every statement that is ever sent: nothing from outside is a part of one.
//!
//! They are what PostgreSQL and CockroachDB have in common. Those that change records are atomic by
//! themselves in PostgreSQL's READ COMMITTED: `ON CONFLICT` and `UPDATE` wait for whoever holds the row
//! and look at their conditions again at what they find then, so there is nothing to be serialized. In
//! CockroachDB they run as SERIALIZABLE.
//!
//! - `expires_at` is in milliseconds since the Unix epoch by the database's clock. Below zero, the record
//!   was deleted at that time: it stays as a grave for a while, so that no clock that is set back
//!   brings it to life, and that whoever was on the way to writing it gets a higher version.
//! - `nextval` is called while the row is locked, or it must be higher than what is there: two who write
//!   a record at a time take their numbers in the order of their locks.

/// The database's time, in milliseconds with a fraction. It is one moment for the whole statement.
macro_rules! now {
    () => {
        "extract(epoch FROM now()) * 1000"
    };
}

/// Whether the record is there.
macro_rules! live {
    () => {
        concat!(
            "(expires_at IS NULL OR expires_at > floor(",
            now!(),
            ")::INT8)"
        )
    };
}

/// The record of `$1` to `$4`.
macro_rules! here {
    () => {
        "db = $1 AND tbl = $2 AND head = $3 AND digest = $4"
    };
}

/// When a record expires that has an expiry of `$expiry` or lives for `$ttl` from now: never early, and
/// at the end of the year 9999 at the latest. One that has expired already is a grave from the beginning.
macro_rules! expiry {
    ($expiry:literal, $ttl:literal) => {
        concat!(
            "CASE WHEN ",
            $ttl,
            "::INT8 IS NOT NULL THEN least(ceil(",
            now!(),
            ")::INT8 + ",
            $ttl,
            ", 253402300799999) WHEN ",
            $expiry,
            "::INT8 IS NULL THEN NULL WHEN ",
            $expiry,
            " <= floor(",
            now!(),
            ")::INT8 THEN -floor(",
            now!(),
            ")::INT8 ELSE ",
            $expiry,
            " END"
        )
    };
}

/// Writes over what is there, if a condition for that holds.
macro_rules! upsert {
    ($condition:expr) => {
        concat!(
            "INSERT INTO micro_records AS r ",
            "(db, tbl, head, digest, tail, value, metadata, expires_at, version) ",
            "VALUES ($1, $2, $3, $4, $7, $5, $6, ",
            expiry!("$8", "$9"),
            ", nextval('micro_versions')) ",
            "ON CONFLICT (db, tbl, head, digest) DO UPDATE SET ",
            "value = excluded.value, metadata = excluded.metadata, ",
            "expires_at = excluded.expires_at, version = CASE ",
            "WHEN excluded.version > r.version THEN excluded.version ",
            "ELSE nextval('micro_versions') END",
            $condition,
            " RETURNING version"
        )
    };
}

pub(crate) const WRITE: &str = upsert!("");

pub(crate) const WRITE_IF_ABSENT: &str =
    upsert!(concat!(" WHERE r.expires_at <= floor(", now!(), ")::INT8"));

pub(crate) const WRITE_IF_VERSION: &str = concat!(
    "UPDATE micro_records SET value = $5, metadata = $6, expires_at = ",
    expiry!("$7", "$8"),
    ", version = nextval('micro_versions') WHERE ",
    here!(),
    " AND version = $9 AND ",
    live!(),
    " RETURNING version"
);

/// Digs a grave.
macro_rules! bury {
    ($condition:literal) => {
        concat!(
            "UPDATE micro_records SET value = '', metadata = '', expires_at = -floor(",
            now!(),
            ")::INT8, version = nextval('micro_versions') WHERE ",
            here!(),
            $condition,
            " AND ",
            live!(),
            " RETURNING version"
        )
    };
}

pub(crate) const DELETE: &str = bury!("");

pub(crate) const DELETE_IF_VERSION: &str = bury!(" AND version = $5");

/// Tokens are bytes that compare as they do.
pub(crate) const FENCE: &str = "INSERT INTO micro_fences AS f (db, name, token) VALUES ($1, $2, $3) \
     ON CONFLICT (db, name) DO UPDATE SET token = excluded.token \
     WHERE f.token <= excluded.token RETURNING token";

pub(crate) const READ: &str = concat!(
    "SELECT version, expires_at, value, metadata FROM micro_records WHERE ",
    here!(),
    " AND ",
    live!()
);

/// The records of a range: from (`$3`, `$4`) on and before (`$5`, `$6`), that end in `$7`.
macro_rules! page {
    ($columns:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM micro_records WHERE db = $1 AND tbl = $2 ",
            "AND head >= $3 AND (head > $3 OR tail >= $4) ",
            "AND head <= $5 AND (head < $5 OR tail < $6) ",
            "AND substr(head || tail, ",
            "octet_length(head) + octet_length(tail) - octet_length($7::BYTEA) + 1) = $7 AND ",
            live!(),
            " ORDER BY head, tail LIMIT $8 OFFSET $9"
        )
    };
}

pub(crate) const LIST_KEYS: &str = page!("head, tail, version, expires_at");

/// Of the record that makes the page too large, and is not its first, only the key comes along: to say
/// that something follows. No value leaves the disk for the sum.
pub(crate) const LIST: &str = concat!(
    "SELECT head, tail, version, expires_at, ",
    "CASE WHEN total <= $10 OR nth = 1 THEN value END, ",
    "CASE WHEN total <= $10 OR nth = 1 THEN metadata END ",
    "FROM (SELECT *, row_number() OVER pages AS nth, (sum(size) OVER pages)::INT8 AS total FROM (",
    page!(
        "head, tail, version, expires_at, value, metadata, \
         (octet_length(value) + octet_length(metadata))::INT8 AS size"
    ),
    ") AS page WINDOW pages AS (ORDER BY head, tail ROWS UNBOUNDED PRECEDING)) AS sized ",
    "WHERE nth <= 2 OR total - size <= $10 ORDER BY head, tail"
);

/// The next table: asked for one by one, each is found in the index, however many records stand between.
pub(crate) const SCOPE_AFTER: &str = "SELECT db, tbl FROM micro_records \
     WHERE (db, tbl) > ($1, $2) ORDER BY db, tbl LIMIT 1";

/// Removes graves and expired records that are older than `$1` milliseconds, `$2` at most. The condition
/// is looked at again when the row is locked; whoever holds one just now is passed over, so that this
/// is in nobody's way.
pub(crate) const PURGE: &str = concat!(
    "DELETE FROM micro_records AS r USING (",
    "SELECT db, tbl, head, digest FROM micro_records WHERE ",
    "expires_at < floor(",
    now!(),
    ")::INT8 - $1 AND expires_at > $1 - floor(",
    now!(),
    ")::INT8 LIMIT $2 FOR UPDATE SKIP LOCKED) AS due ",
    "WHERE r.db = due.db AND r.tbl = due.tbl AND r.head = due.head AND r.digest = due.digest ",
    "AND r.expires_at < floor(",
    now!(),
    ")::INT8 - $1 AND r.expires_at > $1 - floor(",
    now!(),
    ")::INT8"
);

/// Whether what is committed survives a power cut.
pub(crate) const FSYNC: &str = "SELECT current_setting('fsync')";

/// Each of these does nothing if it was done before.
pub(crate) const CREATE: [&str; 4] = [
    "CREATE SEQUENCE IF NOT EXISTS micro_versions",
    "CREATE TABLE IF NOT EXISTS micro_records (\
     db BYTEA NOT NULL, tbl BYTEA NOT NULL, head BYTEA NOT NULL, digest BYTEA NOT NULL, \
     tail BYTEA NOT NULL, value BYTEA NOT NULL, metadata BYTEA NOT NULL, \
     expires_at INT8, version INT8 NOT NULL, \
     PRIMARY KEY (db, tbl, head, digest))",
    "CREATE INDEX IF NOT EXISTS micro_records_expiry ON micro_records (expires_at) \
     WHERE expires_at IS NOT NULL",
    "CREATE TABLE IF NOT EXISTS micro_fences (\
     db BYTEA NOT NULL, name BYTEA NOT NULL, token BYTEA NOT NULL, PRIMARY KEY (db, name))",
];

/// What has to fit the tables.
pub(crate) const ALL: [&str; 11] = [
    WRITE,
    WRITE_IF_ABSENT,
    WRITE_IF_VERSION,
    DELETE,
    DELETE_IF_VERSION,
    FENCE,
    READ,
    LIST,
    LIST_KEYS,
    SCOPE_AFTER,
    PURGE,
];

/// What is said to PostgreSQL when a connection begins.
///
/// Only our statements come over it, and each is meant to go by an index: without statistics, or with a
/// plan that was made while the table was small, PostgreSQL would read and sort all of it. So there is one
/// plan for a statement, whatever its values are, and it is made once per connection.
pub(crate) const POSTGRES: &str = "SET default_transaction_isolation = 'read committed'; \
     SET plan_cache_mode = force_generic_plan; \
     SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off; \
     SELECT set_config('synchronous_commit', 'on', false) \
     WHERE current_setting('synchronous_commit') = 'off'";

/// What is said to CockroachDB.
pub(crate) const COCKROACH: &str = "SET default_transaction_isolation = 'serializable'";

#[cfg(test)]
mod tests {
    use super::*;

    /// CockroachDB cannot be asked here; what it is known not to have stays out.
    #[test]
    fn statements_keep_to_what_both_databases_have() {
        let all = ALL.iter().chain(&CREATE).chain([&COCKROACH]);
        for statement in all {
            let words = statement.to_lowercase();
            for foreign in [
                "advisory",
                "notify",
                "listen",
                "xmin",
                "xmax",
                "ctid",
                "bigserial",
                "jsonb",
                "lateral",
                "recursive",
                "merge ",
                "regexp",
                "::bigint",
                "collate",
            ] {
                assert!(!words.contains(foreign), "{foreign} in {statement}");
            }
        }
    }
}
