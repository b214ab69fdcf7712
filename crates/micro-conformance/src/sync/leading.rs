//! Elections, and those who look on.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use micro_core::FencingToken;
use micro_sync_core::{
    Coordinator, ElectOptions, ErrorKind, Leader, LeaderStream, Leadership, MAX_VALUE,
};
use tokio::time::{sleep, timeout};

use super::{BEHIND, Backend, Cases, LONG, PATIENCE, Subject, free, on_one_handle, refused};

pub(super) fn cases() -> Cases {
    on_one_handle![
        a_candidate_is_elected_and_resigns,
        a_bad_value_is_refused,
        an_observer_sees_who_leads,
        an_observer_sees_the_newest_and_never_an_older,
        a_dropped_observer_disturbs_nobody,
        an_observer_sees_a_leadership_that_is_taken_away if thief,
    ]
}

async fn elect(coordinator: &Backend, value: &str) -> Leadership {
    let opts = ElectOptions::default().with_value(value).with_ttl(LONG);
    let elected = timeout(PATIENCE, coordinator.elect("chair", opts)).await;
    let elected = elected.unwrap_or_else(|_| panic!("{value} is not elected"));
    elected.unwrap_or_else(|err| panic!("{value} is not elected: {err:?}"))
}

async fn observe(coordinator: &dyn Coordinator) -> LeaderStream {
    coordinator.observe("chair").await.expect("it is observed")
}

async fn next(leaders: &mut LeaderStream) -> Option<Leader> {
    let leader = timeout(PATIENCE, leaders.next()).await;
    let leader = leader.expect("an observer is told in time");
    leader
        .expect("the stream goes on")
        .expect("it has no error")
}

/// Listens until this is what it sees.
async fn until(leaders: &mut LeaderStream, expected: Option<&str>) -> Option<Leader> {
    loop {
        let leader = next(leaders).await;
        if leader.as_ref().map(|leader| &*leader.value) == expected {
            return leader;
        }
    }
}

async fn a_candidate_is_elected_and_resigns(subject: Subject) {
    let coordinator = &subject.coordinator;
    let first = elect(coordinator, "one").await;
    assert_eq!((first.name(), first.value()), ("chair", "one"));
    first.verify().await.expect("it leads");
    let second = {
        let coordinator = Arc::clone(coordinator);
        tokio::spawn(async move { elect(&coordinator, "two").await })
    };
    sleep(BEHIND).await;
    assert!(!second.is_finished(), "two lead");
    let token = first.token();
    first.resign().await.expect("it leads");
    let second = second.await.expect("the task ends well");
    assert!(second.token() > token);
    // One who vanishes is followed, too.
    drop(second);
    elect(coordinator, "three")
        .await
        .resign()
        .await
        .expect("it leads");
}

async fn a_bad_value_is_refused(subject: Subject) {
    let opts = |value: String| ElectOptions::default().with_value(value);
    let long = subject
        .coordinator
        .elect("chair", opts("x".repeat(MAX_VALUE + 1)))
        .await;
    refused(long, ErrorKind::InvalidArgument, "a long value");
    for value in ["x".repeat(MAX_VALUE), "ä\0\n\"\\% ☃".to_owned()] {
        let leader = subject
            .coordinator
            .elect("chair", opts(value.clone()))
            .await;
        let leader = leader.expect("the value is good");
        let mut leaders = observe(&subject.coordinator).await;
        let seen = until(&mut leaders, Some(&value)).await;
        assert_eq!(seen.map(|seen| seen.token), Some(leader.token()));
        leader.resign().await.expect("it leads");
    }
}

async fn an_observer_sees_who_leads(subject: Subject) {
    let coordinator = &subject.coordinator;
    let mut early = observe(coordinator).await;
    assert_eq!(next(&mut early).await, None, "nobody leads yet");
    let first = elect(coordinator, "one").await;
    let seen = next(&mut early).await.expect("it sees the first leader");
    assert_eq!((&*seen.value, seen.token), ("one", first.token()));
    let mut late = observe(coordinator).await;
    assert_eq!(next(&mut late).await.as_ref(), Some(&seen), "at once");
    // Candidates are no leaders.
    let second = {
        let coordinator = Arc::clone(coordinator);
        tokio::spawn(async move { elect(&coordinator, "two").await })
    };
    assert!(
        timeout(BEHIND, late.next()).await.is_err(),
        "nothing has changed"
    );
    first.resign().await.expect("it leads");
    let second = second.await.expect("the task ends well");
    for leaders in [&mut early, &mut late] {
        let seen = until(leaders, Some("two")).await;
        assert_eq!(seen.map(|seen| seen.token), Some(second.token()));
    }
    second.resign().await.expect("it leads");
    for leaders in [&mut early, &mut late] {
        assert_eq!(until(leaders, None).await, None);
    }
    // A plain lock has a holder, and no value.
    let locked = free(coordinator, "chair").await;
    let seen = until(&mut late, Some("")).await;
    assert_eq!(seen.map(|seen| seen.token), Some(locked.token()));
}

async fn an_observer_sees_the_newest_and_never_an_older(subject: Subject) {
    let coordinator = &subject.coordinator;
    let mut slow = observe(coordinator).await;
    let watcher = tokio::spawn({
        let mut leaders = observe(coordinator).await;
        async move {
            let mut tokens = vec![FencingToken::default()];
            while tokens.len() < 200 {
                if let Some(leader) = next(&mut leaders).await {
                    tokens.push(leader.token);
                    if leader.value == "last" {
                        break;
                    }
                }
            }
            tokens
        }
    });
    for turn in 0..20 {
        elect(coordinator, &turn.to_string())
            .await
            .resign()
            .await
            .expect("it leads");
    }
    let last = elect(coordinator, "last").await;
    let tokens = watcher.await.expect("the observer ends well");
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
    assert_eq!(tokens.last(), Some(&last.token()));
    // One that has not looked all the while gets to the newest.
    let seen = until(&mut slow, Some("last")).await;
    assert_eq!(seen.map(|seen| seen.token), Some(last.token()));
}

async fn a_dropped_observer_disturbs_nobody(subject: Subject) {
    let coordinator = &subject.coordinator;
    let mut stays = observe(coordinator).await;
    for turn in 0..10_u32 {
        let mut dropped = observe(coordinator).await;
        let _ = timeout(Duration::from_micros(u64::from(turn) * 50), dropped.next()).await;
    }
    let leader = elect(coordinator, "one").await;
    let seen = until(&mut stays, Some("one")).await;
    assert_eq!(seen.map(|seen| seen.token), Some(leader.token()));
    drop(stays);
    leader.resign().await.expect("it leads");
}

async fn an_observer_sees_a_leadership_that_is_taken_away(subject: Subject) {
    let coordinator = &subject.coordinator;
    let mut leaders = observe(coordinator).await;
    let first = elect(coordinator, "one").await;
    until(&mut leaders, Some("one")).await;
    subject.take("chair").await;
    let second = elect(coordinator, "two").await;
    let seen = until(&mut leaders, Some("two")).await;
    assert_eq!(seen.map(|seen| seen.token), Some(second.token()));
    refused(first.resign().await, ErrorKind::Lost, "resigning");
    second.verify().await.expect("it leads");
}
