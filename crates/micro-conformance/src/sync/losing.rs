//! Losing what one holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use micro_core::Env;
use micro_sync_core::{ErrorKind, Lock, LockOptions};
use tokio::time::{sleep, timeout};

use super::{
    Cases, HandClock, PATIENCE, Register, Site, Subject, lock, on_one_handle, refused, try_lock,
};
use crate::harness::cases;

pub(super) fn cases() -> Cases {
    let mut all = on_one_handle![
        a_lock_that_is_taken_away_is_lost if thief,
        work_ends_with_the_lock if thief,
        s63_who_has_lost_a_lock_cannot_let_go_of_another_s if thief,
        s64_an_old_token_is_refused if thief,
    ];
    all.extend(cases![super::Needs; one_who_slept_beyond_the_ttl_knows_it if shared]);
    all
}

/// A lock whose loss shows soon.
async fn brief(subject: &Subject) -> Lock {
    let least = subject.coordinator.capabilities().min_ttl;
    let opts = LockOptions::default().with_ttl(least.max(Duration::from_secs(1)));
    let lock = subject.coordinator.lock("books", opts).await;
    lock.expect("it is free")
}

/// By its own monotonic clock, before it asks anybody.
async fn one_who_slept_beyond_the_ttl_knows_it(site: Arc<Site>) {
    let clock = HandClock::new();
    let coordinator = site.open(clock.env()).await;
    let ttl = Duration::from_secs(15);
    let opts = LockOptions::default().with_ttl(ttl);
    let held = coordinator.lock("books", opts).await.expect("it is free");
    let remaining = held.remaining();
    assert!(remaining < ttl, "there is no margin: {remaining:?}");
    assert!(held.is_held());
    clock.sleep(ttl);
    assert!(!held.is_held());
    let lost = timeout(PATIENCE, held.lost()).await;
    let lost = lost.expect("it knows at once");
    assert_eq!(lost.kind(), ErrorKind::Lost, "{lost:?}");
    refused(held.run(async {}).await, ErrorKind::Lost, "working on");
    refused(held.verify().await, ErrorKind::Lost, "verifying");
    refused(held.release().await, ErrorKind::Lost, "releasing");
    // What it let go of is free.
    drop(lock(&site.open(Env::new()).await, "books").await);
}

async fn a_lock_that_is_taken_away_is_lost(subject: Subject) {
    let held = brief(&subject).await;
    let asked = brief_other(&subject).await;
    subject.take("books").await;
    subject.take("other").await;
    refused(asked.verify().await, ErrorKind::Lost, "verifying");
    assert!(!asked.is_held(), "it knows now");
    // The other one is not asked, and learns it by itself.
    let lost = timeout(PATIENCE, held.lost()).await;
    let lost = lost.expect("it learns in time that it has lost");
    assert_eq!(lost.kind(), ErrorKind::Lost, "{lost:?}");
    assert!(!held.is_held() && held.remaining().is_zero());
    assert_eq!(held.lost().await.kind(), ErrorKind::Lost, "again");
    let next = lock(&subject.coordinator, "books").await;
    assert!(next.token() > held.token());
    refused(held.release().await, ErrorKind::Lost, "releasing");
    next.verify().await.expect("it is another's");
}

async fn brief_other(subject: &Subject) -> Lock {
    lock(&subject.coordinator, "other").await
}

async fn work_ends_with_the_lock(subject: Subject) {
    struct Alive<'a>(&'a AtomicBool);
    impl Drop for Alive<'_> {
        fn drop(&mut self) {
            self.0.store(false, Ordering::SeqCst);
        }
    }
    let held = brief(&subject).await;
    let alive = AtomicBool::new(true);
    let work = held.run(async {
        let _alive = Alive(&alive);
        loop {
            sleep(Duration::from_millis(5)).await;
        }
    });
    let (worked, ()) = tokio::join!(timeout(PATIENCE, work), subject.take("books"));
    let worked: Result<(), _> = worked.expect("the work is stopped");
    refused(worked, ErrorKind::Lost, "the work");
    assert!(!alive.load(Ordering::SeqCst), "the work was dropped");
}

/// There is no way to let go of a lock by its name; a guard that has lost it does no harm, by
/// whatever end it comes to.
async fn s63_who_has_lost_a_lock_cannot_let_go_of_another_s(subject: Subject) {
    for dropped in [false, true] {
        let stale = lock(&subject.coordinator, "books").await;
        subject.take("books").await;
        let next = lock(&subject.coordinator, "books").await;
        if dropped {
            drop(stale);
        } else {
            refused(stale.release().await, ErrorKind::Lost, "releasing");
        }
        sleep(super::BEHIND).await;
        next.verify().await.expect("it is held by the next one");
        assert!(try_lock(&subject.coordinator, "books").await.is_none());
        next.release().await.expect("it is held");
    }
}

async fn s64_an_old_token_is_refused(subject: Subject) {
    let register = Register::default();
    let stale = lock(&subject.coordinator, "books").await;
    register.write(&stale).expect("it is the first");
    subject.take("books").await;
    let next = lock(&subject.coordinator, "books").await;
    register.write(&next).expect("it is the next");
    // Whatever the old one believes.
    refused(register.write(&stale), ErrorKind::Lost, "an old token");
    register.write(&next).expect("it is still the newest");
}
