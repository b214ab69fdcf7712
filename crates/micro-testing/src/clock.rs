//! Time that follows tokio's.

use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use micro_core::Clock;

/// The wall time at which every cluster starts: 2026-01-01 00:00 UTC.
const BEGIN: Duration = Duration::from_secs(1_767_225_600);

/// A [`Clock`] that follows tokio's, which `tokio::time::pause` stops and sleeping moves.
///
/// Give it to whatever takes a clock in a test on paused time. Its wall time begins in a fixed
/// moment and can be made to jump, as that of a machine whose clock is set.
#[derive(Debug)]
pub struct PausedClock {
    wall: Mutex<Wall>,
}

#[derive(Clone, Copy, Debug)]
struct Wall {
    /// When it was `base`.
    since: Instant,
    base: SystemTime,
}

impl PausedClock {
    /// A clock whose wall time begins now, at 2026-01-01 00:00 UTC.
    #[must_use]
    pub fn new() -> Self {
        Self {
            wall: Mutex::new(Wall {
                since: tokio::time::Instant::now().into_std(),
                base: UNIX_EPOCH + BEGIN,
            }),
        }
    }

    /// Sets the wall time, which runs on from there; the monotonic time is not touched.
    pub fn set_wall(&self, wall: SystemTime) {
        *self.lock() = Wall {
            since: self.now(),
            base: wall,
        };
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Wall> {
        self.wall
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Default for PausedClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for PausedClock {
    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn wall(&self) -> SystemTime {
        let Wall { since, base } = *self.lock();
        base + self.now().saturating_duration_since(since)
    }
}
