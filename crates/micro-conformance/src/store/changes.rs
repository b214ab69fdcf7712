//! Changes on condition, several at once, and fenced ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::future::join_all;
use micro_core::{Fence, FencingToken};
use micro_store_core::{
    BatchOptions, Condition, DeleteOptions, Durability, ErrorKind, ListOptions, MAX_BATCH,
    MAX_FENCE, MAX_VALUE, Operation, Record, Result, WriteOptions, Written,
};

use super::{Backend, Cases, keys, on_one_handle, orders, put, read, refused, scope, text, write};

pub(super) fn cases() -> Cases {
    on_one_handle![
        a_condition_holds_or_nothing_happens,
        sixteen_tasks_count_exactly,
        one_of_many_creates,
        changes_survive_what_is_asked_for,
        a_batch_changes_all,
        a_batch_changes_nothing_if_one_condition_fails,
        a_batch_changes_nothing_if_one_fence_is_old,
        a_bad_batch_is_refused,
        nobody_sees_a_part_of_a_batch,
        batches_in_each_other_s_way_come_to_an_end,
        an_old_fence_is_refused,
        a_fence_counts_in_its_database,
        a_change_that_fails_leaves_the_fence,
        a_bad_fence_is_refused,
    ]
}

fn on(condition: Condition) -> WriteOptions {
    WriteOptions::default().with_condition(condition)
}

pub(super) fn fenced(name: &str, epoch: u64, seq: u64) -> WriteOptions {
    WriteOptions::default().with_fence(Fence::new(name, FencingToken::new(epoch, seq)))
}

async fn batch(store: &Backend, operations: Vec<Operation>) -> Result<Vec<Written>> {
    store.batch(operations, BatchOptions::default()).await
}

/// `Absent` and `Version`, of writes and deletions, met and not met.
async fn a_condition_holds_or_nothing_happens(store: Backend) {
    let scope = orders();
    let write_on = |condition, value: &'static str| {
        let store = Arc::clone(&store);
        async move {
            store
                .write(&orders(), Record::new("a", value), on(condition))
                .await
        }
    };
    let delete_on = |condition| {
        let store = Arc::clone(&store);
        async move {
            let opts = DeleteOptions::default().with_condition(condition);
            store.delete(&orders(), "a", opts).await
        }
    };
    let result = write_on(Condition::Version(1), "x").await;
    refused(
        result,
        ErrorKind::Aborted,
        "a write over version 1 of nothing",
    );
    let result = delete_on(Condition::Version(1)).await;
    refused(
        result,
        ErrorKind::Aborted,
        "a deletion of version 1 of nothing",
    );
    assert_eq!(read(&store, &scope, "a").await, None);

    let first = write_on(Condition::Absent, "1")
        .await
        .expect("there was nothing")
        .version;
    let result = write_on(Condition::Absent, "x").await;
    refused(
        result,
        ErrorKind::AlreadyExists,
        "a write on absence of what is there",
    );
    assert_eq!(text(&store, &scope, "a").await.as_deref(), Some("1"));

    let second = write_on(Condition::Version(first), "2")
        .await
        .expect("it is so")
        .version;
    assert!(second > first);
    for wrong in [first, second + 1, 0, u64::MAX] {
        let result = write_on(Condition::Version(wrong), "x").await;
        refused(result, ErrorKind::Aborted, "a write over another version");
        let result = delete_on(Condition::Version(wrong)).await;
        refused(result, ErrorKind::Aborted, "a deletion of another version");
    }
    let found = read(&store, &scope, "a").await.expect("it is still there");
    assert_eq!((&*found.value, found.version), (&b"2"[..], second));

    let result = delete_on(Condition::Absent).await;
    refused(result, ErrorKind::InvalidArgument, "a deletion on absence");
    assert!(
        delete_on(Condition::Version(second))
            .await
            .expect("it is so")
            .existed
    );
    let result = write_on(Condition::Version(second), "x").await;
    refused(result, ErrorKind::Aborted, "a write over what was deleted");
    write_on(Condition::Absent, "3")
        .await
        .expect("it was deleted");
}

/// Adds one to a number, by comparing and swapping.
pub(super) async fn increment(store: &Backend, key: &str) {
    loop {
        let there = read(store, &orders(), key).await;
        let (number, condition) = match &there {
            Some(record) => (
                record.json::<u64>().expect("it is a number"),
                Condition::Version(record.version),
            ),
            None => (0, Condition::Absent),
        };
        let record = Record::new(key, (number + 1).to_string());
        match store.write(&orders(), record, on(condition)).await {
            Ok(_) => return,
            Err(err) if matches!(err.kind(), ErrorKind::Aborted | ErrorKind::AlreadyExists) => {}
            Err(err) => panic!("neither written nor refused: {err:?}"),
        }
    }
}

/// No increment is lost and none counts twice.
async fn sixteen_tasks_count_exactly(store: Backend) {
    const TASKS: usize = 16;
    const EACH: usize = 24;
    let tasks = (0..TASKS).map(|task| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for i in 0..EACH {
                increment(&store, &format!("counter-{}", (task + i) % 4)).await;
            }
        })
    });
    for done in join_all(tasks).await {
        done.expect("a task counts to its end");
    }
    let mut sum = 0;
    for i in 0..4 {
        let counter = read(&store, &orders(), &format!("counter-{i}")).await;
        sum += counter.expect("it was counted").json::<usize>().unwrap();
    }
    assert_eq!(sum, TASKS * EACH, "16 tasks have made 24 increments each");
}

/// Of many who write on absence, one succeeds, and its value is there.
async fn one_of_many_creates(store: Backend) {
    for round in 0..10 {
        let key = format!("k-{round}");
        let tasks = (0..16).map(|i| {
            let (store, key) = (Arc::clone(&store), key.clone());
            tokio::spawn(async move {
                let record = Record::new(key, i.to_string());
                store.write(&orders(), record, on(Condition::Absent)).await
            })
        });
        let mut winners = Vec::new();
        for (i, result) in join_all(tasks).await.into_iter().enumerate() {
            match result.expect("the task ends") {
                Ok(_) => winners.push(i.to_string()),
                Err(err) => assert_eq!(err.kind(), ErrorKind::AlreadyExists, "{err:?}"),
            }
        }
        assert_eq!(winners.len(), 1, "these have created {key}: {winners:?}");
        assert_eq!(text(&store, &orders(), &key).await, winners.pop());
    }
}

/// The answer says at least what the capabilities promise and the options ask.
async fn changes_survive_what_is_asked_for(store: Backend) {
    let capabilities = store.capabilities();
    let most = capabilities.max_durability;
    assert!(capabilities.durability <= most, "{capabilities:?}");
    let all = [
        Durability::Memory,
        Durability::Process,
        Durability::Power,
        Durability::Quorum,
    ];
    for (i, asked) in all.into_iter().enumerate() {
        let key = format!("k-{i}");
        let record = || Record::new(&key, "1");
        let opts = || WriteOptions::default().with_durability(asked);
        let delete = || DeleteOptions::default().with_durability(asked);
        let written = store.write(&orders(), record(), opts()).await;
        let deleted = store.delete(&orders(), &key, delete()).await;
        let one = vec![Operation::write_with(&orders(), record(), opts())];
        let by_operation = batch(&store, one).await;
        let one = vec![Operation::write(&orders(), record())];
        let whole = BatchOptions::default().with_durability(asked);
        let by_batch = store.batch(one, whole).await;
        if asked <= most {
            for got in [
                written.unwrap().durability,
                deleted.unwrap().durability,
                by_operation.unwrap()[0].durability,
                by_batch.unwrap()[0].durability,
            ] {
                assert!(got >= asked, "{asked:?} was asked for and {got:?} given");
            }
        } else {
            refused(
                written,
                ErrorKind::Unimplemented,
                "a write with too much asked",
            );
            refused(
                deleted,
                ErrorKind::Unimplemented,
                "a deletion with too much asked",
            );
            refused(
                by_operation,
                ErrorKind::Unimplemented,
                "an operation with too much asked",
            );
            refused(
                by_batch,
                ErrorKind::Unimplemented,
                "a batch with too much asked",
            );
            assert_eq!(read(&store, &orders(), &key).await, None);
        }
    }
    let written = write(
        &store,
        &orders(),
        Record::new("k", ""),
        WriteOptions::default(),
    )
    .await;
    assert!(written.durability >= capabilities.durability);
}

/// In several tables, with an answer for each.
async fn a_batch_changes_all(store: Backend) {
    let (a, b) = (scope("shop", "a"), scope("shop", "b"));
    assert_eq!(batch(&store, Vec::new()).await.expect("nothing to do"), []);
    let old = put(&store, &a, "gone", "1").await;
    let seen = put(&store, &b, "seen", "1").await;
    let written = batch(
        &store,
        vec![
            Operation::write(&a, Record::new("k", "a").with_metadata("m", "1")),
            Operation::write_with(&b, Record::new("seen", "2"), on(Condition::Version(seen))),
            Operation::delete(&a, "gone"),
            Operation::delete(&a, "never there"),
            Operation::write_with(&b, Record::new("k", "b"), on(Condition::Absent)),
        ],
    )
    .await
    .expect("all conditions hold");
    let versions: Vec<u64> = written.iter().map(|written| written.version).collect();
    assert_eq!(versions.len(), 5);
    assert!(versions[2] > old, "a deletion has a version: {versions:?}");
    assert_eq!(versions[3], 0, "nothing was deleted: {versions:?}");
    let record = read(&store, &a, "k").await.expect("it was written");
    assert_eq!((&*record.value, record.version), (&b"a"[..], versions[0]));
    assert_eq!(record.metadata["m"], "1");
    let record = read(&store, &b, "seen").await.expect("it was written");
    assert_eq!((&*record.value, record.version), (&b"2"[..], versions[1]));
    assert_eq!(read(&store, &a, "gone").await, None);
    assert_eq!(read(&store, &b, "k").await.unwrap().version, versions[4]);
}

/// Wherever in the batch it stands.
async fn a_batch_changes_nothing_if_one_condition_fails(store: Backend) {
    let scope = orders();
    put(&store, &scope, "there", "old").await;
    put(&store, &scope, "kept", "old").await;
    for (failing, kind) in [
        (
            Operation::write_with(&scope, Record::new("there", "x"), on(Condition::Absent)),
            ErrorKind::AlreadyExists,
        ),
        (
            Operation::write_with(&scope, Record::new("none", "x"), on(Condition::Version(1))),
            ErrorKind::Aborted,
        ),
        (
            Operation::delete_with(
                &scope,
                "there",
                DeleteOptions::default().with_condition(Condition::Version(u64::MAX)),
            ),
            ErrorKind::Aborted,
        ),
    ] {
        for at in 0..3 {
            let mut operations = vec![
                Operation::write(&scope, Record::new("new", "x")),
                Operation::delete(&scope, "kept"),
            ];
            operations.insert(at, failing.clone());
            refused(
                batch(&store, operations).await,
                kind,
                "a batch with a failing condition",
            );
            assert_eq!(read(&store, &scope, "new").await, None);
            assert_eq!(text(&store, &scope, "kept").await.as_deref(), Some("old"));
            assert_eq!(text(&store, &scope, "there").await.as_deref(), Some("old"));
        }
    }
}

/// An older token keeps all of it from happening, and one that is there first.
async fn a_batch_changes_nothing_if_one_fence_is_old(store: Backend) {
    let scope = orders();
    write(&store, &scope, Record::new("a", "1"), fenced("lock", 1, 5)).await;
    let operations = |seq| {
        vec![
            Operation::write(&scope, Record::new("b", "2")),
            Operation::write_with(&scope, Record::new("a", "2"), fenced("lock", 1, seq)),
            Operation::write_with(&scope, Record::new("c", "2"), fenced("other", 1, seq)),
        ]
    };
    let result = batch(&store, operations(4)).await;
    refused(result, ErrorKind::Lost, "a batch with an old fence");
    assert_eq!(text(&store, &scope, "a").await.as_deref(), Some("1"));
    assert_eq!(read(&store, &scope, "b").await, None);
    // The batch that failed has not left its other token either.
    write(&store, &scope, Record::new("d", ""), fenced("other", 1, 3)).await;
    batch(&store, operations(6))
        .await
        .expect("the tokens are the highest");
    let result = store
        .write(&scope, Record::new("a", "x"), fenced("lock", 1, 5))
        .await;
    refused(
        result,
        ErrorKind::Lost,
        "a write with a token below the batch's",
    );
}

/// What cannot be one step is refused, and nothing of it happens.
async fn a_bad_batch_is_refused(store: Backend) {
    let scope = orders();
    let write = |key: &str| Operation::write(&scope, Record::new(key, "x"));
    let twice = vec![write("a"), write("b"), write("a")];
    let write_and_delete = vec![write("a"), Operation::delete(&scope, "a")];
    let two_databases = vec![
        write("a"),
        Operation::write(&super::scope("d", "t"), Record::new("a", "")),
    ];
    let two_tokens = vec![
        Operation::write_with(&scope, Record::new("a", ""), fenced("lock", 1, 1)),
        Operation::write_with(&scope, Record::new("b", ""), fenced("lock", 1, 2)),
    ];
    let bad_key = vec![write("a"), write("")];
    let large = Bytes::from(vec![0; MAX_VALUE]);
    let too_large = (0..5)
        .map(|i| Operation::write(&scope, Record::new(format!("k-{i}"), large.clone())))
        .collect();
    let too_many = (0..=MAX_BATCH).map(|i| write(&format!("k-{i}"))).collect();
    for (operations, kind, what) in [
        (
            twice,
            ErrorKind::InvalidArgument,
            "a batch that writes a key twice",
        ),
        (
            write_and_delete,
            ErrorKind::InvalidArgument,
            "a batch that writes and deletes a key",
        ),
        (
            two_databases,
            ErrorKind::InvalidArgument,
            "a batch over two databases",
        ),
        (
            two_tokens,
            ErrorKind::InvalidArgument,
            "a batch with two tokens of a lock",
        ),
        (
            bad_key,
            ErrorKind::InvalidArgument,
            "a batch with an empty key",
        ),
        (too_large, ErrorKind::ResourceExhausted, "a batch of 80 MiB"),
        (
            too_many,
            ErrorKind::ResourceExhausted,
            "a batch of 10,001 operations",
        ),
    ] {
        refused(batch(&store, operations).await, kind, what);
        let found = keys(&store, &scope, ListOptions::default()).await;
        assert!(found.is_empty(), "{what} has left {found:?}");
    }
    // The same key of two tables is two records.
    let other = super::scope("shop", "other");
    let fine = vec![write("a"), Operation::write(&other, Record::new("a", ""))];
    batch(&store, fine)
        .await
        .expect("each table has its own key");
}

/// Who has read a batch's first record sees its second, too.
async fn nobody_sees_a_part_of_a_batch(store: Backend) {
    const ROUNDS: u32 = 100;
    let done = Arc::new(AtomicBool::new(false));
    let both = |number: u32| {
        ["a", "z"]
            .map(|key| Operation::write(&orders(), Record::new(key, number.to_string())))
            .to_vec()
    };
    batch(&store, both(0)).await.unwrap();
    let readers: Vec<_> = [("a", "z"), ("z", "a")]
        .into_iter()
        .map(|(first, second)| {
            let (store, done) = (Arc::clone(&store), Arc::clone(&done));
            tokio::spawn(async move {
                while !done.load(Ordering::SeqCst) {
                    let before: u32 = read(&store, &orders(), first)
                        .await
                        .unwrap()
                        .json()
                        .unwrap();
                    let after: u32 = read(&store, &orders(), second)
                        .await
                        .unwrap()
                        .json()
                        .unwrap();
                    assert!(
                        after >= before,
                        "{first} was of batch {before}, then {second} of {after}"
                    );
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for number in 1..=ROUNDS {
        batch(&store, both(number)).await.unwrap();
    }
    done.store(true, Ordering::SeqCst);
    for reader in join_all(readers).await {
        reader.expect("no reader sees a part");
    }
}

/// Transfers between accounts, in all directions at once: nobody waits for ever, nothing is lost.
async fn batches_in_each_other_s_way_come_to_an_end(store: Backend) {
    const ACCOUNTS: usize = 6;
    const START: u64 = 100;
    for account in 0..ACCOUNTS {
        put(
            &store,
            &orders(),
            &format!("account-{account}"),
            &START.to_string(),
        )
        .await;
    }
    let tasks = (0..8_usize).map(|task| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for i in 0..12 {
                let from = (task * 7 + i * 5) % ACCOUNTS;
                let to = (from + 1 + (task + i) % (ACCOUNTS - 1)) % ACCOUNTS;
                transfer(&store, from, to).await;
            }
        })
    });
    for done in join_all(tasks).await {
        done.expect("the transfers are made");
    }
    let mut sum = 0;
    for account in 0..ACCOUNTS {
        let record = read(&store, &orders(), &format!("account-{account}")).await;
        sum += record.unwrap().json::<u64>().unwrap();
    }
    assert_eq!(sum, START * ACCOUNTS as u64);
}

async fn transfer(store: &Backend, from: usize, to: usize) {
    loop {
        let mut operations = Vec::new();
        for (account, change) in [(from, -1_i64), (to, 1)] {
            let record = read(store, &orders(), &format!("account-{account}"))
                .await
                .unwrap();
            let value = record.json::<u64>().unwrap().strict_add_signed(change);
            operations.push(Operation::write_with(
                &orders(),
                Record::new(record.key, value.to_string()),
                on(Condition::Version(record.version)),
            ));
        }
        match batch(store, operations).await {
            Ok(_) => return,
            Err(err) => assert_eq!(err.kind(), ErrorKind::Aborted, "{err:?}"),
        }
    }
}

/// A later holder's token shuts out the earlier ones; one's own may be used again.
async fn an_old_fence_is_refused(store: Backend) {
    let scope = orders();
    let attempt = async |value: &str, epoch, seq| {
        let record = Record::new("a", value.to_owned());
        store
            .write(&scope, record, fenced("lock", epoch, seq))
            .await
    };
    for (epoch, seq) in [
        (1, 7),
        (1, 7),
        (1, 8),
        (2, 0),
        (2, u64::MAX),
        (u64::MAX, u64::MAX),
    ] {
        attempt("held", epoch, seq)
            .await
            .expect("the token is the highest");
        for (old_epoch, old_seq) in [(1, 6), (0, u64::MAX), (0, 0)] {
            let result = attempt("stolen", old_epoch, old_seq).await;
            let err = refused(result, ErrorKind::Lost, "a write with an old token");
            assert!(!err.is_retryable());
            let opts = fenced("lock", old_epoch, old_seq).fence.unwrap();
            let opts = DeleteOptions::default().with_fence(opts);
            let result = store.delete(&scope, "a", opts).await;
            refused(result, ErrorKind::Lost, "a deletion with an old token");
        }
        assert_eq!(text(&store, &scope, "a").await.as_deref(), Some("held"));
    }
    // Without a fence, and with another lock's, one may still write.
    put(&store, &scope, "a", "free").await;
    write(
        &store,
        &scope,
        Record::new("a", "free"),
        fenced("another", 0, 1),
    )
    .await;
    // A deletion leaves its token as well, also if there was nothing to delete.
    let fence = Fence::new("third", FencingToken::new(1, 2));
    let opts = DeleteOptions::default().with_fence(fence);
    store.delete(&scope, "never there", opts).await.unwrap();
    let result = store
        .write(&scope, Record::new("a", "x"), fenced("third", 1, 1))
        .await;
    refused(
        result,
        ErrorKind::Lost,
        "a write with a token below the deletion's",
    );
}

/// All tables of a database share a lock's tokens; another database has its own.
async fn a_fence_counts_in_its_database(store: Backend) {
    write(
        &store,
        &scope("a", "x"),
        Record::new("k", ""),
        fenced("lock", 1, 5),
    )
    .await;
    let result = store
        .write(&scope("a", "y"), Record::new("k", ""), fenced("lock", 1, 4))
        .await;
    refused(
        result,
        ErrorKind::Lost,
        "a write to another table of the database",
    );
    write(
        &store,
        &scope("b", "x"),
        Record::new("k", ""),
        fenced("lock", 1, 1),
    )
    .await;
    // Names that look alike when they are put together.
    write(
        &store,
        &scope("a.l", "x"),
        Record::new("k", ""),
        fenced("ock", 1, 1),
    )
    .await;
    write(
        &store,
        &scope("a", "x"),
        Record::new("k", ""),
        fenced("lock\0", 1, 1),
    )
    .await;
    write(
        &store,
        &scope("a", "x"),
        Record::new("k", ""),
        fenced("LOCK", 1, 1),
    )
    .await;
}

/// Only a change that happens moves a fence.
async fn a_change_that_fails_leaves_the_fence(store: Backend) {
    let scope = orders();
    let opts = fenced("lock", 1, 9).with_condition(Condition::Version(1));
    let result = store.write(&scope, Record::new("a", "x"), opts).await;
    refused(
        result,
        ErrorKind::Aborted,
        "a write over version 1 of nothing",
    );
    write(&store, &scope, Record::new("a", "1"), fenced("lock", 1, 1)).await;
    // The fence is checked first: who has lost the lock need not know of the record.
    let opts = fenced("lock", 1, 0).with_condition(Condition::Absent);
    let result = store.write(&scope, Record::new("a", "x"), opts).await;
    refused(
        result,
        ErrorKind::Lost,
        "a write with an old token on a condition that fails",
    );
}

/// The name of a lock has 1 to 256 bytes.
async fn a_bad_fence_is_refused(store: Backend) {
    for name in [String::new(), "x".repeat(MAX_FENCE + 1)] {
        let result = store
            .write(&orders(), Record::new("a", ""), fenced(&name, 1, 1))
            .await;
        refused(
            result,
            ErrorKind::InvalidArgument,
            "a write with a bad fence",
        );
        let fence = Fence::new(&name, FencingToken::new(1, 1));
        let opts = DeleteOptions::default().with_fence(fence);
        let result = store.delete(&orders(), "a", opts).await;
        refused(
            result,
            ErrorKind::InvalidArgument,
            "a deletion with a bad fence",
        );
    }
    write(
        &store,
        &orders(),
        Record::new("a", ""),
        fenced(&"€".repeat(MAX_FENCE / 3), 1, 1),
    )
    .await;
}
