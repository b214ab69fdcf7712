//! Time and chance, both replaceable in tests.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher as _;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

/// Where time comes from.
///
/// Deadlines, TTLs and limits ask it, so a test can pause or move time for all of them at once.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The monotonic time: what deadlines are measured with.
    fn now(&self) -> Instant;

    /// The wall time: what is shown to people and written into records. It may jump.
    fn wall(&self) -> SystemTime;
}

/// The clock of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place that asks the machine for the time"
)]
impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// Where chance comes from: jitter, choices among nodes, trace identifiers.
///
/// Never use it for keys, tokens or anything that must not be guessed.
pub trait Random: fmt::Debug + Send + Sync + 'static {
    /// The next 64 random bits.
    fn next_u64(&self) -> u64;
}

/// Chance seeded by the operating system, once per process.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRandom;

static SYSTEM: LazyLock<SeededRandom> =
    LazyLock::new(|| SeededRandom::new(RandomState::new().hash_one(0x6d69_6372_6f00_u64)));

impl Random for SystemRandom {
    fn next_u64(&self) -> u64 {
        SYSTEM.next_u64()
    }
}

/// Chance that repeats itself for the same seed, for tests that must be replayed.
///
/// The generator is `SplitMix64` (Steele, Lea, Flood: "Fast splittable pseudorandom number
/// generators", 2014) over an atomic counter, so that sharing it needs no lock.
#[derive(Debug)]
pub struct SeededRandom {
    state: AtomicU64,
}

impl SeededRandom {
    /// A generator that begins at `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self {
            state: AtomicU64::new(seed),
        }
    }
}

impl Random for SeededRandom {
    fn next_u64(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self
            .state
            .fetch_add(STEP, Ordering::Relaxed)
            .wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_is_spread() {
        let (a, b) = (SeededRandom::new(7), SeededRandom::new(7));
        let first: Vec<_> = (0..1000).map(|_| a.next_u64()).collect();
        assert!(first.iter().all(|x| *x == b.next_u64()));
        let ones: u32 = first.iter().map(|x| x.count_ones()).sum();
        assert!((31_000..33_000).contains(&ones), "{ones}");
    }
}
