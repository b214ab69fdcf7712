//! Disks that fail: a sync or a write that gives an error, and one that is full.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::ledger::Ledger;
use super::mount::{self, Disk};
use super::rounds::{History, Tally, Told};
use crate::report::Report;
use crate::{Options, Result};

/// What is made to fail, by name.
const CALLS: &[(&str, &str)] = &[
    ("sync", "fsync,fdatasync,sync_file_range"),
    ("write", "pwrite64,pwritev"),
];

/// What a change may end with then.
const FAILURES: &[&str] = &["OutcomeUnknown", "FailedPrecondition", "ResourceExhausted"];

pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let traced = Command::new("strace")
        .arg("-V")
        .stdout(Stdio::null())
        .status();
    if traced.is_ok_and(|status| status.success()) {
        let most = if options.quick { 3 } else { 20 };
        for engine in super::ENGINES {
            for (name, calls) in CALLS {
                let tally = failing(engine, calls, most, options.seed)?;
                tally.report(report, &format!("disk_{name}_{engine}"));
            }
        }
    } else {
        report.skip("disk_sync", "strace is missing; apt-get install strace");
    }
    if let Some(lacks) = mount::lacks() {
        report.skip("disk_full", lacks);
        return Ok(());
    }
    let rounds = if options.quick { "2" } else { "10" };
    for engine in super::ENGINES {
        let tally = mount::apart(&["full", engine, rounds, &options.seed.to_string()])?;
        tally.report(report, &format!("disk_full_{engine}"));
    }
    Ok(())
}

/// The n-th of these calls of a thread fails, and all behind it; then all is well again.
fn failing(engine: &'static str, calls: &str, most: u64, seed: u64) -> Result<Tally> {
    let folder = tempfile::tempdir()?;
    let mut tally = Tally::default();
    for nth in 1..=most {
        let ledger = Ledger {
            seed: seed.wrapping_add(nth),
            large: false,
        };
        let mut history = History::new(engine, ledger);
        let directory = folder.path().join(nth.to_string());
        // Something is there already.
        let mut writers = history.write(&directory, &[])?;
        if !writers.wait_for(20)? {
            return Err(format!("{engine}: the writers have stopped by themselves").into());
        }
        tally.acked += writers.kill(&mut history)?.acks;
        history.check(&directory, "one-more", &mut tally)?;
        let inject = format!("inject={calls}:error=EIO:when={nth}+");
        let trace = format!("trace={calls}");
        // With -D the child is the writer and not strace, and is the one to be killed.
        let wrapper = [
            "strace",
            "-D",
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            &trace,
            "-e",
            &inject,
        ];
        let writers = history.write(&directory, &wrapper.map(str::to_owned))?;
        let told = writers.end(&mut history)?;
        judge(&mut history, told, &directory, &mut tally)?;
        std::fs::remove_dir_all(&directory)?;
    }
    Ok(tally)
}

/// `<engine> <rounds> <seed>`, in a mount namespace of its own.
pub(super) fn play(arguments: &[&str]) -> Result<()> {
    let [engine, rounds, seed] = arguments else {
        return Err("full <engine> <rounds> <seed>".into());
    };
    let tally = full(super::engine(engine)?, rounds.parse()?, seed.parse()?)?;
    println!("{}", tally.line());
    Ok(())
}

/// There is no room left for what is written, until something else is deleted.
fn full(engine: &'static str, rounds: u64, seed: u64) -> Result<Tally> {
    let folder = tempfile::tempdir()?;
    let disk = Disk::new(folder.path(), 128)?;
    let ballast = disk.path().join("ballast");
    let mut tally = Tally::default();
    for round in 0..rounds {
        let ledger = Ledger {
            seed: seed.wrapping_add(round),
            large: true,
        };
        let mut history = History::new(engine, ledger);
        let directory = disk.path().join("data");
        let mut writers = history.write(&directory, &[])?;
        if !writers.wait_for(10)? {
            return Err(format!("{engine}: the writers have stopped by themselves").into());
        }
        fill(&ballast)?;
        let told = writers.end(&mut history)?;
        std::fs::remove_file(&ballast)?;
        judge(&mut history, told, &directory, &mut tally)?;
        std::fs::remove_dir_all(&directory)?;
    }
    Ok(tally)
}

/// Takes all the room that is left.
fn fill(path: &Path) -> Result<()> {
    let mut file = File::create(path)?;
    let block = vec![1; 1 << 16];
    while file.write_all(&block).is_ok() {}
    Ok(())
}

/// What the writers were told must be true, and what is left must open.
fn judge(
    history: &mut History,
    told: Option<Told>,
    directory: &Path,
    tally: &mut Tally,
) -> Result<()> {
    let Some(told) = told else {
        eprintln!("  {}: the writers hang", history.engine);
        tally.rounds += 1;
        tally.hangs += 1;
        return Ok(());
    };
    tally.add(&told);
    for (writer, kind) in &told.failed {
        if !FAILURES.contains(&&**kind) {
            eprintln!("  {}: writer {writer} was told {kind}", history.engine);
            tally.wrong += 1;
        }
    }
    // Where one step may have happened, one more may be there; else exactly what was acknowledged.
    let unknown = told.failed.values().any(|kind| kind == "OutcomeUnknown");
    // A handle that goes on after a failure would tell what no disk holds.
    if !told.failed.is_empty() && told.after.as_deref() != Some("FailedPrecondition") {
        eprintln!("  {}: afterwards it said {:?}", history.engine, told.after);
        tally.wrong += 1;
    }
    let mode = if unknown { "one-more" } else { "exact" };
    history.check(directory, mode, tally).map(drop)
}
