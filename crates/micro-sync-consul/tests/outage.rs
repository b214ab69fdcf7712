//! Bad days: a Consul that is killed, cut off, or back with nothing.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Consul, Proxy, client, open, queue};
use micro_core::Env;
use micro_http::HttpConfig;
use micro_store_core::{Record, Result, Scope, Store as _, WriteOptions};
use micro_store_memory::MemoryStore;
use micro_sync_core::{Coordinator, ErrorKind, Fence, Lock, LockOptions};
use tokio::time::{Instant, sleep, timeout};

/// How long anything may take: Consul may keep a session for twice its time.
const PATIENCE: Duration = Duration::from_secs(40);
const TTL: Duration = Duration::from_secs(10);

struct Server {
    consul: Consul,
    port: u16,
}

impl Server {
    async fn start(test: &str, lasting: bool) -> Option<Self> {
        let Some(program) = common::program() else {
            common::skip(test, "there is no program consul");
            return None;
        };
        let port = common::free_port();
        let consul = match lasting {
            true => Consul::start_lasting(&program, port),
            false => Consul::start(&program, port, false, "{}"),
        };
        let mut server = Self { consul, port };
        server.ready().await;
        Some(server)
    }

    async fn ready(&mut self) {
        let config = HttpConfig::new(vec![format!("127.0.0.1:{}", self.port)]);
        self.consul.ready(config).await;
        // A new leader has yet to note that its own node is there.
        let client = client(&self.url());
        let until = Instant::now() + PATIENCE;
        loop {
            match client.create_session("ready", TTL).await {
                Ok(session) => return client.destroy_session(&session).await.unwrap(),
                Err(err) => assert!(Instant::now() < until, "{err:?}"),
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn restart(&mut self) {
        self.consul.restart();
        self.ready().await;
    }

    fn url(&self) -> String {
        format!("consul://127.0.0.1:{}?timeout=2s", self.port)
    }

    async fn keys(&self) -> usize {
        let queue = queue(&client(&self.url()), "micro/sync/").await;
        queue.map_or(usize::MAX, |queue| queue.len())
    }

    async fn emptied(&self) {
        let until = Instant::now() + PATIENCE;
        while self.keys().await > 0 {
            assert!(Instant::now() < until, "something is left");
            sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn lock(coordinator: &dyn Coordinator) -> Lock {
    let lock = timeout(PATIENCE, try_lock(coordinator)).await;
    lock.expect("it is to be had in time").unwrap()
}

async fn try_lock(coordinator: &dyn Coordinator) -> Result<Lock> {
    let opts = LockOptions::default().with_ttl(TTL);
    coordinator.lock("books", opts).await
}

async fn write(store: &MemoryStore, fence: Fence) -> Result<()> {
    let scope = Scope::new("d", "t").unwrap();
    let opts = WriteOptions::default().with_fence(fence);
    let written = store.write(&scope, Record::new("k", "v"), opts).await;
    written.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_within_the_ttl_keeps_locks_and_queues() {
    let Some(mut server) = Server::start("consul locks over a restart", true).await else {
        return;
    };
    let coordinator = open(&server.url(), &Env::new()).await;
    let opts = LockOptions::default().with_ttl(Duration::from_secs(60));
    let held = coordinator.lock("books", opts.clone()).await.unwrap();
    let mut waiters = Vec::new();
    for _ in 0..3 {
        let (coordinator, opts) = (Arc::clone(&coordinator), opts.clone());
        waiters.push(tokio::spawn(async move {
            let lock = coordinator.lock("books", opts).await.unwrap();
            (lock.token(), lock.release().await)
        }));
        sleep(Duration::from_millis(200)).await;
    }
    for _ in 0..2 {
        server.restart().await;
        assert!(held.is_held());
        // The server has a leader, and takes a moment to follow it itself.
        let until = Instant::now() + PATIENCE;
        while let Err(err) = held.verify().await {
            assert_eq!(err.kind(), ErrorKind::Unavailable, "{err}");
            assert!(Instant::now() < until, "{err}");
            sleep(Duration::from_millis(100)).await;
        }
    }
    let mut highest = held.token();
    held.release().await.unwrap();
    for waiter in waiters {
        let (token, released) = timeout(PATIENCE, waiter).await.unwrap().unwrap();
        released.unwrap();
        assert!(token > highest, "in the order in which they came");
        highest = token;
    }
    server.emptied().await;
}

/// Its own clock is enough.
#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_is_cut_off_knows_it_before_another_has_the_lock() {
    let Some(server) = Server::start("a holder cut off from consul", false).await else {
        return;
    };
    let direct = open(&server.url(), &Env::new()).await;
    let store = MemoryStore::new();
    let mut proxy = Proxy::start(server.port).await;
    let through = format!("consul://127.0.0.1:{}?timeout=2s", proxy.port);
    let held = lock(&*open(&through, &Env::new()).await).await;
    write(&store, held.fence()).await.unwrap();
    proxy.cut();
    let cut = Instant::now();
    let work = held.run(std::future::pending::<()>());
    let (worked, next) = tokio::join!(async { (work.await, Instant::now()) }, async {
        (lock(&*direct).await, Instant::now())
    },);
    assert_eq!(worked.0.unwrap_err().kind(), ErrorKind::Lost);
    let margin = next.1 - worked.1;
    assert!(margin >= TTL / 10, "{margin:?} before the next one");
    assert!(
        next.1 - cut < TTL * 2 + Duration::from_secs(3),
        "{:?}",
        next.1 - cut
    );
    // Whatever it still believes: what it changes is refused.
    write(&store, next.0.fence()).await.unwrap();
    let late = write(&store, held.fence()).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Lost);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_cannot_be_told_says_so_and_is_told_later() {
    let Some(server) = Server::start("a release while consul is away", false).await else {
        return;
    };
    let mut proxy = Proxy::start(server.port).await;
    let through = format!("consul://127.0.0.1:{}?timeout=1s", proxy.port);
    let held = lock(&*open(&through, &Env::new()).await).await;
    proxy.cut();
    let err = held.release().await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::OutcomeUnknown, "{err:?}");
    assert_eq!(server.keys().await, 1);
    let back = Instant::now();
    proxy.open().await;
    server.emptied().await;
    assert!(back.elapsed() < TTL / 2, "{:?}", back.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_held_if_consul_was_not_there() {
    let Some(mut server) = Server::start("locks while consul is away", true).await else {
        return;
    };
    let url = format!("consul://127.0.0.1:{}?timeout=500ms", server.port);
    let coordinator = open(&url, &Env::new()).await;
    let opts = LockOptions::default().with_ttl(Duration::from_secs(60));
    let held = coordinator.lock("books", opts.clone()).await.unwrap();
    server.consul.kill();
    let begin = Instant::now();
    for outcome in [
        coordinator.lock("other", opts.clone()).await.map(drop),
        coordinator.try_lock("other", opts).await.map(drop),
        coordinator.observe("other").await.map(drop),
        held.verify().await,
    ] {
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Unavailable);
    }
    assert!(begin.elapsed() < Duration::from_secs(8), "each has its end");
    assert!(held.is_held(), "that it could not be asked is no loss");
    server.restart().await;
    let until = Instant::now() + PATIENCE;
    while let Err(err) = held.verify().await {
        assert_eq!(err.kind(), ErrorKind::Unavailable, "{err}");
        assert!(Instant::now() < until, "{err}");
    }
    held.release().await.unwrap();
    server.emptied().await;
}

/// With the second half of the attack: tokens of another incarnation.
#[tokio::test(flavor = "multi_thread")]
async fn s64_tokens_of_a_consul_begun_anew_are_refused_until_the_epoch_is_raised() {
    // In memory: what is started again has nothing.
    let Some(mut server) = Server::start("locks of a consul begun anew", false).await else {
        return;
    };
    let store = MemoryStore::new();
    let coordinator = open(&server.url(), &Env::new()).await;
    // Its history is longer than that of the one to come.
    for _ in 0..60 {
        coordinator
            .lock("warm", LockOptions::default())
            .await
            .unwrap()
            .release()
            .await
            .unwrap();
    }
    let held = lock(&*coordinator).await;
    write(&store, held.fence()).await.unwrap();
    server.restart().await;
    let lost = timeout(PATIENCE, held.lost()).await;
    assert_eq!(lost.unwrap().kind(), ErrorKind::Lost);
    let next = lock(&*coordinator).await;
    assert!(next.token() < held.token());
    let refused = write(&store, next.fence()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Lost, "rather none than two");
    next.release().await.unwrap();
    let raised = open(&format!("{}&epoch=1", server.url()), &Env::new()).await;
    let next = lock(&*raised).await;
    assert!(next.token() > held.token());
    write(&store, next.fence()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_whose_place_in_the_queue_is_deleted_is_told() {
    let Some(server) = Server::start("a queue in consul that is meddled with", false).await else {
        return;
    };
    let coordinator = open(&server.url(), &Env::new()).await;
    let held = lock(&*coordinator).await;
    let waiter = {
        let coordinator = Arc::clone(&coordinator);
        tokio::spawn(async move { try_lock(&*coordinator).await.map(drop) })
    };
    let until = Instant::now() + PATIENCE;
    while server.keys().await != 2 {
        assert!(Instant::now() < until, "it does not wait");
        sleep(Duration::from_millis(20)).await;
    }
    let client = client(&server.url());
    // The waiter's first: without the holder's it would have its turn.
    for pair in queue(&client, "micro/sync/").await.unwrap().iter().rev() {
        client.delete(&pair.key).await.unwrap();
    }
    let waited = timeout(PATIENCE, waiter).await.unwrap().unwrap();
    assert_eq!(waited.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(held.verify().await.unwrap_err().kind(), ErrorKind::Lost);
}
