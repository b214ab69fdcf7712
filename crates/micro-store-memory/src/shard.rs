//! A part of a table's records, under one lock.

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::ops::Bound;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use micro_core::Clock;
use micro_store_core::{ListOptions, Record};

/// What a record takes beside its bytes, about: the map's place, the key's and the value's head.
const RECORD_BYTES: usize = 128;

/// What is kept of a record.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) value: Bytes,
    /// Seldom there, so it costs a pointer only.
    pub(crate) metadata: Option<Arc<BTreeMap<String, String>>>,
    pub(crate) expiry: Option<SystemTime>,
    pub(crate) version: u64,
}

impl Slot {
    pub(crate) fn is_live(&self, now: SystemTime) -> bool {
        self.expiry.is_none_or(|expiry| expiry > now)
    }

    pub(crate) fn record(&self, key: &str, keys_only: bool) -> Record {
        let mut record = Record::new(key, Bytes::new()).with_version(self.version);
        record.expiry = self.expiry;
        if !keys_only {
            record.value = self.value.clone();
            if let Some(metadata) = &self.metadata {
                record.metadata = BTreeMap::clone(metadata);
            }
        }
        record
    }

    /// The bytes of value and metadata.
    pub(crate) fn len(&self) -> usize {
        let metadata = self.metadata.iter().flat_map(|metadata| metadata.iter());
        let metadata: usize = metadata.map(|(name, value)| name.len() + value.len()).sum();
        self.value.len() + metadata
    }

    /// What it is charged under this key.
    pub(crate) fn charge(&self, key: &str) -> u64 {
        (RECORD_BYTES + key.len() + self.len()) as u64
    }
}

/// A part of a table's records.
#[derive(Debug, Default)]
pub(crate) struct Shard {
    records: BTreeMap<Box<str>, Slot>,
    /// What expires, the earliest first.
    expiries: BTreeSet<(SystemTime, Box<str>)>,
    /// The last version that was given: one sequence for all keys, which grows over deletions.
    version: u64,
}

impl Shard {
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The record, unless it has expired. The time is asked for only if it matters.
    pub(crate) fn get(&self, key: &str, clock: &dyn Clock) -> Option<&Slot> {
        let slot = self.records.get(key)?;
        (slot.expiry.is_none() || slot.is_live(clock.wall())).then_some(slot)
    }

    /// The version of the record, unless it has expired, and what it is charged, expired or not.
    pub(crate) fn look(&self, key: &str, clock: &dyn Clock) -> (Option<u64>, u64) {
        let Some(slot) = self.records.get(key) else {
            return (None, 0);
        };
        let live = slot.expiry.is_none() || slot.is_live(clock.wall());
        (live.then_some(slot.version), slot.charge(key))
    }

    pub(crate) fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    /// Puts a record in its place.
    pub(crate) fn put(&mut self, key: &str, slot: Slot) {
        let expiry = slot.expiry;
        let old = match self.records.get_mut(key) {
            Some(place) => std::mem::replace(place, slot).expiry,
            None => {
                self.records.insert(key.into(), slot);
                None
            }
        };
        self.forget_expiry(key, old);
        if let Some(at) = expiry {
            self.expiries.insert((at, key.into()));
        }
    }

    /// Takes a record out; answers what it was charged.
    pub(crate) fn remove(&mut self, key: &str) -> Option<u64> {
        let slot = self.records.remove(key)?;
        self.forget_expiry(key, slot.expiry);
        Some(slot.charge(key))
    }

    fn forget_expiry(&mut self, key: &str, expiry: Option<SystemTime>) {
        if let Some(at) = expiry {
            self.expiries.remove(&(at, key.into()));
        }
    }

    /// Whether any record expires at some time.
    pub(crate) fn has_expiries(&self) -> bool {
        !self.expiries.is_empty()
    }

    /// Takes out the record that expired first, if one has; with what it was charged.
    pub(crate) fn pop_expired(&mut self, now: SystemTime) -> Option<(Box<str>, u64)> {
        let (at, _) = self.expiries.first()?;
        if *at > now {
            return None;
        }
        let (_, key) = self.expiries.pop_first()?;
        let freed = self
            .records
            .remove(&key)
            .map_or(0, |slot| slot.charge(&key));
        Some((key, freed))
    }

    /// The records behind the cursor that may match, in order.
    pub(crate) fn range(&self, opts: &ListOptions) -> btree_map::Range<'_, Box<str>, Slot> {
        let prefix = opts.prefix.as_str();
        let begin = match opts.after.as_ref().map(|cursor| cursor.key()) {
            Some(key) if key >= prefix => Bound::Excluded(key),
            _ => Bound::Included(prefix),
        };
        self.records.range::<str, _>((begin, Bound::Unbounded))
    }
}
