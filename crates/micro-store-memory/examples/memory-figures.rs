//! Reads and writes of the store in memory beside those of a locked map, on one thread and on two.
//!
//! `cargo run --release -p micro-store-memory --example memory-figures`

#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::{Arc, Barrier, Mutex};

use bytes::Bytes;
use micro_core::{Clock as _, Random as _, SeededRandom, SystemClock};
use micro_store_core::{ReadOptions, Record, Scope, Store, WriteOptions};
use micro_store_memory::MemoryStore;

const CALLS: usize = 300_000;
const ROUNDS: usize = 5;
const VALUE: &[u8] = &[7; 100];

fn main() {
    for keys in [1_000, 200_000] {
        let keys: Arc<Vec<String>> = Arc::new((0..keys).map(|i| format!("key-{i:08}")).collect());
        for threads in [1, 2] {
            let (mut rates, mut raw) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
            for _ in 0..ROUNDS {
                let map = filled_map(&keys);
                let store = filled_store(&keys);
                for write in [false, true] {
                    let (map, store) = (Arc::clone(&map), store.clone());
                    let on_map = rate(threads, &keys, move || {
                        let map = Arc::clone(&map);
                        move |keys: &[&String]| map_calls(&map, keys, write)
                    });
                    let on_store = rate(threads, &keys, move || {
                        let store = store.clone();
                        move |keys: &[&String]| store_calls(&store, keys, write)
                    });
                    raw[usize::from(write)].push(on_map);
                    rates[usize::from(write)].push(on_store);
                }
            }
            for (i, what) in ["read", "write"].into_iter().enumerate() {
                let (map, store) = (median(&mut raw[i]), median(&mut rates[i]));
                println!(
                    "{what:5} {:6} keys, {threads} threads: map {map:4.0} ns, store {store:4.0} ns, {:.2}x",
                    keys.len(),
                    store / map
                );
            }
        }
    }
}

fn scope() -> Scope {
    Scope::new("d", "t").expect("the name is good")
}

fn filled_map(keys: &[String]) -> Arc<Mutex<BTreeMap<String, Bytes>>> {
    let value = Bytes::from_static(VALUE);
    let entries = keys.iter().map(|key| (key.clone(), value.clone()));
    Arc::new(Mutex::new(entries.collect()))
}

fn filled_store(keys: &[String]) -> MemoryStore {
    let store = MemoryStore::new();
    let all: Vec<&String> = keys.iter().collect();
    store_calls(&store, &all, true);
    store
}

fn map_calls(map: &Mutex<BTreeMap<String, Bytes>>, keys: &[&String], write: bool) {
    for key in keys {
        let mut map = map.lock().expect("no thread panics");
        if write {
            map.insert((*key).clone(), Bytes::from_static(VALUE));
        } else {
            black_box(map.get(*key).cloned());
        }
    }
}

fn store_calls(store: &MemoryStore, keys: &[&String], write: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let scope = scope();
        for key in keys {
            if write {
                let record = Record::new(*key, Bytes::from_static(VALUE));
                let written = store.write(&scope, record, WriteOptions::default()).await;
                written.expect("there is room");
            } else {
                let record = store.read(&scope, key, ReadOptions::default()).await;
                black_box(record.expect("it is there"));
            }
        }
    });
}

/// Nanoseconds per call: of all threads together, so half of each one's if two scale.
fn rate<W>(threads: usize, keys: &Arc<Vec<String>>, work: impl Fn() -> W) -> f64
where
    W: Fn(&[&String]) + Send + 'static,
{
    let barrier = Arc::new(Barrier::new(threads + 1));
    let all: Vec<_> = (0..threads)
        .map(|thread| {
            let (barrier, keys, work) = (Arc::clone(&barrier), Arc::clone(keys), work());
            std::thread::spawn(move || {
                let random = SeededRandom::new(thread as u64);
                let order: Vec<&String> = (0..CALLS)
                    .map(|_| &keys[random.next_u64() as usize % keys.len()])
                    .collect();
                barrier.wait();
                work(&order);
            })
        })
        .collect();
    barrier.wait();
    let begin = SystemClock.now();
    for thread in all {
        thread.join().expect("no thread panics");
    }
    let taken = SystemClock.now() - begin;
    taken.as_nanos() as f64 / (threads * CALLS) as f64
}

fn median(all: &mut [f64]) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}
