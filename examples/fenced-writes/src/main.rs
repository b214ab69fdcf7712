//! Two workers pay into one account, each under a lock. One of them sleeps for so long that it loses
//! the lock, and writes when it wakes up. Without a fence that overwrites what the other has paid in;
//! with one, the store refuses it.
//!
//! `cargo run -p fenced-writes`, or with `MICRO_STORE` and that backend's feature.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use micro::store::{Record, Table, WriteOptions};
use micro::sync::memory::MemoryCoordinator;
use micro::sync::{Coordinator, CoordinatorExt as _, Fence, Lock, LockOptions};
use micro::{ErrorKind, Result, Service};

#[tokio::main]
async fn main() -> Result<()> {
    // In memory, a lock can be taken away by hand, as an expiry does elsewhere. `MICRO_SYNC` and
    // `service.coordinator()` are for programs.
    let locks = MemoryCoordinator::new();
    // In a store that others use as well, this run has a database of its own.
    let service = Service::new("bank").namespace(format!("example-{}", std::process::id()));
    let table = service.store().await?;

    table.put("careless", &100_u64).await?;
    let (sleeper, other) = both_read(&locks, &table, "careless").await?;
    write(&table, "careless", other.balance + 30, None).await?;
    write(&table, "careless", sleeper.balance + 20, None).await?;
    let balance = table.get("careless").await?;
    println!("without a fence: 100 and 30 and 20 are {balance:?}");
    assert_eq!(balance, Some(120_u64));

    table.put("account", &100_u64).await?;
    let (sleeper, other) = both_read(&locks, &table, "account").await?;
    // It does not know yet; even asking would not help, for it may sleep between asking and writing.
    println!(
        "with a fence: the tokens are {} and {}",
        sleeper.lock.token().seq,
        other.lock.token().seq
    );
    let fence = Some(other.lock.fence());
    write(&table, "account", other.balance + 30, fence).await?;
    other.lock.release().await?;
    let fence = Some(sleeper.lock.fence());
    let late = write(&table, "account", sleeper.balance + 20, fence).await;
    let late = late.expect_err("it is fenced");
    println!("  the late write: {late}");
    assert_eq!(late.kind(), ErrorKind::Lost);
    drop(sleeper);

    // So it begins anew, in the short form: lock, work, let go.
    let again = locks.locked("account", LockOptions::default(), async |fence| {
        let balance: u64 = table.get("account").await?.unwrap_or_default();
        write(&table, "account", balance + 20, Some(fence)).await
    });
    again.await??;
    let balance = table.get("account").await?;
    println!("  100 and 30 and 20 are {balance:?}");
    assert_eq!(balance, Some(150_u64));

    for key in ["careless", "account"] {
        table.delete(key).await?;
    }
    Ok(())
}

/// One who has a lock, and has read the balance under it.
struct Worker {
    lock: Lock,
    balance: u64,
}

/// The first one reads and falls asleep; its lock goes to the second one, which reads, too.
async fn both_read(
    locks: &MemoryCoordinator,
    table: &Table,
    account: &str,
) -> Result<(Worker, Worker)> {
    let read = async || {
        let lock = locks.lock(account, LockOptions::default()).await?;
        let balance = table.get(account).await?.unwrap_or_default();
        Ok::<_, micro::Error>(Worker { lock, balance })
    };
    let sleeper = read().await?;
    locks.take_away(account);
    Ok((sleeper, read().await?))
}

async fn write(table: &Table, account: &str, balance: u64, fence: Option<Fence>) -> Result<()> {
    let mut opts = WriteOptions::default();
    if let Some(fence) = fence {
        opts = opts.with_fence(fence);
    }
    let record = Record::new(account, balance.to_string());
    table.write(record, opts).await.map(drop)
}
