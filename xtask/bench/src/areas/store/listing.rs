//! A listing of a million keys: how fast it is, and how much memory it takes however long it gets.

use std::pin::Pin;
use std::sync::Arc;

use futures_core::Stream as _;
use micro_store_core::{BatchOptions, ListOptions, Operation, Record, Scope, Table as Records};
use micro_store_memory::MemoryStore;

use crate::figures::{Figure, number};
use crate::options::Options;
use crate::report::Findings;
use crate::table::Table;
use crate::{Result, clock};

const VALUE: &[u8] = &[7; 100];
const BATCH: u64 = 10_000;

pub(super) fn run(options: &Options) -> Result<Findings> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()?;
    let keys = if options.quick { 50_000 } else { 1_000_000 };
    let mut table = Table::new(
        format!("A listing of {keys} records of 100 bytes, by pages of 1,000"),
        ["store", "records/s", "memory it took, MiB"],
    );
    let mut figures = Vec::new();
    for engine in ["memory", "redb", "sled"] {
        eprintln!("store: a listing of {engine}");
        let folder = tempfile::tempdir()?;
        let records = if engine == "memory" {
            let scope = Scope::new("bench", "records")?;
            Records::new(Arc::new(MemoryStore::new()), scope)
        } else {
            runtime.block_on(super::files::open_ours(engine, folder.path()))?
        };
        runtime.block_on(fill(&records, keys))?;
        // Once before: what an engine keeps of its file in memory is its cache, which has a bound of
        // its own.
        runtime.block_on(walk(&records, keys))?;
        let before = resident()?;
        let begun = clock::now();
        let most = runtime.block_on(walk(&records, keys))?;
        let rate = keys as f64 / begun.elapsed().as_secs_f64();
        let took = most.saturating_sub(before) as f64 / 1024.0;
        table.row(vec![engine.to_owned(), number(rate), number(took)]);
        figures.push(Figure::new(
            format!("{engine}_list_memory"),
            "MiB",
            vec![took],
        ));
        figures.push(Figure::new(
            format!("{engine}_list_rate"),
            "records/s",
            vec![rate],
        ));
    }
    Ok(Findings {
        tables: vec![table],
        figures,
    })
}

async fn fill(records: &Records, keys: u64) -> Result<()> {
    for first in (0..keys).step_by(BATCH as usize) {
        let operations = (first..first + BATCH)
            .map(|n| {
                let record = Record::new(format!("{n:016}"), VALUE);
                Operation::write(records.scope(), record)
            })
            .collect();
        records.batch(operations, BatchOptions::default()).await?;
    }
    Ok(())
}

/// Reads all of them, one by one; the most memory that was taken on the way, in KiB.
async fn walk(records: &Records, keys: u64) -> Result<u64> {
    let mut scan = records.scan(ListOptions::default());
    let (mut seen, mut most) = (0, 0);
    while let Some(record) = std::future::poll_fn(|cx| Pin::new(&mut scan).poll_next(cx)).await {
        record?;
        if seen % 1_000 == 0 {
            most = most.max(resident()?);
        }
        seen += 1;
    }
    if seen == keys {
        Ok(most)
    } else {
        Err(format!("{seen} of {keys} records were listed").into())
    }
}

/// The memory of this process, in KiB.
fn resident() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number
        .ok_or("the kernel does not say how much memory it takes")?
        .parse()?)
}
