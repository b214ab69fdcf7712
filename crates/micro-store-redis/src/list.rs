//! Listings, a stretch at a time, so that no single command holds Redis up for long.

use std::sync::LazyLock;

use bytes::Bytes;
use micro_redis::Script;
use micro_redis::redis::{Cmd, Value};
use micro_store_core::{Cursor, Error, ListOptions, MAX_PAGE_BYTES, Page, Record, Result, Scope};

use crate::envelope::{self, HEAD};
use crate::names::{Names, behind};

pub(crate) static LIST: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("lua/list.lua")));

/// So many keys are visited by a command.
const VISIT: u64 = 1000;

/// A page that is being filled.
#[derive(Debug)]
pub(crate) struct Filling {
    opts: ListOptions,
    from: Vec<u8>,
    to: Vec<u8>,
    bytes: usize,
    page: Page,
    /// Keys whose records are gone.
    pub(crate) gone: Vec<Vec<u8>>,
}

/// What a stretch has come to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stretch {
    /// The page is done.
    Done,
    /// There is another stretch.
    More,
}

impl Filling {
    pub(crate) fn new(opts: ListOptions) -> Self {
        let after = opts.after.as_ref().map_or("", Cursor::key);
        let from = match (opts.prefix.as_str(), after) {
            ("", "") => b"-".to_vec(),
            (prefix, after) if after >= prefix => bound(b'(', after.as_bytes()),
            (prefix, _) => bound(b'[', prefix.as_bytes()),
        };
        let to = match behind(&opts.prefix) {
            Some(end) => bound(b'(', &end),
            None => b"+".to_vec(),
        };
        Self {
            opts,
            from,
            to,
            bytes: 0,
            page: Page::default(),
            gone: Vec::new(),
        }
    }

    /// What the next stretch is asked by.
    pub(crate) fn invocation(&self, names: &Names, scope: &Scope) -> Cmd {
        let part = if self.opts.keys_only {
            i64::try_from(HEAD).unwrap_or(i64::MAX)
        } else {
            -1
        };
        let found = self.page.records.len();
        // May be less than nothing: then only a record without a value has no room to take.
        let room = MAX_PAGE_BYTES as i64 - self.bytes as i64;
        let mut cmd = LIST.invocation();
        cmd.arg(1)
            .arg(names.index(scope))
            .arg(names.record(scope, ""))
            .arg(&*self.from)
            .arg(&*self.to)
            .arg(VISIT)
            .arg(self.opts.limit - found)
            // More cannot be passed over at a time; so large a number is not exact in Lua.
            .arg(self.opts.offset.min(VISIT))
            .arg(&*self.opts.suffix)
            .arg(part)
            .arg(room)
            .arg(u8::from(found == 0));
        cmd
    }

    /// Takes in the answer.
    pub(crate) fn take(&mut self, answer: Value) -> Result<Stretch> {
        let strange =
            || Error::internal("Redis answers to a listing in a form that it never should");
        let Value::Array(parts) = answer else {
            return Err(strange());
        };
        let parts: Result<[Value; 5], _> = parts.try_into();
        let Ok(
            [
                Value::BulkString(ended),
                Value::BulkString(visited),
                Value::Int(passed),
                Value::Array(gone),
                Value::Array(found),
            ],
        ) = parts
        else {
            return Err(strange());
        };
        self.opts.offset = self
            .opts
            .offset
            .saturating_sub(u64::try_from(passed).map_err(|_| strange())?);
        for key in gone {
            let Value::BulkString(key) = key else {
                return Err(strange());
            };
            self.gone.push(key);
        }
        let mut found = found.into_iter();
        while let (Some(key), Some(record)) = (found.next(), found.next()) {
            let (Value::BulkString(key), Value::BulkString(bytes)) = (key, record) else {
                return Err(strange());
            };
            if self.page.records.len() == self.opts.limit {
                return Err(strange());
            }
            self.push(key, bytes.into())?;
        }
        match &*ended {
            b"end" => Ok(Stretch::Done),
            b"full" => {
                self.page.next = self
                    .page
                    .records
                    .last()
                    .map(|last| Cursor::after(&last.key));
                Ok(Stretch::Done)
            }
            // It gets on with every stretch, or it would never end.
            b"more" if *visited > self.from[1..] || self.from == b"-" => {
                self.from = bound(b'(', &visited);
                Ok(Stretch::More)
            }
            _ => Err(strange()),
        }
    }

    fn push(&mut self, key: Vec<u8>, bytes: Bytes) -> Result<()> {
        let key = String::from_utf8(key).map_err(|_| envelope::damaged())?;
        let size = bytes.len();
        let record: Record = envelope::open(&key, bytes, self.opts.keys_only)?;
        if !self.opts.keys_only {
            self.bytes += size.saturating_sub(HEAD + 4);
        }
        self.page.records.push(record);
        Ok(())
    }

    pub(crate) fn page(self) -> Page {
        self.page
    }
}

fn bound(kind: u8, key: &[u8]) -> Vec<u8> {
    [&[kind], key].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_begins_and_ends_where_it_should() {
        let ends = |prefix: &str, after: &str| {
            let after = (!after.is_empty()).then(|| Cursor::after(after));
            let opts = ListOptions::default().with_prefix(prefix).with_after(after);
            let filling = Filling::new(opts);
            let text = |bytes| String::from_utf8(bytes).unwrap();
            (text(filling.from), text(filling.to))
        };
        let pair = |from: &str, to: &str| (from.to_owned(), to.to_owned());
        assert_eq!(ends("", ""), pair("-", "+"));
        assert_eq!(ends("", "k"), pair("(k", "+"));
        assert_eq!(ends("a", ""), pair("[a", "(b"));
        assert_eq!(ends("b", "a"), pair("[b", "(c"));
        assert_eq!(ends("a", "a"), pair("(a", "(b"));
        assert_eq!(ends("a", "c"), pair("(c", "(b"));
    }

    #[test]
    fn answers_in_no_form_are_errors_and_none_goes_on_for_ever() {
        let word = |word: &str| Value::BulkString(word.into());
        let none = || Value::Array(Vec::new());
        let answer = |ended: &str, visited: &str, found: Vec<Value>| {
            Value::Array(vec![
                word(ended),
                word(visited),
                Value::Int(0),
                none(),
                Value::Array(found),
            ])
        };
        let opts = || ListOptions::default().with_limit(1);
        for value in [
            Value::Nil,
            none(),
            Value::Array(vec![word("end")]),
            answer("what", "", vec![]),
            answer("end", "", vec![word("k"), word("damaged")]),
            answer("end", "", vec![word("k"), Value::Int(1)]),
        ] {
            assert!(
                Filling::new(opts()).take(value.clone()).is_err(),
                "{value:?}"
            );
        }
        let mut filling = Filling::new(opts());
        let more = answer("more", "k", vec![]);
        assert_eq!(filling.take(more.clone()).unwrap(), Stretch::More);
        assert!(filling.take(more).is_err(), "the same stretch again");
    }
}
