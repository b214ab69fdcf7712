//! The bytes of a record in Redis.
//!
//! `1`, the version in 16 digits and the expiry in 15 (milliseconds since the Unix epoch; zeros are
//! never), which the script puts before what comes from here: the metadata's length and pairs, and
//! the value. All lengths are four bytes, big end first.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use bytes::{Buf as _, Bytes};
use micro_store_core::{Error, Record, Result};

const LAYOUT: u8 = b'1';
const VERSION: usize = 16;
const EXPIRY: usize = 15;

/// The bytes before the metadata's length.
pub(crate) const HEAD: usize = 1 + VERSION + EXPIRY;

/// The bytes behind the head.
pub(crate) fn seal(record: &Record) -> Vec<u8> {
    let pairs = 8 * record.metadata.len() + record.metadata_bytes();
    let mut bytes = Vec::with_capacity(4 + pairs + record.value.len());
    bytes.extend_from_slice(&length(pairs));
    for (name, value) in &record.metadata {
        for text in [name, value] {
            bytes.extend_from_slice(&length(text.len()));
            bytes.extend_from_slice(text.as_bytes());
        }
    }
    bytes.extend_from_slice(&record.value);
    bytes
}

/// Metadata are at most 64 KiB, and each pair takes eight bytes more.
fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes()
}

pub(crate) fn damaged() -> Error {
    Error::corrupt("a key of ours in Redis holds what was not written there")
}

/// Reads a record, or of a listing without values, its head.
pub(crate) fn open(key: &str, mut bytes: Bytes, keys_only: bool) -> Result<Record> {
    if bytes.len() < HEAD {
        return Err(damaged());
    }
    let head = bytes.split_to(HEAD);
    if head[0] != LAYOUT {
        return Err(if head[0].is_ascii_digit() {
            Error::failed_precondition("the record was written by a later version of this program")
        } else {
            damaged()
        });
    }
    let version = number(&head[1..=VERSION])?;
    let expiry = match number(&head[1 + VERSION..])? {
        0 => None,
        millis => Some(SystemTime::UNIX_EPOCH + Duration::from_millis(millis)),
    };
    let mut record = Record::new(key, Bytes::new()).with_version(version);
    record.expiry = expiry;
    if !keys_only {
        let mut pairs = part(&mut bytes)?;
        record.metadata = metadata(&mut pairs)?;
        record.value = bytes;
    }
    Ok(record)
}

fn metadata(bytes: &mut Bytes) -> Result<BTreeMap<String, String>> {
    let mut metadata = BTreeMap::new();
    while !bytes.is_empty() {
        metadata.insert(text(bytes)?, text(bytes)?);
    }
    Ok(metadata)
}

/// What stands behind its length.
pub(crate) fn part(bytes: &mut Bytes) -> Result<Bytes> {
    if bytes.len() < 4 {
        return Err(damaged());
    }
    let length = bytes.get_u32() as usize;
    if bytes.len() < length {
        return Err(damaged());
    }
    Ok(bytes.split_to(length))
}

pub(crate) fn text(bytes: &mut Bytes) -> Result<String> {
    String::from_utf8(part(bytes)?.to_vec()).map_err(|_| damaged())
}

/// A number of decimal digits and nothing else.
pub(crate) fn number(digits: &[u8]) -> Result<u64> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return Err(damaged());
    }
    let text = std::str::from_utf8(digits).map_err(|_| damaged())?;
    text.parse().map_err(|_| damaged())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> (Record, Vec<u8>) {
        let record = Record::new("o-1", "tea and milk")
            .with_metadata("", "\0")
            .with_metadata("content-type", "text/plain");
        let mut bytes = b"10000000000000007000000001234567".to_vec();
        bytes.extend(seal(&record));
        (record, bytes)
    }

    #[test]
    fn a_record_comes_back() {
        let (record, bytes) = example();
        let expiry = SystemTime::UNIX_EPOCH + Duration::from_millis(1_234_567);
        let expected = record.with_version(7).with_expiry(expiry);
        let found = open("o-1", bytes.clone().into(), false).unwrap();
        assert_eq!(found, expected);
        let head = open("o-1", Bytes::from(bytes).slice(..HEAD), true).unwrap();
        assert_eq!((head.version, head.expiry), (7, Some(expiry)));
        assert!(head.value.is_empty() && head.metadata.is_empty());
    }

    #[test]
    fn foreign_bytes_are_a_record_or_an_error() {
        let (_, bytes) = example();
        let empty = [b"10000000000000001000000000000000".to_vec(), vec![0; 4]].concat();
        micro_conformance::mutation::run(&[&bytes, &empty], |bytes| {
            for keys_only in [false, true] {
                let _ = open("o-1", Bytes::copy_from_slice(bytes), keys_only);
            }
        });
        for length in 0..bytes.len() - "tea and milk".len() {
            let cut = Bytes::copy_from_slice(&bytes[..length]);
            assert!(open("o-1", cut, false).is_err(), "{length} bytes");
        }
    }
}
