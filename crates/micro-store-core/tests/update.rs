//! A value that many change.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use micro_store_core::{ErrorKind, Record, Scope, Table, WriteOptions};
use micro_store_memory::MemoryStore;

fn table() -> Table {
    let scope = Scope::new("shop", "orders").expect("the name is good");
    Table::new(Arc::new(MemoryStore::new()), scope)
}

#[tokio::test]
async fn no_step_is_lost() {
    const TASKS: usize = 8;
    const STEPS: usize = 50;
    let table = table();
    let tasks = (0..TASKS).map(|_| {
        let table = table.clone();
        tokio::spawn(async move {
            for _ in 0..STEPS {
                let count = |count: Option<usize>| count.unwrap_or(0) + 1;
                table.update("n", count).await.expect("it is counted");
                tokio::task::yield_now().await;
            }
        })
    });
    for task in join_all(tasks).await {
        task.expect("it counts to its end");
    }
    assert_eq!(table.get("n").await.unwrap(), Some(TASKS * STEPS));
}

/// Another is faster, twice: what he wrote is what is changed.
#[tokio::test]
async fn who_was_faster_is_not_overwritten() {
    let table = table();
    table.put("n", &1).await.unwrap();
    let mut seen = Vec::new();
    let changed = table.update("n", |old: Option<u32>| {
        seen.push(old);
        if seen.len() < 3 {
            // A store in memory answers at once.
            let put = table.put("n", &(10 * seen.len()));
            futures_util::FutureExt::now_or_never(put)
                .expect("it is written")
                .expect("it is written");
        }
        old.unwrap_or(0) + 1
    });
    assert_eq!(changed.await.unwrap(), 21);
    assert_eq!(seen, [Some(1), Some(10), Some(20)]);
    assert_eq!(table.get("n").await.unwrap(), Some(21));
}

#[tokio::test]
async fn metadata_and_expiry_stay() {
    let table = table();
    let later = SystemTime::UNIX_EPOCH + Duration::from_millis(33_333_333_333_333);
    let record = Record::new("n", "1")
        .with_metadata("unit", "cups")
        .with_expiry(later);
    table.write(record, WriteOptions::default()).await.unwrap();
    let changed = table.update("n", |old: Option<u32>| old.unwrap_or(0) + 1);
    assert_eq!(changed.await.unwrap(), 2);
    let found = table.read("n").await.unwrap();
    assert_eq!((&found.value[..], found.expiry), (&b"2"[..], Some(later)));
    assert_eq!(found.metadata["unit"], "cups");
}

#[tokio::test]
async fn what_is_no_json_stays_as_it_is() {
    let table = table();
    let record = Record::new("n", "no number");
    table.write(record, WriteOptions::default()).await.unwrap();
    let changed = table.update("n", |_: Option<u32>| 1).await;
    assert_eq!(changed.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(table.read("n").await.unwrap().value, "no number");
    // JSON has no such keys.
    let odd = |_: Option<BTreeMap<Vec<u8>, u8>>| BTreeMap::from([(vec![1], 1)]);
    let changed = table.update("other", odd).await;
    assert_eq!(changed.unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(table.find("other").await.unwrap(), None);
}
