//! Records that expire while others take their places: what was written later is never removed, and
//! what has expired is never seen.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use futures_util::StreamExt as _;
use micro_core::{Clock, Env, SystemClock};
use micro_store_core::{
    BatchOptions, Drivers, ListOptions, Operation, Record, Store, Table, WriteOptions,
};
use micro_store_memory::MemoryDriver;

use super::ledger::scope;
use crate::report::Report;
use crate::{Options, Result};

/// So many records expire at a time, and are written again at the same time.
const RACES: usize = 500;
const TTL: Duration = Duration::from_secs(1);

pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let rounds = if options.quick { 4 } else { 200 };
    let runtime = super::runtime()?;
    for engine in ["memory"].iter().chain(super::ENGINES) {
        let found = runtime.block_on(campaign(engine, rounds))?;
        let name = |what: &str| format!("expiry_{engine}_{what}");
        report.figure(name("races"), (rounds * RACES) as f64, "races");
        report.at_most(name("newer_removed"), found.removed as f64, "records", 0.0);
        report.at_most(name("expired_seen"), found.seen as f64, "records", 0.0);
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Found {
    /// Newer records that are gone.
    removed: usize,
    /// Expired records that were returned.
    seen: usize,
}

async fn campaign(engine: &str, rounds: usize) -> Result<Found> {
    let folder = tempfile::tempdir()?;
    let clock = Arc::new(Moved::default());
    let drivers = Drivers::<dyn Store>::new()
        .with(MemoryDriver::new())
        .with(micro_store_redb::RedbDriver::new())
        .with(micro_store_sled::SledDriver::new());
    let url = match engine {
        "memory" => engine.to_owned(),
        _ => format!("{engine}:{}/data", folder.path().display()),
    };
    let env = Env::new().with_clock(Arc::clone(&clock) as _);
    let table = Table::new(drivers.open(&url, &env).await?, scope());
    let mut found = Found::default();
    for round in 0..rounds {
        let old = WriteOptions::default().with_ttl(TTL);
        write(&table, 0..RACES, "old", &old).await?;
        clock.0.fetch_add(2, Ordering::SeqCst);
        let (written, cleaned, seen) =
            tokio::join!(rewrite(&table), clean(&table, round), old_ones(&table));
        written.and(cleaned)?;
        found.seen += seen? + old_ones(&table).await?;
        found.removed += RACES - count(&table, "new").await?;
    }
    Ok(found)
}

/// In parts, so that some are still to come when others have been cleaned up.
async fn rewrite(table: &Table) -> Result<()> {
    for first in (0..RACES).step_by(50) {
        write(table, first..first + 50, "new", &WriteOptions::default()).await?;
    }
    Ok(())
}

/// Every change takes some of what has expired along.
async fn clean(table: &Table, round: usize) -> Result<()> {
    for n in 0..10 {
        let record = Record::new(format!("other-{n}"), round.to_string());
        table.write(record, WriteOptions::default()).await?;
    }
    Ok(())
}

async fn write(
    table: &Table,
    keys: std::ops::Range<usize>,
    value: &'static str,
    opts: &WriteOptions,
) -> Result<()> {
    let operations = keys
        .map(|key| {
            let record = Record::new(format!("key-{key:04}"), value);
            Operation::write_with(table.scope(), record, opts.clone())
        })
        .collect();
    table.batch(operations, BatchOptions::default()).await?;
    Ok(())
}

async fn old_ones(table: &Table) -> Result<usize> {
    count(table, "old").await
}

/// How many of the records have this value.
async fn count(table: &Table, value: &str) -> Result<usize> {
    let opts = ListOptions::default().with_prefix("key-").with_limit(100);
    let mut records = table.scan(opts);
    let mut count = 0;
    while let Some(record) = records.next().await {
        count += usize::from(record?.value == value);
    }
    Ok(count)
}

/// The machine's clock, so many seconds ahead.
#[derive(Debug, Default)]
struct Moved(AtomicU64);

impl Clock for Moved {
    fn now(&self) -> Instant {
        SystemClock.now()
    }

    fn wall(&self) -> SystemTime {
        SystemClock.wall() + Duration::from_secs(self.0.load(Ordering::SeqCst))
    }
}
