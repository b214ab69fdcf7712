//! Reading and listing.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use micro_postgres::tokio_postgres::Row;
use micro_postgres::tokio_postgres::types::ToSql;
use micro_postgres::{Connection, Failure, Pool, Query};
use micro_store_core::{
    Cursor, Error, ListOptions, MAX_PAGE_BYTES, Page, Record, Result, Scope, ScopesOptions,
    no_record,
};

use crate::place::{Place, Range, join, split};
use crate::statements::{LIST, LIST_KEYS, READ, SCOPE_AFTER};
use crate::step::{negative, unreadable};

/// Asks for something that changes nothing, again if the connection is lost.
async fn ask(pool: &Pool, sql: &'static str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
    pool.attempt(|connection: Connection| async move {
        let rows = connection.query(&Query::new(sql, params.to_vec())).await;
        rows.map_err(Failure::harmless)
    })
    .await
}

pub(crate) async fn read(pool: &Pool, scope: &Scope, key: &str) -> Result<Record> {
    let place = Place::new(scope, key);
    let [database, table, head, digest] = place.columns();
    let rows = ask(pool, READ, &[&database, &table, &head, &digest]).await?;
    let row = rows.first().ok_or_else(|| no_record(scope, key))?;
    let mut record = facts(key.to_owned(), row, 0)?;
    contents(&mut record, row, 2)?;
    Ok(record)
}

/// Version and expiry, from a column on.
fn facts(key: String, row: &Row, at: usize) -> Result<Record> {
    let version: i64 = row.try_get(at).map_err(unreadable)?;
    let expiry: Option<i64> = row.try_get(at + 1).map_err(unreadable)?;
    let mut record = Record::new(key, Bytes::new());
    record.version = u64::try_from(version).map_err(|_| negative())?;
    record.expiry = match expiry {
        Some(millis) => {
            let millis = u64::try_from(millis).map_err(|_| negative())?;
            Some(SystemTime::UNIX_EPOCH + Duration::from_millis(millis))
        }
        None => None,
    };
    Ok(record)
}

/// Value and metadata, from a column on.
fn contents(record: &mut Record, row: &Row, at: usize) -> Result<()> {
    let value: &[u8] = row.try_get(at).map_err(unreadable)?;
    let metadata: &[u8] = row.try_get(at + 1).map_err(unreadable)?;
    record.value = Bytes::copy_from_slice(value);
    record.metadata = match metadata {
        [] => BTreeMap::new(),
        json => serde_json::from_slice(json).map_err(|err| {
            Error::corrupt("stored metadata are not what was written").with_source(err)
        })?,
    };
    Ok(())
}

pub(crate) async fn list(pool: &Pool, scope: &Scope, opts: &ListOptions) -> Result<Page> {
    let range = Range::new(&opts.prefix, opts.after.as_ref().map(Cursor::key));
    if range.from >= range.to {
        return Ok(Page::default());
    }
    let (database, table) = (scope.database().as_bytes(), scope.table().as_bytes());
    let (from, to) = (split(&range.from), split(&range.to));
    let suffix = opts.suffix.as_bytes();
    // One more, to know whether it goes on. Nobody has as many records as the largest offset.
    let limit = i64::try_from(opts.limit).unwrap_or(i64::MAX / 4) + 1;
    let offset = i64::try_from(opts.offset)
        .unwrap_or(i64::MAX)
        .min(i64::MAX / 4);
    let most = MAX_PAGE_BYTES as i64;
    let mut params: Vec<&(dyn ToSql + Sync)> = vec![
        &database, &table, &from.0, &from.1, &to.0, &to.1, &suffix, &limit, &offset,
    ];
    let sql = match opts.keys_only {
        true => LIST_KEYS,
        false => {
            params.push(&most);
            LIST
        }
    };
    let rows = ask(pool, sql, &params).await?;
    let mut records = Vec::with_capacity(rows.len().min(opts.limit));
    for row in &rows {
        let too_large = !opts.keys_only && is_left_out(row)?;
        if records.len() == opts.limit || too_large {
            let next = records
                .last()
                .map(|last: &Record| Cursor::after(&*last.key));
            return Ok(Page::new(records, next));
        }
        let (head, tail) = (row.try_get(0), row.try_get(1));
        let key = join(head.map_err(unreadable)?, tail.map_err(unreadable)?)?;
        let mut record = facts(key, row, 2)?;
        if !opts.keys_only {
            contents(&mut record, row, 4)?;
        }
        records.push(record);
    }
    Ok(Page::new(records, None))
}

/// Whether it stands there only to say that something follows.
fn is_left_out(row: &Row) -> Result<bool> {
    let value: Option<&[u8]> = row.try_get(4).map_err(unreadable)?;
    Ok(value.is_none())
}

pub(crate) async fn scopes(pool: &Pool, opts: &ScopesOptions) -> Result<Vec<Scope>> {
    // No table has a name so low, so the database's first comes behind it.
    let mut after = match &opts.database {
        Some(database) => (database.as_bytes().to_vec(), Vec::new()),
        None => (Vec::new(), Vec::new()),
    };
    if let Some(scope) = &opts.after {
        after = after.max(columns(scope));
    }
    let mut scopes = Vec::new();
    while scopes.len() < opts.limit {
        let rows = ask(pool, SCOPE_AFTER, &[&after.0, &after.1]).await?;
        let Some(row) = rows.first() else { break };
        let text = |at| {
            let name: Vec<u8> = row.try_get(at).map_err(unreadable)?;
            String::from_utf8(name).map_err(|_| {
                Error::corrupt("a stored name is no text: it was not written by a store")
            })
        };
        let scope = Scope::new(&text(0)?, &text(1)?)
            .map_err(|err| Error::corrupt("a stored name is none of a table").with_source(err))?;
        if opts
            .database
            .as_deref()
            .is_some_and(|database| database != scope.database())
        {
            break;
        }
        after = columns(&scope);
        scopes.push(scope);
    }
    Ok(scopes)
}

fn columns(scope: &Scope) -> (Vec<u8>, Vec<u8>) {
    (scope.database().into(), scope.table().into())
}
