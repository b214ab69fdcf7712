//! The child that opens what is left and compares it with the ledger.
//!
//! `opened`, then for each writer `is <writer> <steps>`, or what is wrong: `lost`, `phantom`, `wrong`,
//! `corrupt`; or `unopenable` instead of all. `missing <n>` counts records that are not there where
//! nothing may be, if bits were changed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use micro_store_core::{
    Durability, ErrorKind, ListOptions, ReadOptions, Record, Store, Table, WriteOptions,
};

use super::ledger::{Ledger, Stamp, WRITERS, fence, prefix, scope, step_of};
use super::rounds::numbers;
use crate::Result;

/// `<engine> <directory> <ledger> <acknowledged steps of each writer> <mode>`, where the mode is:
/// `one-more` if a step may have been under way, `exact` if none was, `bits` if bits were changed.
pub(super) fn play(arguments: &[&str]) -> Result<()> {
    let [engine, directory, ledger, acked, mode] = arguments else {
        return Err("check <engine> <directory> <ledger> <acknowledged> <mode>".into());
    };
    let ledger: Ledger = ledger.parse()?;
    let acked = numbers(acked)?;
    let bits = *mode == "bits";
    let query = if bits && *engine == "redb" {
        "?check=true"
    } else {
        ""
    };
    super::runtime()?.block_on(async {
        let store = match super::open(engine, Path::new(directory), query).await {
            Ok(store) => store,
            Err(err) => {
                eprintln!("    {err:?}");
                println!("unopenable {:?}", err.kind());
                return Ok(());
            }
        };
        println!("opened");
        if bits {
            return damaged(&*store, ledger, &acked).await;
        }
        for (writer, &steps) in acked.iter().enumerate() {
            println!(
                "{}",
                compare(&store, ledger, writer, steps, *mode == "exact").await
            );
        }
        // Or an old holder of a lock could come back by pulling the plug.
        for (writer, &steps) in acked.iter().enumerate().filter(|(_, steps)| **steps > 1) {
            let opts = WriteOptions::default().with_fence(fence(writer, steps - 2));
            let stale = store.write(&scope(), Record::new("stale", ""), opts).await;
            if !stale.is_err_and(|err| err.kind() == ErrorKind::Lost) {
                println!("lost {writer} its fence");
            }
        }
        // It is not only there to be looked at.
        let opts = WriteOptions::default().with_durability(Durability::Power);
        store
            .write(&scope(), Record::new("probe", "x"), opts)
            .await?;
        // Its file is closed by a thread of its own: the next to open it finds it in order.
        drop(store);
        tokio::time::sleep(Duration::from_millis(100)).await;
        Ok(())
    })
}

/// What a writer's keys hold.
async fn found(
    store: &Arc<dyn Store>,
    writer: usize,
) -> micro_core::Result<BTreeMap<String, Record>> {
    let table = Table::new(Arc::clone(store), scope());
    let mut opts = ListOptions::default()
        .with_prefix(prefix(writer))
        .with_limit(7);
    let mut found = BTreeMap::new();
    loop {
        let page = table.list(opts.clone()).await?;
        let records = page.records.into_iter();
        found.extend(records.map(|record| (record.key.clone(), record)));
        match page.next {
            Some(next) => opts.after = Some(next),
            None => return Ok(found),
        }
    }
}

/// A line about one writer.
async fn compare(
    store: &Arc<dyn Store>,
    ledger: Ledger,
    writer: usize,
    steps: u64,
    exact: bool,
) -> String {
    let found = match found(store, writer).await {
        Ok(found) => found,
        Err(err) => return format!("corrupt {writer} {err:?}").replace('\n', " "),
    };
    let mut expected = ledger.after(writer, steps);
    if same(&found, &expected) {
        return format!("is {writer} {steps}");
    }
    let difference = differ(&found, &expected, steps);
    ledger.apply(writer, steps, &mut expected);
    if !exact && same(&found, &expected) {
        return format!("is {writer} {}", steps + 1);
    }
    let (what, key) = difference;
    format!("{what} {writer} {key}, {steps} steps were acknowledged")
}

fn same(found: &BTreeMap<String, Record>, expected: &BTreeMap<String, Stamp>) -> bool {
    found.len() == expected.len()
        && found
            .iter()
            .all(|(key, record)| expected.get(key).is_some_and(|stamp| stamp.fits(record)))
}

/// The first difference, in the words of the figures.
fn differ(
    found: &BTreeMap<String, Record>,
    expected: &BTreeMap<String, Stamp>,
    steps: u64,
) -> (&'static str, String) {
    for (key, record) in found {
        if expected.get(key).is_some_and(|stamp| stamp.fits(record)) {
            continue;
        }
        let what = match step_of(record) {
            // A step that was not begun, or one that came after a part of it.
            Some(step) if step >= steps => "phantom",
            // An older step: a later one of this key is gone.
            Some(_) => "lost",
            None => "wrong",
        };
        return (what, key.clone());
    }
    let gone = expected.keys().find(|key| !found.contains_key(*key));
    ("lost", gone.cloned().unwrap_or_default())
}

/// Reads every record by itself: right, an error, or missing.
async fn damaged(store: &dyn Store, ledger: Ledger, acked: &[u64]) -> Result<()> {
    let (mut missing, mut noticed) = (0, 0);
    for writer in 0..WRITERS {
        let expected = ledger.after(writer, acked.get(writer).copied().unwrap_or(0));
        for (key, stamp) in expected {
            match store.read(&scope(), &key, ReadOptions::default()).await {
                Ok(record) if stamp.fits(&record) => {}
                Ok(_) => println!("wrong {writer} {key}"),
                Err(err) => match err.kind() {
                    ErrorKind::NotFound => missing += 1,
                    ErrorKind::Corrupt | ErrorKind::FailedPrecondition => noticed += 1,
                    _ => println!("wrong {writer} {key} {:?}", err.kind()),
                },
            }
        }
    }
    println!("missing {missing}");
    println!("noticed {noticed}");
    Ok(())
}
