//! What can be chosen about the memory in front of a store.

use std::time::Duration;

/// The settings of a [`CacheStore`](crate::CacheStore).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheConfig {
    /// How long a record is served from memory before it is asked for again: so long, at most, a
    /// change made elsewhere is not seen. Zero keeps none. Default 5 s.
    pub ttl: Duration,
    /// How long it is remembered that there is no record. Zero does not. Default 1 s.
    pub absent_ttl: Duration,
    /// What everything that is kept takes together, in bytes; what is used least makes room. A record
    /// that would take more than a 64th of it is not kept. Default 64 MiB.
    pub max_bytes: u64,
    /// By how much the clock of a [shared](micro_store_core::Capabilities::shared) store, by which its
    /// records expire, may differ from ours: they are asked for again so long before. Default 1 s.
    pub clock_skew: Duration,
    /// Of how many tables the changes are watched, if the store below can: they are then seen sooner
    /// than after [`ttl`](Self::ttl). The first tables that are read are taken. Default 64.
    pub watched_tables: usize,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(5),
            absent_ttl: Duration::from_secs(1),
            max_bytes: 64 << 20,
            clock_skew: Duration::from_secs(1),
            watched_tables: 64,
        }
    }
}

impl CacheConfig {
    /// Sets [`ttl`](Self::ttl).
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets [`absent_ttl`](Self::absent_ttl).
    #[must_use]
    pub fn with_absent_ttl(mut self, absent_ttl: Duration) -> Self {
        self.absent_ttl = absent_ttl;
        self
    }

    /// Sets [`max_bytes`](Self::max_bytes).
    #[must_use]
    pub fn with_max_bytes(mut self, max_bytes: u64) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    /// Sets [`clock_skew`](Self::clock_skew).
    #[must_use]
    pub fn with_clock_skew(mut self, clock_skew: Duration) -> Self {
        self.clock_skew = clock_skew;
        self
    }

    /// Sets [`watched_tables`](Self::watched_tables).
    #[must_use]
    pub fn with_watched_tables(mut self, watched_tables: usize) -> Self {
        self.watched_tables = watched_tables;
        self
    }
}
