//! What a store holds, and what its methods answer.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::{Condition, DeleteOptions, Error, ErrorKind, Fence, Result, Scope, WriteOptions};

/// A value under a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// The key: 1 to [`MAX_KEY`](crate::MAX_KEY) bytes of any text.
    pub key: String,
    /// The value: at most [`MAX_VALUE`](crate::MAX_VALUE) bytes.
    pub value: Bytes,
    /// Facts about the value; at most [`MAX_METADATA`](crate::MAX_METADATA) bytes together.
    pub metadata: BTreeMap<String, String>,
    /// When it ceases to be there, by the store's clock; `None` is never. It is kept in whole
    /// milliseconds, rounded up.
    pub expiry: Option<SystemTime>,
    /// The version that the store gave it. Every write of a key gets a higher one, also after the
    /// record was deleted or has expired. Ignored when writing.
    pub version: u64,
}

impl Record {
    /// A record that never expires.
    #[must_use]
    pub fn new(key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        Self {
            key: key.into(),
            value: value.into(),
            ..Self::default()
        }
    }

    /// Adds a fact.
    #[must_use]
    pub fn with_metadata(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(name.into(), value.into());
        self
    }

    /// Sets [`expiry`](Self::expiry).
    #[must_use]
    pub fn with_expiry(mut self, expiry: SystemTime) -> Self {
        self.expiry = Some(expiry);
        self
    }

    /// Sets [`version`](Self::version): for stores.
    #[must_use]
    pub fn with_version(mut self, version: u64) -> Self {
        self.version = version;
        self
    }

    /// Whether it is not there any more at `now`.
    #[must_use]
    pub fn is_expired(&self, now: SystemTime) -> bool {
        self.expiry.is_some_and(|expiry| expiry <= now)
    }

    /// The bytes of the metadata, names and values together.
    #[must_use]
    pub fn metadata_bytes(&self) -> usize {
        let bytes = |(name, value): (&String, &String)| name.len() + value.len();
        self.metadata.iter().map(bytes).sum()
    }

    /// The value, read as JSON.
    ///
    /// # Errors
    ///
    /// `Corrupt` if the value is not the JSON of a `T`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.value).map_err(|err| {
            Error::new(
                ErrorKind::Corrupt,
                "the record's value is not the JSON of what was asked for",
            )
            .with_context("key", self.key.escape_debug())
            .with_source(err)
        })
    }
}

/// How much a write survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Durability {
    /// Nothing: it is gone with the process.
    Memory,
    /// The end of the process, also by `kill -9`; not a power cut.
    Process,
    /// A power cut of the store's machine.
    Power,
    /// The loss of a minority of the store's machines.
    Quorum,
}

/// What a write has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Written {
    /// The version that the record has now. In the answer to a [batch](crate::Store::batch), a
    /// deletion has the version of its happening, or 0 if there was no record.
    pub version: u64,
    /// How much it survives.
    pub durability: Durability,
}

impl Written {
    /// A version and what it survives: for stores.
    #[must_use]
    pub const fn new(version: u64, durability: Durability) -> Self {
        Self {
            version,
            durability,
        }
    }
}

/// What a deletion has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Deleted {
    /// Whether there was a record.
    pub existed: bool,
    /// How much the deletion survives.
    pub durability: Durability,
}

impl Deleted {
    /// Whether there was a record, and what its deletion survives: for stores.
    #[must_use]
    pub const fn new(existed: bool, durability: Durability) -> Self {
        Self {
            existed,
            durability,
        }
    }
}

/// A step of a [batch](crate::Store::batch).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// Writes a record.
    Write {
        /// Where.
        scope: Scope,
        /// What.
        record: Record,
        /// How.
        options: WriteOptions,
    },
    /// Deletes a record.
    Delete {
        /// Where.
        scope: Scope,
        /// Which.
        key: String,
        /// How.
        options: DeleteOptions,
    },
}

impl Operation {
    /// Writes a record, whatever is there.
    #[must_use]
    pub fn write(scope: &Scope, record: Record) -> Self {
        Self::Write {
            scope: scope.clone(),
            record,
            options: WriteOptions::default(),
        }
    }

    /// Deletes a record, whatever is there.
    #[must_use]
    pub fn delete(scope: &Scope, key: impl Into<String>) -> Self {
        Self::Delete {
            scope: scope.clone(),
            key: key.into(),
            options: DeleteOptions::default(),
        }
    }

    /// Writes a record, with options.
    #[must_use]
    pub fn write_with(scope: &Scope, record: Record, options: WriteOptions) -> Self {
        Self::Write {
            scope: scope.clone(),
            record,
            options,
        }
    }

    /// Deletes a record, with options.
    #[must_use]
    pub fn delete_with(scope: &Scope, key: impl Into<String>, options: DeleteOptions) -> Self {
        Self::Delete {
            scope: scope.clone(),
            key: key.into(),
            options,
        }
    }

    /// Where it happens.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        match self {
            Self::Write { scope, .. } | Self::Delete { scope, .. } => scope,
        }
    }

    /// The lock that the caller holds.
    #[must_use]
    pub fn fence(&self) -> Option<&Fence> {
        match self {
            Self::Write { options, .. } => options.fence.as_ref(),
            Self::Delete { options, .. } => options.fence.as_ref(),
        }
    }

    /// What must hold.
    #[must_use]
    pub fn condition(&self) -> Condition {
        match self {
            Self::Write { options, .. } => options.condition,
            Self::Delete { options, .. } => options.condition,
        }
    }

    /// The least that it must survive.
    #[must_use]
    pub fn durability(&self) -> Option<Durability> {
        match self {
            Self::Write { options, .. } => options.durability,
            Self::Delete { options, .. } => options.durability,
        }
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Write { record, .. } => &record.key,
            Self::Delete { key, .. } => key,
        }
    }
}

/// A part of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page {
    /// The records, in the order of their keys' bytes.
    pub records: Vec<Record>,
    /// Where to go on; `None` if nothing follows.
    pub next: Option<Cursor>,
}

impl Page {
    /// Records, and where to go on: for stores.
    #[must_use]
    pub fn new(records: Vec<Record>, next: Option<Cursor>) -> Self {
        Self { records, next }
    }
}

/// A place in a listing: behind a key. It stays good whatever is written or deleted meanwhile.
///
/// As text it can be kept and sent to others; it names a key, so it is as secret as the keys are.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Cursor(String);

impl Cursor {
    /// The place behind `key`.
    #[must_use]
    pub fn after(key: impl Into<String>) -> Self {
        Self(key.into())
    }

    /// The key that it stands behind: for stores.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cursor(after {:?})", self.0)
    }
}

/// What happened to a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChangeKind {
    /// It was written.
    Written,
    /// It was deleted, or had expired and was removed: some time after its expiry.
    Deleted,
}

/// A change seen by a [watch](crate::Store::watch).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// What happened.
    pub kind: ChangeKind,
    /// The record as it is now; of a deleted one, only key and the version of the deletion count.
    pub record: Record,
}

impl Change {
    /// A change: for stores.
    #[must_use]
    pub fn new(kind: ChangeKind, record: Record) -> Self {
        Self { kind, record }
    }
}
