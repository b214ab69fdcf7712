//! The small key-value pairs that travel with a call or a message.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::{Error, Result};

/// Key-value pairs that travel with a call or a message.
///
/// Names are case-insensitive ASCII and are kept in lower case; values are printable ASCII, except
/// under names that end in `-bin`, which hold any bytes (gRPC over HTTP/2, "Custom-Metadata").
/// A name may have several values. Equality ignores the order of names.
/// Size is bounded: [`MAX_ENTRIES`](Self::MAX_ENTRIES) and [`MAX_BYTES`](Self::MAX_BYTES).
/// Cloning is cheap: clones share their pairs until one of them changes. So does what is
/// [extended](Self::extend) by another set.
///
/// ```
/// use micro_core::Metadata;
///
/// let mut metadata = Metadata::new();
/// metadata.insert("X-Tenant", "acme")?;
/// assert_eq!(metadata.get("x-tenant"), Some("acme"));
/// assert!(metadata.insert("x-tenant", "two\nlines").is_err());
/// # Ok::<(), micro_core::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Metadata {
    /// `None` for no pairs: an empty set allocates nothing.
    entries: Option<Arc<Vec<(Bytes, Bytes)>>>,
    /// What follows, shared with another set: a call's own pairs behind those of its client are not
    /// copied for each call.
    more: Option<Arc<Vec<(Bytes, Bytes)>>>,
    size: usize,
}

impl Metadata {
    /// The most entries that one set holds.
    pub const MAX_ENTRIES: usize = 128;

    /// The largest [`size`](Self::size), in bytes.
    pub const MAX_BYTES: usize = 16 * 1024;

    /// What HTTP/2 counts per field beside its bytes (RFC 9113 §6.5.2).
    const OVERHEAD: usize = 32;

    /// No pairs.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            entries: None,
            more: None,
            size: 0,
        }
    }

    /// No pairs yet, and room for `n`.
    #[must_use]
    pub fn with_capacity(n: usize) -> Self {
        Self {
            entries: (n > 0).then(|| Arc::new(Vec::with_capacity(n.min(Self::MAX_ENTRIES)))),
            more: None,
            size: 0,
        }
    }

    fn pairs(&self) -> impl Iterator<Item = &(Bytes, Bytes)> + Clone {
        let entries = self.entries.as_deref().into_iter().flatten();
        entries.chain(self.more.as_deref().into_iter().flatten())
    }

    fn change(&mut self) -> &mut Vec<(Bytes, Bytes)> {
        let entries = Arc::make_mut(self.entries.get_or_insert_default());
        if let Some(more) = self.more.take() {
            entries.extend(Arc::unwrap_or_clone(more));
        }
        entries
    }

    /// Sets `name` to one value, dropping those it had.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a name or value that cannot travel, or a name reserved for the
    /// protocol (see [`is_reserved`](Self::is_reserved)); `ResourceExhausted` beyond the bounds.
    pub fn insert(&mut self, name: &str, value: impl AsRef<[u8]>) -> Result<()> {
        let (name, value) = pair(name, value.as_ref())?;
        check_value(&name, &value)?;
        let size = self
            .pairs()
            .filter(|(known, _)| *known == name)
            .fold(self.size, |size, (name, value)| {
                size - name.len() - value.len() - Self::OVERHEAD
            });
        let size = check_size(size, &name, &value)?;
        let entries = self.change();
        entries.retain(|(known, _)| *known != name);
        entries.push((name, value));
        self.size = size;
        Ok(())
    }

    /// Adds a value to `name`, keeping those it has.
    ///
    /// # Errors
    ///
    /// As [`insert`](Self::insert).
    pub fn append(&mut self, name: &str, value: impl AsRef<[u8]>) -> Result<()> {
        let (name, value) = pair(name, value.as_ref())?;
        self.push(name, value)
    }

    /// Adds a value without copying: for transports, whose buffers are [`Bytes`] already.
    ///
    /// `name` must be in lower case.
    ///
    /// # Errors
    ///
    /// As [`insert`](Self::insert).
    pub fn append_bytes(&mut self, name: Bytes, value: Bytes) -> Result<()> {
        check_name(&name)?;
        self.push(name, value)
    }

    fn push(&mut self, name: Bytes, value: Bytes) -> Result<()> {
        check_value(&name, &value)?;
        if self.len() >= Self::MAX_ENTRIES {
            return Err(Error::resource_exhausted("too many metadata entries")
                .with_context("limit", Self::MAX_ENTRIES));
        }
        self.size = check_size(self.size, &name, &value)?;
        self.change().push((name, value));
        Ok(())
    }

    /// The first value of `name`, if it is text.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.get_bytes(name)
            .and_then(|value| std::str::from_utf8(value).ok())
    }

    /// The first value of `name`, as bytes.
    #[must_use]
    pub fn get_bytes(&self, name: &str) -> Option<&Bytes> {
        self.pairs()
            .find(|(known, _)| known.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value)
    }

    /// Every value of `name`, in the order added.
    pub fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Bytes> {
        self.pairs()
            .filter(move |(known, _)| known.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value)
    }

    /// Whether `name` has a value.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.get_bytes(name).is_some()
    }

    /// Drops every value of `name`; says whether there was one.
    pub fn remove(&mut self, name: &str) -> bool {
        if !self.contains(name) {
            return false;
        }
        let mut removed = 0;
        self.change().retain(|(known, value)| {
            let keep = !known.eq_ignore_ascii_case(name.as_bytes());
            if !keep {
                removed += known.len() + value.len() + Self::OVERHEAD;
            }
            keep
        });
        self.size -= removed;
        true
    }

    /// Adds every pair of `other`.
    ///
    /// # Errors
    ///
    /// `ResourceExhausted` beyond the bounds; pairs before the one too many stay.
    pub fn extend(&mut self, other: &Self) -> Result<()> {
        if self.is_empty() {
            self.clone_from(other);
            return Ok(());
        }
        let fits = self.len() + other.len() <= Self::MAX_ENTRIES
            && self.size + other.size <= Self::MAX_BYTES;
        if fits && self.more.is_none() && other.more.is_none() {
            self.more.clone_from(&other.entries);
            self.size += other.size;
            return Ok(());
        }
        self.change().reserve(other.len());
        for (name, value) in other.pairs() {
            self.push(name.clone(), value.clone())?;
        }
        Ok(())
    }

    /// Whether both share their pairs, as clones do until one of them changes: quicker to tell than
    /// equality, and no more than a hint, since equal sets need not share.
    #[must_use]
    pub fn shares(&self, other: &Self) -> bool {
        let same = |one: &Option<Arc<Vec<_>>>, other: &Option<Arc<Vec<_>>>| match (one, other) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        };
        same(&self.entries, &other.entries) && same(&self.more, &other.more)
    }

    /// Every pair: name in lower case, value as bytes.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Bytes)> {
        self.pairs().map(|(name, value)| {
            (
                std::str::from_utf8(name).expect("names are checked to be ASCII"),
                value,
            )
        })
    }

    /// Every pair as shared bytes: for transports.
    pub fn iter_bytes(&self) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        self.pairs().map(|(name, value)| (name, value))
    }

    /// How many pairs there are.
    #[must_use]
    pub fn len(&self) -> usize {
        let len = |part: &Option<Arc<Vec<_>>>| part.as_ref().map_or(0, |part| part.len());
        len(&self.entries) + len(&self.more)
    }

    /// Whether there is no pair.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The size in bytes as HTTP/2 counts it: names, values and 32 per pair.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether a name belongs to the protocol and never appears in metadata: `grpc-…`, `:…`,
    /// `content-type`, `content-length`, `te`, and HTTP's connection headers.
    #[must_use]
    pub fn is_reserved(name: &str) -> bool {
        let name = name.as_bytes();
        name.first() == Some(&b':')
            || name.len() >= 5 && name[..5].eq_ignore_ascii_case(b"grpc-")
            || RESERVED
                .iter()
                .any(|reserved| name.eq_ignore_ascii_case(reserved.as_bytes()))
    }
}

const RESERVED: [&str; 10] = [
    "content-type",
    "content-length",
    "te",
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
    "host",
    "trailer",
];

impl PartialEq for Metadata {
    fn eq(&self, other: &Self) -> bool {
        self.size == other.size
            && self.len() == other.len()
            && self
                .iter()
                .all(|(name, _)| self.get_all(name).eq(other.get_all(name)))
    }
}

impl Eq for Metadata {}

/// Prints names and sizes; values may be credentials.
impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for (name, value) in self.iter() {
            map.entry(&name, &format_args!("{} bytes", value.len()));
        }
        map.finish()
    }
}

/// Name and value in one buffer, the name in lower case: what travels is shared, not copied again.
fn pair(name: &str, value: &[u8]) -> Result<(Bytes, Bytes)> {
    let mut buf = Vec::with_capacity(name.len() + value.len());
    buf.extend_from_slice(name.as_bytes());
    buf.make_ascii_lowercase();
    check_name(&buf)?;
    buf.extend_from_slice(value);
    let mut value = Bytes::from(buf);
    let name = value.split_to(name.len());
    Ok((name, value))
}

fn check_name(name: &[u8]) -> Result<()> {
    let valid = !name.is_empty()
        && name
            .iter()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.'));
    if !valid {
        return Err(Error::invalid_argument(
            "a metadata name has letters, digits, '-', '_' and '.' only",
        )
        .with_context("name", String::from_utf8_lossy(name).escape_debug()));
    }
    let text = std::str::from_utf8(name).expect("the name was just checked to be ASCII");
    if Metadata::is_reserved(text) {
        return Err(
            Error::invalid_argument("this metadata name belongs to the protocol")
                .with_context("name", text),
        );
    }
    Ok(())
}

fn check_value(name: &[u8], value: &[u8]) -> Result<()> {
    if name.ends_with(b"-bin") || value.iter().all(|byte| (0x20..0x7f).contains(byte)) {
        return Ok(());
    }
    Err(Error::invalid_argument(
        "a metadata value is printable ASCII; use a name that ends in '-bin' for other bytes",
    )
    .with_context("name", String::from_utf8_lossy(name)))
}

fn check_size(size: usize, name: &[u8], value: &[u8]) -> Result<usize> {
    let size = size + name.len() + value.len() + Metadata::OVERHEAD;
    if size > Metadata::MAX_BYTES {
        return Err(Error::resource_exhausted("the metadata are too large")
            .with_context("limit", Metadata::MAX_BYTES));
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn clones_share_their_pairs_until_one_changes() {
        let mut one = Metadata::new();
        assert!(one.shares(&Metadata::new()));
        one.insert("a", "1").unwrap();
        let mut other = one.clone();
        assert!(one.shares(&other) && !one.shares(&Metadata::new()));
        other.insert("a", "1").unwrap();
        assert!(one == other && !one.shares(&other));
        let mut before = Metadata::new();
        before.insert("b", "2").unwrap();
        let (mut longer, mut again) = (before.clone(), before);
        longer.extend(&one).unwrap();
        again.extend(&one).unwrap();
        assert!(longer.shares(&again) && !longer.shares(&one));
    }

    #[test]
    fn names_ignore_case_and_order() {
        let mut a = Metadata::new();
        a.insert("Foo", "1").unwrap();
        a.insert("bar", "2").unwrap();
        a.insert("fOO", "3").unwrap();
        let mut b = Metadata::new();
        b.append("BAR", "2").unwrap();
        b.append("foo", "3").unwrap();
        assert_eq!(a, b);
        assert_eq!(a.len(), 2);
        assert!(a.remove("FOO"));
        assert_ne!(a, b);
        assert_eq!(a.size(), 3 + 1 + 32);
    }

    #[test]
    fn several_values_keep_their_order() {
        let mut metadata = Metadata::new();
        metadata.append("a", "1").unwrap();
        metadata.append("a", "2").unwrap();
        assert_eq!(metadata.get_all("A").collect::<Vec<_>>(), ["1", "2"]);
    }

    #[test]
    fn what_cannot_travel_is_refused() {
        let mut metadata = Metadata::new();
        for name in [
            "",
            "a b",
            "ü",
            "a\n",
            "a\0",
            "grpc-status",
            "Content-Type",
            ":path",
            "TE",
        ] {
            let err = metadata.insert(name, "x").unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{name:?}");
        }
        for value in ["a\r\nb", "\0", "é", "\x7f"] {
            let err = metadata.insert("x", value).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{value:?}");
            metadata.insert("x-bin", value).unwrap();
        }
        assert_eq!(metadata.len(), 1);
    }

    #[test]
    fn size_and_number_are_bounded() {
        let mut metadata = Metadata::new();
        let err = metadata
            .insert("x", "y".repeat(Metadata::MAX_BYTES))
            .unwrap_err();
        assert_eq!(err.kind(), ErrorKind::ResourceExhausted);
        for _ in 0..Metadata::MAX_ENTRIES {
            metadata.append("x", "y").unwrap();
        }
        let err = metadata.append("x", "y").unwrap_err();
        assert_eq!(err.kind(), ErrorKind::ResourceExhausted);
        metadata.insert("x", "y").unwrap();
        assert_eq!(metadata.len(), 1);
    }

    #[test]
    fn debug_shows_no_value() {
        let mut metadata = Metadata::new();
        metadata.insert("authorization", "Bearer hunter2").unwrap();
        assert!(!format!("{metadata:?}").contains("hunter2"));
    }
}
