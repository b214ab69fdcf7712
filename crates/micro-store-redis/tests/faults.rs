//! Bad days: servers that are killed, wires that hold and cut, answers that nobody would expect.

mod common;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use micro_core::{Random as _, SeededRandom, SystemRandom};
use micro_store_core::{
    Condition, Durability, ErrorKind, Record, Store as _, WatchOptions, WriteOptions,
};
use micro_store_redis::RedisStore;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep, timeout};

use common::{Fault, PATIENCE, Redis, Wire, fresh, get, open, orders, put, try_open};

/// With a log that is synced before each answer.
const SAFE: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];

/// How often, if nobody says otherwise: campaigns take longer than tests.
fn number(variable: &str, usual: usize) -> usize {
    let said = std::env::var(variable).ok();
    said.and_then(|said| said.parse().ok()).unwrap_or(usual)
}

/// What a writer knows of its key.
#[derive(Default)]
struct Ledger {
    acked: Option<(u64, u64)>,
    /// Values whose outcome was not known, since the last that was acknowledged.
    unknown: Vec<u64>,
}

/// Writes 1, 2, 3 … until the server is gone.
async fn write_until_gone(store: &RedisStore, key: &str, ledger: &mut Ledger, from: u64) -> u64 {
    let mut value = from;
    loop {
        value += 1;
        match put(store, key, &value.to_string()).await {
            Ok(written) => {
                assert_eq!(written.durability, Durability::Power);
                ledger.acked = Some((value, written.version));
                ledger.unknown.clear();
            }
            Err(err) if err.kind() == ErrorKind::OutcomeUnknown => {
                ledger.unknown.push(value);
                return value;
            }
            Err(err) => {
                assert_eq!(err.kind(), ErrorKind::Unavailable, "{err:?}");
                assert!(err.is_unprocessed(), "{err:?}");
                return value;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kills_and_what_was_not_is_known_by_its_version() {
    const WRITERS: usize = 8;
    let rounds = number("MICRO_REDIS_KILLS", 8);
    let Some(mut redis) = Redis::start("faults", SAFE) else {
        return;
    };
    let seed = SystemRandom.next_u64();
    let random = SeededRandom::new(seed);
    let mut ledgers: Vec<(Ledger, u64)> = (0..WRITERS).map(|_| Default::default()).collect();
    let (mut acked, mut happened, mut not) = (0, 0, 0);
    let store = open(&format!("{}?timeout=2s", redis.url())).await;
    assert_eq!(store.capabilities().durability, Durability::Power);
    for round in 0..rounds {
        let writers = ledgers
            .drain(..)
            .enumerate()
            .map(|(i, (mut ledger, from))| {
                let store = store.clone();
                tokio::spawn(async move {
                    let last = write_until_gone(&store, &format!("k-{i}"), &mut ledger, from).await;
                    (ledger, from, last)
                })
            });
        let writers: Vec<_> = writers.collect();
        sleep(Duration::from_millis(50 + random.next_u64() % 150)).await;
        redis.kill();
        let mut after = Vec::new();
        for writer in writers {
            after.push(writer.await.expect("a writer knows what happened"));
        }
        redis.restart();
        // The same handle comes back by itself.
        let begin = Instant::now();
        while get(&store, "nothing").await.unwrap_err().kind() != ErrorKind::NotFound {
            assert!(begin.elapsed() < PATIENCE, "round {round}, seed {seed}");
        }
        for (i, (mut ledger, from, last)) in after.into_iter().enumerate() {
            let found = match get(&store, &format!("k-{i}")).await {
                Ok(record) => Some((record.json::<u64>().unwrap(), record.version)),
                Err(err) if err.kind() == ErrorKind::NotFound => None,
                Err(err) => panic!("{err:?}"),
            };
            let (value, version) = found.unwrap_or_default();
            if let Some((acked, at)) = ledger.acked {
                assert!(
                    (value, version) == (acked, at)
                        || (version > at && ledger.unknown.contains(&value)),
                    "round {round}, seed {seed}: {acked} at {at} was acknowledged, {value} at {version} is there"
                );
            } else {
                assert!(value == 0 || ledger.unknown.contains(&value));
            }
            acked += last - from - ledger.unknown.len() as u64;
            if ledger.unknown.contains(&value) {
                happened += 1;
                ledger.acked = Some((value, version));
            } else {
                not += ledger.unknown.len();
            }
            ledger.unknown.clear();
            ledgers.push((ledger, last));
        }
    }
    common::figure(&format!(
        "kills={rounds} acked={acked} lost=0 unknown={} happened={happened} unresolved=0 seed={seed}",
        happened + not
    ));
    assert!(acked > 0);
}

#[tokio::test]
async fn what_changes_survive_is_asked_again_after_a_reconnection() {
    let Some(mut redis) = Redis::start("faults", SAFE) else {
        return;
    };
    let store = open(&redis.url()).await;
    let power = || WriteOptions::default().with_durability(Durability::Power);
    let write = async |value: &str| {
        let record = Record::new("a", value.to_owned());
        store.write(&orders(), record, power()).await
    };
    assert_eq!(write("1").await.unwrap().durability, Durability::Power);
    redis.kill();
    redis.set(&["--appendonly", "no"]);
    redis.restart();
    let begin = Instant::now();
    let written = loop {
        match put(&store, "a", "2").await {
            Ok(written) => break written,
            Err(err) => assert!(begin.elapsed() < PATIENCE, "{err:?}"),
        }
    };
    assert_eq!(written.durability, Durability::Memory);
    assert_eq!(store.capabilities().durability, Durability::Memory);
    let err = write("3").await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unimplemented, "{err:?}");
}

#[tokio::test]
async fn versions_grow_over_the_loss_of_everything() {
    let Some(mut redis) = Redis::start("faults", &["--appendonly", "no"]) else {
        return;
    };
    let store = open(&redis.url()).await;
    let mut last = 0;
    for _ in 0..3 {
        let begin = Instant::now();
        let version = loop {
            match put(&store, "a", "1").await {
                Ok(written) => break written.version,
                Err(err) => assert!(begin.elapsed() < PATIENCE, "{err:?}"),
            }
        };
        assert!(version > last, "{last}, then {version}");
        last = version;
        redis.kill();
        redis.restart();
    }
}

#[tokio::test]
async fn what_an_earlier_connection_held_takes_no_effect_behind_a_later_change() {
    let Some(redis) = Redis::start("faults", &[]) else {
        return;
    };
    open(&redis.url()).await;
    let wire = Wire::to(redis.port).await;
    let store = open(&format!("{}?timeout=300ms", wire.url())).await;
    put(&store, "a", "first").await.unwrap();
    // What is sent now does not arrive, and its caller gives up.
    let made = *wire.made.borrow();
    wire.fault.send_replace(Fault::Hold(made));
    let err = put(&store, "a", "late").await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::OutcomeUnknown, "{err:?}");
    let begin = Instant::now();
    let newer = loop {
        match put(&store, "a", "newer").await {
            Ok(written) => break written.version,
            Err(err) => assert!(begin.elapsed() < PATIENCE, "{err:?}"),
        }
    };
    // Now it arrives.
    wire.fault.send_replace(Fault::None);
    sleep(Duration::from_millis(300)).await;
    let found = get(&store, "a").await.unwrap();
    assert_eq!((&*found.value, found.version), (&b"newer"[..], newer));
    assert_eq!(*wire.made.borrow(), made + 1);
}

#[tokio::test]
async fn a_change_whose_answer_is_cut_off_happens_once_and_is_unknown() {
    let Some(redis) = Redis::start("faults", &[]) else {
        return;
    };
    open(&redis.url()).await;
    let wire = Wire::to(redis.port).await;
    let store = open(&wire.url()).await;
    for i in 0..10 {
        let key = format!("k-{i}");
        put(&store, "other", "1").await.unwrap();
        wire.fault.send_replace(Fault::CutAnswers);
        let opts = || WriteOptions::default().with_condition(Condition::Absent);
        let written = store.write(&orders(), Record::new(&key, "1"), opts()).await;
        let err = written.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::OutcomeUnknown, "{err:?}");
        wire.fault.send_replace(Fault::None);
        // A read is repeated by itself.
        assert_eq!(get(&store, &key).await.unwrap().value, "1");
        let again = store.write(&orders(), Record::new(&key, "2"), opts()).await;
        assert_eq!(again.unwrap_err().kind(), ErrorKind::AlreadyExists);
    }
}

#[tokio::test]
async fn scripts_that_redis_forgot_are_sent_again() {
    let Some(redis) = Redis::start("faults", &[]) else {
        return;
    };
    let store = open(&redis.url()).await;
    for i in 0..3 {
        put(&store, "a", "1").await.unwrap();
        let keys = store.list(&orders(), Default::default()).await.unwrap();
        assert_eq!(keys.records.len(), 1, "round {i}");
        say(redis.port, "SCRIPT FLUSH\r\n").await;
    }
}

/// Says something to a server, in the plain way.
async fn say(port: u16, line: &str) -> String {
    let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", port))
        .await
        .unwrap();
    socket.write_all(line.as_bytes()).await.unwrap();
    let mut buffer = vec![0; 4096];
    let count = socket.read(&mut buffer).await.unwrap();
    String::from_utf8_lossy(&buffer[..count]).into_owned()
}

#[tokio::test]
async fn a_full_redis_refuses_writes_and_lets_delete() {
    let args = ["--maxmemory", "6mb", "--maxmemory-policy", "noeviction"];
    let Some(redis) = Redis::start("faults", &args) else {
        return;
    };
    let store = open(&redis.url()).await;
    let large = "x".repeat(200_000);
    let mut written = 0;
    let err = loop {
        match put(&store, &format!("k-{written}"), &large).await {
            Ok(_) => written += 1,
            Err(err) => break err,
        }
        assert!(written < 100, "it is never full");
    };
    assert_eq!(err.kind(), ErrorKind::ResourceExhausted, "{err:?}");
    assert_eq!(
        get(&store, &format!("k-{written}"))
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::NotFound
    );
    // It is opened, read and emptied all the same.
    let store = open(&redis.url()).await;
    assert_eq!(get(&store, "k-0").await.unwrap().value.len(), large.len());
    let page = store.list(&orders(), Default::default()).await.unwrap();
    assert_eq!(page.records.len(), written);
    let never = store.delete(&orders(), "never", Default::default()).await;
    assert!(!never.unwrap().existed);
    for i in 0..written {
        let deleted = store
            .delete(&orders(), &format!("k-{i}"), Default::default())
            .await;
        assert!(deleted.unwrap().existed);
    }
    put(&store, "again", "1").await.unwrap();
}

#[tokio::test]
async fn servers_that_cannot_keep_the_promise_are_refused() {
    let args = ["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"];
    let (Some(primary), Some(evicting)) =
        (Redis::start("faults", &[]), Redis::start("faults", &args))
    else {
        return;
    };
    open(&primary.url()).await;
    let port = primary.port.to_string();
    let Some(replica) = Redis::start("faults", &["--replicaof", "127.0.0.1", &port]) else {
        return;
    };
    for (redis, text) in [(&evicting, "noeviction"), (&replica, "replica")] {
        let begin = Instant::now();
        let err = loop {
            let err = try_open(&redis.url()).await.unwrap_err();
            if err.kind() != ErrorKind::Unavailable {
                break err;
            }
            assert!(begin.elapsed() < PATIENCE, "{err:?}");
        };
        assert_eq!(err.kind(), ErrorKind::FailedPrecondition, "{err:?}");
        assert!(err.to_string().contains(text), "{err:?}");
    }
    let store = open(&format!("{}?evict=true", evicting.url())).await;
    assert_eq!(store.capabilities().durability, Durability::Memory);
}

#[tokio::test]
async fn who_may_not_is_told_at_once_and_without_the_password() {
    let Some(redis) = Redis::start("faults", &[]) else {
        return;
    };
    open(&redis.url()).await;
    let rights = "~{*}:* &{*}:* -@all +ping +info +get +set +unlink +exists +strlen +getrange +hget +hset +zadd +zrem +zcard +zrangebylex +zrangebyscore +time +eval +evalsha +subscribe +pubsub|numsub";
    let user = format!("ACL SETUSER narrow on >hunter2 resetkeys resetchannels {rights}\r\n");
    assert!(say(redis.port, &user).await.starts_with("+OK"));
    let url = |user: &str| format!("redis://{user}@127.0.0.1:{}", redis.port);
    let begin = Instant::now();
    let err = try_open(&url("narrow:hunter3")).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unauthenticated, "{err:?}");
    let err = try_open(&url("narrow:hunter2")).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::PermissionDenied, "{err:?}");
    assert!(!format!("{err:?}").contains("hunter2"), "{err:?}");
    assert!(begin.elapsed() < Duration::from_secs(2));
    say(redis.port, "ACL SETUSER narrow +publish\r\n").await;
    let store = open(&url("narrow:hunter2")).await;
    put(&store, "a", "1").await.unwrap();
    // Nobody let us ask how it syncs, so nothing is claimed, unless we are told.
    assert_eq!(store.capabilities().durability, Durability::Memory);
    assert!(!format!("{store:?}").contains("hunter2"), "{store:?}");
    say(redis.port, "CONFIG SET requirepass x\r\n").await;
    let err = try_open(&redis.url()).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unauthenticated, "{err:?}");
}

#[tokio::test]
async fn a_watch_ends_when_its_server_does() {
    let Some(mut redis) = Redis::start("faults", &[]) else {
        return;
    };
    let store = open(&redis.url()).await;
    let watching = store.watch(&orders(), WatchOptions::default()).await;
    let mut changes = watching.unwrap();
    put(&store, "a", "1").await.unwrap();
    assert_eq!(changes.next().await.unwrap().unwrap().record.key, "a");
    redis.kill();
    let err = timeout(PATIENCE, changes.next()).await.unwrap();
    assert_eq!(err.unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(changes.next().await.is_none());
}

#[tokio::test]
async fn what_has_expired_leaves_nothing_behind() {
    let Some(redis) = Redis::start("faults", &[]) else {
        return;
    };
    let store = open(&redis.url()).await;
    let brief = WriteOptions::default().with_ttl(Duration::from_millis(1));
    for i in 0..100 {
        let record = Record::new(format!("k-{i}"), "1");
        store.write(&orders(), record, brief.clone()).await.unwrap();
    }
    sleep(Duration::from_millis(20)).await;
    let page = store.list(&orders(), Default::default()).await.unwrap();
    assert_eq!(page.records, []);
    assert_eq!(store.scopes(Default::default()).await.unwrap(), []);
    // What is left is the last version.
    assert_eq!(say(redis.port, "DBSIZE\r\n").await, ":1\r\n");
    put(&store, "a", "1").await.unwrap();
    store
        .delete(&orders(), "a", Default::default())
        .await
        .unwrap();
    assert_eq!(say(redis.port, "DBSIZE\r\n").await, ":1\r\n");
}

#[tokio::test]
async fn damaged_records_are_corrupt_and_can_be_written_over() {
    let Some(redis) = Redis::start("faults", &[]) else {
        return;
    };
    let store = open(&redis.url()).await;
    put(&store, "a", "1").await.unwrap();
    for (line, kind) in [
        ("SET {micro}:r:shop:orders:a nonsense", ErrorKind::Corrupt),
        ("SET {micro}:r:shop:orders:a 1", ErrorKind::Corrupt),
        (
            "SET {micro}:r:shop:orders:a 20000000000000000000000000000000",
            ErrorKind::FailedPrecondition,
        ),
    ] {
        assert!(
            say(redis.port, &format!("{line}\r\n"))
                .await
                .starts_with("+OK")
        );
        let err = get(&store, "a").await.unwrap_err();
        assert_eq!(err.kind(), kind, "{line}: {err:?}");
        let listed = store.list(&orders(), Default::default()).await;
        assert_eq!(listed.unwrap_err().kind(), kind, "{line}");
        put(&store, "a", "2").await.unwrap();
        assert_eq!(get(&store, "a").await.unwrap().value, "2");
    }
    say(redis.port, "DEL {micro}:r:shop:orders:a\r\n").await;
    say(redis.port, "LPUSH {micro}:r:shop:orders:a x\r\n").await;
    let err = get(&store, "a").await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Corrupt, "{err:?}");
}

/// A server that answers whatever it likes.
async fn hostile(answers: Vec<Vec<u8>>) -> u16 {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
        .await
        .unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let answers = Arc::new(answers);
        while let Ok((mut socket, _)) = listener.accept().await {
            let answers = Arc::clone(&answers);
            tokio::spawn(async move {
                let mut buffer = vec![0; 64 << 10];
                let mut next = 0;
                while let Ok(1..) = socket.read(&mut buffer).await {
                    let answer = answers.get(next).or(answers.last());
                    next += 1;
                    let Some(answer) = answer else { return };
                    if socket.write_all(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn s61_a_hostile_server_gets_errors_and_no_more() {
    let ok = b"+OK\r\n".to_vec();
    for answer in [
        &b"\0\0\0\0"[..],
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"$9223372036854775807\r\n",
        b"$-9223372036854775808\r\n",
        b"*9223372036854775807\r\n",
        b"*2147483647\r\n",
        b"%9223372036854775807\r\n",
        b"~9223372036854775807\r\n",
        b":99999999999999999999999999\r\n",
        b"$5\r\nab",
        b"-\r\n",
        b">3\r\n+message\r\n+a\r\n+b\r\n",
        &b"*1\r\n".repeat(10_000),
        b"+OK\r\n+OK\r\n+OK\r\n+OK\r\n+OK\r\n+OK\r\n",
    ] {
        for before in 0..3 {
            let mut answers = vec![ok.clone(); before];
            answers.push(answer.to_vec());
            let port = hostile(answers).await;
            let url = format!("redis://127.0.0.1:{port}?connect=300ms&timeout=300ms");
            let opened = timeout(PATIENCE, try_open(&url)).await;
            let err = opened.expect("it comes to an end").unwrap_err();
            assert!(
                matches!(
                    err.kind(),
                    ErrorKind::Unavailable | ErrorKind::Internal | ErrorKind::FailedPrecondition
                ),
                "{:?} behind {before}: {err:?}",
                String::from_utf8_lossy(&answer[..answer.len().min(40)])
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_thousand_increments_by_sixteen_writers_are_exact() {
    const WRITERS: u64 = 16;
    const ALL: u64 = 20_000;
    let Some(url) = common::server("faults", "MICRO_TEST_REDIS_URL", "redis") else {
        return;
    };
    let store = open(&format!("{url}?prefix={}&timeout=20s", fresh())).await;
    let begin = Instant::now();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut conflicts = 0_u64;
                for i in 0..ALL / WRITERS {
                    let key = format!("counter-{}", (writer + i) % 4);
                    while !increment(&store, &key).await {
                        conflicts += 1;
                    }
                }
                conflicts
            })
        })
        .collect();
    let mut conflicts = 0;
    for writer in writers {
        conflicts += writer.await.expect("a writer counts to its end");
    }
    let mut sum = 0;
    for i in 0..4 {
        let key = format!("counter-{i}");
        sum += get(&store, &key).await.unwrap().json::<u64>().unwrap();
    }
    common::figure(&format!(
        "increments={sum} conflicts={conflicts} seconds={:.1}",
        begin.elapsed().as_secs_f64()
    ));
    assert_eq!(sum, ALL);
    clear(&store).await;
}

async fn increment(store: &RedisStore, key: &str) -> bool {
    let (number, condition) = match get(store, key).await {
        Ok(record) => (
            record.json::<u64>().unwrap(),
            Condition::Version(record.version),
        ),
        Err(err) if err.kind() == ErrorKind::NotFound => (0, Condition::Absent),
        Err(err) => panic!("{err:?}"),
    };
    let record = Record::new(key, (number + 1).to_string());
    let opts = WriteOptions::default().with_condition(condition);
    match store.write(&orders(), record, opts).await {
        Ok(_) => true,
        Err(err) if matches!(err.kind(), ErrorKind::Aborted | ErrorKind::AlreadyExists) => false,
        Err(err) => panic!("{err:?}"),
    }
}

/// Leaves nothing on a server that others use.
async fn clear(store: &RedisStore) {
    let page = store.list(&orders(), Default::default()).await.unwrap();
    for record in page.records {
        store
            .delete(&orders(), &record.key, Default::default())
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expiry_never_takes_a_newer_record_along() {
    const TASKS: usize = 32;
    let races = number("MICRO_REDIS_RACES", 6_400);
    let Some(url) = common::server("faults", "MICRO_TEST_REDIS_URL", "redis") else {
        return;
    };
    let store = open(&format!("{url}?prefix={}&timeout=20s", fresh())).await;
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut newest = HashMap::new();
                for i in 0..races / TASKS {
                    let key = format!("k-{task}-{}", i % 16);
                    let ttl = Duration::from_micros(300 * (1 + i as u64 % 9));
                    let brief = WriteOptions::default().with_ttl(ttl);
                    let record = Record::new(&key, "old");
                    store.write(&orders(), record, brief).await.unwrap();
                    let version = put(&store, &key, "new").await.unwrap().version;
                    newest.insert(key, version);
                }
                newest
            })
        })
        .collect();
    let mut lost = 0;
    let mut newest = HashMap::new();
    for task in tasks {
        newest.extend(task.await.unwrap());
    }
    sleep(Duration::from_millis(20)).await;
    put(&store, "last", "1").await.unwrap();
    for (key, version) in &newest {
        let found = get(&store, key).await.map(|record| record.version);
        lost += usize::from(found.ok() != Some(*version));
    }
    common::figure(&format!("races={races} lost={lost}"));
    assert_eq!(lost, 0);
    clear(&store).await;
}
