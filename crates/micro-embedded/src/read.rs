//! Reading, on threads that may wait for the disk.

use std::ops::ControlFlow;

use micro_store_core::{
    Cursor, ListOptions, MAX_PAGE_BYTES, Page, Record, Result, Scope, ScopesOptions, no_record,
};

use crate::engine::{Space, View};
use crate::envelope::{Sealed, behind, damaged, place, scope_of};

/// A listing looks at so many records in one view; then it takes a new one, so that no view lives for
/// long, and asks whether anybody still waits for the page.
const STRETCH: usize = 4096;

pub(crate) fn read(view: &impl View, scope: &Scope, key: &str, now: u64) -> Result<Record> {
    let place = place(scope, key);
    let found = view.get(Space::Records, &place, |bytes| {
        let Some(bytes) = bytes else { return Ok(None) };
        let sealed = Sealed::read(&place, bytes)?;
        let live = sealed.head.is_live(now);
        live.then(|| sealed.record(key, false)).transpose()
    })?;
    found?.ok_or_else(|| no_record(scope, key))
}

/// A page that is being filled.
#[derive(Debug)]
pub(crate) struct Filling<'a> {
    opts: &'a ListOptions,
    now: u64,
    /// Where the table begins.
    table: Vec<u8>,
    end: Vec<u8>,
    /// Where the next stretch begins.
    next: Vec<u8>,
    offset: u64,
    records: Vec<Record>,
    bytes: usize,
}

impl<'a> Filling<'a> {
    pub(crate) fn new(scope: &Scope, opts: &'a ListOptions, now: u64) -> Self {
        let after = opts.after.as_ref().map_or("", Cursor::key);
        Self {
            opts,
            now,
            table: place(scope, ""),
            end: behind(scope),
            next: place(scope, after.max(&opts.prefix)),
            offset: opts.offset,
            records: Vec::new(),
            bytes: 0,
        }
    }

    /// Goes on for a stretch; breaks with the page when it is full or nothing follows.
    pub(crate) fn go_on(&mut self, view: &impl View) -> Result<ControlFlow<Page>> {
        let mut visited = 0;
        let mut state = Visit::Over(None);
        let from = std::mem::take(&mut self.next);
        view.scan(Space::Records, &from, |place, bytes| {
            if visited == STRETCH {
                state = Visit::Paused(place.to_vec());
                return Ok(ControlFlow::Break(()));
            }
            visited += 1;
            match self.visit(place, bytes)? {
                Visit::Next => Ok(ControlFlow::Continue(())),
                over => {
                    state = over;
                    Ok(ControlFlow::Break(()))
                }
            }
        })?;
        if let Visit::Paused(next) = state {
            self.next = next;
            return Ok(ControlFlow::Continue(()));
        }
        let next = match state {
            Visit::Over(next) => next,
            _ => None,
        };
        let records = std::mem::take(&mut self.records);
        Ok(ControlFlow::Break(Page::new(records, next)))
    }

    fn visit(&mut self, place: &[u8], bytes: &[u8]) -> Result<Visit> {
        if place >= &*self.end {
            return Ok(Visit::Over(None));
        }
        let key = place.strip_prefix(&*self.table).ok_or_else(damaged)?;
        let key = std::str::from_utf8(key).map_err(|_| damaged())?;
        if !key.starts_with(&self.opts.prefix) {
            return Ok(Visit::Over(None));
        }
        let after = self.opts.after.as_ref();
        if after.is_some_and(|after| after.key() == key) || !key.ends_with(&self.opts.suffix) {
            return Ok(Visit::Next);
        }
        let sealed = Sealed::read(place, bytes)?;
        if !sealed.head.is_live(self.now) {
            return Ok(Visit::Next);
        }
        if self.offset > 0 {
            self.offset -= 1;
            return Ok(Visit::Next);
        }
        if !self.opts.keys_only {
            self.bytes += sealed.len();
        }
        let full = self.records.len() == self.opts.limit || self.bytes > MAX_PAGE_BYTES;
        if full && let Some(last) = self.records.last() {
            return Ok(Visit::Over(Some(Cursor::after(&last.key))));
        }
        self.records.push(sealed.record(key, self.opts.keys_only)?);
        Ok(Visit::Next)
    }
}

/// How a listing goes on behind a record.
enum Visit {
    Next,
    /// The stretch has ended before this place.
    Paused(Vec<u8>),
    /// The page is complete.
    Over(Option<Cursor>),
}

pub(crate) fn scopes(view: &impl View, opts: &ScopesOptions) -> Result<Vec<Scope>> {
    let mut begin = match &opts.after {
        Some(after) => behind(after),
        None => Vec::new(),
    };
    if let Some(database) = &opts.database {
        begin = begin.max([database.as_bytes(), b"\0"].concat());
    }
    let mut scopes = Vec::new();
    while scopes.len() < opts.limit {
        let mut found = None;
        view.scan(Space::Records, &begin, |place, _| {
            found = Some(scope_of(place)?);
            Ok(ControlFlow::Break(()))
        })?;
        let Some(scope) = found else { break };
        let database = opts.database.as_ref();
        if database.is_some_and(|database| database != scope.database()) {
            break;
        }
        begin = behind(&scope);
        scopes.push(scope);
    }
    Ok(scopes)
}
