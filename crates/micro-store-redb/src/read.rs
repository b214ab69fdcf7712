//! Reading, on threads that may wait for the disk.

use micro_store_core::{
    Cursor, ListOptions, MAX_PAGE_BYTES, Page, Record, Result, Scope, ScopesOptions, no_record,
};
use redb::{Database, ReadOnlyTable, ReadableDatabase as _};

use crate::envelope::{Sealed, behind, damaged, place, scope_of};
use crate::error::Failure;
use crate::writer::RECORDS;

fn records(db: &Database) -> Result<ReadOnlyTable<&'static [u8], &'static [u8]>, Failure> {
    Ok(db.begin_read()?.open_table(RECORDS)?)
}

pub(crate) fn read(db: &Database, scope: &Scope, key: &str, now: u64) -> Result<Record> {
    let place = place(scope, key);
    let records = records(db)?;
    let Some(bytes) = records.get(&*place).map_err(Failure::from)? else {
        return Err(no_record(scope, key));
    };
    let sealed = Sealed::read(&place, bytes.value())?;
    if sealed.head.is_live(now) {
        sealed.record(key, false)
    } else {
        Err(no_record(scope, key))
    }
}

pub(crate) fn list(db: &Database, scope: &Scope, opts: &ListOptions, now: u64) -> Result<Page> {
    let table = place(scope, "");
    let after = opts.after.as_ref().map_or("", Cursor::key);
    let begin = place(scope, after.max(&opts.prefix));
    let mut offset = opts.offset;
    let mut page: Vec<Record> = Vec::new();
    let mut bytes = 0;
    let records = records(db)?;
    let range = records
        .range::<&[u8]>(&*begin..&*behind(scope))
        .map_err(Failure::from)?;
    for entry in range {
        let (place, value) = entry.map_err(Failure::from)?;
        let place = place.value();
        let key = place.strip_prefix(&*table).ok_or_else(damaged)?;
        let key = std::str::from_utf8(key).map_err(|_| damaged())?;
        if !key.starts_with(&opts.prefix) {
            break;
        }
        if key == after || !key.ends_with(&opts.suffix) {
            continue;
        }
        let sealed = Sealed::read(place, value.value())?;
        if !sealed.head.is_live(now) {
            continue;
        }
        if offset > 0 {
            offset -= 1;
            continue;
        }
        if !opts.keys_only {
            bytes += sealed.len();
        }
        if page.len() == opts.limit || (bytes > MAX_PAGE_BYTES && !page.is_empty()) {
            let next = page.last().map(|last| Cursor::after(&last.key));
            return Ok(Page::new(page, next));
        }
        page.push(sealed.record(key, opts.keys_only)?);
    }
    Ok(Page::new(page, None))
}

pub(crate) fn scopes(db: &Database, opts: &ScopesOptions) -> Result<Vec<Scope>> {
    let mut begin = match &opts.after {
        Some(after) => behind(after),
        None => Vec::new(),
    };
    if let Some(database) = &opts.database {
        begin = begin.max([database.as_bytes(), b"\0"].concat());
    }
    let records = records(db)?;
    let mut scopes = Vec::new();
    while scopes.len() < opts.limit {
        let mut range = records.range::<&[u8]>(&*begin..).map_err(Failure::from)?;
        let Some(entry) = range.next() else { break };
        let scope = scope_of(entry.map_err(Failure::from)?.0.value())?;
        if opts
            .database
            .as_ref()
            .is_some_and(|database| database != scope.database())
        {
            break;
        }
        begin = behind(&scope);
        scopes.push(scope);
    }
    Ok(scopes)
}
