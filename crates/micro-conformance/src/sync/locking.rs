//! Locks, one after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use micro_core::Env;
use micro_sync_core::{
    CoordinatorExt as _, ElectOptions, ErrorKind, FencingToken, LockOptions, MAX_TTL,
};
use tokio::task::yield_now;
use tokio::time::sleep;

use super::{
    BEHIND, Cases, HandClock, LONG, Register, Site, Subject, free, lock, on_one_handle, opts,
    refused, try_lock,
};
use crate::harness::cases;

pub(super) fn cases() -> Cases {
    let mut all = on_one_handle![
        the_backend_s_name_is_a_url_scheme,
        a_free_lock_is_had_and_one_that_is_held_is_not,
        names_are_apart,
        bad_names_are_refused_everywhere,
        a_bad_ttl_is_refused,
        work_under_a_lock_is_done,
        tokens_only_grow,
        at_most_one_holds_it_at_a_time,
        locks_and_leaderships_of_a_name_exclude_each_other,
        a_lock_is_kept_for_as_long_as_it_is_held if shared,
    ];
    all.extend(cases![super::Needs;
        namespaces_are_apart,
        a_wall_clock_that_jumps_changes_nothing,
    ]);
    all
}

async fn the_backend_s_name_is_a_url_scheme(subject: Subject) {
    let name = subject.coordinator.backend();
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c);
    assert!(
        name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(good),
        "{name:?}"
    );
}

async fn a_free_lock_is_had_and_one_that_is_held_is_not(subject: Subject) {
    let coordinator = &subject.coordinator;
    let first = lock(coordinator, "books").await;
    assert_eq!(first.name(), "books");
    assert!(first.is_held() && !first.remaining().is_zero());
    assert_eq!(first.fence().name, "books");
    assert_eq!(first.fence().token, first.token());
    first.verify().await.expect("it is held");
    assert!(try_lock(coordinator, "books").await.is_none());
    first.release().await.expect("it is let go of");
    let second = try_lock(coordinator, "books").await;
    let second = second.expect("what was released is free");
    // Who drops does not wait; it is free soon.
    drop(second);
    drop(free(coordinator, "books").await);
}

async fn names_are_apart(subject: Subject) {
    let longest = "x".repeat(128);
    let names = [
        "a", "A", "a-", "a_", "a.", "a-b", "a_b", "a.b", "ab", "0", &longest,
    ];
    let mut held = Vec::new();
    for name in names {
        let lock = try_lock(&subject.coordinator, name).await;
        held.push(lock.unwrap_or_else(|| panic!("{name} is taken by another name")));
    }
    for (name, lock) in names.iter().zip(&held) {
        lock.verify()
            .await
            .unwrap_or_else(|err| panic!("{name}: {err:?}"));
    }
}

async fn namespaces_are_apart(site: Arc<Site>) {
    let mut held = Vec::new();
    for namespace in ["", "staging", "staging-2", "staging.books"] {
        let coordinator = site.open(Env::new().with_namespace(namespace)).await;
        for name in ["books", "staging", "2.books"] {
            let lock = try_lock(&coordinator, name).await;
            held.push(lock.unwrap_or_else(|| panic!("{name} is taken in {namespace:?}")));
        }
        assert!(try_lock(&coordinator, "books").await.is_none());
    }
    for lock in held {
        lock.release().await.expect("it is held");
    }
}

async fn bad_names_are_refused_everywhere(subject: Subject) {
    let coordinator = &subject.coordinator;
    let long = "x".repeat(129);
    let huge = "x".repeat(64 << 10);
    for name in [
        "", "/", "a/b", "..", "../a", ".a", "-a", "a b", "a\0b", "a\r\nb", "a:b", "ä", "*",
        "a%2Fb", &long, &huge,
    ] {
        let shown: String = name.chars().take(10).collect();
        let kind = ErrorKind::InvalidArgument;
        refused(coordinator.lock(name, opts()).await, kind, &shown);
        refused(coordinator.try_lock(name, opts()).await, kind, &shown);
        let candidate = coordinator.elect(name, ElectOptions::default()).await;
        refused(candidate, kind, &shown);
        refused(coordinator.observe(name).await, kind, &shown);
    }
}

async fn a_bad_ttl_is_refused(subject: Subject) {
    let coordinator = &subject.coordinator;
    let least = coordinator.capabilities().min_ttl;
    let mut bad = vec![
        Duration::ZERO,
        MAX_TTL + Duration::from_millis(1),
        Duration::from_secs(10 * 366 * 24 * 3600),
        Duration::MAX,
    ];
    if !least.is_zero() {
        bad.extend([Duration::from_millis(1), least - Duration::from_nanos(1)]);
    }
    for ttl in bad {
        let what = format!("{ttl:?}");
        let opts = LockOptions::default().with_ttl(ttl);
        let kind = ErrorKind::InvalidArgument;
        refused(coordinator.lock("a", opts.clone()).await, kind, &what);
        refused(coordinator.try_lock("a", opts).await, kind, &what);
        let opts = ElectOptions::default().with_ttl(ttl);
        refused(coordinator.elect("a", opts).await, kind, &what);
    }
    for ttl in [least.max(Duration::from_millis(1)), MAX_TTL] {
        let opts = LockOptions::default().with_ttl(ttl);
        let lock = coordinator.lock("a", opts).await;
        let lock = lock.unwrap_or_else(|err| panic!("{ttl:?} is refused: {err:?}"));
        lock.release().await.expect("it is held");
    }
}

async fn work_under_a_lock_is_done(subject: Subject) {
    let coordinator = &subject.coordinator;
    let lock = lock(coordinator, "books").await;
    let before = lock.token();
    let done = lock.run(async {
        sleep(Duration::from_millis(20)).await;
        7
    });
    assert_eq!(done.await.expect("it is held"), 7);
    lock.release().await.expect("it is held");
    let token = coordinator
        .locked("books", opts(), async |fence| fence.token)
        .await
        .expect("it is to be had");
    assert!(token > before);
    drop(free(coordinator, "books").await);
}

async fn tokens_only_grow(subject: Subject) {
    let coordinator = &subject.coordinator;
    let mut highest = FencingToken::default();
    for round in 0..5 {
        let mut grown = |token: FencingToken, what: &str| {
            assert!(
                token > highest,
                "{what}, round {round}: {token:?} after {highest:?}"
            );
            highest = token;
        };
        let first = lock(coordinator, "a").await;
        grown(first.token(), "lock");
        first.release().await.expect("it is held");
        let second = try_lock(coordinator, "a").await.expect("it is free");
        grown(second.token(), "try_lock");
        // What others do in between does not set it back.
        drop(lock(coordinator, "b").await);
        drop(second);
        let leader = coordinator.elect("a", ElectOptions::default()).await;
        let leader = leader.expect("nobody else wants to lead");
        grown(leader.token(), "elect");
        leader.resign().await.expect("it leads");
    }
}

async fn at_most_one_holds_it_at_a_time(subject: Subject) {
    let inside = Arc::new(AtomicBool::new(false));
    let register = Arc::new(Register::default());
    let tasks = (0..8).map(|_| {
        let coordinator = Arc::clone(&subject.coordinator);
        let (inside, register) = (Arc::clone(&inside), Arc::clone(&register));
        tokio::spawn(async move {
            for _ in 0..10 {
                let lock = lock(&coordinator, "books").await;
                assert!(!inside.swap(true, Ordering::SeqCst), "two are inside");
                register.write(&lock).expect("its token is the highest");
                yield_now().await;
                lock.verify().await.expect("it is held");
                inside.store(false, Ordering::SeqCst);
                lock.release().await.expect("it is held");
            }
        })
    });
    for task in join_all(tasks).await {
        task.expect("the task ends well");
    }
}

async fn locks_and_leaderships_of_a_name_exclude_each_other(subject: Subject) {
    let coordinator = &subject.coordinator;
    let locked = lock(coordinator, "a").await;
    let soon = ElectOptions::default().with_wait(BEHIND);
    let candidate = coordinator.elect("a", soon).await;
    refused(candidate, ErrorKind::DeadlineExceeded, "an election");
    locked.release().await.expect("it is held");
    let leader = coordinator.elect("a", ElectOptions::default()).await;
    let leader = leader.expect("nobody else wants to lead");
    assert!(try_lock(coordinator, "a").await.is_none());
    leader.resign().await.expect("it leads");
    drop(free(coordinator, "a").await);
}

async fn a_wall_clock_that_jumps_changes_nothing(site: Arc<Site>) {
    const HOUR: i64 = 3600;
    let clock = HandClock::new();
    let coordinator = site.open(clock.env()).await;
    let other = site.open(Env::new()).await;
    let held = lock(&coordinator, "books").await;
    let mut token = held.token();
    for jump in [HOUR, -HOUR, 0] {
        clock.set_wall(jump);
        assert!(held.is_held(), "{jump} s");
        held.verify().await.expect("it is held");
        assert!(try_lock(&other, "books").await.is_none(), "{jump} s");
    }
    held.release().await.expect("it is held");
    for jump in [HOUR, -HOUR, 0] {
        clock.set_wall(jump);
        let next = lock(&coordinator, "books").await;
        assert!(next.token() > token, "{jump} s: {next:?} after {token:?}");
        token = next.token();
        next.release().await.expect("it is held");
    }
}

async fn a_lock_is_kept_for_as_long_as_it_is_held(subject: Subject) {
    let coordinator = &subject.coordinator;
    let ttl = coordinator
        .capabilities()
        .min_ttl
        .max(Duration::from_millis(500));
    let held = coordinator
        .lock("books", LockOptions::default().with_ttl(ttl))
        .await
        .expect("it is free");
    // One that waits for longer than it lives is kept, too. At the same time: some backends live long.
    let waiter = coordinator.lock("books", LockOptions::default().with_ttl(ttl));
    let (next, released) = tokio::join!(waiter, async {
        for _ in 0..4 {
            sleep(ttl / 2).await;
            assert!(held.is_held() && held.remaining() < ttl);
            held.verify().await.expect("it is held");
            assert!(try_lock(coordinator, "books").await.is_none());
        }
        held.release().await
    });
    released.expect("it is held");
    next.expect("its turn comes")
        .release()
        .await
        .expect("it is held");
    assert!(ttl < LONG);
}
