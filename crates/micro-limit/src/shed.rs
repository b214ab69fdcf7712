//! Refusing a share of the calls while all of them are slow.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use micro_core::{Context, Error, Live, Random, Result, SystemRandom, async_trait};
use micro_transport_core::{Middleware, Next, Request, Response};

use crate::bucket::Epoch;
use crate::passes_first;

/// When [`LoadShed`] refuses calls.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Shedding {
    /// What even the quickest calls should not take longer than.
    pub target: Duration,
    /// How long they must have. Default 100 ms, at least 1 ms.
    pub interval: Duration,
    /// The largest share of the calls that is refused, 0 to 1. Default 0.95.
    pub most: f64,
}

impl Shedding {
    /// Sheds when even the quickest calls take longer than `target`.
    #[must_use]
    pub const fn new(target: Duration) -> Self {
        Self {
            target,
            interval: Duration::from_millis(100),
            most: 0.95,
        }
    }

    /// Sets [`interval`](Self::interval).
    #[must_use]
    pub const fn with_interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Sets [`most`](Self::most).
    #[must_use]
    pub const fn with_most(mut self, most: f64) -> Self {
        self.most = most;
        self
    }
}

/// Refuses a share of the calls with `ResourceExhausted` while even the quickest ones take too long:
/// for services whose limit nobody knows, but whose latency somebody does.
///
/// A latency that has been above the target for a whole interval, in its *minimum*, is a standing
/// queue and not a burst (CoDel, RFC 8289 §3). In each such interval the share that is refused grows
/// by an eighth of what is still admitted; in each other one a quarter of it is taken back. A
/// stream counts with the time to its first answer.
pub struct LoadShed {
    settings: Live<Shedding>,
    epoch: Epoch,
    random: Arc<dyn Random>,
    /// The number of the interval.
    interval: AtomicU64,
    /// The least latency in it, in ns.
    least: AtomicU64,
    /// How many calls ended in it.
    ended: AtomicU32,
    /// What is refused, in thousandths.
    share: AtomicU32,
}

/// So few calls say nothing.
const ENOUGH: u32 = 8;

impl LoadShed {
    /// Sheds calls.
    #[must_use]
    pub fn new(settings: impl Into<Live<Shedding>>) -> Self {
        Self {
            settings: settings.into(),
            epoch: Epoch::new(),
            random: Arc::new(SystemRandom),
            interval: AtomicU64::new(0),
            least: AtomicU64::new(u64::MAX),
            ended: AtomicU32::new(0),
            share: AtomicU32::new(0),
        }
    }

    /// Sets where chance comes from.
    #[must_use]
    pub fn with_random(mut self, random: Arc<dyn Random>) -> Self {
        self.random = random;
        self
    }

    /// The share of the calls that is refused just now, 0 to 1.
    #[must_use]
    pub fn share(&self) -> f64 {
        f64::from(self.share.load(Ordering::Relaxed)) / 1000.0
    }

    /// Judges the interval that is over, if one is.
    fn turn(&self, settings: &Shedding, now: u64) {
        let length = settings.interval.as_nanos().max(1_000_000);
        let at = u64::try_from(u128::from(now) / length).unwrap_or(u64::MAX);
        let before = self.interval.load(Ordering::Relaxed);
        // Only one judges; what ends at this very moment counts here or there.
        if at <= before
            || self
                .interval
                .compare_exchange(before, at, Ordering::Relaxed, Ordering::Relaxed)
                .is_err()
        {
            return;
        }
        let least = self.least.swap(u64::MAX, Ordering::Relaxed);
        let ended = self.ended.swap(0, Ordering::Relaxed);
        let share = self.share.load(Ordering::Relaxed);
        let slow = ended >= ENOUGH && u128::from(least) > settings.target.as_nanos();
        let most = (settings.most.clamp(0.0, 1.0) * 1000.0) as u32;
        let share = if slow {
            (share + 1000_u32.saturating_sub(share).div_ceil(8)).min(most)
        } else {
            let gone = u32::try_from(at - before).unwrap_or(u32::MAX).min(64);
            (0..gone).fold(share, |share, _| share - share.div_ceil(4))
        };
        self.share.store(share, Ordering::Relaxed);
    }
}

#[async_trait]
impl Middleware for LoadShed {
    async fn call(&self, cx: &Context, request: Request, next: Next<'_>) -> Result<Response> {
        if passes_first(&request.path) {
            return next.run(cx, request).await;
        }
        let settings = *self.settings.get();
        let start = cx.now();
        self.turn(&settings, self.epoch.nanos(start));
        let share = self.share.load(Ordering::Relaxed);
        if share > 0 && self.random.next_u64() % 1000 < u64::from(share) {
            return Err(Error::resource_exhausted("the service is overloaded")
                .with_operation("limit.shed")
                .with_context("share", self.share())
                .with_unprocessed(true));
        }
        let outcome = next.run(cx, request).await;
        if outcome.is_ok() {
            let took = cx.now().saturating_duration_since(start).as_nanos();
            let took = u64::try_from(took).unwrap_or(u64::MAX);
            self.least.fetch_min(took, Ordering::Relaxed);
            self.ended.fetch_add(1, Ordering::Relaxed);
        }
        outcome
    }
}

impl fmt::Debug for LoadShed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadShed")
            .field("settings", &self.settings)
            .field("share", &self.share())
            .finish_non_exhaustive()
    }
}
