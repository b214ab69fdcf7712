//! Dropped calls, and several handles.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use micro_core::Env;
use micro_store_core::{
    BatchOptions, DeleteOptions, ErrorKind, ListOptions, Operation, ReadOptions, Record,
    ScopesOptions, WatchOptions, WriteOptions,
};
use tokio::time::{Instant, sleep};

use super::changes::{fenced, increment};
use super::{
    BEHIND, Backend, Cases, Site, keys, on_one_handle, orders, put, read, refused, text, write,
};
use crate::harness::cases;

pub(super) fn cases() -> Cases {
    let mut all = on_one_handle![
        a_dropped_call_leaves_the_store_usable,
        a_dropped_batch_is_whole_or_nothing,
        a_dropped_change_takes_no_effect_behind_a_later_one,
        a_dropped_change_has_happened_or_not_when_the_next_returns,
    ];
    all.extend(cases![super::Needs;
        reopening_finds_everything if durable,
        a_second_handle_is_locked_out if exclusive,
        handles_of_one_place_see_each_other if not_exclusive,
    ]);
    all
}

async fn poll_and_drop<T>(future: impl Future<Output = T> + Send, polls: usize) {
    let mut future = pin!(future);
    for poll in 0..polls {
        if poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_ready())).await {
            return;
        }
        // The last time without a pause: work that was just begun is the likeliest to be late.
        if poll + 1 < polls {
            sleep(Duration::from_micros(100)).await;
        }
    }
}

/// Whichever call it was.
async fn a_dropped_call_leaves_the_store_usable(store: Backend) {
    let scope = orders();
    for i in 0..20 {
        let record = Record::new("a", i.to_string());
        let batch = vec![Operation::write(&scope, Record::new("b", "1"))];
        let _ = store
            .write(&scope, record, WriteOptions::default())
            .now_or_never();
        let _ = store
            .read(&scope, "a", ReadOptions::default())
            .now_or_never();
        let _ = store.batch(batch, BatchOptions::default()).now_or_never();
        let _ = store.list(&scope, ListOptions::default()).now_or_never();
        let _ = store.scopes(ScopesOptions::default()).now_or_never();
        let _ = store.watch(&scope, WatchOptions::default()).now_or_never();
        let _ = store
            .delete(&scope, "a", DeleteOptions::default())
            .now_or_never();
    }
    put(&store, &scope, "a", "last").await;
    assert_eq!(text(&store, &scope, "a").await.as_deref(), Some("last"));
    store
        .delete(&scope, "a", DeleteOptions::default())
        .await
        .unwrap();
    assert_eq!(read(&store, &scope, "a").await, None);
}

/// All records of a dropped batch are there, or none.
async fn a_dropped_batch_is_whole_or_nothing(store: Backend) {
    const RECORDS: usize = 5;
    for i in 0..12 {
        let operations = (0..RECORDS)
            .map(|j| {
                Operation::write(
                    &orders(),
                    Record::new(format!("{i:02}-{j}"), vec![0; 10_000]),
                )
            })
            .collect();
        poll_and_drop(store.batch(operations, BatchOptions::default()), i / 2).await;
    }
    for pause in [Duration::ZERO, BEHIND] {
        sleep(pause).await;
        // A change that is answered stands behind those that were dropped.
        put(&store, &orders(), "last", "").await;
        for i in 0..12 {
            let opts = ListOptions::default().with_prefix(format!("{i:02}-"));
            let found = keys(&store, &orders(), opts).await.len();
            assert!(
                [0, RECORDS].contains(&found),
                "{found} of {RECORDS} after {} polls",
                i / 2
            );
        }
    }
}

/// Whatever a dropped change did, the next one has the last word.
async fn a_dropped_change_takes_no_effect_behind_a_later_one(store: Backend) {
    const TRIES: usize = 50;
    // Side by side, so that work which was left to others gets into disorder if it can.
    const LANES: usize = 5;
    let lanes = (0..LANES).map(|lane| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for i in (lane..TRIES).step_by(LANES) {
                drop_then_change(&store, i).await;
            }
        })
    });
    for lane in join_all(lanes).await {
        lane.expect("a change behind a dropped one succeeds");
    }
    // First at once, then when what is late has had its time.
    for pause in [Duration::ZERO, BEHIND] {
        sleep(pause).await;
        for i in 0..TRIES {
            let expected = (i % 3 != 1).then_some("later");
            let found = text(&store, &orders(), &format!("k-{i}")).await;
            assert_eq!(
                found.as_deref(),
                expected,
                "k-{i}, after a change that was dropped after {} polls",
                polls(i)
            );
        }
    }
}

/// Also if the next one is about something else: what it finds then stays so.
async fn a_dropped_change_has_happened_or_not_when_the_next_returns(store: Backend) {
    const TRIES: usize = 30;
    let mut found = Vec::new();
    for i in 0..TRIES {
        let key = format!("dropped-{i}");
        // More to do than the next one has, so that it would end later.
        let operations = (0..20)
            .map(|j| {
                let other = Record::new(format!("other-{i}-{j}"), vec![0; 10_000]);
                Operation::write(&orders(), other)
            })
            .chain([Operation::write(&orders(), Record::new(&key, ""))])
            .collect();
        poll_and_drop(store.batch(operations, BatchOptions::default()), polls(i)).await;
        put(&store, &orders(), "next", "").await;
        found.push(read(&store, &orders(), &key).await.is_some());
    }
    sleep(BEHIND).await;
    for (i, found) in found.into_iter().enumerate() {
        let there = read(&store, &orders(), &format!("dropped-{i}"))
            .await
            .is_some();
        assert_eq!(
            there,
            found,
            "a change that was dropped after {} polls has happened behind the next one",
            polls(i)
        );
    }
}

/// Mostly one: what the call does is under way then, and not waited for.
const fn polls(i: usize) -> usize {
    [1, 0, 1, 2, 1, 3][i / 3 % 6]
}

async fn drop_then_change(store: &Backend, i: usize) {
    let key = format!("k-{i}");
    if i % 3 == 2 {
        put(store, &orders(), &key, "dropped").await;
        let scope = orders();
        let delete = store.delete(&scope, &key, DeleteOptions::default());
        poll_and_drop(delete, polls(i)).await;
    } else {
        // The dropped call has more to do than the one that follows, so that it would end later.
        let operations = (0..20)
            .map(|j| {
                Operation::write(
                    &orders(),
                    Record::new(format!("other-{i}-{j}"), vec![0; 10_000]),
                )
            })
            .chain([Operation::write(&orders(), Record::new(&key, "dropped"))])
            .collect();
        poll_and_drop(store.batch(operations, BatchOptions::default()), polls(i)).await;
    }
    if i % 3 == 1 {
        store
            .delete(&orders(), &key, DeleteOptions::default())
            .await
            .unwrap();
    } else {
        put(store, &orders(), &key, "later").await;
    }
}

/// Records, deletions, expiries, versions and fences outlive the handle.
async fn reopening_finds_everything(site: Arc<Site>) {
    let mut store = site.open().await;
    let record = Record::new("a", vec![7; 100_000]).with_metadata("m", "1");
    let mut version = write(&store, &orders(), record.clone(), WriteOptions::default())
        .await
        .version;
    put(&store, &orders(), "gone", "1").await;
    store
        .delete(&orders(), "gone", DeleteOptions::default())
        .await
        .unwrap();
    let brief = WriteOptions::default().with_ttl(Duration::from_millis(300));
    write(&store, &orders(), Record::new("brief", "1"), brief).await;
    let long = WriteOptions::default().with_ttl(Duration::from_secs(3600));
    write(&store, &orders(), Record::new("long", "1"), long).await;
    let expiry = read(&store, &orders(), "long").await.unwrap().expiry;
    write(
        &store,
        &orders(),
        Record::new("fenced", ""),
        fenced("lock", 1, 5),
    )
    .await;
    for _ in 0..3 {
        drop(store);
        store = site.open().await;
        let found = read(&store, &orders(), "a").await;
        assert!(
            found == Some(record.clone().with_version(version)),
            "the record has changed while the store was closed"
        );
        assert_eq!(read(&store, &orders(), "gone").await, None);
        assert_eq!(
            read(&store, &orders(), "long").await.unwrap().expiry,
            expiry
        );
        let result = store
            .write(&orders(), Record::new("fenced", ""), fenced("lock", 1, 4))
            .await;
        refused(
            result,
            ErrorKind::Lost,
            "a write with an old token after reopening",
        );
        let newer = write(&store, &orders(), record.clone(), WriteOptions::default())
            .await
            .version;
        assert!(
            newer > version,
            "before reopening {version}, after it {newer}"
        );
        version = newer;
    }
    let begin = Instant::now();
    while read(&store, &orders(), "brief").await.is_some() {
        assert!(
            begin.elapsed() < super::PATIENCE,
            "reopening has made it stay"
        );
        sleep(Duration::from_millis(5)).await;
    }
}

/// At once, and without harm to the first.
async fn a_second_handle_is_locked_out(site: Arc<Site>) {
    let first = site.open().await;
    put(&first, &orders(), "a", "1").await;
    for _ in 0..3 {
        let begin = Instant::now();
        let result = site.try_open(Env::new()).await;
        refused(
            result.map(drop),
            ErrorKind::Locked,
            "opening it a second time",
        );
        let waited = begin.elapsed();
        assert!(
            waited < Duration::from_secs(2),
            "it took {waited:?} to say so"
        );
        put(&first, &orders(), "b", "2").await;
    }
    drop(first);
    let second = site.open().await;
    assert_eq!(text(&second, &orders(), "a").await.as_deref(), Some("1"));
    assert_eq!(text(&second, &orders(), "b").await.as_deref(), Some("2"));
}

/// What one handle has written, the other reads; they count together and share the fences.
async fn handles_of_one_place_see_each_other(site: Arc<Site>) {
    let (one, other) = (site.open().await, site.open().await);
    put(&one, &orders(), "a", "1").await;
    assert_eq!(text(&other, &orders(), "a").await.as_deref(), Some("1"));
    other
        .delete(&orders(), "a", DeleteOptions::default())
        .await
        .unwrap();
    assert_eq!(read(&one, &orders(), "a").await, None);
    write(&one, &orders(), Record::new("f", ""), fenced("lock", 1, 5)).await;
    let result = other
        .write(&orders(), Record::new("f", ""), fenced("lock", 1, 4))
        .await;
    refused(
        result,
        ErrorKind::Lost,
        "a write with an old token by another handle",
    );
    let tasks = [&one, &other].into_iter().cycle().take(8).map(|store| {
        let store = Arc::clone(store);
        tokio::spawn(async move {
            for _ in 0..20 {
                increment(&store, "counter").await;
            }
        })
    });
    let tasks: Vec<_> = tasks.collect();
    for task in join_all(tasks).await {
        task.expect("it counts to its end");
    }
    let counter = read(&one, &orders(), "counter").await.unwrap();
    assert_eq!(counter.json::<u32>().unwrap(), 160);
}
