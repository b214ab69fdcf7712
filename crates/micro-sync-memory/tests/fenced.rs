//! What is changed under locks of this process, in a store that keeps the rule of fences.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use micro_core::{Random as _, SeededRandom};
use micro_store_core::{ErrorKind, Record, Result, Scope, Store as _, WriteOptions};
use micro_store_memory::MemoryStore;
use micro_sync_core::{Coordinator as _, Lock, LockOptions};
use micro_sync_memory::MemoryCoordinator;
use tokio::time::sleep;

async fn write(store: &MemoryStore, lock: &Lock, value: u64) -> Result<()> {
    let scope = Scope::new("shop", "books")?;
    let opts = WriteOptions::default().with_fence(lock.fence());
    let record = Record::new("balance", value.to_string());
    store.write(&scope, record, opts).await.map(drop)
}

#[tokio::test]
async fn who_has_lost_the_lock_cannot_write() {
    let coordinator = MemoryCoordinator::new();
    let store = MemoryStore::new();
    let stale = coordinator
        .lock("books", LockOptions::default())
        .await
        .unwrap();
    write(&store, &stale, 1).await.unwrap();
    coordinator.take_away("books");
    let next = coordinator
        .lock("books", LockOptions::default())
        .await
        .unwrap();
    // Nobody has written since, so it may still.
    write(&store, &stale, 2).await.unwrap();
    write(&store, &next, 3).await.unwrap();
    let late = write(&store, &stale, 4).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Lost);
    write(&store, &next, 5).await.unwrap();
}

#[tokio::test]
async fn a_later_program_has_later_tokens() {
    let before = MemoryCoordinator::new();
    let lock = before.lock("books", LockOptions::default()).await.unwrap();
    let store = MemoryStore::new();
    write(&store, &lock, 1).await.unwrap();
    // The store on disk remains, the process does not.
    sleep(Duration::from_millis(2)).await;
    let after = MemoryCoordinator::new();
    let lock = after.lock("books", LockOptions::default()).await.unwrap();
    write(&store, &lock, 2).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn aborted_tasks_let_no_old_write_through() {
    const SEED: u64 = 11;
    let random = SeededRandom::new(SEED);
    let coordinator = MemoryCoordinator::new();
    let store = Arc::new(MemoryStore::new());
    let refused = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for _ in 0..60 {
        let (coordinator, store) = (coordinator.clone(), Arc::clone(&store));
        let refused = Arc::clone(&refused);
        tasks.push(tokio::spawn(async move {
            for value in 0.. {
                let lock = coordinator
                    .lock("books", LockOptions::default())
                    .await
                    .unwrap();
                if write(&store, &lock, value).await.is_err() {
                    refused.fetch_add(1, Ordering::SeqCst);
                }
                tokio::task::yield_now().await;
            }
        }));
    }
    for task in tasks {
        sleep(Duration::from_micros(random.next_u64() % 5000)).await;
        task.abort();
        let _ = task.await;
    }
    // Nobody loses a lock here, so nobody is refused; and nothing is left held.
    assert_eq!(refused.load(Ordering::SeqCst), 0, "seed {SEED}");
    let free = coordinator.try_lock("books", LockOptions::default()).await;
    assert!(free.unwrap().is_some(), "seed {SEED}");
}
