//! Long values in parts: sled keeps what does not fit into its log in files of their own, which it
//! never syncs.
//!
//! A value begins with how many parts follow under keys of their own.

use micro_embedded::Space;
use micro_store_core::{Error, Result};

/// The longest part, in bytes. With keys of 4 KiB, a leaf of sled's tree has at most 32 of them and a
/// little more, which is less than a quarter of [`SEGMENT`]: the largest that sled takes into its log.
pub(crate) const PART: usize = 32 << 10;

/// The size of sled's segments, in bytes. An inner node of its tree has up to 256 keys.
pub(crate) const SEGMENT: usize = 8 << 20;

const HEAD: usize = 4;

/// Behind the keys of all spaces.
const PARTS: u8 = Space::ALL.len() as u8;

/// Where a key of a space stands in sled's one tree.
pub(crate) fn place(space: Space, key: &[u8]) -> Vec<u8> {
    let mut place = Vec::with_capacity(1 + key.len());
    place.push(space as u8);
    place.extend_from_slice(key);
    place
}

/// Where a part of what stands at a place does. All places are one byte and a key, and the number has
/// always four bytes, so no two parts stand at one place.
pub(crate) fn part_place(place: &[u8], nth: u32) -> Vec<u8> {
    let mut at = Vec::with_capacity(1 + place.len() + 4);
    at.push(PARTS);
    at.extend_from_slice(place);
    at.extend_from_slice(&nth.to_be_bytes());
    at
}

/// The first part with its head, and the others.
pub(crate) fn split(value: &[u8]) -> (Vec<u8>, impl Iterator<Item = &[u8]>) {
    let (first, rest) = value.split_at(value.len().min(PART));
    let parts = rest.chunks(PART);
    let count = u32::try_from(parts.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(HEAD + first.len());
    bytes.extend_from_slice(&count.to_le_bytes());
    bytes.extend_from_slice(first);
    (bytes, parts)
}

/// How many parts follow, and the first one.
pub(crate) fn head(bytes: &[u8]) -> Result<(u32, &[u8])> {
    let (count, first) = bytes.split_first_chunk::<HEAD>().ok_or_else(damaged)?;
    Ok((u32::from_le_bytes(*count), first))
}

pub(crate) fn damaged() -> Error {
    Error::corrupt("the store's files are damaged: a part of a record is missing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_split_is_put_together() {
        for length in [0, 1, PART - 1, PART, PART + 1, 3 * PART, 3 * PART + 7] {
            let value: Vec<u8> = (0..length).map(|at| (at / 7) as u8).collect();
            let (bytes, parts) = split(&value);
            let parts: Vec<&[u8]> = parts.collect();
            let (count, first) = head(&bytes).unwrap();
            assert_eq!(count as usize, parts.len());
            assert_eq!([&[first], &*parts].concat().concat(), value);
        }
        assert!(head(&[1, 2, 3]).is_err());
    }

    #[test]
    fn no_two_parts_stand_at_one_place() {
        let keys: [&[u8]; 6] = [
            b"",
            b"a",
            b"a\0",
            b"a\0\0\0\x01",
            b"\0\0\0\x01",
            b"a\0\0\0\0",
        ];
        let mut all = Vec::new();
        for space in Space::ALL {
            for key in keys {
                let place = place(space, key);
                all.extend((0..3).map(|nth| part_place(&place, nth)));
                all.push(place);
            }
        }
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
