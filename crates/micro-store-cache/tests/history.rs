//! Readers and writers of the same few keys, each noting what he saw: no read is older than what was
//! known before it began.

mod probe;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use micro_core::{Random as _, SeededRandom, SystemRandom};
use micro_store_cache::{CacheConfig, CacheStore};
use micro_store_core::{BatchOptions, Operation, Record, Scope, Store, Table, WriteOptions};
use tokio::time::{sleep, timeout};

use probe::Probe;

const KEYS: usize = 3;
const READERS: u64 = 4;
const STEPS: u64 = 3000;

/// What is known of a key, whose one writer writes even steps and deletes in odd ones.
#[derive(Default)]
struct History {
    begun: AtomicU64,
    done: AtomicU64,
    /// The latest step that anybody has read.
    seen: AtomicU64,
}

fn key(i: usize) -> String {
    format!("k-{i}")
}

async fn write(table: Table, history: Arc<Vec<History>>, at: usize, seed: u64) {
    let dice = SeededRandom::new(seed);
    for step in 1..=STEPS {
        history[at].begun.store(step, Ordering::SeqCst);
        let record = Record::new(key(at), step.to_string());
        match (step % 2 == 1, dice.next_u64().is_multiple_of(4)) {
            (true, false) => {
                table.delete(&key(at)).await.expect("it is deleted");
            }
            (false, false) => {
                let written = table.write(record, WriteOptions::default()).await;
                written.expect("it is written");
            }
            (odd, true) => {
                let operation = match odd {
                    true => Operation::delete(table.scope(), key(at)),
                    false => Operation::write(table.scope(), record),
                };
                let written = table.batch(vec![operation], BatchOptions::default()).await;
                written.expect("it is done");
            }
        }
        history[at].done.store(step, Ordering::SeqCst);
        if dice.next_u64().is_multiple_of(8) {
            tokio::task::yield_now().await;
        }
    }
}

async fn read(table: Table, history: Arc<Vec<History>>, over: Arc<AtomicBool>, seed: u64) -> u64 {
    let dice = SeededRandom::new(seed);
    let mut reads = 0;
    while !over.load(Ordering::SeqCst) {
        let at = dice.next_u64() as usize % KEYS;
        let of = &history[at];
        let least = of
            .done
            .load(Ordering::SeqCst)
            .max(of.seen.load(Ordering::SeqCst));
        let key = key(at);
        // Now and then somebody loses patience, and others wait for his question.
        let patience = match dice.next_u64() % 8 {
            0 => Duration::ZERO,
            _ => Duration::from_secs(60),
        };
        let Ok(found) = timeout(patience, table.find(&key)).await else {
            continue;
        };
        let found = found.expect("it is read");
        let most = of.begun.load(Ordering::SeqCst);
        reads += 1;
        match found {
            Some(record) => {
                let step: u64 = record.json().expect("the value is a step");
                assert!(
                    (least..=most).contains(&step),
                    "seed {seed}: read step {step} of {key}, between {least} and {most}"
                );
                of.seen.fetch_max(step, Ordering::SeqCst);
            }
            None => assert!(
                least == 0 || (least..=most).any(|step| step % 2 == 1),
                "seed {seed}: {key} was not there, between {least} and {most}"
            ),
        }
    }
    reads
}

async fn run(probe: Arc<Probe>) {
    let seed = SystemRandom.next_u64();
    let below = Arc::clone(&probe) as Arc<dyn Store>;
    let config = CacheConfig::default()
        .with_ttl(Duration::MAX)
        .with_absent_ttl(Duration::MAX);
    let cache = CacheStore::new(below, config, probe.clock());
    let table = Table::new(
        Arc::new(cache),
        Scope::new("shop", "orders").expect("the name is good"),
    );
    probe.be_slow(seed);
    let history: Arc<Vec<History>> = Arc::new((0..KEYS).map(|_| History::default()).collect());
    let over = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..READERS)
        .map(|i| {
            let (history, over) = (Arc::clone(&history), Arc::clone(&over));
            tokio::spawn(read(table.clone(), history, over, seed ^ (100 + i)))
        })
        .collect();
    let writers: Vec<_> = (0..KEYS)
        .map(|at| {
            let history = Arc::clone(&history);
            tokio::spawn(write(table.clone(), history, at, seed ^ at as u64))
        })
        .collect();
    for writer in join_all(writers).await {
        writer.expect("it writes to its end");
    }
    // What is kept now, nothing changes any more.
    sleep(Duration::from_millis(10)).await;
    over.store(true, Ordering::SeqCst);
    let mut reads = 0;
    for reader in join_all(readers).await {
        reads += reader.expect("no read was too old");
    }
    let asked = probe.reads() as u64;
    assert!(
        reads > STEPS && asked < reads,
        "{reads} reads, {asked} asked"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_read_is_older_than_what_was_known() {
    run(Probe::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_read_is_older_where_changes_are_reported() {
    run(Probe::watched()).await;
}
