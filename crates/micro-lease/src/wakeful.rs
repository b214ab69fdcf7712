//! Time that goes on while the machine is suspended.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use micro_core::Clock;

/// The two clocks of the machine are not asked at one moment: what they differ by for that is no
/// sleep. No machine sleeps for so short a time.
const BETWEEN: Duration = Duration::from_millis(50);

/// A clock to which the time in which the machine is suspended counts as well: leases go on meanwhile.
/// Linux's monotonic clock stands still then (clock_gettime(2)).
#[derive(Debug)]
pub(crate) struct Wakeful {
    clock: Arc<dyn Clock>,
    slept: fn() -> Duration,
    before: Duration,
}

impl Wakeful {
    /// The same as this clock from now until the machine is suspended.
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self::by(clock, slept)
    }

    fn by(clock: Arc<dyn Clock>, slept: fn() -> Duration) -> Self {
        // An interruption between its two questions makes an answer too small; not all three of them.
        let before = slept().max(slept()).max(slept());
        Self {
            clock,
            slept,
            before,
        }
    }
}

impl Clock for Wakeful {
    fn now(&self) -> Instant {
        let slept = (self.slept)().saturating_sub(self.before);
        let now = self.clock.now();
        if slept < BETWEEN { now } else { now + slept }
    }

    fn wall(&self) -> SystemTime {
        self.clock.wall()
    }
}

/// How long the machine was suspended since it was started.
#[cfg(target_os = "linux")]
fn slept() -> Duration {
    use rustix::time::{ClockId, clock_gettime};

    // In this order: an interruption in between makes it less, never more.
    let [all, awake] = [ClockId::Boottime, ClockId::Monotonic]
        .map(|clock| Duration::try_from(clock_gettime(clock)).unwrap_or_default());
    all.saturating_sub(awake)
}

/// Elsewhere nobody says it.
#[cfg(not(target_os = "linux"))]
fn slept() -> Duration {
    Duration::ZERO
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use micro_core::SystemClock;
    use micro_sync_core::Tenure;

    use super::*;

    static SLEPT: AtomicU64 = AtomicU64::new(7_000);

    fn slept_by_hand() -> Duration {
        Duration::from_millis(SLEPT.load(Ordering::SeqCst))
    }

    #[test]
    fn who_was_suspended_beyond_the_time_has_lost() {
        let clock = Arc::new(Wakeful::by(Arc::new(SystemClock), slept_by_hand));
        let until = clock.now() + Duration::from_secs(3600);
        let tenure = Tenure::new(clock, Some(until));
        SLEPT.fetch_add(20, Ordering::SeqCst);
        assert!(tenure.remaining() > Duration::from_secs(3590));
        SLEPT.fetch_add(3000 * 1000, Ordering::SeqCst);
        assert!(tenure.is_held() && tenure.remaining() < Duration::from_secs(600));
        SLEPT.fetch_add(700 * 1000, Ordering::SeqCst);
        assert!(!tenure.is_held());
    }

    #[test]
    fn as_long_as_nobody_sleeps_the_clock_is_what_it_was() {
        let wakeful = Wakeful::new(Arc::new(SystemClock));
        for _ in 0..10_000 {
            let before = SystemClock.now();
            let now = wakeful.now();
            assert!(before <= now && now <= SystemClock.now());
        }
    }
}
