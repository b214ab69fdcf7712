//! Durable writes by one writer and by many, and reads, beside those of redb itself.
//!
//! `cargo run --release -p micro-store-redb --example redb-figures -- <directory>`

#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use micro_core::{Clock as _, SystemClock};
use micro_store_core::{ReadOptions, Record, Scope, Store as _, WriteOptions};
use micro_store_redb::{RedbConfig, RedbStore};
use redb::{Database, ReadableDatabase as _, TableDefinition};

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("t");
const TIME: Duration = Duration::from_secs(2);
const READS: usize = 100_000;

#[tokio::main]
async fn main() {
    let given = std::env::args_os().nth(1).map(PathBuf::from);
    let root = given.expect("name a directory on the disk to be measured");
    let raw_single = raw_writes(&root.join("raw.redb"));
    println!("redb itself, one writer: {raw_single:.0} writes/s");
    for two_phase in [false, true] {
        let directory = root.join(format!("store-{two_phase}"));
        let config = RedbConfig::new(directory).with_two_phase(two_phase);
        let store = RedbStore::open(config, Arc::new(SystemClock)).await;
        let store = store.expect("the store opens");
        let mut single = 0.0;
        for writers in [1, 8, 64, 256] {
            let rate = writes(&store, writers).await;
            if writers == 1 {
                single = rate;
            }
            println!(
                "two_phase {two_phase}, {writers:3} writers: {rate:.0} writes/s, {:.2}x one writer, {:.2}x redb with one",
                rate / single,
                rate / raw_single
            );
        }
        if !two_phase {
            for readers in [1, 16] {
                let rate = reads(&store, readers).await;
                println!("{readers} readers: {rate:.0} reads/s");
            }
        }
    }
    let rate = raw_reads(&root.join("raw.redb"));
    println!("redb itself, one reader, a transaction each: {rate:.0} reads/s");
}

fn scope() -> Scope {
    Scope::new("d", "t").expect("the name is good")
}

async fn writes(store: &RedbStore, writers: usize) -> f64 {
    let begin = SystemClock.now();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut count = 0;
                while SystemClock.now() - begin < TIME {
                    let record =
                        Record::new(format!("{writer:03}-{:08}", count % 100), vec![7; 100]);
                    let written = store.write(&scope(), record, WriteOptions::default()).await;
                    written.expect("the disk works");
                    count += 1;
                }
                count
            })
        })
        .collect();
    let mut count = 0;
    for task in tasks {
        count += task.await.expect("it writes");
    }
    f64::from(count) / (SystemClock.now() - begin).as_secs_f64()
}

async fn reads(store: &RedbStore, readers: usize) -> f64 {
    let begin = SystemClock.now();
    let tasks: Vec<_> = (0..readers)
        .map(|reader| {
            let store = store.clone();
            tokio::spawn(async move {
                for i in 0..READS / readers {
                    let key = format!("{:03}-{:08}", reader % 64, i % 20);
                    let record = store.read(&scope(), &key, ReadOptions::default()).await;
                    record.expect("it was written");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("it reads");
    }
    READS as f64 / (SystemClock.now() - begin).as_secs_f64()
}

fn raw_writes(path: &Path) -> f64 {
    let db = Database::create(path).expect("redb opens");
    let begin = SystemClock.now();
    let mut count = 0;
    while SystemClock.now() - begin < TIME {
        let txn = db.begin_write().expect("a transaction begins");
        {
            let mut table = txn.open_table(TABLE).expect("the table opens");
            let key = format!("{:08}", count % 100);
            table
                .insert(key.as_bytes(), &[7; 100][..])
                .expect("it is put in");
        }
        txn.commit().expect("the disk works");
        count += 1;
    }
    f64::from(count) / (SystemClock.now() - begin).as_secs_f64()
}

fn raw_reads(path: &Path) -> f64 {
    let db = Database::open(path).expect("redb opens");
    let begin = SystemClock.now();
    for i in 0..READS {
        let txn = db.begin_read().expect("a transaction begins");
        let table = txn.open_table(TABLE).expect("the table opens");
        let key = format!("{:08}", i % 20);
        let value = table.get(key.as_bytes()).expect("it is read");
        std::hint::black_box(value.expect("it was written").value().to_vec());
    }
    READS as f64 / (SystemClock.now() - begin).as_secs_f64()
}
