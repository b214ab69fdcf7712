//! How much a store in memory takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use micro_core::{Clock, Fence, FencingToken, SystemClock};
use micro_store_core::{
    BatchOptions, DeleteOptions, ErrorKind, ListOptions, Operation, Record, Result, Scope, Store,
    WriteOptions,
};
use micro_store_memory::{MemoryConfig, MemoryStore};

const MAX: u64 = 100_000;

fn store(clock: Arc<dyn Clock>) -> MemoryStore {
    MemoryStore::with_config(MemoryConfig::default().with_max_bytes(MAX), clock)
}

fn scope() -> Scope {
    Scope::new("d", "t").expect("the name is good")
}

async fn put(store: &MemoryStore, key: &str, bytes: usize, opts: WriteOptions) -> Result<()> {
    let record = Record::new(key, vec![0; bytes]);
    store.write(&scope(), record, opts).await.map(drop)
}

/// Fills the store; answers how many records of 1,000 bytes have found room.
async fn fill(store: &MemoryStore, opts: &WriteOptions) -> usize {
    for i in 0.. {
        if let Err(err) = put(store, &format!("{i:04}"), 1000, opts.clone()).await {
            assert_eq!(err.kind(), ErrorKind::ResourceExhausted, "{err:?}");
            return i;
        }
    }
    unreachable!("it is never full")
}

async fn count(store: &MemoryStore) -> usize {
    let page = store.list(&scope(), ListOptions::default()).await;
    page.expect("it is listed").records.len()
}

#[tokio::test]
async fn a_full_store_refuses_and_has_room_again_after_deletions() {
    let store = store(Arc::new(SystemClock));
    let opts = WriteOptions::default();
    let room = fill(&store, &opts).await;
    assert!(
        (70..100).contains(&room),
        "{room} records of 1,000 bytes in {MAX}"
    );
    // What there is can be made smaller or deleted, and not larger.
    let larger = put(&store, "0000", 5000, opts.clone()).await;
    assert_eq!(
        larger.expect_err("it is full").kind(),
        ErrorKind::ResourceExhausted
    );
    put(&store, "0000", 10, opts.clone()).await.unwrap();
    put(&store, "0000", 1000, opts.clone()).await.unwrap();
    let batch = vec![
        Operation::write(&scope(), Record::new("0000", vec![0; 900])),
        Operation::write(&scope(), Record::new("more", vec![0; 5000])),
    ];
    let batch = store.batch(batch, BatchOptions::default()).await;
    assert_eq!(
        batch.expect_err("it is full").kind(),
        ErrorKind::ResourceExhausted
    );
    assert_eq!(count(&store).await, room);
    // Nothing is lost or counted twice on the way, however often.
    for _ in 0..5 {
        let operations = (0..room)
            .map(|i| Operation::delete(&scope(), format!("{i:04}")))
            .collect();
        store
            .batch(operations, BatchOptions::default())
            .await
            .unwrap();
        assert_eq!(fill(&store, &opts).await, room);
        for i in 0..room {
            put(&store, &format!("{i:04}"), i, opts.clone())
                .await
                .unwrap();
            let key = format!("{i:04}");
            store
                .delete(&scope(), &key, DeleteOptions::default())
                .await
                .unwrap();
        }
        assert_eq!(fill(&store, &opts).await, room);
    }
}

#[tokio::test]
async fn what_has_expired_makes_room() {
    let clock = Arc::new(Moved::default());
    let store = store(Arc::clone(&clock) as _);
    let brief = WriteOptions::default().with_ttl(Duration::from_secs(1));
    let room = fill(&store, &brief).await;
    for _ in 0..5 {
        clock.0.fetch_add(2, Ordering::SeqCst);
        assert_eq!(count(&store).await, 0);
        assert_eq!(fill(&store, &brief).await, room);
    }
}

#[tokio::test]
async fn fences_and_tables_are_counted_too() {
    let store = store(Arc::new(SystemClock));
    let mut fences = 0;
    let refused = loop {
        let fence = Fence::new(format!("lock-{fences}"), FencingToken::new(1, 1));
        let opts = WriteOptions::default().with_fence(fence);
        if let Err(err) = put(&store, "k", 0, opts).await {
            break err;
        }
        fences += 1;
    };
    assert_eq!(refused.kind(), ErrorKind::ResourceExhausted);
    assert!(
        (100..1000).contains(&fences),
        "{fences} fences in {MAX} bytes"
    );
    let store = self::store(Arc::new(SystemClock));
    let mut tables = 0;
    let refused = loop {
        let scope = Scope::new("d", &format!("t{tables}")).unwrap();
        let record = Record::new("k", "");
        if let Err(err) = store.write(&scope, record, WriteOptions::default()).await {
            break err;
        }
        tables += 1;
    };
    assert_eq!(refused.kind(), ErrorKind::ResourceExhausted);
    assert!(
        (10..100).contains(&tables),
        "{tables} tables in {MAX} bytes"
    );
}

/// The machine's clock, so many seconds ahead.
#[derive(Debug, Default)]
struct Moved(AtomicU64);

impl Clock for Moved {
    fn now(&self) -> Instant {
        SystemClock.now()
    }

    fn wall(&self) -> SystemTime {
        SystemClock.wall() + Duration::from_secs(self.0.load(Ordering::SeqCst))
    }
}
