//! Starts the service as a process of its own, kills it, and looks what is left.

use std::process::Stdio;

use micro::{Error, Result};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// So many orders are taken before it is killed.
const ORDERS: u32 = 50;

pub(crate) async fn run() -> Result<()> {
    let own = std::env::temp_dir().join(format!("micro-example-store-{}", std::process::id()));
    let file = format!("file:{}", own.display());
    let chosen = std::env::var("MICRO_STORE").unwrap_or_default();
    let chosen = if chosen.is_empty() { file } else { chosen };

    println!("in memory:");
    let left = kill_and_restart("memory").await?;
    println!(
        "  {} orders are left, for memory ends with its process",
        left.len()
    );
    assert!(left.is_empty());

    println!("over {}:", chosen.split(':').next().unwrap_or_default());
    let left = kill_and_restart(&chosen).await?;
    if !(0..ORDERS).all(|order| left.contains(&order)) {
        return Err(Error::failed_precondition(
            "orders that were kept are gone: this store does not outlive its process",
        ));
    }
    println!(
        "  {} orders are left, among them all {ORDERS} that were kept",
        left.len()
    );
    // One that was under way may be there or not; whatever is there is whole, and in its order.
    assert!(left.iter().copied().eq(0..left.len() as u32));

    part("clear", &chosen)?.0.wait().await?;
    let _ = std::fs::remove_dir_all(own);
    Ok(())
}

/// Runs the parts of the service over a store; answers which orders are there in the end.
async fn kill_and_restart(url: &str) -> Result<Vec<u32>> {
    let (mut tour, mut said) = part("tour", url)?;
    while let Some(line) = said.next_line().await? {
        println!("{line}");
    }
    ended(&mut tour).await?;

    let (mut shop, mut kept) = part("take", url)?;
    for order in 0..ORDERS {
        let line = kept.next_line().await?;
        assert_eq!(line, Some(order.to_string()));
    }
    shop.kill().await?;
    println!("  killed after {ORDERS} orders, and started again");

    let (mut shop, mut found) = part("count", url)?;
    let mut orders = Vec::new();
    while let Some(line) = found.next_line().await? {
        orders.push(line.parse().map_err(|_| Error::internal(line))?);
    }
    ended(&mut shop).await?;
    Ok(orders)
}

/// This program once more, as that part of the example.
fn part(name: &str, url: &str) -> Result<(Child, Lines<BufReader<ChildStdout>>)> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg(name)
        .env("MICRO_STORE", url)
        // In a store that others use as well, this example has a database of its own.
        .env("MICRO_NAMESPACE", format!("example-{}", std::process::id()))
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let lines = child.stdout.take().map(|out| BufReader::new(out).lines());
    Ok((
        child,
        lines.ok_or_else(|| Error::internal("it has no output"))?,
    ))
}

async fn ended(child: &mut Child) -> Result<()> {
    match child.wait().await?.success() {
        true => Ok(()),
        false => Err(Error::internal("the service failed")),
    }
}
