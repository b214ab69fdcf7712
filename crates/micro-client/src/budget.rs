//! How many calls may be repeated.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

/// How many calls that may have run may be repeated: 20 % of the calls made, and 10 a second.
///
/// One budget serves all services of a client, so that a failing backend meets at most a fifth
/// more load, whatever each caller thinks of it (Finagle's retry budget).
/// Calls that provably never ran are not counted: repeating them loads nobody twice.
#[derive(Debug)]
pub(crate) struct Budget {
    /// In thousandths of a repetition.
    balance: AtomicI64,
    /// When time was last credited, in milliseconds since `start`.
    credited: AtomicU64,
    start: Instant,
}

impl Budget {
    const ONE: i64 = 1000;
    const SHARE: i64 = Self::ONE / 5;
    const PER_SECOND: i64 = 10 * Self::ONE;
    /// What can be saved up: ten seconds' worth.
    const MOST: i64 = 10 * Self::PER_SECOND;

    pub(crate) fn new(now: Instant) -> Self {
        Self {
            balance: AtomicI64::new(Self::PER_SECOND),
            credited: AtomicU64::new(0),
            start: now,
        }
    }

    /// A call is made.
    pub(crate) fn deposit(&self) {
        if self.balance.load(Ordering::Relaxed) < Self::MOST {
            self.balance.fetch_add(Self::SHARE, Ordering::Relaxed);
        }
    }

    /// Asks for a repetition.
    pub(crate) fn withdraw(&self, now: Instant) -> bool {
        self.credit(now);
        self.balance
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |balance| {
                (balance >= Self::ONE).then_some(balance - Self::ONE)
            })
            .is_ok()
    }

    fn credit(&self, now: Instant) {
        let at = now.saturating_duration_since(self.start).as_millis();
        let at = u64::try_from(at).unwrap_or(u64::MAX);
        let before = self.credited.swap(at, Ordering::Relaxed);
        let passed = i64::try_from(at.saturating_sub(before)).unwrap_or(i64::MAX);
        let credit = passed
            .saturating_mul(Self::PER_SECOND / 1000)
            .min(Self::MOST);
        if self.balance.load(Ordering::Relaxed) < Self::MOST {
            self.balance.fetch_add(credit, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs a beginning of time"
    )]
    fn a_fifth_of_the_calls_and_ten_a_second() {
        let start = Instant::now();
        let budget = Budget::new(start);
        let mut granted = 0;
        for _ in 0..1000 {
            budget.deposit();
            granted += u32::from(budget.withdraw(start));
        }
        assert!((200..=210).contains(&granted), "{granted}");
        let later = start + Duration::from_secs(1);
        let granted = (0..100).filter(|_| budget.withdraw(later)).count();
        assert_eq!(granted, 10);
        let much_later = start + Duration::from_secs(3600);
        let granted = (0..1000).filter(|_| budget.withdraw(much_later)).count();
        assert_eq!(granted, 100);
    }
}
