//! A disk whose power is cut while the store writes, opens or is made.

use std::time::Duration;

use micro_core::{Random as _, SeededRandom};

use super::ledger::Ledger;
use super::mount::{self, Disk};
use super::rounds::{History, Tally};
use crate::report::Report;
use crate::{Options, Result};

pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    if let Some(lacks) = mount::lacks() {
        report.skip("power", lacks);
        return Ok(());
    }
    let rounds = if options.quick { "6" } else { "60" };
    for engine in super::ENGINES {
        let seed = options.seed.to_string();
        let tally = mount::apart(&["power", engine, rounds, &seed])?;
        tally.report(report, &format!("power_{engine}"));
    }
    Ok(())
}

/// `<engine> <rounds> <seed>`, in a mount namespace of its own.
pub(super) fn play(arguments: &[&str]) -> Result<()> {
    let [engine, rounds, seed] = arguments else {
        return Err("power <engine> <rounds> <seed>".into());
    };
    let tally = campaign(super::engine(engine)?, rounds.parse()?, seed.parse()?)?;
    println!("{}", tally.line());
    Ok(())
}

fn campaign(engine: &'static str, rounds: u64, seed: u64) -> Result<Tally> {
    let random = SeededRandom::new(seed);
    let folder = tempfile::tempdir()?;
    let disk = Disk::new(folder.path(), 512)?;
    let mut tally = Tally::default();
    let mut stores = 0;
    let mut history = None;
    for round in 0..rounds {
        let directory = disk.path().join(format!("data-{stores}"));
        let new = history.is_none();
        let history_now = history.get_or_insert_with(|| {
            let ledger = Ledger {
                seed: random.next_u64(),
                large: false,
            };
            History::new(engine, ledger)
        });
        let mut writers = history_now.write(&directory, &[])?;
        // Every other new store is cut while it is made.
        let at_once = new && stores % 2 == 1;
        if !at_once && !writers.wait_for(10)? {
            return Err(format!("{engine}: the writers have stopped by themselves").into());
        }
        let delay = random.next_u64() % if at_once { 120_000 } else { 300_000 };
        std::thread::park_timeout(Duration::from_micros(delay));
        // The process first, then the disk: a process that lives on could be told of writes that no
        // disk has ever seen.
        let told = writers.kill(history_now)?;
        tally.add(&told);
        disk.cut()?;
        let good = !directory.exists() && told.acks == 0
            || history_now.check(&directory, "one-more", &mut tally)?;
        if !good || round % 4 == 3 {
            history = None;
            if directory.exists() {
                std::fs::remove_dir_all(&directory)?;
            }
            stores += 1;
        }
    }
    Ok(tally)
}
