//! Listings.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::future::join_all;
use micro_core::{Random as _, SeededRandom};
use micro_store_core::{
    BatchOptions, Cursor, DeleteOptions, ErrorKind, ListOptions, MAX_KEY, MAX_PAGE, MAX_PAGE_BYTES,
    Operation, Page, Record, Scope, WriteOptions,
};

use super::records::hostile_keys;
use super::{Backend, Cases, keys, on_one_handle, orders, put, refused, scope, write};

pub(super) fn cases() -> Cases {
    on_one_handle![
        s57_listings_equal_a_sorted_map,
        s60_extreme_limits_and_offsets_are_refused_or_exact,
        a_listing_goes_on_behind_its_cursor,
        a_cursor_is_stable_under_changes,
        pages_of_large_values_end_early,
        keys_only_leaves_out_the_rest,
        many_records_are_walked_once,
    ]
}

async fn list(store: &Backend, scope: &Scope, opts: ListOptions) -> Page {
    match store.list(scope, opts.clone()).await {
        Ok(page) => page,
        Err(err) => panic!("{opts:?} is listed; it failed with {err:?}"),
    }
}

/// Writes many records at once.
async fn load(store: &Backend, scope: &Scope, records: impl IntoIterator<Item = Record>) {
    let operations: Vec<Operation> = records
        .into_iter()
        .map(|record| Operation::write(scope, record))
        .collect();
    for operations in operations.chunks(1000) {
        let written = store
            .batch(operations.to_vec(), BatchOptions::default())
            .await;
        written.expect("the records are written");
    }
}

/// Chance, by a seed that a failure names.
struct Dice(SeededRandom);

impl Dice {
    fn below(&self, end: usize) -> usize {
        (self.0.next_u64() % end as u64) as usize
    }

    fn of<'a, T>(&self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    /// A short text of pieces that mean something elsewhere; many have a beginning in common.
    fn text(&self, most: usize) -> String {
        const PIECES: [&str; 20] = [
            "a",
            "b",
            "A",
            "%",
            "_",
            "\\",
            "'",
            "\"",
            ";",
            "\0",
            "😀",
            "é",
            " ",
            "/",
            "*",
            "\n",
            "\u{10ffff}",
            "ab",
            "a%",
            "..",
        ];
        (0..self.below(most + 1))
            .map(|_| *self.of(&PIECES))
            .collect()
    }
}

/// What a listing gives is what a sorted map would give, whatever keys, prefix, suffix, limit, offset
/// and cursor are.
async fn s57_listings_equal_a_sorted_map(store: Backend) {
    const DATASETS: u64 = 25;
    const LISTINGS: usize = 30;
    for seed in 0..DATASETS {
        let dice = Dice(SeededRandom::new(seed));
        let scope = scope("model", &format!("t{seed}"));
        let mut model: BTreeMap<String, Bytes> = BTreeMap::new();
        let hostile = hostile_keys();
        for i in 0..dice.below(60) {
            let mut key = dice.text(6);
            if dice.below(8) == 0 || key.is_empty() {
                key = dice.of(&hostile).clone();
            }
            model.insert(key, Bytes::from(i.to_string()));
        }
        let records = model
            .iter()
            .map(|(key, value)| Record::new(key, value.clone()));
        load(&store, &scope, records).await;
        let gone: Vec<String> = model
            .keys()
            .filter(|_| dice.below(5) == 0)
            .cloned()
            .collect();
        let deletions = gone
            .iter()
            .map(|key| Operation::delete(&scope, key))
            .collect();
        store
            .batch(deletions, BatchOptions::default())
            .await
            .expect("they are deleted");
        model.retain(|key, _| !gone.contains(key));
        let all: Vec<&String> = model.keys().collect();
        for _ in 0..LISTINGS {
            let part = |suffix: bool| match (dice.below(3), all.is_empty()) {
                (0, _) => String::new(),
                (1, false) => {
                    let key: Vec<char> = dice.of(&all).chars().take(40).collect();
                    let cut = dice.below(key.len() + 1);
                    let part = if suffix { &key[cut..] } else { &key[..cut] };
                    part.iter().collect()
                }
                _ => dice.text(2),
            };
            let (prefix, suffix) = (part(false), part(true));
            let after = match (dice.below(3), all.is_empty()) {
                (0, false) => Some(Cursor::after(dice.of(&all).as_str())),
                (1, _) => Some(Cursor::after(dice.text(3))),
                _ => None,
            };
            let opts = ListOptions::default()
                .with_prefix(prefix)
                .with_suffix(suffix)
                .with_after(after)
                .with_limit(1 + dice.below(20))
                .with_offset(if dice.below(2) == 0 {
                    0
                } else {
                    dice.below(30) as u64
                });
            let expected = expected(&model, &opts);
            let page = list(&store, &scope, opts.clone()).await;
            let found: Vec<(String, Bytes)> = page
                .records
                .iter()
                .map(|record| (record.key.clone(), record.value.clone()))
                .collect();
            assert_eq!(found, expected.0, "seed {seed}, {opts:?}");
            assert_eq!(
                page.next.is_some(),
                expected.1,
                "whether anything follows: seed {seed}, {opts:?}"
            );
        }
    }
}

/// The records of a page, and whether anything follows.
fn expected(model: &BTreeMap<String, Bytes>, opts: &ListOptions) -> (Vec<(String, Bytes)>, bool) {
    let after = opts.after.as_ref().map_or("", Cursor::key);
    let mut matching: Vec<(String, Bytes)> = model
        .iter()
        .filter(|(key, _)| key.starts_with(&opts.prefix) && key.ends_with(&opts.suffix))
        .filter(|(key, _)| key.as_str() > after)
        .skip(opts.offset as usize)
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let more = matching.len() > opts.limit;
    matching.truncate(opts.limit);
    (matching, more)
}

/// Nothing overflows, and nothing is cut to fit.
async fn s60_extreme_limits_and_offsets_are_refused_or_exact(store: Backend) {
    for key in ["a", "b", "c"] {
        put(&store, &orders(), key, "").await;
    }
    let opts = ListOptions::default;
    for limit in [
        0,
        MAX_PAGE + 1,
        i32::MAX as usize,
        u32::MAX as usize,
        usize::MAX - 1,
        usize::MAX,
    ] {
        let result = store.list(&orders(), opts().with_limit(limit)).await;
        refused(
            result,
            ErrorKind::InvalidArgument,
            &format!("a limit of {limit}"),
        );
    }
    let page = list(&store, &orders(), opts().with_limit(MAX_PAGE)).await;
    assert_eq!((page.records.len(), page.next), (3, None));
    for offset in [
        3,
        i32::MAX as u64,
        u64::from(u32::MAX) + 1,
        i64::MAX as u64,
        i64::MAX as u64 + 1,
        u64::MAX - 1,
        u64::MAX,
    ] {
        for limit in [1, MAX_PAGE] {
            let page = list(
                &store,
                &orders(),
                opts().with_offset(offset).with_limit(limit),
            )
            .await;
            assert_eq!(page, Page::default(), "behind an offset of {offset}");
        }
    }
    let page = list(&store, &orders(), opts().with_offset(2)).await;
    assert_eq!(page.records.len(), 1);
    let long = "x".repeat(MAX_KEY + 1);
    for (opts, what) in [
        (opts().with_prefix(&long), "a prefix of 4,097 bytes"),
        (opts().with_suffix(&long), "a suffix of 4,097 bytes"),
        (
            opts().with_after(Cursor::after(&long)),
            "a cursor of 4,097 bytes",
        ),
    ] {
        refused(
            store.list(&orders(), opts).await,
            ErrorKind::InvalidArgument,
            what,
        );
    }
}

/// Pages in a row give every match once; a cursor needs neither its key nor its prefix to be there.
async fn a_listing_goes_on_behind_its_cursor(store: Backend) {
    let records = (0..100).map(|i| Record::new(format!("{}-{i:02}", ["a", "b"][i % 2]), ""));
    load(&store, &orders(), records).await;
    for limit in [1, 7, 50, 1000] {
        let opts = ListOptions::default().with_limit(limit);
        assert_eq!(keys(&store, &orders(), opts.clone()).await.len(), 100);
        let found = keys(&store, &orders(), opts.clone().with_prefix("a-")).await;
        assert_eq!(found.len(), 50, "with a limit of {limit}");
        let found = keys(&store, &orders(), opts.with_suffix("5")).await;
        let expected: Vec<String> = (5..100).step_by(10).map(|i| format!("b-{i:02}")).collect();
        assert_eq!(found, expected, "with a limit of {limit}");
    }
    let after = |key: &str| ListOptions::default().with_after(Cursor::after(key));
    let first = async |opts: ListOptions| keys(&store, &orders(), opts).await.first().cloned();
    assert_eq!(first(after("a-04")).await.as_deref(), Some("a-06"));
    store
        .delete(&orders(), "a-06", DeleteOptions::default())
        .await
        .unwrap();
    assert_eq!(first(after("a-06")).await.as_deref(), Some("a-08"));
    assert_eq!(first(after("a-0")).await.as_deref(), Some("a-00"));
    assert_eq!(first(after("")).await.as_deref(), Some("a-00"));
    assert_eq!(
        first(after("a-04").with_prefix("b")).await.as_deref(),
        Some("b-01")
    );
    assert_eq!(first(after("b-99")).await, None);
    assert_eq!(first(after("c").with_prefix("b")).await, None);
    assert_eq!(first(after("\u{10ffff}")).await, None);
    // An offset counts from the cursor.
    assert_eq!(
        first(after("a-04").with_offset(2)).await.as_deref(),
        Some("a-12")
    );
}

/// While records come and go, one that was there all the time is listed exactly once.
async fn a_cursor_is_stable_under_changes(store: Backend) {
    const STAYING: usize = 200;
    let staying = |i: usize| format!("{:03}-stays", i * 5);
    load(
        &store,
        &orders(),
        (0..STAYING).map(|i| Record::new(staying(i), "")),
    )
    .await;
    let done = Arc::new(AtomicBool::new(false));
    let churn = (0..4_u64).map(|task| {
        let (store, done) = (Arc::clone(&store), Arc::clone(&done));
        tokio::spawn(async move {
            let dice = Dice(SeededRandom::new(task));
            while !done.load(Ordering::SeqCst) {
                let key = format!("{:03}-churn-{task}", dice.below(1000));
                put(&store, &orders(), &key, "").await;
                if dice.below(3) > 0 {
                    store
                        .delete(&orders(), &key, DeleteOptions::default())
                        .await
                        .unwrap();
                }
                tokio::task::yield_now().await;
            }
        })
    });
    let churn: Vec<_> = churn.collect();
    for limit in [3, 17, 1000] {
        let found = keys(&store, &orders(), ListOptions::default().with_limit(limit)).await;
        assert!(
            found.windows(2).all(|two| two[0] < two[1]),
            "in order, and none twice"
        );
        let found: Vec<String> = found
            .into_iter()
            .filter(|key| key.ends_with("stays"))
            .collect();
        assert_eq!(found, (0..STAYING).map(staying).collect::<Vec<_>>());
    }
    done.store(true, Ordering::SeqCst);
    for task in join_all(churn).await {
        task.expect("the changes are made");
    }
}

/// A page is bounded by the bytes of its values, and never without progress.
async fn pages_of_large_values_end_early(store: Backend) {
    const SIZES: [usize; 7] = [3 << 20, 3 << 20, 3 << 20, 12 << 20, 12 << 20, 0, 3 << 20];
    for (i, size) in SIZES.into_iter().enumerate() {
        let record = Record::new(format!("k-{i}"), vec![i as u8; size]);
        write(&store, &orders(), record, WriteOptions::default()).await;
    }
    let mut opts = ListOptions::default();
    let mut pages = Vec::new();
    loop {
        let page = list(&store, &orders(), opts.clone()).await;
        let bytes: usize = page.records.iter().map(|record| record.value.len()).sum();
        assert!(!page.records.is_empty(), "a page has a record at least");
        assert!(
            bytes <= MAX_PAGE_BYTES || page.records.len() == 1,
            "a page of several records has {bytes} bytes"
        );
        pages.push(page.records.len());
        let Some(next) = page.next else { break };
        opts = opts.with_after(next);
    }
    assert_eq!(pages, [2, 1, 1, 1, 2], "records by page");
    let page = list(
        &store,
        &orders(),
        ListOptions::default().with_keys_only(true),
    )
    .await;
    assert_eq!((page.records.len(), page.next), (SIZES.len(), None));
}

/// Key, version and expiry are there; value and metadata are not.
async fn keys_only_leaves_out_the_rest(store: Backend) {
    let record = Record::new("a", "value").with_metadata("m", "1");
    let opts = WriteOptions::default().with_ttl(std::time::Duration::from_secs(3600));
    let written = write(&store, &orders(), record, opts).await;
    let page = list(
        &store,
        &orders(),
        ListOptions::default().with_keys_only(true),
    )
    .await;
    let [found] = page.records.as_slice() else {
        panic!("one record is listed: {page:?}");
    };
    assert_eq!((found.key.as_str(), found.version), ("a", written.version));
    assert!(
        found.value.is_empty() && found.metadata.is_empty(),
        "{found:?}"
    );
    assert!(found.expiry.is_some());
}

/// More than one page of any kind.
async fn many_records_are_walked_once(store: Backend) {
    const MANY: usize = 12_000;
    // Every second one is the very next key there can be: none comes between a key and itself and a NUL.
    let expected: Vec<String> = (0..MANY)
        .map(|i| format!("{:06}{}", i / 2, ["", "\0"][i % 2]))
        .collect();
    load(
        &store,
        &orders(),
        expected.iter().map(|key| Record::new(key.as_str(), "v")),
    )
    .await;
    for limit in [999, MAX_PAGE] {
        let found = keys(&store, &orders(), ListOptions::default().with_limit(limit)).await;
        assert!(
            found == expected,
            "with a limit of {limit}, {} keys",
            found.len()
        );
    }
    let opts = ListOptions::default().with_offset(MANY as u64 - 2);
    assert_eq!(keys(&store, &orders(), opts).await, expected[MANY - 2..]);
    let opts = ListOptions::default().with_suffix("999").with_limit(5);
    assert_eq!(keys(&store, &orders(), opts).await.len(), 6);
}
