//! How many calls may be repeated.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

use micro_transport_core::BudgetPolicy;

/// How many repetitions and hedges of calls that may have run a client may make: by default 20 % of
/// the calls made, and 10 a second.
///
/// One budget serves all services of a client, so that a failing backend meets at most a fifth
/// more load, whatever each caller thinks of it (Finagle's retry budget). What is not used is saved
/// for ten seconds at most. Calls that provably never ran are not counted: repeating them loads
/// nobody twice.
#[derive(Debug)]
pub(crate) struct Budget {
    /// In millionths of a repetition.
    balance: AtomicI64,
    /// Up to when time was credited, in microseconds since `start`.
    credited: AtomicU64,
    start: Instant,
}

const ONE: i64 = 1_000_000;
/// What can be saved up: so many seconds' worth.
const SAVED: f64 = 10.0;

/// The numbers of a [`BudgetPolicy`], within their bounds.
#[derive(Clone, Copy)]
struct Terms {
    share: i64,
    per_second: f64,
    most: i64,
}

impl Terms {
    fn new(policy: BudgetPolicy) -> Self {
        let share = policy.share.clamp(0.0, 1.0);
        let per_second = policy.per_second.clamp(0.0, 1e6);
        Self {
            // `as` makes 0 of NaN.
            share: (share * ONE as f64) as i64,
            per_second: if per_second.is_nan() { 0.0 } else { per_second },
            // A share alone must be able to add up to something.
            most: (per_second * SAVED).max(100.0 * f64::from(share > 0.0)) as i64 * ONE,
        }
    }
}

impl Budget {
    /// A budget that begins with the first second's worth.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            balance: AtomicI64::new(0),
            credited: AtomicU64::new(0),
            start: now,
        }
    }

    /// A call is made.
    pub(crate) fn deposit(&self, policy: BudgetPolicy) {
        let terms = Terms::new(policy);
        if self.balance.load(Ordering::Relaxed) < terms.most {
            self.balance.fetch_add(terms.share, Ordering::Relaxed);
        }
    }

    /// Asks for a repetition. It is given back if the grant is dropped unspent.
    pub(crate) fn withdraw(&self, policy: BudgetPolicy, now: Instant) -> Option<Grant<'_>> {
        self.credit(Terms::new(policy), now);
        let took = self
            .balance
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |balance| {
                (balance >= ONE).then_some(balance - ONE)
            });
        took.is_ok().then(|| Grant { budget: Some(self) })
    }

    fn credit(&self, terms: Terms, now: Instant) {
        let at = now.saturating_duration_since(self.start).as_micros();
        // The first second's worth is there from the beginning: the very first call may be
        // repeated too.
        let at = u64::try_from(at).unwrap_or(u64::MAX).max(1_000_000);
        // Only forwards: a caller that read the clock earlier must not have time credited twice.
        let before = self.credited.fetch_max(at, Ordering::Relaxed);
        let passed = at.saturating_sub(before) as f64 / 1e6;
        let credit = (passed * terms.per_second * ONE as f64) as i64;
        if credit > 0 {
            let _ = self
                .balance
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |balance| {
                    (balance < terms.most).then(|| balance.saturating_add(credit).min(terms.most))
                });
        }
    }

    #[cfg(test)]
    pub(crate) fn left(&self) -> i64 {
        self.balance.load(Ordering::Relaxed) / ONE
    }
}

/// Leave for one repetition.
#[derive(Debug)]
pub(crate) struct Grant<'a> {
    budget: Option<&'a Budget>,
}

impl Grant<'_> {
    /// The repetition is made.
    pub(crate) fn spend(mut self) {
        self.budget = None;
    }
}

impl Drop for Grant<'_> {
    fn drop(&mut self) {
        if let Some(budget) = self.budget {
            budget.balance.fetch_add(ONE, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const USUAL: BudgetPolicy = BudgetPolicy::new(0.2, 10.0);

    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs a beginning of time"
    )]
    fn start() -> Instant {
        Instant::now()
    }

    fn spend(budget: &Budget, policy: BudgetPolicy, now: Instant) -> bool {
        budget.withdraw(policy, now).map(Grant::spend).is_some()
    }

    #[test]
    fn a_fifth_of_the_calls_and_ten_a_second() {
        let start = start();
        let budget = Budget::new(start);
        let mut granted = 0;
        for _ in 0..1000 {
            budget.deposit(USUAL);
            granted += u32::from(spend(&budget, USUAL, start));
        }
        assert_eq!(granted, 210);
        let later = start + Duration::from_secs(2);
        let granted = (0..100).filter(|_| spend(&budget, USUAL, later)).count();
        assert_eq!(granted, 10);
        let much_later = start + Duration::from_secs(3600);
        let granted = (0..1000)
            .filter(|_| spend(&budget, USUAL, much_later))
            .count();
        assert_eq!(granted, 100, "no more than ten seconds' worth is saved");
        // Time that seems to run backwards gives nothing.
        assert!(!spend(&budget, USUAL, later));
        assert!(!spend(&budget, USUAL, much_later));
    }

    #[test]
    fn a_grant_that_is_not_spent_comes_back() {
        let start = start();
        let budget = Budget::new(start);
        for _ in 0..1000 {
            assert!(budget.withdraw(USUAL, start).is_some());
        }
        assert_eq!(budget.left(), 10);
    }

    #[test]
    fn its_terms_can_change_and_nonsense_is_nothing() {
        let start = start();
        let budget = Budget::new(start);
        assert!(spend(&budget, USUAL, start));
        let none = BudgetPolicy::new(0.0, 0.0);
        let far = start + Duration::from_secs(60);
        let granted = (0..100).filter(|_| spend(&budget, none, far)).count();
        assert_eq!(granted, 9, "what was saved before");
        for (share, per_second) in [(f64::NAN, f64::NAN), (-1.0, -1.0)] {
            let policy = BudgetPolicy::new(share, per_second);
            let budget = Budget::new(start);
            budget.deposit(policy);
            assert!(!spend(&budget, policy, far));
        }
        let much = BudgetPolicy::new(f64::INFINITY, f64::INFINITY);
        assert!(spend(&budget, much, far + Duration::from_secs(1)));
    }
}
