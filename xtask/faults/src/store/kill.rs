//! Processes that are killed in the midst of their work, or while they make or open their store.

use std::time::Duration;

use micro_core::{Random as _, SeededRandom};

use super::ledger::Ledger;
use super::rounds::{History, Tally};
use crate::report::Report;
use crate::{Options, Result};

pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let rounds = if options.quick { 6 } else { 60 };
    for engine in super::ENGINES {
        let tally = campaign(engine, rounds, options.seed)?;
        tally.report(report, &format!("kill_{engine}"));
    }
    Ok(())
}

fn campaign(engine: &'static str, rounds: u64, seed: u64) -> Result<Tally> {
    let random = SeededRandom::new(seed);
    let folder = tempfile::tempdir()?;
    let mut tally = Tally::default();
    let mut stores = 0;
    let mut next = || {
        stores += 1;
        let ledger = Ledger {
            seed: random.next_u64(),
            large: false,
        };
        let directory = folder.path().join(stores.to_string());
        (History::new(engine, ledger), directory)
    };
    let (mut history, mut directory) = next();
    let delays = SeededRandom::new(seed ^ 1);
    for round in 0..rounds {
        // One of five is killed while it makes a new store, or soon after.
        let new = round % 5 == 4;
        if new {
            std::fs::remove_dir_all(&directory)?;
            (history, directory) = next();
        }
        let mut writers = history.write(&directory, &[])?;
        if !new && !writers.wait_for(10)? {
            return Err(format!("{engine}: the writers have stopped by themselves").into());
        }
        let delay = delays.next_u64() % if new { 120_000 } else { 200_000 };
        std::thread::park_timeout(Duration::from_micros(delay));
        let told = writers.kill(&mut history)?;
        tally.add(&told);
        if !directory.exists() {
            continue;
        }
        if !history.check(&directory, "one-more", &mut tally)? {
            std::fs::remove_dir_all(&directory)?;
            (history, directory) = next();
        }
    }
    Ok(tally)
}
