//! Servers that end and come back, holders and waiters that crash.

mod common;

use std::sync::Arc;
use std::time::Duration;

use micro_core::{Clock as _, Env, Random, SystemClock, SystemRandom};
use micro_redis::redis::{Value, cmd};
use micro_redis::{Connection, RedisConfig};
use micro_sync_core::{Coordinator as _, ErrorKind, Lock, LockOptions, Result};
use micro_sync_redis::{RedisCoordinator, RedisSyncConfig};
use tokio::time::{Instant, sleep, timeout};

use common::Redis;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// With a log that is synced before each answer.
const SAFE: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];

fn open(url: &str) -> RedisCoordinator {
    let config = RedisSyncConfig::from_url(&micro_core::url::resolve(url).unwrap()).unwrap();
    RedisCoordinator::open(config, &Env::new()).unwrap()
}

fn opts(ttl: u64) -> LockOptions {
    LockOptions::default().with_ttl(Duration::from_secs(ttl))
}

async fn lock(coordinator: &RedisCoordinator, ttl: u64) -> Result<Lock> {
    let lock = timeout(PATIENCE, coordinator.lock("books", opts(ttl))).await;
    lock.expect("it comes to an end")
}

/// What Redis says to an operator.
async fn say(server: &Redis, words: &[&str]) -> Value {
    let url = micro_core::url::resolve(&server.url()).unwrap();
    let random: Arc<dyn Random> = Arc::new(SystemRandom);
    let connection = Connection::open(RedisConfig::from_url(&url).unwrap(), &random).unwrap();
    let mut command = cmd(words[0]);
    command.arg(&words[1..]);
    connection
        .ask(&command, connection.deadline())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_restart_keeps_the_lock_and_its_queue_where_redis_keeps_its_data() {
    let Some(mut redis) = Redis::start("outage", SAFE) else {
        return;
    };
    let (one, two) = (open(&redis.url()), open(&redis.url()));
    let held = lock(&one, 10).await.unwrap();
    let token = held.token();
    let waiter = tokio::spawn(async move { lock(&two, 10).await });
    sleep(Duration::from_millis(300)).await;
    redis.kill();
    sleep(Duration::from_millis(500)).await;
    redis.restart();
    // The margin of its time to live is enough.
    sleep(Duration::from_secs(4)).await;
    assert!(held.is_held() && !waiter.is_finished());
    held.verify().await.unwrap();
    held.release().await.unwrap();
    let next = waiter.await.unwrap();
    // Whoever could not ask for as long as a call may take is told so, and asks again.
    let next = match next {
        Err(err) if err.kind() == ErrorKind::Unavailable => lock(&one, 10).await.unwrap(),
        next => next.unwrap(),
    };
    assert!(next.token() > token);
}

#[tokio::test]
async fn a_redis_that_lost_its_data_is_noticed_and_its_tokens_grow_all_the_same() {
    let Some(mut redis) = Redis::start("outage", &[]) else {
        return;
    };
    let coordinator = open(&redis.url());
    let held = lock(&coordinator, 3).await.unwrap();
    redis.kill();
    redis.restart();
    let lost = timeout(PATIENCE, held.lost()).await.unwrap();
    assert_eq!(lost.kind(), ErrorKind::Lost);
    let next = lock(&coordinator, 3).await.unwrap();
    assert!(next.token() > held.token());
    assert_eq!(held.release().await.unwrap_err().kind(), ErrorKind::Lost);
    next.verify().await.unwrap();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn whoever_crashes_holds_it_no_longer_than_its_time_and_waits_for_nothing() {
    let Some(redis) = Redis::start("outage", &[]) else {
        return;
    };
    let url = redis.url();
    let crashing = runtime();
    // One that holds it, and behind it one that waits; both are gone at once, as by kill -9.
    let (held, began) = crashing.block_on(async {
        let coordinator = open(&url);
        let held = lock(&coordinator, 2).await.unwrap();
        let waiting = coordinator.clone();
        tokio::spawn(async move {
            let _never = lock(&waiting, 2).await;
            std::future::pending::<()>().await;
        });
        sleep(Duration::from_millis(300)).await;
        (held, SystemClock.now())
    });
    crashing.shutdown_background();
    runtime().block_on(async {
        let coordinator = open(&url);
        let next = lock(&coordinator, 2).await.unwrap();
        // The lock's time, and that after which nobody waits for one who waited.
        assert!(
            began.elapsed() < Duration::from_secs(2 + 3 + 1),
            "{:?}",
            began.elapsed()
        );
        assert!(next.token() > held.token());
        next.release().await.unwrap();
    });
    drop(held);
}

#[tokio::test]
async fn nothing_is_left_of_those_who_went_away() {
    let Some(redis) = Redis::start("outage", &[]) else {
        return;
    };
    let coordinator = open(&redis.url());
    let held = lock(&coordinator, 10).await.unwrap();
    for millis in 0..20 {
        let waiting = coordinator.lock("books", opts(10));
        let _ = timeout(Duration::from_millis(millis), waiting).await;
        let _ = coordinator.try_lock("books", opts(10)).await.unwrap();
    }
    held.release().await.unwrap();
    sleep(Duration::from_millis(300)).await;
    let begin = Instant::now();
    loop {
        let left = say(&redis, &["KEYS", "*"]).await;
        // The words for who waited end by themselves, and tokens are for ever.
        let Value::Array(left) = left else {
            panic!("{left:?}");
        };
        let others = left.iter().filter(|key| match key {
            Value::BulkString(key) => {
                !key.starts_with(b"{micro-sync}:w:") && key != b"{micro-sync}:t"
            }
            _ => true,
        });
        if others.count() == 0 {
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(2), "{left:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_queue_of_64_is_served_one_by_one() {
    const CROWD: usize = 64;
    let Some(redis) = Redis::start("outage", &[]) else {
        return;
    };
    let coordinators: Vec<_> = (0..8).map(|_| open(&redis.url())).collect();
    let held = lock(&coordinators[0], 10).await.unwrap();
    let tasks: Vec<_> = (0..CROWD)
        .map(|i| {
            let coordinator = coordinators[i % coordinators.len()].clone();
            tokio::spawn(async move {
                let lock = lock(&coordinator, 10).await.unwrap();
                let token = lock.token();
                lock.release().await.unwrap();
                token
            })
        })
        .collect();
    sleep(Duration::from_millis(500)).await;
    let before = calls(&redis).await;
    let begin = Instant::now();
    held.release().await.unwrap();
    for task in tasks {
        task.await.unwrap();
    }
    let took = begin.elapsed();
    let each = (calls(&redis).await - before) as f64 / CROWD as f64;
    common::figure(&format!(
        "handovers={CROWD} requests_each={each:.1} micros_each={}",
        took.as_micros() / CROWD as u128
    ));
    assert!(each < 6.0, "{each} requests for a hand-over");
}

/// How many commands clients have sent; what scripts do is not counted.
async fn calls(server: &Redis) -> u64 {
    let Value::BulkString(info) = say(server, &["INFO", "commandstats"]).await else {
        panic!("it has figures");
    };
    let info = String::from_utf8(info).unwrap();
    let of = |name: &str| {
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix(&format!("cmdstat_{name}:calls=")));
        let number = line.and_then(|line| line.split(',').next());
        number
            .and_then(|number| number.parse::<u64>().ok())
            .unwrap_or(0)
    };
    of("evalsha") + of("eval") + of("blpop")
}

#[tokio::test]
async fn who_may_not_is_told_at_once_and_without_the_password() {
    let Some(redis) = Redis::start("outage", &[]) else {
        return;
    };
    lock(&open(&redis.url()), 2)
        .await
        .unwrap()
        .release()
        .await
        .unwrap();
    let rights = "on >hunter2 resetkeys ~{*}:* resetchannels -@all +ping +info +time +eval +evalsha +unlink +pexpire +pttl +hset +hmget +zadd +zrem +zscore +zrange +lpush +blpop";
    let mut words = vec!["ACL", "SETUSER", "narrow"];
    words.extend(rights.split(' '));
    say(&redis, &words).await;
    let url = |user: &str| redis.url().replace("//", &format!("//{user}@"));
    for (user, kind) in [
        ("narrow:hunter3", ErrorKind::Unauthenticated),
        ("narrow:hunter2", ErrorKind::PermissionDenied),
    ] {
        let coordinator = open(&url(user));
        let begin = Instant::now();
        let err = lock(&coordinator, 2).await.unwrap_err();
        assert_eq!(err.kind(), kind, "{err:?}");
        assert!(begin.elapsed() < Duration::from_secs(2));
        assert!(
            !format!("{err:?} {coordinator:?}").contains("hunter2"),
            "{err:?}"
        );
    }
    say(&redis, &["ACL", "SETUSER", "narrow", "+hget"]).await;
    let held = lock(&open(&url("narrow:hunter2")), 2).await.unwrap();
    held.release().await.unwrap();
}
