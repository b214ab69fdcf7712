//! Writes and reads by one caller and by many, beside those of the `redis` crate itself, taking turns.
//!
//! `cargo run --release -p micro-store-redis --example redis-figures -- redis://127.0.0.1:6379`,
//! for a server without TLS and passwords.
//!
//! A raw write is a bare `SET`; ours is a script that also gives a version, keeps the order of keys
//! and takes out what has expired.

#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::sync::Arc;
use std::time::Duration;

use micro_core::{Clock as _, Random, SystemClock, SystemRandom};
use micro_redis::redis::aio::MultiplexedConnection;
use micro_redis::redis::{Client, Value, cmd};
use micro_store_core::{ListOptions, Operation, ReadOptions, Record, Scope, Store, WriteOptions};
use micro_store_redis::{RedisStore, RedisStoreConfig};

const TURN: Duration = Duration::from_millis(700);
const TURNS: usize = 9;
const KEYS: u64 = 10_000;
const VALUE: &[u8] = &[7; 100];

/// What a caller does, again and again.
#[derive(Clone, Copy, Debug)]
enum What {
    Write,
    Read,
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let url = std::env::args().nth(1).expect("name a Redis: 'redis://…'");
    let url = micro_core::url::resolve(&url).expect("the URL can be read");
    let mut config = RedisStoreConfig::from_url(&url).expect("the URL can be read");
    config.prefix = format!("figures-{:016x}", SystemRandom.next_u64());
    let random: Arc<dyn Random> = Arc::new(SystemRandom);
    let store = RedisStore::open(config.clone(), &random).await;
    let store = store.expect("the store opens");
    let client = Client::open(format!("redis://{}", config.server.endpoint));
    let client = client.expect("it is a server's name");
    let raw = client.get_multiplexed_async_connection().await;
    let raw = raw.expect("it connects");
    println!("{:?}", store.capabilities().durability);
    fill(&store, &raw, &config.prefix).await;
    for what in [What::Write, What::Read] {
        for callers in [1, 16, 64] {
            let (mut theirs, mut ours) = (Vec::new(), Vec::new());
            for _ in 0..TURNS {
                theirs.push(raw_turn(&raw, &config.prefix, what, callers).await);
                ours.push(our_turn(&store, what, callers).await);
            }
            let mut ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(a, b)| a / b).collect();
            println!(
                "{what:?}, {callers:2} callers: redis itself {:.0}/s, micro {:.0}/s, ratio {:.2}",
                median(&mut theirs),
                median(&mut ours),
                median(&mut ratios)
            );
        }
    }
    let begin = SystemClock.now();
    let mut opts = ListOptions::default();
    let mut listed = 0;
    loop {
        let page = store.list(&scope(), opts.clone()).await;
        let page = page.expect("it is listed");
        listed += page.records.len();
        let Some(next) = page.next else { break };
        opts = opts.with_after(next);
    }
    let rate = listed as f64 / (SystemClock.now() - begin).as_secs_f64();
    println!("List, pages of 1000: {rate:.0} records/s");
    clear(&store, &raw, &config.prefix).await;
}

fn median(all: &mut [f64]) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn scope() -> Scope {
    Scope::new("d", "t").expect("the name is good")
}

fn key(number: u64) -> String {
    format!("{number:08}")
}

fn raw_key(prefix: &str, number: u64) -> String {
    format!("{{{prefix}}}:raw:{number:08}")
}

async fn fill(store: &RedisStore, raw: &MultiplexedConnection, prefix: &str) {
    let operations: Vec<Operation> = (0..KEYS)
        .map(|i| Operation::write(&scope(), Record::new(key(i), VALUE)))
        .collect();
    for operations in operations.chunks(1000) {
        let written = store.batch(operations.to_vec(), Default::default()).await;
        written.expect("the records are written");
    }
    for i in 0..KEYS {
        let mut set = cmd("SET");
        set.arg(raw_key(prefix, i)).arg(VALUE);
        let set = raw.clone().send_packed_command(&set).await;
        set.and_then(Value::extract_error).expect("it is set");
    }
}

async fn clear(store: &RedisStore, raw: &MultiplexedConnection, prefix: &str) {
    for i in 0..KEYS {
        let deleted = store.delete(&scope(), &key(i), Default::default()).await;
        deleted.expect("it is deleted");
        let mut del = cmd("DEL");
        del.arg(raw_key(prefix, i));
        let del = raw.clone().send_packed_command(&del).await;
        del.and_then(Value::extract_error).expect("it is deleted");
    }
}

/// Calls per second.
async fn turn<F: Future<Output = ()> + Send>(
    callers: u64,
    call: impl Fn(u64) -> F + Clone + Send + 'static,
) -> f64 {
    let begin = SystemClock.now();
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let call = call.clone();
            tokio::spawn(async move {
                let mut count = 0_u32;
                while SystemClock.now() - begin < TURN {
                    call((u64::from(count) * 7919 + caller * 101) % KEYS).await;
                    count += 1;
                }
                count
            })
        })
        .collect();
    let mut count = 0;
    for task in tasks {
        count += task.await.expect("it calls");
    }
    f64::from(count) / (SystemClock.now() - begin).as_secs_f64()
}

async fn our_turn(store: &RedisStore, what: What, callers: u64) -> f64 {
    let store: Arc<dyn Store> = Arc::new(store.clone());
    turn(callers, move |number| {
        let store = Arc::clone(&store);
        async move {
            let key = key(number);
            match what {
                What::Write => {
                    let record = Record::new(key, VALUE);
                    let written = store.write(&scope(), record, WriteOptions::default()).await;
                    written.expect("it is written");
                }
                What::Read => {
                    let read = store.read(&scope(), &key, ReadOptions::default()).await;
                    read.expect("it was written");
                }
            }
        }
    })
    .await
}

async fn raw_turn(raw: &MultiplexedConnection, prefix: &str, what: What, callers: u64) -> f64 {
    let (connection, prefix): (_, Arc<str>) = (raw.clone(), prefix.into());
    turn(callers, move |number| {
        let (mut connection, prefix) = (connection.clone(), Arc::clone(&prefix));
        async move {
            let key = raw_key(&prefix, number);
            let mut command;
            match what {
                What::Write => {
                    command = cmd("SET");
                    command.arg(key).arg(VALUE);
                }
                What::Read => {
                    command = cmd("GET");
                    command.arg(key);
                }
            }
            let answer = connection.send_packed_command(&command).await;
            let answer = answer.and_then(Value::extract_error).expect("it answers");
            assert!(answer != Value::Nil);
        }
    })
    .await
}
