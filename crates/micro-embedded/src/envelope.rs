//! How records, fences and numbers stand in the file, each with a checksum over its place and itself.
//!
//! Engines verify their pages seldom or not at all; these checksums find what has changed.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use micro_core::FencingToken;
use micro_store_core::{Error, Record, Result, Scope};

/// Stands before every record, so that another layout can come later.
const LAYOUT: u8 = 1;

/// The expiry of what never expires.
const NEVER: u64 = u64::MAX;

const HEAD: usize = 1 + 8 + 8 + 4;
const CHECKSUM: usize = 4;

/// Where the records of a table begin. Names have no NUL, so no two scopes run together, and keys
/// come in the order of database, table and key.
pub(crate) fn place(scope: &Scope, key: &str) -> Vec<u8> {
    let (database, table) = (scope.database(), scope.table());
    let mut place = Vec::with_capacity(database.len() + table.len() + key.len() + 2);
    place.extend_from_slice(database.as_bytes());
    place.push(0);
    place.extend_from_slice(table.as_bytes());
    place.push(0);
    place.extend_from_slice(key.as_bytes());
    place
}

/// Behind all records of the table.
pub(crate) fn behind(scope: &Scope) -> Vec<u8> {
    let mut place = place(scope, "");
    if let Some(last) = place.last_mut() {
        *last = 1;
    }
    place
}

/// The scope of a place.
pub(crate) fn scope_of(place: &[u8]) -> Result<Scope> {
    let mut parts = place.splitn(3, |byte| *byte == 0);
    let (Some(database), Some(table), Some(_)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(damaged());
    };
    let text = |part| std::str::from_utf8(part).map_err(|_| damaged());
    Scope::new(text(database)?, text(table)?).map_err(|_| damaged())
}

/// Where a lock's token stands.
pub(crate) fn fence_place(scope: &Scope, name: &str) -> Vec<u8> {
    let mut place = scope.database().as_bytes().to_vec();
    place.push(0);
    place.extend_from_slice(name.as_bytes());
    place
}

/// Where the expiry of a record stands: by time, then place.
pub(crate) fn expiry_place(expiry: u64, place: &[u8]) -> Vec<u8> {
    let mut by_time = expiry.to_be_bytes().to_vec();
    by_time.extend_from_slice(place);
    by_time
}

/// The two parts of an expiry's place.
pub(crate) fn split_expiry(by_time: &[u8]) -> Option<(u64, &[u8])> {
    let (expiry, place) = by_time.split_first_chunk()?;
    Some((u64::from_be_bytes(*expiry), place))
}

pub(crate) fn millis(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(NEVER - 1)
}

pub(crate) fn damaged() -> Error {
    Error::corrupt("stored bytes are not what was written: their checksum does not fit")
}

/// What is known of a record without its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) version: u64,
    /// Milliseconds since the Unix epoch.
    pub(crate) expiry: Option<u64>,
}

impl Head {
    pub(crate) fn is_live(self, now: u64) -> bool {
        self.expiry.is_none_or(|expiry| expiry > now)
    }
}

/// The bytes of a record.
pub(crate) fn seal(place: &[u8], head: Head, record: &Record) -> Vec<u8> {
    let pairs = 8 * record.metadata.len() + record.metadata_bytes();
    let mut bytes = Vec::with_capacity(HEAD + pairs + record.value.len() + CHECKSUM);
    bytes.push(LAYOUT);
    bytes.extend_from_slice(&head.version.to_le_bytes());
    bytes.extend_from_slice(&head.expiry.unwrap_or(NEVER).to_le_bytes());
    bytes.extend_from_slice(&length(pairs));
    for (name, value) in &record.metadata {
        for text in [name, value] {
            bytes.extend_from_slice(&length(text.len()));
            bytes.extend_from_slice(text.as_bytes());
        }
    }
    bytes.extend_from_slice(&record.value);
    close(place, bytes)
}

/// Metadata are at most 64 KiB, and each pair takes eight bytes more.
fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes()
}

fn checksum(place: &[u8], bytes: &[u8]) -> [u8; CHECKSUM] {
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(place);
    checksum.update(bytes);
    checksum.finalize().to_le_bytes()
}

fn close(place: &[u8], mut bytes: Vec<u8>) -> Vec<u8> {
    let checksum = checksum(place, &bytes);
    bytes.extend_from_slice(&checksum);
    bytes
}

/// The bytes without their checksum, if that fits.
fn open<'a>(place: &[u8], bytes: &'a [u8]) -> Result<&'a [u8]> {
    let (bytes, found) = bytes.split_last_chunk().ok_or_else(damaged)?;
    if *found == checksum(place, bytes) {
        Ok(bytes)
    } else {
        Err(damaged())
    }
}

/// A record that is read: its head first, the rest if it is wanted.
#[derive(Debug)]
pub(crate) struct Sealed<'a> {
    pub(crate) head: Head,
    metadata: &'a [u8],
    value: &'a [u8],
}

impl<'a> Sealed<'a> {
    pub(crate) fn read(place: &[u8], bytes: &'a [u8]) -> Result<Self> {
        let mut rest = open(place, bytes)?;
        if take::<1>(&mut rest)? != [LAYOUT] {
            return Err(Error::failed_precondition(
                "the record was written by a later version of this program",
            ));
        }
        let version = u64::from_le_bytes(take(&mut rest)?);
        let expiry = u64::from_le_bytes(take(&mut rest)?);
        let pairs = u32::from_le_bytes(take(&mut rest)?) as usize;
        let (metadata, value) = rest.split_at_checked(pairs).ok_or_else(damaged)?;
        Ok(Self {
            head: Head {
                version,
                expiry: (expiry != NEVER).then_some(expiry),
            },
            metadata,
            value,
        })
    }

    /// The bytes of value and metadata, about.
    pub(crate) fn len(&self) -> usize {
        self.value.len() + self.metadata.len()
    }

    pub(crate) fn record(&self, key: &str, keys_only: bool) -> Result<Record> {
        let value = if keys_only {
            Bytes::new()
        } else {
            Bytes::copy_from_slice(self.value)
        };
        let mut record = Record::new(key, value).with_version(self.head.version);
        record.expiry = self
            .head
            .expiry
            .map(|expiry| SystemTime::UNIX_EPOCH + Duration::from_millis(expiry));
        if !keys_only {
            record.metadata = pairs(self.metadata)?;
        }
        Ok(record)
    }
}

fn pairs(mut bytes: &[u8]) -> Result<BTreeMap<String, String>> {
    let mut pairs = BTreeMap::new();
    while !bytes.is_empty() {
        pairs.insert(text(&mut bytes)?, text(&mut bytes)?);
    }
    Ok(pairs)
}

fn text(bytes: &mut &[u8]) -> Result<String> {
    let length = u32::from_le_bytes(take(bytes)?) as usize;
    let (text, rest) = bytes.split_at_checked(length).ok_or_else(damaged)?;
    *bytes = rest;
    String::from_utf8(text.to_vec()).map_err(|_| damaged())
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk().ok_or_else(damaged)?;
    *bytes = rest;
    Ok(*taken)
}

/// The bytes of a lock's token.
pub(crate) fn seal_token(place: &[u8], token: FencingToken) -> Vec<u8> {
    let mut bytes = token.epoch.to_le_bytes().to_vec();
    bytes.extend_from_slice(&token.seq.to_le_bytes());
    close(place, bytes)
}

pub(crate) fn read_token(place: &[u8], bytes: &[u8]) -> Result<FencingToken> {
    let mut rest = open(place, bytes)?;
    let epoch = u64::from_le_bytes(take(&mut rest)?);
    let seq = u64::from_le_bytes(take(&mut rest)?);
    Ok(FencingToken::new(epoch, seq))
}

/// The bytes of a number.
pub(crate) fn seal_number(place: &[u8], number: u64) -> Vec<u8> {
    close(place, number.to_le_bytes().to_vec())
}

pub(crate) fn read_number(place: &[u8], bytes: &[u8]) -> Result<u64> {
    Ok(u64::from_le_bytes(take(&mut open(place, bytes)?)?))
}

#[cfg(test)]
mod tests {
    use micro_core::{Random as _, SeededRandom};

    use super::*;

    fn example() -> (Vec<u8>, Record, Vec<u8>) {
        let scope = Scope::new("shop", "orders").unwrap();
        let place = place(&scope, "o-1");
        let record = Record::new("o-1", "tea and milk")
            .with_metadata("", "\0")
            .with_metadata("content-type", "text/plain");
        let head = Head {
            version: 7,
            expiry: Some(1_234_567),
        };
        let bytes = seal(&place, head, &record);
        (place, record, bytes)
    }

    #[test]
    fn a_record_comes_back() {
        let (place, record, bytes) = example();
        let sealed = Sealed::read(&place, &bytes).unwrap();
        let found = sealed.record("o-1", false).unwrap();
        let expiry = SystemTime::UNIX_EPOCH + Duration::from_millis(1_234_567);
        assert_eq!(found, record.with_version(7).with_expiry(expiry));
    }

    #[test]
    fn every_bit_and_every_length_counts() {
        let (place, _, bytes) = example();
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(Sealed::read(&place, &changed).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(
                Sealed::read(&place, &bytes[..length]).is_err(),
                "{length} bytes"
            );
        }
        let scope = Scope::new("shop", "orders").unwrap();
        let other = super::place(&scope, "o-2");
        assert!(
            Sealed::read(&other, &bytes).is_err(),
            "the record of another key"
        );
    }

    #[test]
    fn bytes_with_a_checksum_and_without_sense_are_refused() {
        let random = SeededRandom::new(1);
        let (place, _, bytes) = example();
        for _ in 0..20_000 {
            let mut changed = bytes[..bytes.len() - CHECKSUM].to_vec();
            for _ in 0..=random.next_u64() % 4 {
                let at = random.next_u64() as usize % changed.len();
                changed[at] = random.next_u64() as u8;
            }
            changed.truncate(random.next_u64() as usize % (changed.len() + 1));
            // It may be read as another record; it must not panic.
            let changed = close(&place, changed);
            if let Ok(sealed) = Sealed::read(&place, &changed) {
                let _ = sealed.record("o-1", false);
            }
        }
    }

    #[test]
    fn s62_places_are_one_to_one_and_in_order() {
        let scope = |database, table| Scope::new(database, table).unwrap();
        let mut all = Vec::new();
        for scope in [
            scope("a", "b"),
            scope("a", "b.c"),
            scope("a-b", "c"),
            scope("a", "b-c"),
        ] {
            for key in ["k", "c/k", "\0", "\0k", "\u{1}", "😀"] {
                let place = place(&scope, key);
                assert_eq!(scope_of(&place).unwrap(), scope);
                assert!(place < behind(&scope));
                all.push((scope.clone(), key, place));
            }
        }
        all.sort_by(|a, b| a.2.cmp(&b.2));
        assert!(
            all.windows(2)
                .all(|two| (&two[0].0, two[0].1) < (&two[1].0, two[1].1))
        );
    }
}
