//! How many calls a second.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The times of one limiter, as nanoseconds since it was made, so that they fit in an atomic.
#[derive(Debug)]
pub(crate) struct Epoch(std::sync::OnceLock<Instant>);

impl Epoch {
    pub(crate) const fn new() -> Self {
        Self(std::sync::OnceLock::new())
    }

    pub(crate) fn nanos(&self, now: Instant) -> u64 {
        let start = self.0.get_or_init(|| now);
        u64::try_from(now.saturating_duration_since(*start).as_nanos()).unwrap_or(u64::MAX / 2)
    }
}

/// A rate that is within its bounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Between two calls, in ns.
    interval: u64,
    /// How far ahead of time calls may be, in ns.
    ahead: u64,
}

impl Pace {
    pub(crate) fn new(per_second: f64, burst: u32) -> Self {
        // From one in a century to one each nanosecond; NaN is the smallest.
        let per_second = per_second.clamp(3e-10, 1e9).max(3e-10);
        let interval = (1e9 / per_second) as u64;
        Self {
            interval,
            ahead: interval.saturating_mul(u64::from(burst.max(1))),
        }
    }
}

/// A token bucket in one atomic: the generic cell rate algorithm (ITU-T I.371), which keeps the
/// time at which the bucket would be full again.
#[derive(Debug, Default)]
pub(crate) struct Bucket(AtomicU64);

impl Bucket {
    /// Takes one, or says how long until there is one.
    pub(crate) fn take(&self, pace: Pace, now: u64) -> Result<(), Duration> {
        let mut full_at = self.0.load(Ordering::Relaxed);
        loop {
            let next = full_at.max(now).saturating_add(pace.interval);
            let early = next.saturating_sub(now).saturating_sub(pace.ahead);
            if early > 0 {
                return Err(Duration::from_nanos(early));
            }
            let swapped =
                self.0
                    .compare_exchange_weak(full_at, next, Ordering::Relaxed, Ordering::Relaxed);
            match swapped {
                Ok(_) => return Ok(()),
                Err(other) => full_at = other,
            }
        }
    }

    /// Whether it is full: then it may as well be forgotten.
    pub(crate) fn is_full(&self, now: u64) -> bool {
        self.0.load(Ordering::Relaxed) <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn taken(bucket: &Bucket, pace: Pace, now: u64) -> usize {
        (0..10_000)
            .take_while(|_| bucket.take(pace, now).is_ok())
            .count()
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let bucket = Bucket::default();
        let pace = Pace::new(100.0, 20);
        assert_eq!(taken(&bucket, pace, 0), 20);
        assert_eq!(bucket.take(pace, 0), Err(Duration::from_millis(10)));
        assert_eq!(taken(&bucket, pace, SECOND / 10), 10);
        assert_eq!(taken(&bucket, pace, 100 * SECOND), 20);
        assert!(!bucket.is_full(100 * SECOND));
        assert!(bucket.is_full(101 * SECOND));
    }

    #[test]
    fn whoever_waits_as_told_is_admitted() {
        let bucket = Bucket::default();
        let pace = Pace::new(3.0, 1);
        let mut now = 0;
        for _ in 0..100 {
            bucket.take(pace, now).unwrap();
            let wait = bucket.take(pace, now).unwrap_err();
            assert!(bucket.take(pace, now + wait.as_nanos() as u64 - 1).is_err());
            now += wait.as_nanos() as u64;
        }
        assert!(now.abs_diff(100 * SECOND / 3) < 1000, "{now}");
    }

    #[test]
    fn nonsense_is_a_small_rate_and_time_that_runs_backwards_does_no_harm() {
        for rate in [f64::NAN, -1.0, 0.0, f64::NEG_INFINITY] {
            let bucket = Bucket::default();
            assert_eq!(taken(&bucket, Pace::new(rate, 0), SECOND), 1, "{rate}");
            assert_eq!(
                taken(&bucket, Pace::new(rate, 0), 3600 * SECOND),
                0,
                "{rate}"
            );
        }
        assert_eq!(
            taken(&Bucket::default(), Pace::new(f64::INFINITY, u32::MAX), 0),
            10_000
        );
        let bucket = Bucket::default();
        let pace = Pace::new(1.0, 5);
        assert_eq!(taken(&bucket, pace, 10 * SECOND), 5);
        assert_eq!(taken(&bucket, pace, 0), 0);
    }
}
