//! When a lease is renewed, and when its holder gives it up.

use std::time::Duration;

/// The times of a lease, all parts of its time to live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timings {
    /// After so long the backend gives it to somebody else.
    pub ttl: Duration,
    /// So long after it was asked for, its holder no longer counts on it.
    pub held: Duration,
    /// So long after a renewal the next one is begun.
    pub renew: Duration,
    /// So long after a renewal that failed.
    pub retry: Duration,
}

impl Timings {
    /// The times that belong to a time to live.
    #[must_use]
    pub fn new(ttl: Duration) -> Self {
        Self {
            ttl,
            held: ttl - ttl / 6,
            renew: ttl / 3,
            retry: ttl / 20,
        }
    }
}
