//! So many calls a second.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use micro_core::{Context, Error, Live, Result, async_trait};
use micro_transport_core::{ErrorExt as _, Middleware, Next, Request, Response};

use crate::bucket::{Bucket, Epoch, Pace};
use crate::passes_first;

/// How many calls a second [`RateLimit`] admits.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Rate {
    /// Calls a second, more than 0 and at most 1e9; other values are brought into this range.
    pub per_second: f64,
    /// How many calls may come at once after a pause, at least 1.
    pub burst: u32,
}

impl Rate {
    /// So many calls a second, and so many at once.
    #[must_use]
    pub const fn new(per_second: f64, burst: u32) -> Self {
        Self { per_second, burst }
    }
}

/// Whose calls share a rate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Key {
    /// All calls share one.
    #[default]
    All,
    /// Each method has its own.
    Method,
    /// Each address that calls has its own, whatever its port. For servers; behind a proxy that is
    /// the proxy's.
    Peer,
    /// Each verified identity has its own; callers without one share one.
    Caller,
    /// Each value of this metadata name has its own; calls without it share one. Nobody verifies
    /// metadata: a caller may name any value.
    Metadata(Cow<'static, str>),
}

/// Refuses calls beyond a rate, with `ResourceExhausted` and a `RetryInfo` that says when one more
/// will be admitted. Nothing waits.
///
/// It is a token bucket in one atomic (GCRA). With a [`Key`] there is one per key, behind short
/// locks of sixteen shards; at most [`with_keys`](Self::with_keys) of them are kept, and keys for
/// which there is no room share one bucket.
pub struct RateLimit {
    rate: Live<Rate>,
    key: Key,
    epoch: Epoch,
    /// Of all calls, or of keys without room.
    shared: Bucket,
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    keys: usize,
}

const SHARDS: usize = 16;

#[derive(Debug, Default)]
struct Shard {
    buckets: HashMap<u64, Bucket>,
    /// When full ones were last dropped, in ns.
    swept: u64,
}

/// Looking through a full shard costs time: not more often than this.
const SWEEP: u64 = 100_000_000;

impl RateLimit {
    /// Limits all calls together.
    #[must_use]
    pub fn new(rate: impl Into<Live<Rate>>) -> Self {
        Self {
            rate: rate.into(),
            key: Key::All,
            epoch: Epoch::new(),
            shared: Bucket::default(),
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            keys: 10_000,
        }
    }

    /// Limits the calls of each key by themselves.
    #[must_use]
    pub fn per(mut self, key: Key) -> Self {
        self.key = key;
        self
    }

    /// The most keys that are kept, at least 16. Default 10,000, at 24 bytes or so each.
    #[must_use]
    pub fn with_keys(mut self, keys: usize) -> Self {
        self.keys = keys.max(SHARDS);
        self
    }

    fn admit(&self, cx: &Context, request: &Request) -> Result<()> {
        let (pace, rate) = {
            let rate = self.rate.get();
            (Pace::new(rate.per_second, rate.burst), *rate)
        };
        let now = self.epoch.nanos(cx.now());
        let taken = match self.key(cx, request) {
            None => self.shared.take(pace, now),
            Some(key) => self.take(key, pace, now),
        };
        taken.map_err(|wait| refused(rate.per_second, wait))
    }

    fn key(&self, cx: &Context, request: &Request) -> Option<u64> {
        let hash = |text: &str| Some(self.hasher.hash_one(text));
        match &self.key {
            Key::All => None,
            Key::Method => hash(&request.path),
            Key::Peer => {
                let address = &request.peer.as_ref()?.address;
                hash(
                    address
                        .rsplit_once(':')
                        .map_or(&**address, |(host, _)| host),
                )
            }
            Key::Caller => hash(&cx.identity()?.id),
            Key::Metadata(name) => {
                let known = cx.metadata().get(name);
                hash(known.or_else(|| request.metadata.get(name))?)
            }
        }
    }

    fn take(&self, key: u64, pace: Pace, now: u64) -> Result<(), Duration> {
        let mut shard = self.shards[key as usize % SHARDS]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = shard.buckets.get(&key) {
            return bucket.take(pace, now);
        }
        let most = self.keys / SHARDS;
        if shard.buckets.len() >= most && now >= shard.swept.saturating_add(SWEEP) {
            shard.swept = now;
            shard.buckets.retain(|_, bucket| !bucket.is_full(now));
        }
        if shard.buckets.len() >= most {
            drop(shard);
            return self.shared.take(pace, now);
        }
        shard.buckets.entry(key).or_default().take(pace, now)
    }
}

pub(crate) fn refused(per_second: f64, wait: Duration) -> Error {
    Error::resource_exhausted("too many calls a second")
        .with_operation("limit.rate")
        .with_context("per_second", per_second)
        .with_unprocessed(true)
        .with_retry_after(wait)
}

#[async_trait]
impl Middleware for RateLimit {
    async fn call(&self, cx: &Context, request: Request, next: Next<'_>) -> Result<Response> {
        if !passes_first(&request.path) {
            self.admit(cx, &request)?;
        }
        next.run(cx, request).await
    }
}

impl fmt::Debug for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimit")
            .field("rate", &self.rate)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}
