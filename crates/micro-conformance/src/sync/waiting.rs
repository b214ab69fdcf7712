//! Waiting, and what is dropped meanwhile.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use futures_util::StreamExt as _;
use micro_core::{Env, Random as _, SeededRandom};
use micro_sync_core::{ElectOptions, ErrorKind, LockOptions};
use tokio::time::{Instant, sleep};

use super::{
    BEHIND, Cases, PATIENCE, Site, Subject, free, lock, on_one_handle, opts, refused, try_lock,
};
use crate::harness::cases;

pub(super) fn cases() -> Cases {
    let mut all = on_one_handle![
        a_lock_passes_to_who_waits,
        waiting_has_an_end_and_leaves_nothing,
        who_waits_is_served_in_turn if fair,
        a_crowd_is_served_one_by_one,
        whoever_is_dropped_holds_nothing,
        aborted_tasks_leave_the_lock_free,
    ];
    all.extend(cases![super::Needs; handles_of_one_place_exclude_each_other]);
    all
}

async fn a_lock_passes_to_who_waits(subject: Subject) {
    for dropped in [false, true] {
        let coordinator = &subject.coordinator;
        let first = lock(coordinator, "books").await;
        let token = first.token();
        let next = {
            let coordinator = Arc::clone(coordinator);
            tokio::spawn(async move { lock(&coordinator, "books").await })
        };
        sleep(BEHIND).await;
        assert!(!next.is_finished(), "two hold it");
        let begin = Instant::now();
        if dropped {
            drop(first);
        } else {
            first.release().await.expect("it is held");
        }
        let next = next.await.expect("the task ends well");
        assert!(begin.elapsed() < PATIENCE / 4, "{:?}", begin.elapsed());
        assert!(next.token() > token);
        next.release().await.expect("it is held");
    }
}

async fn waiting_has_an_end_and_leaves_nothing(subject: Subject) {
    let coordinator = &subject.coordinator;
    let held = lock(coordinator, "books").await;
    for wait in [Duration::ZERO, Duration::from_millis(1), BEHIND] {
        let begin = Instant::now();
        let late = coordinator.lock("books", opts().with_wait(wait)).await;
        refused(late, ErrorKind::DeadlineExceeded, "a lock");
        let opts = ElectOptions::default().with_wait(wait);
        let late = coordinator.elect("books", opts).await;
        refused(late, ErrorKind::DeadlineExceeded, "an election");
        let took = begin.elapsed();
        assert!(took >= wait && took < wait * 2 + PATIENCE / 4, "{took:?}");
    }
    held.verify().await.expect("those who waited took nothing");
    held.release().await.expect("it is held");
    let free = free(coordinator, "books").await;
    free.release().await.expect("it is held");
    // There is a moment for what is free, even without any time.
    let wait = opts().with_wait(PATIENCE);
    coordinator
        .lock("books", wait)
        .await
        .expect("it is free")
        .release()
        .await
        .expect("it is held");
}

async fn who_waits_is_served_in_turn(subject: Subject) {
    let coordinator = &subject.coordinator;
    let held = lock(coordinator, "books").await;
    let served = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for turn in 0..8 {
        let coordinator = Arc::clone(coordinator);
        let served = Arc::clone(&served);
        tasks.push(tokio::spawn(async move {
            let lock = lock(&coordinator, "books").await;
            served.lock().unwrap().push(turn);
            lock.release().await.expect("it is held");
        }));
        // Until it stands in the queue.
        sleep(BEHIND / 3).await;
    }
    // Two in between do not want it any more.
    for gone in [2, 5] {
        tasks[gone].abort();
    }
    sleep(BEHIND).await;
    held.release().await.expect("it is held");
    for task in tasks {
        let _ = task.await;
    }
    assert_eq!(*served.lock().unwrap(), [0, 1, 3, 4, 6, 7]);
}

async fn a_crowd_is_served_one_by_one(subject: Subject) {
    const CROWD: usize = 64;
    let coordinator = &subject.coordinator;
    let held = lock(coordinator, "books").await;
    let tokens = Arc::new(Mutex::new(vec![held.token()]));
    let tasks: Vec<_> = (0..CROWD)
        .map(|_| {
            let coordinator = Arc::clone(coordinator);
            let tokens = Arc::clone(&tokens);
            tokio::spawn(async move {
                let lock = lock(&coordinator, "books").await;
                tokens.lock().unwrap().push(lock.token());
                lock.release().await.expect("it is held");
            })
        })
        .collect();
    sleep(BEHIND).await;
    held.release().await.expect("it is held");
    for task in tasks {
        task.await.expect("the task ends well");
    }
    let tokens = tokens.lock().unwrap();
    assert_eq!(tokens.len(), CROWD + 1);
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
}

/// Polls so many times, then drops.
async fn poll_and_drop<T>(future: impl Future<Output = T> + Send, polls: usize) {
    let mut future = pin!(future);
    for poll in 0..polls {
        if poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_ready())).await {
            return;
        }
        // The last time without a pause: work that was just begun is the likeliest to be late.
        if poll + 1 < polls {
            sleep(Duration::from_micros(300)).await;
        }
    }
}

async fn whoever_is_dropped_holds_nothing(subject: Subject) {
    let coordinator = &subject.coordinator;
    for taken in [false, true] {
        for polls in 0..12 {
            let held = if taken {
                Some(lock(coordinator, "a").await)
            } else {
                None
            };
            poll_and_drop(coordinator.lock("a", opts()), polls).await;
            poll_and_drop(coordinator.try_lock("a", opts()), polls).await;
            poll_and_drop(coordinator.elect("a", ElectOptions::default()), polls).await;
            poll_and_drop(coordinator.observe("a"), polls).await;
            let held = match held {
                Some(held) => held,
                None => free(coordinator, "a").await,
            };
            poll_and_drop(held.verify(), polls).await;
            poll_and_drop(held.lost(), polls).await;
            poll_and_drop(held.run(sleep(BEHIND)), polls).await;
            held.verify().await.expect("it is held all the time");
            poll_and_drop(held.release(), polls).await;
            // Nobody is left who waits or holds.
            free(coordinator, "a")
                .await
                .release()
                .await
                .expect("it is held");
        }
    }
}

async fn aborted_tasks_leave_the_lock_free(subject: Subject) {
    let seed = 7;
    let random = SeededRandom::new(seed);
    let mut tasks = Vec::new();
    for _ in 0..40 {
        let coordinator = Arc::clone(&subject.coordinator);
        tasks.push(tokio::spawn(async move {
            loop {
                let lock = lock(&coordinator, "books").await;
                sleep(Duration::from_micros(500)).await;
                drop(lock);
            }
        }));
    }
    for task in tasks {
        sleep(Duration::from_micros(random.next_u64() % 20_000)).await;
        task.abort();
        let _ = task.await;
    }
    drop(free(&subject.coordinator, "books").await);
}

async fn handles_of_one_place_exclude_each_other(site: Arc<Site>) {
    let one = site.open(Env::new()).await;
    let two = site.open(Env::new()).await;
    let first = lock(&one, "books").await;
    assert!(try_lock(&two, "books").await.is_none());
    let waiter = two.lock("books", LockOptions::default());
    let (second, released) = tokio::join!(waiter, async {
        sleep(BEHIND).await;
        let token = first.token();
        first.release().await.map(|()| token)
    });
    let second = second.expect("its turn comes");
    assert!(second.token() > released.expect("it is held"));
    // A handle that is dropped takes its locks along only if they are.
    drop(two);
    second.verify().await.expect("it is held");
    assert!(try_lock(&one, "books").await.is_none());
    let mut leaders = one.observe("books").await.expect("it is observed");
    let leader = leaders
        .next()
        .await
        .expect("it goes on")
        .expect("it is seen");
    assert_eq!(leader.map(|leader| leader.token), Some(second.token()));
    drop(second);
    drop(free(&one, "books").await);
}
