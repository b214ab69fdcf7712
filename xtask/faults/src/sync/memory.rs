//! Tasks that are aborted while they hold locks in memory, or wait for them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use micro_core::SeededRandom;
use micro_store_memory::MemoryStore;
use micro_sync_core::{Coordinator as _, LockOptions};
use micro_sync_memory::MemoryCoordinator;
use micro_testing::locks::{Operation, Seen};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::sleep;

use super::judge::judge;
use super::resource::{Event, write};
use super::{LOCKS, below, now};
use crate::report::Report;
use crate::{Options, Result};

const TASKS: usize = 5;

type Events = Arc<Mutex<Vec<Event>>>;

pub(super) async fn run(options: &Options, report: &mut Report) -> Result<()> {
    let locks = if options.quick { 2000 } else { 20_000 };
    let random = SeededRandom::new(options.seed);
    let coordinator = MemoryCoordinator::new();
    let store = MemoryStore::new();
    let events = Events::default();
    let start = || {
        let task = fight(
            coordinator.clone(),
            store.clone(),
            Arc::clone(&events),
            SeededRandom::new(below(&random, u64::MAX)),
        );
        tokio::spawn(task)
    };
    let mut tasks: Vec<JoinHandle<Result<()>>> = (0..TASKS).map(|_| start()).collect();
    let mut aborted = 0;
    while done(&events) < locks {
        sleep(Duration::from_micros(200 + below(&random, 2000))).await;
        let chosen = usize::try_from(below(&random, TASKS as u64)).unwrap_or_default();
        let task = std::mem::replace(&mut tasks[chosen], start());
        task.abort();
        match task.await {
            Ok(ended) => ended?,
            Err(err) if err.is_cancelled() => aborted += 1,
            Err(err) => return Err(err.into()),
        }
    }
    for task in tasks {
        task.abort();
        let _ = task.await;
    }
    let mut leaked = 0;
    for name in LOCKS {
        let free = coordinator.try_lock(name, LockOptions::default()).await?;
        leaked += usize::from(free.is_none());
    }
    report.figure("memory_aborted", f64::from(aborted), "tasks");
    report.at_most("memory_leaked_locks", leaked as f64, "locks", 0.0);
    let events = std::mem::take(&mut *events.lock().unwrap_or_else(PoisonError::into_inner));
    judge(events, "memory", report);
    Ok(())
}

fn done(events: &Events) -> usize {
    let events = events.lock().unwrap_or_else(PoisonError::into_inner);
    let acquired = |event: &&Event| matches!(event.1.seen, Seen::Acquired(_));
    events.iter().filter(acquired).count()
}

async fn fight(
    coordinator: MemoryCoordinator,
    store: MemoryStore,
    events: Events,
    random: SeededRandom,
) -> Result<()> {
    let seen = |name: &str, seen, called| {
        let event = (name.to_owned(), Operation::new(seen, called, now()));
        events
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(event);
    };
    loop {
        let name = LOCKS[usize::from(below(&random, 2) == 1)];
        let called = now();
        let lock = coordinator.lock(name, LockOptions::default()).await?;
        let token = lock.token();
        seen(name, Seen::Acquired(token), called);
        let called = now();
        if write(&store, name, token).await? {
            seen(name, Seen::Wrote(token), called);
        } else {
            seen(name, Seen::Refused(token), called);
        }
        for _ in 0..below(&random, 4) {
            yield_now().await;
        }
        let called = now();
        // Half of them just go, as those who are aborted do.
        if below(&random, 2) == 0 {
            lock.release().await?;
            seen(name, Seen::Released(token), called);
        }
    }
}
