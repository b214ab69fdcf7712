//! The child that writes until it is killed or the disk fails, and tells what was acknowledged.
//!
//! `ack <writer> <step> <version>` after each step, `err <writer> <step> <kind>` when one has failed
//! and the writer stops, and `after <kind>` for what a read says then.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use micro_store_core::{BatchOptions, ListOptions, Store};

use super::ledger::{Ledger, scope};
use crate::Result;

/// `<engine> <directory> <ledger> <first step of each writer, with commas>`
pub(super) fn play(arguments: &[&str]) -> Result<()> {
    let [engine, directory, ledger, starts] = arguments else {
        return Err("write <engine> <directory> <ledger> <starts>".into());
    };
    let ledger: Ledger = ledger.parse()?;
    let starts: Vec<u64> = super::rounds::numbers(starts)?;
    super::runtime()?.block_on(async {
        let store = super::open(engine, Path::new(directory), "").await?;
        tell("open")?;
        let writers: Vec<_> = starts
            .into_iter()
            .enumerate()
            .map(|(writer, start)| {
                let store = Arc::clone(&store);
                tokio::spawn(async move { write(&*store, ledger, writer, start).await })
            })
            .collect();
        for writer in writers {
            writer.await??;
        }
        // All have failed: so must everything else, or the handle would tell what no disk holds.
        let after = store.list(&scope(), ListOptions::default()).await;
        match after {
            Ok(_) => tell("after Ok"),
            Err(err) => tell(&format!("after {:?}", err.kind())),
        }
    })
}

async fn write(store: &dyn Store, ledger: Ledger, writer: usize, start: u64) -> Result<()> {
    for step in start.. {
        let operations = ledger.step(writer, step);
        match store.batch(operations, BatchOptions::default()).await {
            Ok(written) => {
                let version = written.iter().map(|written| written.version).max();
                tell(&format!("ack {writer} {step} {}", version.unwrap_or(0)))?;
            }
            Err(err) => return tell(&format!("err {writer} {step} {:?}", err.kind())),
        }
    }
    Ok(())
}

/// Writes a line at once, whole: who is killed in the middle leaves a line without an end.
fn tell(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes())?;
    Ok(out.flush()?)
}
