//! Reads and writes of the store in memory beside those of a locked map, on one thread and on two.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::{Arc, Barrier, Mutex, PoisonError};

use bytes::Bytes;
use micro_core::{Random as _, SeededRandom};
use micro_store_core::{ReadOptions, Record, Scope, Store as _, WriteOptions};
use micro_store_memory::MemoryStore;

use crate::figures::{Figure, number};
use crate::options::Options;
use crate::report::Findings;
use crate::table::Table;
use crate::{Result, clock};

const VALUE: &[u8] = &[7; 100];

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Map,
    Store,
}

/// A map and a store with the same keys.
#[derive(Clone, Debug)]
struct Pair {
    keys: Arc<Vec<String>>,
    scope: Scope,
    map: Arc<Mutex<BTreeMap<String, Bytes>>>,
    store: MemoryStore,
}

pub(super) fn run(options: &Options) -> Result<Findings> {
    let calls = if options.quick { 20_000 } else { 200_000 };
    let mut table = Table::new(
        "Records of 100 bytes in memory, ns per call of all threads together",
        [
            "call",
            "keys",
            "threads",
            "locked BTreeMap",
            "micro",
            "ratio",
        ],
    );
    let mut figures = Vec::new();
    for (keys, name) in [(1_000, "1k"), (200_000, "200k")] {
        let pair = Pair::new(keys)?;
        for (write, call) in [(false, "read"), (true, "write")] {
            let mut one_thread = Vec::new();
            for threads in [1, 2] {
                let (mut map, mut store) = (Vec::new(), Vec::new());
                for _ in 0..options.pairs {
                    map.push(pair.time(Who::Map, write, threads, calls));
                    store.push(pair.time(Who::Store, write, threads, calls));
                }
                let suffix = if threads == 1 { "" } else { "_2_threads" };
                let ratio =
                    Figure::ratio(format!("memory_{call}_{name}{suffix}_vs_map"), &store, &map);
                table.row(vec![
                    call.to_owned(),
                    keys.to_string(),
                    threads.to_string(),
                    number(Figure::new("map", "ns", map).median()),
                    number(Figure::new("store", "ns", store.clone()).median()),
                    number(ratio.median()),
                ]);
                figures.push(ratio);
                if threads == 1 {
                    one_thread = store;
                } else {
                    let scaling = format!("memory_{call}_{name}_scaling");
                    figures.push(Figure::ratio(scaling, &one_thread, &store));
                }
            }
        }
    }
    Ok(Findings {
        tables: vec![table],
        figures,
    })
}

impl Pair {
    fn new(keys: usize) -> Result<Self> {
        let pair = Self {
            keys: Arc::new((0..keys).map(|i| format!("key-{i:08}")).collect()),
            scope: Scope::new("bench", "records")?,
            map: Arc::default(),
            store: MemoryStore::new(),
        };
        let all: Vec<&String> = pair.keys.iter().collect();
        pair.on_map(&all, true);
        pair.on_store(&all, true);
        Ok(pair)
    }

    fn on_map(&self, keys: &[&String], write: bool) {
        for key in keys {
            let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
            if write {
                map.insert((*key).clone(), Bytes::from_static(VALUE));
            } else {
                black_box(map.get(*key).cloned());
            }
        }
    }

    fn on_store(&self, keys: &[&String], write: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.expect("a runtime starts").block_on(async {
            for key in keys {
                if write {
                    let record = Record::new(*key, Bytes::from_static(VALUE));
                    let opts = WriteOptions::default();
                    let written = self.store.write(&self.scope, record, opts).await;
                    written.expect("there is room");
                } else {
                    let record = self
                        .store
                        .read(&self.scope, key, ReadOptions::default())
                        .await;
                    black_box(record.expect("it is there"));
                }
            }
        });
    }

    /// Nanoseconds per call: half of what each thread takes, if two scale.
    fn time(&self, who: Who, write: bool, threads: usize, calls: usize) -> f64 {
        let barrier = Arc::new(Barrier::new(threads + 1));
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let (pair, barrier) = (self.clone(), Arc::clone(&barrier));
                std::thread::spawn(move || {
                    let random = SeededRandom::new(thread as u64);
                    let order: Vec<&String> = (0..calls)
                        .map(|_| &pair.keys[random.next_u64() as usize % pair.keys.len()])
                        .collect();
                    barrier.wait();
                    match who {
                        Who::Map => pair.on_map(&order, write),
                        Who::Store => pair.on_store(&order, write),
                    }
                })
            })
            .collect();
        barrier.wait();
        let begun = clock::now();
        for worker in workers {
            worker.join().expect("no thread panics");
        }
        begun.elapsed().as_nanos() as f64 / (threads * calls) as f64
    }
}
