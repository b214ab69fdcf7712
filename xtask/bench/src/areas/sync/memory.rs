//! A lock in memory, beside tokio's mutex: what it takes to be had and let go of.

use std::hint::black_box;
use std::sync::Arc;

use micro_sync_core::Coordinator;
use micro_sync_memory::MemoryCoordinator;

use super::opts;
use crate::cost::Cost;
use crate::figures::{Figure, number};
use crate::options::Options;
use crate::report::Findings;
use crate::table::Table;
use crate::{Result, clock};

pub(super) fn run(options: &Options) -> Result<Findings> {
    let calls: u32 = if options.quick { 100_000 } else { 1_000_000 };
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let (mut mutex, mut lock, mut allocations) = (Vec::new(), Vec::new(), Vec::new());
    let coordinator: Arc<dyn Coordinator> = Arc::new(MemoryCoordinator::new());
    for _ in 0..options.pairs {
        mutex.push(runtime.block_on(tokio_mutex(calls)));
        let before = Cost::so_far();
        lock.push(runtime.block_on(ours(&*coordinator, calls))?);
        let spent = Cost::so_far() - before;
        allocations.push(spent.allocations as f64 / f64::from(calls));
    }
    let mutex = Figure::new("memory_mutex", "ns", mutex);
    let lock = Figure::new("memory_lock", "ns", lock);
    let allocations = Figure::new("memory_lock_allocations", "allocations", allocations);
    let mut table = Table::new(
        "A lock in memory, had and let go of",
        ["who", "ns", "allocations"],
    );
    table.row(vec![
        "tokio::sync::Mutex".to_owned(),
        number(mutex.median()),
        "0".to_owned(),
    ]);
    table.row(vec![
        "micro".to_owned(),
        number(lock.median()),
        number(allocations.median()),
    ]);
    Ok(Findings {
        tables: vec![table],
        figures: vec![mutex, lock, allocations],
    })
}

async fn tokio_mutex(calls: u32) -> f64 {
    let mutex = Arc::new(tokio::sync::Mutex::new(()));
    let begun = clock::now();
    for _ in 0..calls {
        drop(black_box(Arc::clone(&mutex).lock_owned().await));
    }
    begun.elapsed().as_nanos() as f64 / f64::from(calls)
}

async fn ours(coordinator: &dyn Coordinator, calls: u32) -> Result<f64> {
    let begun = clock::now();
    for _ in 0..calls {
        drop(black_box(coordinator.lock("books", opts()).await?));
    }
    Ok(begun.elapsed().as_nanos() as f64 / f64::from(calls))
}
