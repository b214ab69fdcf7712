//! Many writers count up one number in a store: by compare and swap, none of them loses a step to
//! another. Next to it, what happens without.
//!
//! `cargo run -p counter-with-cas`, or with `MICRO_STORE` and that backend's feature.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use micro::store::{Condition, Record, StoreErrorExt as _, Table, WriteOptions};
use micro::{Error, Result, Service};
use tokio::task::JoinSet;

const WRITERS: u64 = 16;
const STEPS: u64 = 200;

#[tokio::main]
async fn main() -> Result<()> {
    // In a store that others use as well, this run has a database of its own.
    let service = Service::new("counter").namespace(format!("example-{}", std::process::id()));
    let table = service.store().await?;

    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let table = table.clone();
        writers.spawn(async move {
            let mut again = 0;
            for _ in 0..STEPS {
                again += count_up(&table, "exact").await?;
            }
            Ok::<u64, Error>(again)
        });
    }
    let mut again = 0;
    while let Some(done) = writers.join_next().await {
        again += done.map_err(|err| Error::internal(err.to_string()))??;
    }
    let sum: Option<u64> = table.get("exact").await?;
    println!(
        "{WRITERS} writers, {STEPS} steps each: the sum is {sum:?}, {again} steps were begun again"
    );
    assert_eq!(sum, Some(WRITERS * STEPS));

    let mut careless = JoinSet::new();
    for _ in 0..WRITERS {
        let table = table.clone();
        careless.spawn(async move {
            for _ in 0..STEPS {
                let count: u64 = table.get("careless").await?.unwrap_or_default();
                // Anybody may write here, and is overwritten.
                tokio::task::yield_now().await;
                table.put("careless", &(count + 1)).await?;
            }
            Ok::<(), Error>(())
        });
    }
    while let Some(done) = careless.join_next().await {
        done.map_err(|err| Error::internal(err.to_string()))??;
    }
    let sum: Option<u64> = table.get("careless").await?;
    println!("without conditions: {sum:?}");

    for key in ["exact", "careless"] {
        table.delete(key).await?;
    }
    Ok(())
}

/// Adds one; answers how often somebody else was faster.
async fn count_up(table: &Table, key: &str) -> Result<u64> {
    let mut again = 0;
    loop {
        let (count, only_if) = match table.find(key).await? {
            Some(record) => (record.json::<u64>()?, Condition::Version(record.version)),
            None => (0, Condition::Absent),
        };
        // Others have their turn in between, so that they meet.
        tokio::task::yield_now().await;
        let opts = WriteOptions::default().with_condition(only_if);
        let next = Record::new(key, (count + 1).to_string());
        match table.write(next, opts).await {
            Ok(_) => return Ok(again),
            Err(err) if err.is_conflict() => again += 1,
            Err(err) => return Err(err),
        }
    }
}
