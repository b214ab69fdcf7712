//! Bad days: an etcd that is killed, cut off, silent, or back with nothing.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Etcd, PATIENCE, Proxy, eventually, figure, open, with_option};
use futures_util::future::join_all;
use micro_etcd::{Keys, RangeOptions};
use micro_store_core::{Record, Result, Scope, Store as _, WriteOptions};
use micro_store_memory::MemoryStore;
use micro_sync_core::{Coordinator, ErrorKind, Fence, Lock, LockOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

fn opts(ttl: u64) -> LockOptions {
    LockOptions::default().with_ttl(Duration::from_secs(ttl))
}

async fn lock(coordinator: &dyn Coordinator, ttl: u64) -> Lock {
    let lock = timeout(PATIENCE, coordinator.lock("books", opts(ttl))).await;
    lock.expect("it is to be had in time").unwrap()
}

async fn keys(etcd: &Etcd) -> usize {
    let keys = Keys::prefix("/micro/sync/");
    let found = etcd.client().range(keys, &RangeOptions::default()).await;
    found.map_or(usize::MAX, |found| found.entries.len())
}

async fn write(store: &MemoryStore, fence: Fence) -> Result<()> {
    let scope = Scope::new("d", "t").unwrap();
    let opts = WriteOptions::default().with_fence(fence);
    store
        .write(&scope, Record::new("k", "v"), opts)
        .await
        .map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_within_the_ttl_keeps_locks_and_queues() {
    let Some(mut etcd) = Etcd::start("locks over a restart of etcd").await else {
        return;
    };
    let coordinator = open(&etcd.url()).await;
    let held = lock(&*coordinator, 10).await;
    let mut queue = Vec::new();
    for _ in 0..3 {
        let coordinator = Arc::clone(&coordinator);
        queue.push(tokio::spawn(async move {
            let lock = coordinator.lock("books", opts(10)).await.unwrap();
            (lock.token(), lock.release().await)
        }));
        sleep(Duration::from_millis(100)).await;
    }
    for _ in 0..3 {
        etcd.kill();
        sleep(Duration::from_millis(500)).await;
        etcd.run().await;
        sleep(Duration::from_millis(500)).await;
        assert!(held.is_held());
        held.verify().await.unwrap();
    }
    let mut highest = held.token();
    held.release().await.unwrap();
    for waiter in queue {
        let (token, released) = timeout(PATIENCE, waiter).await.unwrap().unwrap();
        released.unwrap();
        assert!(token > highest);
        highest = token;
    }
    assert_eq!(keys(&etcd).await, 0);
}

/// In whatever way: its own clock is enough.
#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_is_cut_off_knows_it_before_another_has_the_lock() {
    let Some(etcd) = Etcd::start("a holder cut off from etcd").await else {
        return;
    };
    let direct = open(&etcd.url()).await;
    let store = MemoryStore::new();
    for silent in [false, true] {
        let mut proxy = Proxy::start(etcd.port()).await;
        let held = lock(&*open(&proxy.url()).await, 3).await;
        write(&store, held.fence()).await.unwrap();
        if silent {
            proxy.swallow().await;
        } else {
            proxy.cut();
        }
        let cut = Instant::now();
        let work = held.run(std::future::pending::<()>());
        let (worked, lost, next) = tokio::join!(
            async { (work.await, Instant::now()) },
            async { (held.lost().await, Instant::now()) },
            async { (lock(&*direct, 3).await, Instant::now()) },
        );
        assert_eq!(worked.0.unwrap_err().kind(), ErrorKind::Lost);
        assert_eq!(lost.0.kind(), ErrorKind::Lost);
        let margin = next.1 - worked.1.max(lost.1);
        figure(&format!(
            "silent {silent}: lost after {:?}, {margin:?} before the next one",
            lost.1 - cut
        ));
        assert!(margin >= Duration::from_millis(300), "{margin:?}");
        assert!(
            next.1 - cut < Duration::from_secs(3 + 2),
            "a TTL and a second or so"
        );
        // Whatever it still believes: what it changes is refused.
        write(&store, next.0.fence()).await.unwrap();
        let late = write(&store, held.fence()).await.unwrap_err();
        assert_eq!(late.kind(), ErrorKind::Lost);
        drop(held);
        next.0.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_cannot_be_told_says_so_and_is_told_later() {
    let Some(etcd) = Etcd::start("a release while etcd is away").await else {
        return;
    };
    let mut proxy = Proxy::start(etcd.port()).await;
    let coordinator = open(&with_option(&proxy.url(), "timeout", "1s")).await;
    let held = lock(&*coordinator, 30).await;
    proxy.cut();
    let err = held.release().await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::OutcomeUnknown, "{err:?}");
    assert_eq!(keys(&etcd).await, 1);
    proxy.open().await;
    eventually("the lock is free", async || keys(&etcd).await == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_held_if_etcd_was_not_there() {
    let Some(mut etcd) = Etcd::start("locks while etcd is away").await else {
        return;
    };
    let coordinator = open(&with_option(&etcd.url(), "timeout", "500ms")).await;
    let held = lock(&*coordinator, 30).await;
    etcd.kill();
    let begin = Instant::now();
    for outcome in [
        coordinator.lock("other", opts(30)).await.map(drop),
        coordinator.try_lock("other", opts(30)).await.map(drop),
        coordinator.observe("other").await.map(drop),
        held.verify().await,
    ] {
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Unavailable);
    }
    assert!(begin.elapsed() < Duration::from_secs(8), "each has its end");
    assert!(held.is_held(), "that it could not be asked is no loss");
    etcd.run().await;
    // The client comes back after a pause, which grew while etcd was away: until then whoever asks for
    // half a second may be told that it still is.
    eventually("etcd is asked again", async || match held.verify().await {
        Err(err) if err.kind() == ErrorKind::Unavailable => false,
        verified => {
            verified.unwrap();
            true
        }
    })
    .await;
    held.release().await.unwrap();
    eventually("nothing is left", async || keys(&etcd).await == 0).await;
}

/// With the second half of the attack: tokens of another incarnation.
#[tokio::test(flavor = "multi_thread")]
async fn s64_tokens_of_an_etcd_begun_anew_are_refused_until_the_epoch_is_raised() {
    let Some(mut etcd) = Etcd::start("locks of an etcd begun anew").await else {
        return;
    };
    let store = MemoryStore::new();
    let coordinator = open(&etcd.url()).await;
    // Its history is longer than that of the one to come.
    for _ in 0..20 {
        etcd.client().put("k", "v", 0).await.unwrap();
    }
    let held = lock(&*coordinator, 6).await;
    write(&store, held.fence()).await.unwrap();
    let waiter = {
        let coordinator = Arc::clone(&coordinator);
        tokio::spawn(async move { coordinator.lock("books", opts(6)).await.map(drop) })
    };
    sleep(Duration::from_millis(300)).await;
    etcd.kill();
    etcd.wipe();
    etcd.run().await;
    let lost = timeout(PATIENCE, held.lost()).await;
    assert_eq!(lost.unwrap().kind(), ErrorKind::Lost);
    let waited = timeout(PATIENCE, waiter).await.unwrap().unwrap();
    assert_eq!(waited.unwrap_err().kind(), ErrorKind::Unavailable);
    let next = lock(&*coordinator, 6).await;
    assert!(next.token() < held.token());
    let refused = write(&store, next.fence()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Lost, "rather none than two");
    next.release().await.unwrap();
    let raised = open(&with_option(&etcd.url(), "epoch", "1")).await;
    let next = lock(&*raised, 6).await;
    assert!(next.token() > held.token());
    write(&store, next.fence()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_whose_place_in_the_queue_is_deleted_is_told() {
    let Some(etcd) = Etcd::start("a queue in etcd that is meddled with").await else {
        return;
    };
    let coordinator = open(&etcd.url()).await;
    let held = lock(&*coordinator, 6).await;
    let waiter = {
        let coordinator = Arc::clone(&coordinator);
        tokio::spawn(async move { coordinator.lock("books", opts(6)).await.map(drop) })
    };
    eventually("it waits", async || keys(&etcd).await == 2).await;
    etcd.client()
        .delete(Keys::prefix("/micro/sync/"))
        .await
        .unwrap();
    let waited = timeout(PATIENCE, waiter).await.unwrap().unwrap();
    assert_eq!(waited.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(held.verify().await.unwrap_err().kind(), ErrorKind::Lost);
}

/// How many requests etcd has answered, but those that keep leases alive.
async fn requests(etcd: &Etcd) -> f64 {
    let mut tcp = TcpStream::connect(("127.0.0.1", etcd.port()))
        .await
        .unwrap();
    tcp.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")
        .await
        .unwrap();
    let mut text = String::new();
    tcp.read_to_string(&mut text).await.unwrap();
    let counts = text.lines().filter_map(|line| {
        let rest = line.strip_prefix("grpc_server_started_total{")?;
        let (labels, count) = rest.split_once("} ")?;
        let counted = !labels.contains("LeaseKeepAlive");
        counted.then(|| count.parse::<f64>().unwrap())
    });
    counts.sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_handed_over_to_one_of_many_without_a_herd() {
    const WAITERS: usize = 64;
    let Some(etcd) = Etcd::start("a queue in etcd").await else {
        return;
    };
    let coordinator = open(&etcd.url()).await;
    let held = lock(&*coordinator, 60).await;
    let before = requests(&etcd).await;
    let waiters: Vec<_> = (0..WAITERS)
        .map(|_| {
            let coordinator = Arc::clone(&coordinator);
            tokio::spawn(async move {
                let lock = coordinator.lock("books", opts(60)).await.unwrap();
                lock.release().await.unwrap();
            })
        })
        .collect();
    // The watch of the one before is the last thing that each sends.
    eventually("all wait", async || {
        requests(&etcd).await - before >= (WAITERS * 3) as f64
    })
    .await;
    sleep(Duration::from_millis(300)).await;
    let queued = requests(&etcd).await;
    let begin = Instant::now();
    held.release().await.unwrap();
    for done in join_all(waiters).await {
        done.unwrap();
    }
    let took = begin.elapsed();
    let each = (requests(&etcd).await - queued) / WAITERS as f64;
    figure(&format!(
        "{WAITERS} waiters: {:.2} requests to come in, {each:.2} per hand-over, {took:?}",
        (queued - before) / WAITERS as f64
    ));
    // The one before lets go (a read and a revocation), the next one looks.
    assert!(each <= 3.2, "{each}");
    assert_eq!(keys(&etcd).await, 0);
}
