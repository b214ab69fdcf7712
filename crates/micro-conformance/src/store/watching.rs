//! Watches.

use std::time::Duration;

use futures_util::StreamExt as _;
use micro_store_core::{
    BatchOptions, Change, ChangeKind, ChangeStream, DeleteOptions, ErrorKind, MAX_KEY, Operation,
    Record, Scope, WatchOptions, WriteOptions,
};
use tokio::time::timeout;

use super::{Backend, Cases, PATIENCE, on_one_handle, orders, put, refused, scope, write};

pub(super) fn cases() -> Cases {
    on_one_handle![
        a_watch_reports_changes_in_order if watch,
        a_watch_is_silent_about_others if watch,
        a_watch_reports_no_past if watch,
        a_watch_that_is_not_read_is_told_so if watch,
        a_dropped_watch_disturbs_no_other if watch,
        a_watch_is_refused_where_there_is_none if no_watch,
    ]
}

async fn watch(store: &Backend, scope: &Scope, prefix: &str) -> ChangeStream {
    let opts = WatchOptions::default().with_prefix(prefix);
    store.watch(scope, opts).await.expect("the watch begins")
}

async fn next(changes: &mut ChangeStream) -> Change {
    match timeout(PATIENCE, changes.next()).await {
        Ok(Some(Ok(change))) => change,
        Ok(other) => panic!("a change is to come; the watch gave {other:?}"),
        Err(_) => panic!("a change is to come; nothing came within {PATIENCE:?}"),
    }
}

/// What comes up to the change of `key`, that one included.
async fn up_to(changes: &mut ChangeStream, key: &str) -> Vec<Change> {
    let mut all = Vec::new();
    loop {
        let change = next(changes).await;
        let last = change.record.key == key;
        all.push(change);
        if last {
            return all;
        }
    }
}

/// Writes with their records, deletions with their versions, batches with all of theirs.
async fn a_watch_reports_changes_in_order(store: Backend) {
    let mut changes = watch(&store, &orders(), "").await;
    let record = Record::new("a", "1").with_metadata("m", "1");
    let first = write(&store, &orders(), record.clone(), WriteOptions::default()).await;
    let change = next(&mut changes).await;
    assert_eq!(change.kind, ChangeKind::Written);
    assert_eq!(change.record, record.with_version(first.version));
    store
        .delete(&orders(), "never there", DeleteOptions::default())
        .await
        .unwrap();
    store
        .delete(&orders(), "a", DeleteOptions::default())
        .await
        .unwrap();
    let change = next(&mut changes).await;
    assert_eq!(
        (change.kind, change.record.key.as_str()),
        (ChangeKind::Deleted, "a")
    );
    assert!(change.record.version > first.version, "{change:?}");
    let operations = vec![
        Operation::write(&orders(), Record::new("b", "1")),
        Operation::write(&orders(), Record::new("c", "1")),
    ];
    store
        .batch(operations, BatchOptions::default())
        .await
        .unwrap();
    let mut both = [
        next(&mut changes).await.record.key,
        next(&mut changes).await.record.key,
    ];
    both.sort();
    assert_eq!(both, ["b", "c"]);
    // The versions of a key come in their order, whoever wrote them.
    let writers = (0..8).map(|task| {
        let store = std::sync::Arc::clone(&store);
        tokio::spawn(async move {
            for i in 0..20 {
                put(&store, &orders(), "same", &format!("{task}-{i}")).await;
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    for writer in writers {
        writer.await.expect("the values are written");
    }
    put(&store, &orders(), "last", "").await;
    let all = up_to(&mut changes, "last").await;
    let versions: Vec<u64> = all.iter().map(|change| change.record.version).collect();
    let (_, of_same) = versions.split_last().unwrap();
    assert!(
        of_same.windows(2).all(|two| two[0] < two[1]),
        "{versions:?}"
    );
    let newest = super::read(&store, &orders(), "same")
        .await
        .unwrap()
        .version;
    assert_eq!(
        of_same.last(),
        Some(&newest),
        "the last change is the one that counts"
    );
}

/// Other prefixes, other tables, other databases.
async fn a_watch_is_silent_about_others(store: Backend) {
    let mut changes = watch(&store, &orders(), "a%").await;
    put(&store, &orders(), "ab", "").await;
    put(&store, &orders(), "b", "").await;
    put(&store, &scope("shop", "others"), "a%", "").await;
    put(&store, &scope("others", "orders"), "a%", "").await;
    put(&store, &orders(), "a%c", "").await;
    assert_eq!(next(&mut changes).await.record.key, "a%c");
    let result = store
        .watch(
            &orders(),
            WatchOptions::default().with_prefix("x".repeat(MAX_KEY + 1)),
        )
        .await;
    refused(
        result.map(drop),
        ErrorKind::InvalidArgument,
        "a prefix of 4,097 bytes",
    );
}

/// A watch begins with what happens after it began; what it begins with is seen.
async fn a_watch_reports_no_past(store: Backend) {
    put(&store, &orders(), "old", "").await;
    store
        .delete(&orders(), "old", DeleteOptions::default())
        .await
        .unwrap();
    let mut changes = watch(&store, &orders(), "").await;
    put(&store, &orders(), "new", "").await;
    assert_eq!(next(&mut changes).await.record.key, "new");
}

/// Who does not read gets every change in the end, or is told that some are missing.
async fn a_watch_that_is_not_read_is_told_so(store: Backend) {
    const CHANGES: usize = 5000;
    let mut changes = watch(&store, &orders(), "").await;
    let operations: Vec<Operation> = (0..CHANGES)
        .map(|i| Operation::write(&orders(), Record::new(format!("{i:05}"), "")))
        .collect();
    for operations in operations.chunks(500) {
        store
            .batch(operations.to_vec(), BatchOptions::default())
            .await
            .unwrap();
    }
    let mut seen = 0;
    while seen < CHANGES {
        match timeout(PATIENCE, changes.next())
            .await
            .expect("the watch goes on or ends")
        {
            Some(Ok(_)) => seen += 1,
            Some(Err(err)) => {
                assert_eq!(err.kind(), ErrorKind::Aborted, "{err:?}");
                let after = timeout(PATIENCE, changes.next()).await;
                assert!(matches!(after, Ok(None)), "after an error it ends");
                break;
            }
            None => break,
        }
    }
    let mut again = watch(&store, &orders(), "").await;
    put(&store, &orders(), "again", "").await;
    assert_eq!(next(&mut again).await.record.key, "again");
}

/// Nor does one that begins.
async fn a_dropped_watch_disturbs_no_other(store: Backend) {
    let mut staying = watch(&store, &orders(), "").await;
    for i in 0..20 {
        let leaving = watch(&store, &orders(), "").await;
        if i % 2 == 0 {
            put(&store, &orders(), &format!("k-{i:02}"), "").await;
        }
        drop(leaving);
        put(&store, &orders(), &format!("l-{i:02}"), "").await;
    }
    put(&store, &orders(), "last", "").await;
    let all = timeout(Duration::from_secs(10), up_to(&mut staying, "last")).await;
    assert_eq!(all.expect("all changes come").len(), 31);
}

/// Rather than a stream on which nothing ever comes.
async fn a_watch_is_refused_where_there_is_none(store: Backend) {
    let result = store.watch(&orders(), WatchOptions::default()).await;
    refused(result.map(drop), ErrorKind::Unimplemented, "a watch");
}
