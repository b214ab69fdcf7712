//! How long the calls of a method take, for hedging after a percentile.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

/// Four buckets for each doubling, from 64 µs to a minute and beyond: at most 19 % off.
const BUCKETS: usize = 84;
const SMALLEST_US: u64 = 64;

/// What is known goes after so long, half of it at a time.
const HALF: Duration = Duration::from_secs(15);

/// The fewest calls that a percentile can be told from.
const ENOUGH: u32 = 20;

/// A histogram of the latencies of the last 15 to 30 seconds. Recording takes no lock.
pub(crate) struct Latencies {
    halves: [[AtomicU32; BUCKETS]; 2],
    /// Which half is being written, as a count of halves since `start`.
    current: AtomicU64,
    start: Instant,
}

impl Latencies {
    fn new(now: Instant) -> Self {
        Self {
            halves: std::array::from_fn(|_| std::array::from_fn(|_| AtomicU32::new(0))),
            current: AtomicU64::new(0),
            start: now,
        }
    }

    pub(crate) fn record(&self, took: Duration, now: Instant) {
        let half = self.turn(now);
        let bucket = bucket(took);
        self.halves[half][bucket].fetch_add(1, Ordering::Relaxed);
    }

    /// What so many of a hundred calls took at most; `None` while too few are known.
    pub(crate) fn percentile(&self, percent: u32, now: Instant) -> Option<Duration> {
        self.turn(now);
        let mut counts = [0_u32; BUCKETS];
        let mut total = 0_u32;
        for half in &self.halves {
            for (count, bucket) in counts.iter_mut().zip(half) {
                let seen = bucket.load(Ordering::Relaxed);
                *count = count.saturating_add(seen);
                total = total.saturating_add(seen);
            }
        }
        if total < ENOUGH {
            return None;
        }
        let wanted = u64::from(total) * u64::from(percent);
        let mut below = 0_u64;
        for (index, count) in counts.iter().enumerate() {
            below += u64::from(*count) * 100;
            if below >= wanted {
                return Some(upper(index));
            }
        }
        Some(upper(BUCKETS - 1))
    }

    /// Begins another half when the time has come; says which one is written.
    fn turn(&self, now: Instant) -> usize {
        let since = now.saturating_duration_since(self.start).as_millis();
        let at = u64::try_from(since / HALF.as_millis()).unwrap_or(u64::MAX);
        let before = self.current.fetch_max(at, Ordering::Relaxed);
        if at > before {
            // What is recorded at this very moment may get lost, which does no harm.
            let stale = if at - before > 1 { 0..2 } else { 0..1 };
            for back in stale {
                let half = ((at + back) % 2) as usize;
                for bucket in &self.halves[half] {
                    bucket.store(0, Ordering::Relaxed);
                }
            }
        }
        (at.max(before) % 2) as usize
    }
}

fn bucket(took: Duration) -> usize {
    let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    if us <= SMALLEST_US {
        return 0;
    }
    let quarters = (us as f64 / SMALLEST_US as f64).log2() * 4.0;
    (quarters.ceil() as usize).min(BUCKETS - 1)
}

fn upper(bucket: usize) -> Duration {
    Duration::from_secs_f64(SMALLEST_US as f64 * (bucket as f64 / 4.0).exp2() / 1e6)
}

impl fmt::Debug for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Latencies").finish_non_exhaustive()
    }
}

/// The most methods whose latencies are kept.
const MOST: usize = 1024;

type Key = (Arc<str>, Arc<str>);

/// The latencies of every method that is hedged by a percentile, by service and path.
#[derive(Default)]
pub(crate) struct Table {
    all: ArcSwap<HashMap<Key, Arc<Latencies>>>,
    adding: Mutex<()>,
}

impl Table {
    pub(crate) fn of(&self, service: &Arc<str>, path: &Arc<str>, now: Instant) -> Arc<Latencies> {
        let key = (Arc::clone(service), Arc::clone(path));
        if let Some(known) = self.all.load().get(&key) {
            return Arc::clone(known);
        }
        let _one = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = HashMap::clone(&self.all.load());
        if let Some(known) = all.get(&key) {
            return Arc::clone(known);
        }
        if all.len() >= MOST {
            // They are learnt again within seconds.
            all.clear();
        }
        let fresh = Arc::new(Latencies::new(now));
        all.insert(key, Arc::clone(&fresh));
        self.all.store(Arc::new(all));
        fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs a beginning of time"
    )]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_percentile_is_at_most_a_fifth_too_high() {
        let start = start();
        let latencies = Latencies::new(start);
        assert_eq!(latencies.percentile(95, start), None);
        for ms in 1..=100 {
            latencies.record(Duration::from_millis(ms), start);
        }
        for (percent, ms) in [(50, 50.0), (95, 95.0), (99, 99.0)] {
            let found = latencies.percentile(percent, start).unwrap();
            let ratio = found.as_secs_f64() * 1e3 / ms;
            assert!((1.0..1.2).contains(&ratio), "p{percent}: {found:?}");
        }
    }

    #[test]
    fn what_is_old_is_forgotten() {
        let start = start();
        let latencies = Latencies::new(start);
        for _ in 0..100 {
            latencies.record(Duration::from_secs(1), start);
        }
        let soon = start + HALF;
        assert!(latencies.percentile(95, soon) >= Some(Duration::from_secs(1)));
        for _ in 0..100 {
            latencies.record(Duration::from_millis(1), soon);
        }
        assert!(latencies.percentile(95, soon) >= Some(Duration::from_secs(1)));
        let later = start + 2 * HALF;
        assert!(latencies.percentile(95, later) < Some(Duration::from_millis(2)));
        assert_eq!(latencies.percentile(95, start + 9 * HALF), None);
    }

    #[test]
    fn the_longest_and_the_shortest_have_a_bucket() {
        let start = start();
        let latencies = Latencies::new(start);
        for took in [Duration::ZERO, Duration::MAX] {
            for _ in 0..ENOUGH {
                latencies.record(took, start);
            }
        }
        assert!(latencies.percentile(99, start) > Some(Duration::from_secs(60)));
        assert_eq!(
            latencies.percentile(1, start),
            Some(Duration::from_micros(64))
        );
    }

    #[test]
    fn the_table_is_bounded() {
        let start = start();
        let table = Table::default();
        let service = Arc::from("a");
        for i in 0..3000 {
            let path = Arc::from(format!("/a.A/{i}"));
            let first = table.of(&service, &path, start);
            assert!(Arc::ptr_eq(&first, &table.of(&service, &path, start)));
        }
        assert!(table.all.load().len() <= MOST);
    }
}
