//! A disk that changes bits of a store which is closed.

use std::fs;
use std::path::{Path, PathBuf};

use micro_core::{Random as _, SeededRandom};

use super::ledger::Ledger;
use super::rounds::{History, Tally};
use crate::report::Report;
use crate::{Options, Result};

const BLOCK: usize = 4096;

pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    // Several stores: where a changed bit is found depends on how far an engine's log has come.
    let (stores, flips) = if options.quick { (2, 5) } else { (5, 40) };
    for engine in super::ENGINES {
        let mut found = Found::default();
        for store in 0..stores {
            campaign(engine, flips, options.seed.wrapping_add(store), &mut found)?;
        }
        found.report(engine, report);
    }
    Ok(())
}

/// What the changed bits have come to.
#[derive(Debug, Default)]
struct Found {
    flips: u64,
    /// The store was not opened.
    refused: u64,
    /// Records that gave an error.
    noticed: u64,
    /// Flips after which records seemed not to be there, and how many did.
    silent: u64,
    missing: u64,
    tally: Tally,
}

impl Found {
    fn report(&self, engine: &str, report: &mut Report) {
        let name = |what: &str| format!("bits_{engine}_{what}");
        report.figure(name("flips"), self.flips as f64, "flips");
        report.figure(name("refused_when_opened"), self.refused as f64, "flips");
        report.figure(name("noticed_when_read"), self.noticed as f64, "records");
        report.figure(name("flips_with_missing"), self.silent as f64, "flips");
        report.figure(name("missing"), self.missing as f64, "records");
        report.at_most(name("wrong"), self.tally.wrong as f64, "found", 0.0);
        report.at_most(name("panics"), self.tally.panics as f64, "found", 0.0);
        report.at_most(name("hangs"), self.tally.hangs as f64, "found", 0.0);
    }

    /// Takes in a line of the checker; false if it is none that may be said.
    fn take(&mut self, line: &str) -> Result<bool> {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["opened"] => {}
            ["unopenable", "Corrupt" | "FailedPrecondition"] => self.refused += 1,
            ["noticed", count] => self.noticed += count.parse::<u64>()?,
            ["missing", count] => {
                let count: u64 = count.parse()?;
                self.silent += u64::from(count > 0);
                self.missing += count;
            }
            _ => {
                self.tally.wrong += 1;
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Changes so many bits, each in a copy of one store.
fn campaign(engine: &'static str, flips: u64, seed: u64, found: &mut Found) -> Result<()> {
    let random = SeededRandom::new(seed);
    let folder = tempfile::tempdir()?;
    let (whole, changed) = (folder.path().join("whole"), folder.path().join("changed"));
    let mut history = History::new(engine, Ledger { seed, large: false });
    let mut writers = history.write(&whole, &[])?;
    writers.wait_for(200 + (random.next_u64() % 400) as usize)?;
    writers.kill(&mut history)?;
    if !history.check(&whole, "one-more", &mut found.tally)? {
        return Err(format!("{engine}: it is damaged before any bit was changed").into());
    }
    // Or the copies would be what is damaged.
    copy(&whole, &changed)?;
    let said = history.look(&changed, "bits", &mut found.tally)?;
    if said.is_none_or(|said| said != ["opened", "missing 0", "noticed 0"]) {
        return Err(format!("{engine}: a copy of it is damaged").into());
    }
    fs::remove_dir_all(&changed)?;
    let blocks = blocks(&whole)?;
    for _ in 0..flips {
        found.flips += 1;
        copy(&whole, &changed)?;
        let (file, block) = &blocks[random.next_u64() as usize % blocks.len()];
        let path = changed.join(file);
        let mut bytes = fs::read(&path)?;
        let size = BLOCK.min(bytes.len() - block);
        let at = block + random.next_u64() as usize % size;
        bytes[at] ^= 1 << (random.next_u64() % 8);
        fs::write(&path, bytes)?;
        let said = history.look(&changed, "bits", &mut found.tally)?;
        for line in said.unwrap_or_default() {
            if !found.take(&line)? || line.starts_with("missing ") && line != "missing 0" {
                eprintln!("  {engine}: a bit of {} at {at}: {line}", file.display());
            }
        }
        fs::remove_dir_all(&changed)?;
    }
    Ok(())
}

/// The blocks of all files that hold anything: a change in a hole changes nothing of the store.
fn blocks(folder: &Path) -> Result<Vec<(PathBuf, usize)>> {
    let mut blocks = Vec::new();
    for file in files(folder, Path::new(""))? {
        let bytes = fs::read(folder.join(&file))?;
        for (nth, block) in bytes.chunks(BLOCK).enumerate() {
            if block.iter().any(|byte| *byte != 0) {
                blocks.push((file.clone(), nth * BLOCK));
            }
        }
    }
    Ok(blocks)
}

/// All files below a folder, as seen from it.
fn files(folder: &Path, below: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            found.extend(files(folder, &path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Copies a folder. The bytes are read, and not left to `cp` to find: on some file systems it takes
/// what was not written out yet for a hole.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::write(target, fs::read(entry.path())?)?;
        }
    }
    Ok(())
}
