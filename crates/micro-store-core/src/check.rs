//! What all backends refuse alike, and what they say then.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use crate::{
    Condition, DeleteOptions, Durability, Error, ErrorKind, Fence, FencingToken, ListOptions,
    Operation, Record, Result, Scope, ScopesOptions, WatchOptions, WriteOptions,
};

/// The longest key, in bytes.
pub const MAX_KEY: usize = 4096;

/// The largest value, in bytes.
pub const MAX_VALUE: usize = 16 << 20;

/// The most that a record's metadata take, names and values together, in bytes.
pub const MAX_METADATA: usize = 64 << 10;

/// The most records of a page, and the most scopes of a listing.
pub const MAX_PAGE: usize = 10_000;

/// A page ends before the record whose value and metadata would take it beyond so many bytes; it has
/// at least one record.
pub const MAX_PAGE_BYTES: usize = 8 << 20;

/// The most operations of a batch.
pub const MAX_BATCH: usize = 10_000;

/// The most that the keys, values and metadata of a batch take together, in bytes.
pub const MAX_BATCH_BYTES: usize = 64 << 20;

/// The longest name of a fence, in bytes.
pub const MAX_FENCE: usize = 256;

/// The longest time to live: 100 years.
pub const MAX_TTL: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

/// The last millisecond of the year 9999 since the Unix epoch: no record expires later.
const LAST_MILLIS: u64 = 253_402_300_799_999;

/// Checks a key: 1 to [`MAX_KEY`] bytes of any text.
///
/// # Errors
///
/// `InvalidArgument`, saying what is allowed.
pub fn check_key(key: &str) -> Result<()> {
    if key.is_empty() {
        return Err(Error::invalid_argument("a record needs a key; it is empty"));
    }
    check_length("key", key, "a key has at most 4096 bytes")
}

fn check_length(what: &'static str, text: &str, message: &'static str) -> Result<()> {
    if text.len() <= MAX_KEY {
        return Ok(());
    }
    Err(Error::invalid_argument(message)
        .with_context("bytes", text.len())
        .with_context(what, shown(text)))
}

/// The beginning of a key, for errors: a whole one may take 4 KiB, and more when escaped.
fn shown(key: &str) -> String {
    let mut rest = key.chars();
    let mut text: String = rest
        .by_ref()
        .take(64)
        .flat_map(char::escape_debug)
        .collect();
    if rest.next().is_some() {
        text.push('…');
    }
    text
}

/// Checks what is given to [`Store::write`](crate::Store::write).
///
/// # Errors
///
/// `InvalidArgument` for a bad key or fence, a time to live of zero or beyond [`MAX_TTL`], an expiry
/// beyond the year 9999; `ResourceExhausted` for a value or metadata that are too large.
pub fn check_record(record: &Record, opts: &WriteOptions) -> Result<()> {
    check_key(&record.key)?;
    check_fence_name(opts.fence.as_ref())?;
    let about = |err: Error| err.with_context("key", shown(&record.key));
    if record.value.len() > MAX_VALUE {
        return Err(about(
            Error::resource_exhausted("a value has at most 16 MiB; keep large things elsewhere")
                .with_context("bytes", record.value.len()),
        ));
    }
    let metadata = record.metadata_bytes();
    if metadata > MAX_METADATA {
        return Err(about(
            Error::resource_exhausted("a record's metadata have at most 64 KiB")
                .with_context("bytes", metadata),
        ));
    }
    if record.expiry.and_then(millis) > Some(LAST_MILLIS) {
        return Err(about(Error::invalid_argument(
            "a record expires before the year 10000; without an expiry, it stays",
        )));
    }
    match opts.ttl {
        Some(Duration::ZERO) => Err(about(Error::invalid_argument(
            "a time to live is more than zero; to remove a record, delete it",
        ))),
        Some(ttl) if ttl > MAX_TTL => Err(about(Error::invalid_argument(
            "a time to live is at most 100 years; without one, a record stays",
        ))),
        _ => Ok(()),
    }
}

/// Checks what is given to [`Store::delete`](crate::Store::delete).
///
/// # Errors
///
/// `InvalidArgument` for a bad key or fence, or a condition that leaves nothing to delete.
pub fn check_delete(key: &str, opts: &DeleteOptions) -> Result<()> {
    check_key(key)?;
    check_fence_name(opts.fence.as_ref())?;
    if opts.condition == Condition::Absent {
        return Err(Error::invalid_argument(
            "a deletion on condition that there is no record has nothing to delete",
        ));
    }
    Ok(())
}

/// Checks what is given to [`Store::list`](crate::Store::list).
///
/// # Errors
///
/// `InvalidArgument` for a limit of zero or beyond [`MAX_PAGE`], or a prefix, suffix or cursor that
/// is longer than a key can be.
pub fn check_list(opts: &ListOptions) -> Result<()> {
    check_limit(opts.limit)?;
    check_length("prefix", &opts.prefix, "a prefix has at most 4096 bytes")?;
    check_length("suffix", &opts.suffix, "a suffix has at most 4096 bytes")?;
    match &opts.after {
        Some(cursor) => check_length("after", cursor.key(), "this is no cursor of a listing"),
        None => Ok(()),
    }
}

/// Checks what is given to [`Store::scopes`](crate::Store::scopes).
///
/// # Errors
///
/// `InvalidArgument` for a limit of zero or beyond [`MAX_PAGE`], or a bad name.
pub fn check_scopes(opts: &ScopesOptions) -> Result<()> {
    check_limit(opts.limit)?;
    match &opts.database {
        Some(database) => Scope::check_name("database", database),
        None => Ok(()),
    }
}

/// Checks what is given to [`Store::watch`](crate::Store::watch).
///
/// # Errors
///
/// `InvalidArgument` for a prefix that is longer than a key can be.
pub fn check_watch(opts: &WatchOptions) -> Result<()> {
    check_length("prefix", &opts.prefix, "a prefix has at most 4096 bytes")
}

fn check_limit(limit: usize) -> Result<()> {
    if (1..=MAX_PAGE).contains(&limit) {
        return Ok(());
    }
    Err(
        Error::invalid_argument("a page has a limit of 1 to 10000; go on behind its last")
            .with_context("limit", limit),
    )
}

fn check_fence_name(fence: Option<&Fence>) -> Result<()> {
    match fence {
        Some(fence) if fence.name.is_empty() || fence.name.len() > MAX_FENCE => Err(
            Error::invalid_argument("a fence names its lock by 1 to 256 bytes")
                .with_context("bytes", fence.name.len()),
        ),
        _ => Ok(()),
    }
}

/// Checks what is given to [`Store::batch`](crate::Store::batch): every operation by itself; at most
/// [`MAX_BATCH`] of them and [`MAX_BATCH_BYTES`]; one database; no key twice, and of each lock one
/// token.
///
/// # Errors
///
/// Those of [`check_record`] and [`check_delete`]; `ResourceExhausted` if it is too large;
/// `InvalidArgument` for the rest.
pub fn check_batch(operations: &[Operation]) -> Result<()> {
    if operations.len() > MAX_BATCH {
        return Err(
            Error::resource_exhausted("a batch has at most 10000 operations")
                .with_context("operations", operations.len()),
        );
    }
    let mut seen = HashSet::with_capacity(operations.len());
    let mut tokens = HashMap::new();
    let mut bytes = 0_usize;
    let database = operations.first().map(|first| first.scope().database());
    for operation in operations {
        match operation {
            Operation::Write {
                record, options, ..
            } => {
                check_record(record, options)?;
                bytes = bytes.saturating_add(record.value.len() + record.metadata_bytes());
            }
            Operation::Delete { key, options, .. } => check_delete(key, options)?,
        }
        bytes = bytes.saturating_add(operation.key().len());
        if Some(operation.scope().database()) != database {
            return Err(
                Error::invalid_argument("a batch changes one database; make one of each")
                    .with_context("database", operation.scope().database()),
            );
        }
        if !seen.insert((operation.scope(), operation.key())) {
            return Err(Error::invalid_argument(
                "a batch changes a record once, and this key occurs twice",
            )
            .with_context("key", shown(operation.key())));
        }
        if let Some(fence) = operation.fence()
            && *tokens.entry(&*fence.name).or_insert(fence.token) != fence.token
        {
            return Err(Error::invalid_argument(
                "a batch has one token of a lock, and this lock has two",
            )
            .with_context("lock", shown(&fence.name)));
        }
    }
    if bytes > MAX_BATCH_BYTES {
        return Err(
            Error::resource_exhausted("a batch has at most 64 MiB; make several")
                .with_context("bytes", bytes),
        );
    }
    Ok(())
}

/// Checks that a store can give the durability that is asked for.
///
/// # Errors
///
/// `Unimplemented` if it is more than `most`.
pub fn check_durability(asked: Option<Durability>, most: Durability) -> Result<()> {
    match asked {
        Some(asked) if asked > most => Err(Error::unimplemented(
            "this store's changes do not survive so much: ask for less, or open another store",
        )
        .with_context("asked", format_args!("{asked:?}"))
        .with_context("most", format_args!("{most:?}"))),
        _ => Ok(()),
    }
}

/// Checks a condition against the version of what is there; an expired record is not.
///
/// # Errors
///
/// `AlreadyExists` or `Aborted`, if it does not hold.
pub fn check_condition(condition: Condition, key: &str, there: Option<u64>) -> Result<()> {
    let (kind, message) = match condition {
        Condition::Absent if there.is_some() => {
            (ErrorKind::AlreadyExists, "the record is there already")
        }
        Condition::Version(version) if there != Some(version) => (
            ErrorKind::Aborted,
            "the record has another version by now: read it again",
        ),
        _ => return Ok(()),
    };
    let err = Error::new(kind, message).with_context("key", shown(key));
    Err(match there {
        Some(version) => err.with_context("version", version),
        None => err,
    })
}

/// Checks a fence against the highest token of its name that was seen.
///
/// # Errors
///
/// `Lost` if that one is higher.
pub fn check_fence(fence: &Fence, seen: Option<FencingToken>) -> Result<()> {
    match seen {
        Some(seen) if seen > fence.token => Err(Error::lost(
            "a later holder of the lock has changed something: this one has lost it",
        )
        .with_context("lock", shown(&fence.name))),
        _ => Ok(()),
    }
}

/// The error for a record that is not there: for stores.
#[must_use]
pub fn no_record(scope: &Scope, key: &str) -> Error {
    Error::not_found("there is no record of this key")
        .with_operation("store.read")
        .with_context("table", scope)
        .with_context("key", shown(key))
}

/// When a record expires that is written at `now`, in whole milliseconds, rounded up; times before
/// the Unix epoch become that. For stores that count by the clock of this machine.
#[must_use]
pub fn expires_at(record: &Record, opts: &WriteOptions, now: SystemTime) -> Option<SystemTime> {
    let at = match opts.ttl {
        Some(ttl) => now.checked_add(ttl).and_then(millis).unwrap_or(LAST_MILLIS),
        None => millis(record.expiry?).unwrap_or(LAST_MILLIS),
    };
    Some(SystemTime::UNIX_EPOCH + Duration::from_millis(at.min(LAST_MILLIS)))
}

/// Milliseconds since the Unix epoch, rounded up; `None` if they are too many.
fn millis(at: SystemTime) -> Option<u64> {
    let since = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos().div_ceil(1_000_000)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiry_is_never_early_and_never_endless() {
        let at = |nanos| SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos);
        let record = |expiry| Record::new("k", "").with_expiry(expiry);
        let opts = WriteOptions::default();
        let ttl = |ttl| WriteOptions::default().with_ttl(ttl);
        let far = SystemTime::UNIX_EPOCH + Duration::from_millis(LAST_MILLIS);
        for (record, opts, now, expected) in [
            (record(at(5_000_000)), &opts, at(0), at(5_000_000)),
            (record(at(5_000_001)), &opts, at(0), at(6_000_000)),
            (record(at(0) - Duration::from_secs(9)), &opts, at(7), at(0)),
            (
                record(at(1)),
                &ttl(Duration::from_nanos(1)),
                at(0),
                at(1_000_000),
            ),
            (
                record(at(1)),
                &ttl(Duration::from_millis(50)),
                at(1),
                at(51_000_000),
            ),
            (record(at(1)), &ttl(MAX_TTL), far, far),
        ] {
            assert_eq!(expires_at(&record, opts, now), Some(expected));
        }
        assert_eq!(expires_at(&Record::new("k", ""), &opts, at(0)), None);
        let late = record(far + Duration::from_millis(1));
        assert!(check_record(&record(far), &opts).is_ok());
        assert!(check_record(&late, &opts).is_err());
    }

    #[test]
    fn errors_do_not_repeat_a_whole_key() {
        let key = "\u{1}".repeat(MAX_KEY);
        let err = check_condition(Condition::Absent, &key, Some(7)).unwrap_err();
        assert!(err.to_string().len() < 1000, "{err}");
        assert!(err.to_string().contains("version: 7"), "{err}");
    }
}
