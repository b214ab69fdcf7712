//! Where a record stands, in columns.

use micro_store_core::{Error, Result, Scope};
use sha2::{Digest as _, Sha256};

/// So much of a key stands in the index, in bytes. PostgreSQL has room for 2,704 in an entry of a
/// B-tree, and names, digest and overhead want their part of it.
const HEAD: usize = 1024;

/// A key that is longer than the index can hold stands there by its head and a digest of its tail; the
/// tail beside it, so that keys still come in the order of their bytes.
#[derive(Debug)]
pub(crate) struct Place {
    database: Box<[u8]>,
    table: Box<[u8]>,
    key: Box<[u8]>,
    digest: Box<[u8]>,
}

impl Place {
    pub(crate) fn new(scope: &Scope, key: &str) -> Self {
        let (_, tail) = split(key.as_bytes());
        let digest = match tail {
            [] => Box::default(),
            _ => Box::from(&*Sha256::digest(tail)),
        };
        Self {
            database: scope.database().as_bytes().into(),
            table: scope.table().as_bytes().into(),
            key: key.as_bytes().into(),
            digest,
        }
    }

    /// The columns of the primary key.
    pub(crate) fn columns(&self) -> [&[u8]; 4] {
        [&self.database, &self.table, self.head(), &self.digest]
    }

    fn head(&self) -> &[u8] {
        split(&self.key).0
    }

    pub(crate) fn tail(&self) -> &[u8] {
        split(&self.key).1
    }

    /// The order in which all who change several records take their locks.
    pub(crate) fn order(&self) -> impl Ord + '_ {
        (&self.table, &self.key)
    }
}

/// The parts of a key. Pairs of them compare as the keys do.
pub(crate) fn split(key: &[u8]) -> (&[u8], &[u8]) {
    key.split_at(key.len().min(HEAD))
}

/// The key of two parts.
pub(crate) fn join(head: &[u8], tail: &[u8]) -> Result<String> {
    String::from_utf8([head, tail].concat())
        .map_err(|_| Error::corrupt("a stored key is no text: it was not written by a store"))
}

/// Keys from the first, and before the last.
#[derive(Debug)]
pub(crate) struct Range {
    pub(crate) from: Vec<u8>,
    pub(crate) to: Vec<u8>,
}

impl Range {
    /// All keys that begin so and stand behind `after`.
    pub(crate) fn new(prefix: &str, after: Option<&str>) -> Self {
        let behind = after.map(|key| [key.as_bytes(), b"\0"].concat());
        let from = behind.unwrap_or_default().max(prefix.as_bytes().to_vec());
        let mut to = prefix.as_bytes().to_vec();
        match to.last_mut() {
            // No byte of a text is 0xff, so this never overflows.
            Some(last) => *last += 1,
            None => to.push(0xff),
        }
        Self { from, to }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_compare_as_keys_do() {
        let stem = "k".repeat(HEAD - 1);
        let mut keys: Vec<String> = ["", "a", "aa", "b", "é", "\0", "a\0", "\u{10ffff}"]
            .iter()
            .flat_map(|end| [(*end).to_owned(), format!("{stem}{end}")])
            .collect();
        keys.extend([
            stem.clone(),
            format!("{stem}{stem}x"),
            "x".repeat(4096),
            format!("{}y", "x".repeat(4095)),
        ]);
        for one in &keys {
            for other in &keys {
                let (one, other) = (one.as_bytes(), other.as_bytes());
                assert_eq!(split(one).cmp(&split(other)), one.cmp(other));
            }
            let (head, tail) = split(one.as_bytes());
            assert!(head.len() <= HEAD);
            assert_eq!(join(head, tail).unwrap(), *one);
        }
    }

    #[test]
    fn long_keys_have_places_of_their_own() {
        let scope = Scope::new("d", "t").unwrap();
        let stem = "k".repeat(HEAD);
        let digest = |key: &str| Place::new(&scope, key).columns()[3].to_vec();
        assert_eq!(digest(&stem), b"");
        assert_eq!(digest(&format!("{stem}a")).len(), 32);
        assert_ne!(digest(&format!("{stem}a")), digest(&format!("{stem}b")));
    }

    #[test]
    fn a_range_holds_what_a_listing_asks_for() {
        let keys = ["", "a", "a\0", "ab", "aé", "a\u{10ffff}", "b", "\u{10ffff}"];
        for prefix in keys {
            for after in [None, Some(""), Some("a"), Some("ab"), Some("b")] {
                let range = Range::new(prefix, after);
                for key in keys.iter().filter(|key| !key.is_empty()) {
                    let inside = *range.from <= *key.as_bytes() && *key.as_bytes() < *range.to;
                    let wanted = key.starts_with(prefix) && after.is_none_or(|after| *key > after);
                    assert_eq!(inside, wanted, "{key:?} of {prefix:?} after {after:?}");
                }
            }
        }
    }
}
