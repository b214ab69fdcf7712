//! A change, ready to be sent.

use std::time::{Duration, SystemTime};

use micro_postgres::Query;
use micro_postgres::tokio_postgres::Row;
use micro_postgres::tokio_postgres::types::ToSql;
use micro_store_core::{Condition, Error, ErrorKind, Fence, Operation, Result, check_condition};

use crate::place::Place;
use crate::statements::{DELETE, DELETE_IF_VERSION, WRITE, WRITE_IF_ABSENT, WRITE_IF_VERSION};

/// What an operation does, and the values that its statement takes.
#[derive(Debug)]
pub(crate) struct Step {
    operation: Operation,
    place: Place,
    metadata: Vec<u8>,
    /// Milliseconds since the Unix epoch.
    expiry: Option<i64>,
    /// Milliseconds.
    ttl: Option<i64>,
    /// The version that is to be there; -1 is none that ever was.
    version: i64,
}

impl Step {
    pub(crate) fn new(operation: Operation) -> Result<Self> {
        let place = Place::new(operation.scope(), operation.key());
        let (metadata, expiry, ttl) = match &operation {
            Operation::Write {
                record, options, ..
            } => (
                metadata(record)?,
                record.expiry.map(since_epoch).map(millis),
                options.ttl.map(millis),
            ),
            Operation::Delete { .. } => (Vec::new(), None, None),
            _ => return Err(unknown()),
        };
        let version = match operation.condition() {
            Condition::Version(version) => i64::try_from(version).unwrap_or(-1),
            Condition::Any | Condition::Absent => -1,
            _ => return Err(unknown()),
        };
        Ok(Self {
            operation,
            place,
            metadata,
            expiry,
            ttl,
            version,
        })
    }

    pub(crate) fn fence(&self) -> Option<&Fence> {
        self.operation.fence()
    }

    pub(crate) fn database(&self) -> &str {
        self.operation.scope().database()
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// Calls `with` with the statement and its values: they are borrowed from here.
    pub(crate) fn columns(&self) -> Columns<'_> {
        let value = match &self.operation {
            Operation::Write { record, .. } => &*record.value,
            _ => &[],
        };
        Columns {
            step: self,
            place: self.place.columns(),
            tail: self.place.tail(),
            value,
            metadata: &self.metadata,
        }
    }

    /// What the answer means: the version, or 0 for a deletion that had nothing to delete.
    pub(crate) fn outcome(&self, rows: &[Row]) -> Result<u64> {
        if let Some(row) = rows.first() {
            let version: i64 = row.try_get(0).map_err(unreadable)?;
            return u64::try_from(version).map_err(|_| negative());
        }
        match self.operation.condition() {
            Condition::Any => Ok(0),
            Condition::Absent => {
                let key = self.operation.key().chars().take(64);
                let key: String = key.flat_map(char::escape_debug).collect();
                let error = Error::new(ErrorKind::AlreadyExists, "the record is there already");
                Err(error.with_context("key", key))
            }
            condition => check_condition(condition, self.operation.key(), None).map(|()| 0),
        }
    }
}

/// A step's values as the client library wants them.
pub(crate) struct Columns<'a> {
    step: &'a Step,
    place: [&'a [u8]; 4],
    tail: &'a [u8],
    value: &'a [u8],
    metadata: &'a [u8],
}

impl<'a> Columns<'a> {
    pub(crate) fn query(&'a self) -> Query<'a> {
        let step = self.step;
        let mut params: Vec<&(dyn ToSql + Sync)> =
            self.place.iter().map(|part| part as _).collect();
        let is_write = matches!(step.operation, Operation::Write { .. });
        if is_write {
            params.extend([&self.value as &(dyn ToSql + Sync), &self.metadata]);
        }
        let sql = match (is_write, step.operation.condition()) {
            (true, Condition::Version(_)) => {
                let rest: [&(dyn ToSql + Sync); 3] = [&step.expiry, &step.ttl, &step.version];
                params.extend(rest);
                WRITE_IF_VERSION
            }
            (true, condition) => {
                let rest: [&(dyn ToSql + Sync); 3] = [&self.tail, &step.expiry, &step.ttl];
                params.extend(rest);
                match condition {
                    Condition::Absent => WRITE_IF_ABSENT,
                    _ => WRITE,
                }
            }
            (false, Condition::Any) => DELETE,
            (false, _) => {
                params.push(&step.version);
                DELETE_IF_VERSION
            }
        };
        Query::new(sql, params)
    }
}

/// As JSON: anybody can read it in the table, and it holds any text, which the database's own kind of
/// JSON does not.
fn metadata(record: &micro_store_core::Record) -> Result<Vec<u8>> {
    if record.metadata.is_empty() {
        return Ok(Vec::new());
    }
    serde_json::to_vec(&record.metadata)
        .map_err(|err| Error::internal("metadata have no JSON").with_source(err))
}

fn since_epoch(at: SystemTime) -> Duration {
    at.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}

/// Rounded up.
fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX)
}

fn unknown() -> Error {
    Error::unimplemented("this store knows no such operation")
}

pub(crate) fn unreadable(err: micro_postgres::tokio_postgres::Error) -> Error {
    Error::corrupt("the database answers with something else than what was asked for")
        .with_source(err)
}

pub(crate) fn negative() -> Error {
    Error::corrupt("a stored number is below zero: it was not written by a store")
}
