//! Stores in a directory beside their engines: durable writes by one and by many, and reads.

use std::path::Path;
use std::time::Duration;

use micro_core::{Env, Random as _, SeededRandom, SystemRandom};
use micro_store_core::{
    BatchOptions, Drivers, Operation, Record, Scope, Store, Table as Records, WriteOptions,
};
use micro_store_redb::RedbDriver;
use micro_store_sled::SledDriver;

use super::raw::{self, Raw};
use crate::figures::{Figure, number};
use crate::options::Options;
use crate::report::Findings;
use crate::table::Table;
use crate::{Result, clock};

/// So many records there are.
const KEYS: u64 = 10_000;
const VALUE: &[u8] = &[7; 100];
/// The writers that share a commit.
const MANY: usize = 64;

/// An engine, by itself and as a store.
type Engine = (&'static str, fn(&Path) -> Result<Box<dyn Raw>>);

const ENGINES: &[Engine] = &[("redb", raw::Redb::open), ("sled", raw::Sled::open)];

pub(super) fn run(options: &Options) -> Result<Findings> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()?;
    let mut table = Table::new(
        "Records of 100 bytes on disk, per second; each write is on the disk when it returns",
        ["engine", "call", "by itself", "micro", "ratio"],
    );
    let mut figures = Vec::new();
    let folder = tempfile::tempdir()?;
    let log = raw::Append::open(folder.path())?;
    let syncs: Vec<f64> = (0..options.pairs)
        .map(|_| Ok(1e6 / writes(&*log, turn(options))?))
        .collect::<Result<_>>()?;
    figures.push(Figure::new("fsync", "us", syncs));
    for (engine, open) in ENGINES {
        eprintln!("store: {engine}");
        let folder = tempfile::tempdir()?;
        let raw = open(folder.path())?;
        let ours = runtime.block_on(open_ours(engine, folder.path()))?;
        fill(&*raw, &runtime, &ours)?;
        let (mut raw_one, mut one, mut many) = (Vec::new(), Vec::new(), Vec::new());
        let (mut raw_reads, mut reads, mut reads_16) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..options.pairs {
            raw_one.push(writes(&*raw, turn(options))?);
            one.push(runtime.block_on(together(&ours, 1, Call::Write, turn(options)))?);
            many.push(runtime.block_on(together(&ours, MANY, Call::Write, turn(options)))?);
            raw_reads.push(raw_read(&*raw, turn(options))?);
            reads.push(runtime.block_on(together(&ours, 1, Call::Read, turn(options)))?);
            reads_16.push(runtime.block_on(together(&ours, 16, Call::Read, turn(options)))?);
        }
        for (name, call, theirs, ours) in [
            ("write_vs_raw", "a writer", &raw_one, &one),
            ("64_writers_vs_1", "64 writers beside one", &one, &many),
            ("read_vs_raw", "a reader", &raw_reads, &reads),
            (
                "16_readers_vs_raw",
                "16 readers beside one",
                &raw_reads,
                &reads_16,
            ),
        ] {
            let ratio = Figure::ratio(format!("{engine}_{name}"), ours, theirs);
            table.row(vec![
                (*engine).to_owned(),
                call.to_owned(),
                number(Figure::new("theirs", "1/s", theirs.clone()).median()),
                number(Figure::new("ours", "1/s", ours.clone()).median()),
                number(ratio.median()),
            ]);
            figures.push(ratio);
        }
    }
    Ok(Findings {
        tables: vec![table],
        figures,
    })
}

fn turn(options: &Options) -> Duration {
    Duration::from_secs_f64(options.seconds)
}

pub(super) async fn open_ours(engine: &str, folder: &Path) -> Result<Records> {
    let drivers = Drivers::<dyn Store>::new()
        .with(RedbDriver::new())
        .with(SledDriver::new());
    let url = format!("{engine}:{}/{engine}", folder.display());
    let store = drivers.open(&url, &Env::new()).await?;
    let scope = Scope::new("bench", "records")?;
    Ok(Records::new(store, scope))
}

fn key(n: u64) -> String {
    format!("{:016}", n % KEYS)
}

/// The same records in both; not one by one, which would take long.
fn fill(raw: &dyn Raw, runtime: &tokio::runtime::Runtime, ours: &Records) -> Result<()> {
    let operations = (0..KEYS)
        .map(|n| Operation::write(ours.scope(), Record::new(key(n), VALUE)))
        .collect();
    runtime.block_on(ours.batch(operations, BatchOptions::default()))?;
    raw.put_all(&mut (0..KEYS).map(key), VALUE)
}

fn writes(raw: &dyn Raw, time: Duration) -> Result<f64> {
    let random = SeededRandom::new(1);
    let begun = clock::now();
    let mut count = 0_u32;
    // Another value each time, in every turn: sled writes nothing if the same is there already.
    let first = SystemRandom.next_u64();
    let mut value = VALUE.to_vec();
    while begun.elapsed() < time {
        let unique = first.wrapping_add(u64::from(count));
        value[..8].copy_from_slice(&unique.to_le_bytes());
        raw.put(key(random.next_u64()).as_bytes(), &value)?;
        count += 1;
    }
    Ok(f64::from(count) / begun.elapsed().as_secs_f64())
}

fn raw_read(raw: &dyn Raw, time: Duration) -> Result<f64> {
    let random = SeededRandom::new(2);
    let begun = clock::now();
    let mut count = 0;
    while begun.elapsed() < time {
        for _ in 0..100 {
            raw.get(key(random.next_u64()).as_bytes())?;
        }
        count += 100;
    }
    Ok(f64::from(count) / begun.elapsed().as_secs_f64())
}

/// What a task does again and again.
#[derive(Clone, Copy, Debug)]
enum Call {
    Read,
    Write,
}

impl Call {
    async fn make(self, records: &Records, random: u64) -> micro_core::Result<()> {
        match self {
            Self::Read => records.read(&key(random)).await.map(drop),
            Self::Write => {
                let record = Record::new(key(random), VALUE);
                let written = records.write(record, WriteOptions::default()).await;
                written.map(drop)
            }
        }
    }
}

/// Calls per second of so many tasks.
async fn together(records: &Records, tasks: usize, call: Call, time: Duration) -> Result<f64> {
    let begun = clock::now();
    let tasks: Vec<_> = (0..tasks)
        .map(|task| {
            let records = records.clone();
            tokio::spawn(async move {
                let random = SeededRandom::new(task as u64);
                let mut count = 0;
                while begun.elapsed() < time {
                    call.make(&records, random.next_u64()).await?;
                    count += 1;
                }
                Ok::<u32, micro_core::Error>(count)
            })
        })
        .collect();
    let mut count: u32 = 0;
    for task in tasks {
        count += task.await??;
    }
    Ok(f64::from(count) / begun.elapsed().as_secs_f64())
}
