//! What is served from memory, and when it is not.

mod probe;

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{FutureExt as _, join_all};
use micro_core::Error;
use micro_store_cache::{CacheConfig, CacheStore};
use micro_store_core::{
    BatchOptions, Condition, DeleteOptions, ErrorKind, ListOptions, Operation, Record, Scope,
    Store, Table, WriteOptions,
};

use probe::Probe;

fn scope() -> Scope {
    Scope::new("shop", "orders").expect("the name is good")
}

fn table_of(store: &Arc<dyn Store>) -> Table {
    Table::new(Arc::clone(store), scope())
}

/// A cache, and its table; the probe counts what reaches the store below.
fn cache(probe: &Arc<Probe>, config: CacheConfig) -> (Arc<CacheStore>, Table) {
    let below = Arc::clone(probe) as Arc<dyn Store>;
    let cache = Arc::new(CacheStore::new(below, config, probe.clock()));
    let table = Table::new(Arc::clone(&cache) as _, scope());
    (cache, table)
}

/// Polls it; whether it has no answer yet.
fn waits<T>(call: Pin<&mut impl Future<Output = T>>) -> bool {
    call.now_or_never().is_none()
}

async fn text(table: &Table, key: &str) -> Option<String> {
    let record = table.find(key).await.expect("it is read")?;
    Some(String::from_utf8(record.value.to_vec()).expect("the value is text"))
}

async fn put(table: &Table, key: &str, value: &str) {
    let record = Record::new(key, value.to_owned());
    let written = table.write(record, WriteOptions::default()).await;
    written.expect("it is written");
}

#[tokio::test]
async fn a_record_is_asked_for_once_within_its_time() {
    let probe = Probe::new();
    let (_, table) = cache(&probe, CacheConfig::default());
    let record = Record::new("a", "1").with_metadata("m", "1");
    let written = table.write(record.clone(), WriteOptions::default()).await;
    let expected = record.with_version(written.unwrap().version);
    for _ in 0..5 {
        assert_eq!(table.read("a").await.unwrap(), expected);
        probe.advance(Duration::from_millis(999));
    }
    assert_eq!(probe.reads(), 1);
    probe.advance(Duration::from_millis(5));
    assert_eq!(table.read("a").await.unwrap(), expected);
    assert_eq!(probe.reads(), 2);
}

#[tokio::test]
async fn what_is_not_there_is_remembered_for_its_own_time() {
    let probe = Probe::new();
    let (_, table) = cache(&probe, CacheConfig::default());
    for _ in 0..4 {
        let err = table.read("a").await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::NotFound);
        assert_eq!(err.operation(), "store.read");
        assert!(err.to_string().contains("shop/orders"), "{err}");
        probe.advance(Duration::from_millis(300));
    }
    assert_eq!(probe.reads(), 1);
    assert_eq!(text(&table, "a").await, None);
    assert_eq!(probe.reads(), 2);
    // Creating it is seen at once.
    put(&table, "a", "1").await;
    assert_eq!(text(&table, "a").await.as_deref(), Some("1"));
}

#[tokio::test]
async fn zero_keeps_nothing() {
    let probe = Probe::new();
    let config = CacheConfig::default()
        .with_ttl(Duration::ZERO)
        .with_absent_ttl(Duration::ZERO);
    let (_, table) = cache(&probe, config);
    put(&table, "a", "1").await;
    for _ in 0..3 {
        assert_eq!(text(&table, "a").await.as_deref(), Some("1"));
        assert_eq!(text(&table, "b").await, None);
    }
    assert_eq!(probe.reads(), 6);
}

#[tokio::test]
async fn without_an_end_it_stays_until_it_is_changed() {
    let probe = Probe::new();
    let (cache, table) = cache(&probe, CacheConfig::default().with_ttl(Duration::MAX));
    put(&table, "a", "1").await;
    for _ in 0..3 {
        assert_eq!(text(&table, "a").await.as_deref(), Some("1"));
        probe.advance(Duration::from_secs(1_000_000));
    }
    assert_eq!(probe.reads(), 1);
    cache.clear();
    assert_eq!(text(&table, "a").await.as_deref(), Some("1"));
    assert_eq!(probe.reads(), 2);
}

/// Whatever the change is, and whether it happens or not.
#[tokio::test]
async fn an_answer_that_a_change_has_overtaken_is_not_kept() {
    for change in 0..4 {
        let probe = Probe::new();
        let (cache, table) = cache(&probe, CacheConfig::default());
        put(&table, "a", "old").await;
        probe.hold_reads();
        let mut late = pin!(text(&table, "a"));
        assert!(waits(late.as_mut()), "it has read, and waits");
        let expected = match change {
            0 => {
                put(&table, "a", "new").await;
                Some("new")
            }
            1 => {
                table.delete("a").await.unwrap();
                None
            }
            2 => {
                let batch = vec![
                    Operation::write(&scope(), Record::new("b", "1")),
                    Operation::write(&scope(), Record::new("a", "new")),
                ];
                cache.batch(batch, BatchOptions::default()).await.unwrap();
                Some("new")
            }
            _ => {
                // By another handle; our own attempt only learns of it.
                put(&probe.table(), "a", "new").await;
                let opts = WriteOptions::default().with_condition(Condition::Absent);
                let refused = table.write(Record::new("a", "x"), opts).await;
                assert_eq!(refused.unwrap_err().kind(), ErrorKind::AlreadyExists);
                Some("new")
            }
        };
        probe.let_reads_go();
        // Who asked before may hear what was then.
        assert_eq!(late.await.as_deref(), Some("old"));
        assert_eq!(
            text(&table, "a").await.as_deref(),
            expected,
            "change {change}"
        );
    }
}

#[tokio::test]
async fn who_asks_behind_a_change_does_not_wait_for_an_older_question() {
    let probe = Probe::new();
    let (_, table) = cache(&probe, CacheConfig::default());
    put(&table, "a", "old").await;
    probe.hold_reads();
    let mut late = pin!(text(&table, "a"));
    assert!(waits(late.as_mut()));
    put(&table, "a", "new").await;
    let mut behind = pin!(text(&table, "a"));
    assert!(waits(behind.as_mut()));
    assert_eq!(probe.reads(), 2, "each has asked by itself");
    probe.let_reads_go();
    assert_eq!(behind.await.as_deref(), Some("new"));
    assert_eq!(late.await.as_deref(), Some("old"));
    assert_eq!(text(&table, "a").await.as_deref(), Some("new"));
    assert_eq!(probe.reads(), 2, "and the newer answer is kept");
}

#[tokio::test]
async fn while_a_change_is_under_way_nothing_is_kept() {
    let probe = Probe::new();
    let (_, table) = cache(&probe, CacheConfig::default());
    put(&table, "a", "old").await;
    assert_eq!(text(&table, "a").await.as_deref(), Some("old"));
    probe.hold_changes();
    {
        let mut change = pin!(put(&table, "a", "new"));
        assert!(waits(change.as_mut()), "it waits before it happens");
        assert_eq!(text(&table, "a").await.as_deref(), Some("old"));
        probe.let_changes_happen();
        assert!(
            waits(change.as_mut()),
            "it has happened, and is not answered"
        );
        for _ in 0..2 {
            assert_eq!(text(&table, "a").await.as_deref(), Some("new"));
        }
        assert_eq!(probe.reads(), 4);
        probe.let_changes_go();
        change.await;
    }
    for _ in 0..2 {
        assert_eq!(text(&table, "a").await.as_deref(), Some("new"));
    }
    assert_eq!(probe.reads(), 5);
}

/// Its effect is seen as if another had made it.
#[tokio::test]
async fn a_change_that_is_given_up_leaves_nothing_behind() {
    let probe = Probe::new();
    let (cache, table) = cache(&probe, CacheConfig::default());
    put(&table, "a", "old").await;
    assert_eq!(text(&table, "a").await.as_deref(), Some("old"));
    probe.hold_changes();
    {
        let mut change = pin!(put(&table, "a", "new"));
        assert!(waits(change.as_mut()));
    }
    probe.let_changes_happen();
    probe.let_changes_go();
    assert!(!format!("{cache:?}").contains("places: 1"), "{cache:?}");
    for _ in 0..2 {
        assert_eq!(text(&table, "a").await.as_deref(), Some("old"));
    }
    assert_eq!(probe.reads(), 2);
    put(&table, "a", "last").await;
    assert_eq!(text(&table, "a").await.as_deref(), Some("last"));
}

#[tokio::test]
async fn readers_share_a_question_and_one_who_leaves_takes_nothing_along() {
    let probe = Probe::new();
    let (cache, table) = cache(&probe, CacheConfig::default());
    put(&table, "a", "1").await;
    probe.hold_reads();
    let mut first = Box::pin(text(&table, "a"));
    assert!(waits(first.as_mut()));
    let mut rest: Vec<_> = (0..50).map(|_| Box::pin(text(&table, "a"))).collect();
    for reader in &mut rest {
        assert!(waits(reader.as_mut()));
    }
    drop(first);
    probe.let_reads_go();
    for answer in join_all(rest).await {
        assert_eq!(answer.as_deref(), Some("1"));
    }
    assert_eq!(probe.reads(), 1);
    // If all leave, the next one asks.
    probe.hold_reads();
    cache.clear();
    let mut leaving: Vec<_> = (0..3).map(|_| Box::pin(text(&table, "a"))).collect();
    for reader in &mut leaving {
        assert!(waits(reader.as_mut()));
    }
    drop(leaving);
    assert!(!format!("{cache:?}").contains("places: 1"), "{cache:?}");
    probe.let_reads_go();
    assert_eq!(text(&table, "a").await.as_deref(), Some("1"));
    assert_eq!(probe.reads(), 3);
}

#[tokio::test]
async fn a_question_older_than_a_record_may_be_is_not_waited_for() {
    let probe = Probe::new();
    let (_, table) = cache(&probe, CacheConfig::default());
    put(&table, "a", "old").await;
    probe.hold_reads();
    let mut slow = pin!(text(&table, "a"));
    assert!(waits(slow.as_mut()));
    probe.advance(Duration::from_secs(6));
    put(&probe.table(), "a", "new").await;
    let mut later = pin!(text(&table, "a"));
    assert!(waits(later.as_mut()));
    probe.let_reads_go();
    assert_eq!(later.await.as_deref(), Some("new"));
    assert_eq!(slow.await.as_deref(), Some("old"));
    assert_eq!(text(&table, "a").await.as_deref(), Some("new"));
}

#[tokio::test]
async fn an_error_reaches_all_who_wait_and_is_not_kept() {
    let probe = Probe::new();
    let (_, table) = cache(&probe, CacheConfig::default());
    probe.hold_reads();
    probe.fail_reads_with(|| {
        Error::unavailable("the wire is cut")
            .with_context("server", "10.0.0.5")
            .with_source(std::io::Error::other("cable"))
    });
    let mut readers: Vec<_> = (0..3).map(|_| Box::pin(table.read("a"))).collect();
    for reader in &mut readers {
        assert!(waits(reader.as_mut()));
    }
    probe.let_reads_go();
    let answers = join_all(readers).await;
    for answer in answers {
        let err = answer.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unavailable);
        assert!(err.is_retryable());
        assert!(err.to_string().contains("server: 10.0.0.5"), "{err}");
        assert!(format!("{err:?}").contains("caused by: cable"), "{err:?}");
    }
    assert_eq!(probe.reads(), 1);
    let err = table.read("a").await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unavailable);
    assert_eq!(probe.reads(), 2);
    probe.fail_reads_no_more();
    assert_eq!(text(&table, "a").await, None);
}

/// Or a loop of compare and swap would turn until the record is asked for again.
#[tokio::test]
async fn two_caches_count_exactly() {
    let probe = Probe::new();
    let config = CacheConfig::default().with_ttl(Duration::MAX);
    let (_, one) = cache(&probe, config.clone());
    let (_, other) = cache(&probe, config);
    let tasks = (0..8).map(|task| {
        let table = if task % 2 == 0 { &one } else { &other }.clone();
        tokio::spawn(async move {
            for _ in 0..50 {
                increment(&table).await;
            }
        })
    });
    for task in join_all(tasks).await {
        task.expect("it counts to its end");
    }
    assert_eq!(probe.table().get::<u64>("n").await.unwrap(), Some(400));
}

async fn increment(table: &Table) {
    for _ in 0..10_000 {
        let (count, only_if) = match table.find("n").await.unwrap() {
            Some(record) => (
                record.json::<u64>().unwrap(),
                Condition::Version(record.version),
            ),
            None => (0, Condition::Absent),
        };
        tokio::task::yield_now().await;
        let opts = WriteOptions::default().with_condition(only_if);
        match table.put_with("n", &(count + 1), opts).await {
            Ok(_) => return,
            Err(err) => assert!(
                matches!(err.kind(), ErrorKind::Aborted | ErrorKind::AlreadyExists),
                "{err:?}"
            ),
        }
    }
    panic!("the loop reads the same old record for ever");
}

#[tokio::test]
async fn a_record_is_not_served_beyond_its_expiry() {
    for (shared, skew) in [(false, 0), (true, 1000)] {
        let probe = Probe::shared(shared);
        let (_, table) = cache(&probe, CacheConfig::default().with_ttl(Duration::MAX));
        let at = probe.clock().wall() + Duration::from_millis(5000);
        let record = Record::new("a", "1").with_expiry(at);
        table.write(record, WriteOptions::default()).await.unwrap();
        let (mut asked, mut before) = (0, 0);
        for (gone, from_memory) in [
            (0, false),
            (1, true),
            (4998 - skew, true),
            (4999 - skew, true),
            (5000 - skew, false),
            (5001 - skew, false),
        ] {
            probe.advance(Duration::from_millis(gone - before));
            before = gone;
            let found = text(&table, "a").await;
            // The store below goes by a clock of its own, and its time has not come there.
            assert_eq!(found.as_deref(), Some("1"));
            asked += usize::from(!from_memory);
            assert_eq!(probe.reads(), asked, "after {gone} ms, shared: {shared}");
        }
    }
}

#[tokio::test]
async fn what_is_kept_has_a_bound() {
    const RECORDS: usize = 2000;
    const SIZE: usize = 4000;
    let probe = Probe::new();
    let config = CacheConfig::default()
        .with_ttl(Duration::MAX)
        .with_absent_ttl(Duration::MAX)
        .with_max_bytes(1 << 20);
    let (_, table) = cache(&probe, config);
    let pass = async || {
        let before = probe.reads();
        for i in 0..RECORDS {
            assert!(table.find(&format!("k-{i}")).await.unwrap().is_some());
        }
        RECORDS - (probe.reads() - before)
    };
    for i in 0..RECORDS {
        let record = Record::new(format!("k-{i}"), vec![7; SIZE]);
        table.write(record, WriteOptions::default()).await.unwrap();
    }
    pass().await;
    let kept = pass().await;
    let most = (1 << 20) / SIZE;
    assert!((1..=most).contains(&kept), "{kept} of {most} are kept");
    // Strangers' keys take room as records do, and no more than that.
    for i in 0..10_000 {
        assert_eq!(text(&table, &format!("none-{i}")).await, None);
    }
    let before = probe.reads();
    for i in 0..10_000 {
        assert_eq!(text(&table, &format!("none-{i}")).await, None);
    }
    let kept = 10_000 - (probe.reads() - before);
    assert!(kept <= (1 << 20) / 256, "{kept} absences are kept");
    // What is larger than its share is not kept at all.
    let record = Record::new("large", vec![7; (1 << 20) / 64]);
    table.write(record, WriteOptions::default()).await.unwrap();
    let before = probe.reads();
    for _ in 0..3 {
        table.read("large").await.unwrap();
    }
    assert_eq!(probe.reads() - before, 3);
}

#[tokio::test]
async fn listings_come_from_below() {
    let probe = Probe::new();
    let (cache, table) = cache(&probe, CacheConfig::default().with_ttl(Duration::MAX));
    put(&table, "a", "1").await;
    assert_eq!(text(&table, "a").await.as_deref(), Some("1"));
    put(&probe.table(), "a", "2").await;
    put(&probe.table(), "b", "1").await;
    let page = table.list(ListOptions::default()).await.unwrap();
    let values: Vec<&[u8]> = page.records.iter().map(|r| &r.value[..]).collect();
    assert_eq!(values, [b"2", b"1"]);
    assert_eq!(
        text(&table, "a").await.as_deref(),
        Some("1"),
        "within its time"
    );
    let below = table_of(cache.below());
    assert_eq!(text(&below, "a").await.as_deref(), Some("2"));
}

#[tokio::test]
async fn it_says_how_old_a_read_may_be() {
    let probe = Probe::new();
    let config = CacheConfig::default().with_ttl(Duration::from_secs(3));
    let (cache, _) = cache(&probe, config);
    let (above, below) = (cache.capabilities(), probe.capabilities());
    assert_eq!(above.staleness, Duration::from_secs(3));
    assert_eq!(above.with_staleness(Duration::ZERO), below);
    assert_eq!(cache.backend(), probe.backend());
}

/// As it is without the cache: what is refused is refused.
#[tokio::test]
async fn fences_and_conditions_are_the_store_s() {
    let probe = Probe::new();
    let (_, table) = cache(&probe, CacheConfig::default().with_ttl(Duration::MAX));
    put(&table, "a", "1").await;
    let old = table.read("a").await.unwrap().version;
    put(&probe.table(), "a", "2").await;
    assert_eq!(table.read("a").await.unwrap().version, old);
    let opts = DeleteOptions::default().with_condition(Condition::Version(old));
    let err = table.delete_with("a", opts).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Aborted);
    assert_eq!(text(&table, "a").await.as_deref(), Some("2"));
}
