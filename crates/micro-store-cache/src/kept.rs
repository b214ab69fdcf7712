//! What is kept in memory, and for how long it may be served.

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use micro_core::Clock;
use micro_store_core::{Record, Scope};
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, Equivalent, OptionsBuilder, Weighter};

use crate::CacheConfig;

/// So many locks share what is kept.
const SHARDS: usize = 16;

/// No more than this part of the whole is a single record's.
const LARGEST: u64 = 64;

/// What a record takes beside its bytes, about: two places in maps, heads of texts and values.
const ENTRY_BYTES: usize = 256;

/// What a fact of a record's metadata takes beside its bytes, about.
const FACT_BYTES: usize = 64;

/// Where a record lives.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) scope: Scope,
    pub(crate) key: Box<str>,
}

impl Place {
    pub(crate) fn new(scope: &Scope, key: &str) -> Self {
        Self {
            scope: scope.clone(),
            key: key.into(),
        }
    }
}

/// A [`Place`] that is only looked up. Its fields are those, in their order: the hashes are the same.
#[derive(Hash)]
struct Asked<'a> {
    scope: &'a Scope,
    key: &'a str,
}

impl Equivalent<Place> for Asked<'_> {
    fn equivalent(&self, place: &Place) -> bool {
        *self.key == *place.key && *self.scope == place.scope
    }
}

/// What is known of a place.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Without its key, which stands beside; `None` if there is no record.
    record: Option<Record>,
    /// Asked for again from then on; `None` is never.
    until: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Bytes;

impl Weighter<Place, Arc<Entry>> for Bytes {
    fn weight(&self, place: &Place, entry: &Arc<Entry>) -> u64 {
        weight(&place.key, entry.record.as_ref())
    }
}

fn weight(key: &str, record: Option<&Record>) -> u64 {
    let of_record = record.map_or(0, |record| {
        record.value.len() + record.metadata_bytes() + record.metadata.len() * FACT_BYTES
    });
    (ENTRY_BYTES + key.len() + of_record) as u64
}

/// What is kept.
pub(crate) struct Kept {
    entries: Cache<Place, Arc<Entry>, Bytes>,
    config: CacheConfig,
    clock: Arc<dyn Clock>,
    /// So long before its time a record counts as expired.
    early: Duration,
}

/// What is known of a place: a record, or that there is none.
pub(crate) type Known = Option<Record>;

impl Kept {
    /// `shared`: whether the store below may count expiry by another clock.
    pub(crate) fn new(config: CacheConfig, clock: Arc<dyn Clock>, shared: bool) -> Self {
        let options = OptionsBuilder::new()
            .shards(SHARDS)
            .estimated_items_capacity((config.max_bytes / (2 * ENTRY_BYTES as u64)) as usize)
            .weight_capacity(config.max_bytes)
            .build()
            .expect("capacities are given");
        let early = if shared {
            config.clock_skew
        } else {
            Duration::ZERO
        };
        Self {
            entries: Cache::with_options(
                options,
                Bytes,
                DefaultHashBuilder::default(),
                DefaultLifecycle::default(),
            ),
            config,
            clock,
            early,
        }
    }

    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// When what was asked for at `asked` is to be asked for again; `None` is never.
    pub(crate) fn until(&self, asked: Instant) -> Option<Instant> {
        asked.checked_add(self.config.ttl)
    }

    /// What may be served.
    pub(crate) fn get(&self, scope: &Scope, key: &str) -> Option<Known> {
        let entry = self.entries.get(&Asked { scope, key })?;
        if entry.until.is_some_and(|until| until <= self.clock.now()) {
            return None;
        }
        let Some(record) = &entry.record else {
            return Some(None);
        };
        if let Some(expiry) = record.expiry
            && self.has_expired(expiry)
        {
            return None;
        }
        let mut record = record.clone();
        record.key = key.to_owned();
        Some(Some(record))
    }

    fn has_expired(&self, expiry: SystemTime) -> bool {
        let later = self.clock.wall().checked_add(self.early);
        later.is_none_or(|later| expiry <= later)
    }

    /// What is to be kept of the answer to a question of this time; nothing if it is too large.
    pub(crate) fn entry(
        &self,
        key: &str,
        known: Option<&Record>,
        asked: Instant,
    ) -> Option<Arc<Entry>> {
        let ttl = match known {
            Some(_) => self.config.ttl,
            None => self.config.absent_ttl,
        };
        if ttl.is_zero() || weight(key, known) > self.config.max_bytes / LARGEST {
            return None;
        }
        let record = known.map(|record| {
            // A copy, for the value may be a small part of a large buffer, which would stay.
            let mut kept = Record::new("", record.value.to_vec());
            kept.metadata.clone_from(&record.metadata);
            kept.expiry = record.expiry;
            kept.version = record.version;
            kept
        });
        let until = asked.checked_add(ttl);
        Some(Arc::new(Entry { record, until }))
    }

    pub(crate) fn put(&self, place: Place, entry: Arc<Entry>) {
        self.entries.insert(place, entry);
    }

    pub(crate) fn forget(&self, scope: &Scope, key: &str) {
        self.entries.remove(&Asked { scope, key });
    }

    /// Forgets what is older than this version.
    pub(crate) fn forget_older(&self, scope: &Scope, key: &str, version: u64) {
        self.entries.remove_if(&Asked { scope, key }, |entry| {
            let known = entry.record.as_ref();
            known.is_none_or(|record| record.version < version)
        });
    }

    pub(crate) fn forget_table(&self, scope: &Scope) {
        self.entries.retain(|place, _| place.scope != *scope);
    }

    pub(crate) fn clear(&self) {
        self.entries.clear();
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept")
            .field("config", &self.config)
            .field("records", &self.entries.len())
            .field("bytes", &self.entries.weight())
            .finish_non_exhaustive()
    }
}
