//! Starts the shop's processes, and compares what was ordered with what was told.

use std::process::Stdio;

use micro::{Error, Result};
use tokio::process::Command;

use crate::shop::ORDERS;

pub(crate) async fn run() -> Result<()> {
    let own = std::env::temp_dir().join(format!("micro-example-outbox-{}", std::process::id()));
    let store = std::env::var("MICRO_STORE");
    let store = store.ok().filter(|url| !url.is_empty());
    let store = store.unwrap_or_else(|| format!("file:{}", own.display()));
    println!("over {}:", store.split(':').next().unwrap_or_default());

    let by_hand = part("by-hand", &store).await?;
    println!("  by hand: {} orders, then killed", by_hand.len());
    let by_outbox = part("by-outbox", &store).await?;
    println!("  by outbox: {} orders, then killed", by_outbox.len());
    let told = part("recover", &store).await?;
    let _ = std::fs::remove_dir_all(own);

    let last = by_hand.last().map_or("", String::as_str);
    println!("  back again: {} events are published", told.len());
    println!("  nobody was ever told of {last}, which is in the store");
    // At least once: some may be told of twice, but never in another order.
    let mut once = told.clone();
    once.dedup();
    if by_outbox.len() != ORDERS as usize || once != by_outbox || told.iter().any(|one| one == last)
    {
        return Err(Error::data_loss(format!(
            "ordered were {by_outbox:?}, told was of {told:?}"
        )));
    }
    println!("  all {ORDERS} of the outbox were told of, in their order");
    Ok(())
}

/// This program once more, as that part of the example: what it says, to its end.
async fn part(name: &str, store: &str) -> Result<Vec<String>> {
    let output = Command::new(std::env::current_exe()?)
        .arg(name)
        .env("MICRO_STORE", store)
        // In a store that others use as well, this example has a database of its own.
        .env("MICRO_NAMESPACE", format!("example-{}", std::process::id()))
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await?;
    if name == "recover" && !output.status.success() {
        return Err(Error::internal("the shop does not recover"));
    }
    let said = String::from_utf8_lossy(&output.stdout);
    Ok(said.lines().map(str::to_owned).collect())
}
