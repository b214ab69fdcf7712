//! Changes made elsewhere that the store below reports.

mod probe;

use std::sync::Arc;
use std::time::Duration;

use micro_store_cache::{CacheConfig, CacheStore};
use micro_store_core::{Record, Scope, Store, Table, WriteOptions};
use tokio::time::{Instant, sleep};

use probe::Probe;

/// How long a change may take to show.
const PATIENCE: Duration = Duration::from_secs(10);

/// Kept for ever, so that only a report ends it.
fn forever() -> CacheConfig {
    CacheConfig::default()
        .with_ttl(Duration::MAX)
        .with_absent_ttl(Duration::MAX)
}

fn cache(probe: &Arc<Probe>, config: CacheConfig) -> Table {
    let below = Arc::clone(probe) as Arc<dyn Store>;
    let cache = CacheStore::new(below, config, probe.clock());
    let scope = Scope::new("shop", "orders").expect("the name is good");
    Table::new(Arc::new(cache), scope)
}

async fn put(table: &Table, key: &str, value: &str) {
    let record = Record::new(key, value.to_owned());
    let written = table.write(record, WriteOptions::default()).await;
    written.expect("it is written");
}

async fn text(table: &Table, key: &str) -> Option<String> {
    let record = table.find(key).await.expect("it is read")?;
    Some(String::from_utf8(record.value.to_vec()).expect("the value is text"))
}

async fn shows(table: &Table, key: &str, expected: Option<&str>) {
    let begin = Instant::now();
    while text(table, key).await.as_deref() != expected {
        assert!(begin.elapsed() < PATIENCE, "'{expected:?}' never shows");
        sleep(Duration::from_millis(2)).await;
    }
}

/// Reads until the answer comes from memory: what the beginning of the watch throws out is gone then.
async fn settle(probe: &Probe, table: &Table, key: &str) {
    let begin = Instant::now();
    while probe.watchers() == 0 {
        assert!(begin.elapsed() < PATIENCE, "no watch begins");
        text(table, key).await;
        sleep(Duration::from_millis(2)).await;
    }
    text(table, key).await;
    let before = probe.reads();
    text(table, key).await;
    assert_eq!(probe.reads(), before, "'{key}' is kept");
}

#[tokio::test]
async fn changes_made_elsewhere_are_seen_soon() {
    let probe = Probe::watched();
    let table = cache(&probe, forever());
    let other = probe.table();
    put(&other, "a", "1").await;
    settle(&probe, &table, "a").await;
    assert_eq!(text(&table, "b").await, None);
    put(&other, "a", "2").await;
    shows(&table, "a", Some("2")).await;
    put(&other, "b", "1").await;
    shows(&table, "b", Some("1")).await;
    other.delete("a").await.unwrap();
    shows(&table, "a", None).await;
}

/// The report of a change that the kept record stands behind takes nothing out.
#[tokio::test]
async fn reports_of_what_is_known_already_cost_nothing() {
    let probe = Probe::watched();
    let table = cache(&probe, forever());
    let other = probe.table();
    put(&table, "a", "0").await;
    settle(&probe, &table, "a").await;
    for i in 1..20 {
        put(&table, "a", &i.to_string()).await;
        // Read before the report is, which waits for its turn on this thread.
        assert_eq!(text(&table, "a").await, Some(i.to_string()));
        put(&other, "last", &i.to_string()).await;
        shows(&table, "last", Some(&i.to_string())).await;
        let of_last = probe.reads();
        assert_eq!(text(&table, "a").await, Some(i.to_string()));
        assert_eq!(probe.reads(), of_last, "it was asked for again");
    }
}

/// A report between a question and its answer.
#[tokio::test]
async fn an_answer_that_a_report_has_overtaken_is_not_kept() {
    let probe = Probe::watched();
    let table = cache(&probe, forever());
    let other = probe.table();
    put(&other, "a", "old").await;
    settle(&probe, &table, "other").await;
    probe.hold_reads();
    let late = tokio::spawn({
        let table = table.clone();
        async move { text(&table, "a").await }
    });
    let begin = Instant::now();
    let before = probe.reads();
    while probe.reads() == before {
        assert!(begin.elapsed() < PATIENCE, "nobody asks");
        sleep(Duration::from_millis(2)).await;
    }
    put(&other, "a", "new").await;
    sleep(Duration::from_millis(50)).await;
    probe.let_reads_go();
    assert_eq!(late.await.unwrap().as_deref(), Some("old"));
    assert_eq!(text(&table, "a").await.as_deref(), Some("new"));
}

/// Nothing that may have been missed is served any longer.
#[tokio::test]
async fn a_watch_that_ends_takes_everything_of_its_table_along() {
    let probe = Probe::watched();
    let table = cache(&probe, forever());
    let other = probe.table();
    put(&other, "a", "1").await;
    settle(&probe, &table, "a").await;
    probe.lose_changes();
    put(&other, "a", "2").await;
    sleep(Duration::from_millis(20)).await;
    assert_eq!(
        text(&table, "a").await.as_deref(),
        Some("1"),
        "it was missed"
    );
    probe.end_watches();
    shows(&table, "a", Some("2")).await;
    // Another watch begins after a pause.
    settle(&probe, &table, "a").await;
    put(&other, "a", "3").await;
    shows(&table, "a", Some("3")).await;
}

#[tokio::test]
async fn so_many_tables_are_watched_and_no_more() {
    let probe = Probe::watched();
    let table = cache(&probe, forever().with_watched_tables(2));
    for i in 0..5 {
        let sibling = table.sibling(&format!("t-{i}")).unwrap();
        assert_eq!(text(&sibling, "a").await, None);
        assert_eq!(text(&sibling, "a").await, None);
    }
    let begin = Instant::now();
    while probe.watchers() < 2 {
        assert!(begin.elapsed() < PATIENCE, "no watch begins");
        sleep(Duration::from_millis(2)).await;
    }
    sleep(Duration::from_millis(50)).await;
    assert_eq!(probe.watchers(), 2);
}

/// The tasks end with the cache, and let the store below go.
#[tokio::test]
async fn a_dropped_cache_leaves_nothing_behind() {
    let probe = Probe::watched();
    let table = cache(&probe, forever());
    settle(&probe, &table, "a").await;
    drop(table);
    let begin = Instant::now();
    while Arc::strong_count(&probe) > 1 || probe.watchers() > 0 {
        assert!(begin.elapsed() < PATIENCE, "{}", Arc::strong_count(&probe));
        sleep(Duration::from_millis(2)).await;
    }
}
