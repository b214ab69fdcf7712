//! Records that cease to be there.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use micro_core::{Clock as _, SystemClock};
use micro_store_core::{
    Condition, DeleteOptions, ErrorKind, ListOptions, MAX_TTL, Record, WriteOptions,
};
use tokio::time::{Instant, sleep};

use super::{
    Backend, Cases, HandClock, PATIENCE, Site, keys, on_one_handle, orders, put, read, refused,
    text, write,
};
use crate::harness::cases;

pub(super) fn cases() -> Cases {
    let mut all = on_one_handle![
        an_expired_record_is_nowhere,
        a_write_without_a_ttl_stays,
        a_ttl_outweighs_the_record_s_expiry,
        a_record_that_expired_already_is_not_there,
        a_bad_ttl_is_refused,
        expiry_never_removes_a_newer_record,
    ];
    all.extend(cases![super::Needs;
        ttl_ends_to_the_millisecond if our_clock,
        a_jump_of_the_clock_hits_what_expires_and_nothing_else if our_clock,
    ]);
    all
}

fn ttl(millis: u64) -> WriteOptions {
    WriteOptions::default().with_ttl(Duration::from_millis(millis))
}

async fn expire(store: &Backend, key: &str) {
    let begin = Instant::now();
    while read(store, &orders(), key).await.is_some() {
        assert!(begin.elapsed() < PATIENCE, "'{key}' does not expire");
        sleep(Duration::from_millis(2)).await;
    }
}

/// Neither read nor listed, no obstacle to creating it, nothing to delete, and of no version.
async fn an_expired_record_is_nowhere(store: Backend) {
    let scope = orders();
    put(&store, &scope, "staying", "1").await;
    let before = SystemClock.wall();
    let version = write(&store, &scope, Record::new("leaving", "1"), ttl(400))
        .await
        .version;
    let record = read(&store, &scope, "leaving")
        .await
        .expect("its time has not come");
    let expiry = record.expiry.expect("it says when it expires");
    // The store's clock may be another machine's.
    let about = Duration::from_secs(3600);
    assert!(
        expiry > before - about && expiry < before + about,
        "{expiry:?}"
    );
    expire(&store, "leaving").await;
    assert_eq!(
        keys(&store, &scope, ListOptions::default()).await,
        ["staying"]
    );
    let deleted = store
        .delete(&scope, "leaving", DeleteOptions::default())
        .await;
    assert!(!deleted.expect("it is deleted").existed, "it had expired");

    let version_of = write(&store, &scope, Record::new("leaving", "2"), ttl(20))
        .await
        .version;
    assert!(version_of > version);
    expire(&store, "leaving").await;
    let opts = WriteOptions::default().with_condition(Condition::Version(version_of));
    let result = store.write(&scope, Record::new("leaving", "x"), opts).await;
    refused(
        result,
        ErrorKind::Aborted,
        "a write over the version of an expired record",
    );
    let opts = WriteOptions::default().with_condition(Condition::Absent);
    let created = store.write(&scope, Record::new("leaving", "3"), opts).await;
    created.expect("what was there has expired");
    assert_eq!(text(&store, &scope, "leaving").await.as_deref(), Some("3"));
}

/// Writing again without a TTL ends it; reading does not lengthen it.
async fn a_write_without_a_ttl_stays(store: Backend) {
    let scope = orders();
    write(&store, &scope, Record::new("a", "1"), ttl(300)).await;
    write(&store, &scope, Record::new("b", "1"), ttl(300)).await;
    put(&store, &scope, "a", "2").await;
    expire(&store, "b").await;
    sleep(Duration::from_millis(50)).await;
    assert_eq!(text(&store, &scope, "a").await.as_deref(), Some("2"));
    assert_eq!(read(&store, &scope, "a").await.unwrap().expiry, None);
}

/// In both directions.
async fn a_ttl_outweighs_the_record_s_expiry(store: Backend) {
    let far = SystemClock.wall() + Duration::from_secs(86_400);
    write(
        &store,
        &orders(),
        Record::new("a", "1").with_expiry(far),
        ttl(30),
    )
    .await;
    expire(&store, "a").await;
    let past = SystemTime::UNIX_EPOCH;
    write(
        &store,
        &orders(),
        Record::new("a", "2").with_expiry(past),
        ttl(3_600_000),
    )
    .await;
    assert_eq!(text(&store, &orders(), "a").await.as_deref(), Some("2"));
    // What was read keeps its expiry when it is written back.
    let record = read(&store, &orders(), "a").await.unwrap();
    write(&store, &orders(), record.clone(), WriteOptions::default()).await;
    assert_eq!(
        read(&store, &orders(), "a").await.unwrap().expiry,
        record.expiry
    );
}

/// As if it had been written and had expired since: a copy of a table may come too late.
async fn a_record_that_expired_already_is_not_there(store: Backend) {
    let scope = orders();
    let mut last = 0;
    for past in [
        SystemClock.wall() - Duration::from_secs(86_400),
        SystemTime::UNIX_EPOCH + Duration::from_millis(1),
        SystemTime::UNIX_EPOCH,
        SystemTime::UNIX_EPOCH - Duration::from_secs(1_000_000),
    ] {
        put(&store, &scope, "a", "1").await;
        let record = Record::new("a", "2").with_expiry(past);
        let version = write(&store, &scope, record, WriteOptions::default())
            .await
            .version;
        assert!(version > last);
        assert_eq!(read(&store, &scope, "a").await, None, "{past:?}");
        let found = keys(&store, &scope, ListOptions::default()).await;
        assert!(found.is_empty(), "{past:?}: {found:?}");
        last = put(&store, &scope, "a", "3").await;
        assert!(
            last > version,
            "expired at {version}, written again at {last}"
        );
    }
}

/// None, and what nobody can have meant.
async fn a_bad_ttl_is_refused(store: Backend) {
    let record = || Record::new("a", "1");
    let year_10000 = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_800);
    for (record, opts) in [
        (record(), WriteOptions::default().with_ttl(Duration::ZERO)),
        (
            record(),
            WriteOptions::default().with_ttl(MAX_TTL + Duration::from_nanos(1)),
        ),
        (record(), WriteOptions::default().with_ttl(Duration::MAX)),
        (record().with_expiry(year_10000), WriteOptions::default()),
    ] {
        let what = format!("{:?} with {:?}", record.expiry, opts.ttl);
        let result = store.write(&orders(), record, opts).await;
        refused(result, ErrorKind::InvalidArgument, &what);
    }
    assert_eq!(read(&store, &orders(), "a").await, None);
    write(
        &store,
        &orders(),
        record(),
        WriteOptions::default().with_ttl(MAX_TTL),
    )
    .await;
    assert_eq!(text(&store, &orders(), "a").await.as_deref(), Some("1"));
    let brief = WriteOptions::default().with_ttl(Duration::from_nanos(1));
    write(&store, &orders(), record(), brief).await;
    expire(&store, "a").await;
}

/// What was written again stays, however close to the expiry that was, whoever cleans up meanwhile.
async fn expiry_never_removes_a_newer_record(store: Backend) {
    const LANES: usize = 8;
    const KEYS: usize = 40;
    let lanes = (0..LANES).map(|lane| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let scope = orders();
            for i in 0..KEYS {
                let key = format!("k-{lane}-{i}");
                let record = Record::new(&key, "old");
                write(&store, &orders(), record, ttl(1 + (i as u64 % 3))).await;
                if i % 2 == 0 {
                    sleep(Duration::from_micros(500 * (i as u64 % 7))).await;
                }
                // Another's expiry and cleaning, as close as may be.
                let other = Record::new(format!("brief-{lane}-{i}"), "");
                let (_, newer) = tokio::join!(
                    write(&store, &scope, other, ttl(1)),
                    put(&store, &scope, &key, "new"),
                );
                let found = read(&store, &orders(), &key).await;
                assert_eq!(found.map(|record| record.version), Some(newer), "{key}");
            }
        })
    });
    for lane in join_all(lanes).await {
        lane.expect("every newer record is there");
    }
    sleep(Duration::from_millis(20)).await;
    for i in 0..20 {
        put(&store, &orders(), &format!("k-after-{i}"), "new").await;
    }
    let opts = ListOptions::default().with_prefix("k-");
    assert_eq!(keys(&store, &orders(), opts).await.len(), LANES * KEYS + 20);
    let opts = ListOptions::default().with_prefix("brief-");
    assert!(keys(&store, &orders(), opts).await.is_empty());
}

/// Up to its time it is there, and from then on it is not.
async fn ttl_ends_to_the_millisecond(site: Arc<Site>) {
    let clock = HandClock::new();
    let store = site.open_with(clock.env()).await;
    let begin = clock.wall();
    write(&store, &orders(), Record::new("a", "1"), ttl(50)).await;
    let at = begin + Duration::from_millis(50);
    write(
        &store,
        &orders(),
        Record::new("b", "1").with_expiry(at),
        WriteOptions::default(),
    )
    .await;
    for (gone, there) in [(0, true), (49, true), (50, false), (51, false)] {
        clock.jump(gone - (clock.wall().duration_since(begin).unwrap().as_millis() as i64));
        for key in ["a", "b"] {
            let record = read(&store, &orders(), key).await;
            assert_eq!(
                record.is_some(),
                there,
                "'{key}' with 50 ms to live, after {gone} ms"
            );
            if let Some(record) = record {
                assert_eq!(record.expiry, Some(at));
            }
        }
        let found = keys(&store, &orders(), ListOptions::default()).await.len();
        assert_eq!(found, if there { 2 } else { 0 }, "listed after {gone} ms");
    }
}

/// An hour forward and back.
async fn a_jump_of_the_clock_hits_what_expires_and_nothing_else(site: Arc<Site>) {
    const HOUR: i64 = 3_600_000;
    let clock = HandClock::new();
    let store = site.open_with(clock.env()).await;
    put(&store, &orders(), "staying", "1").await;
    for i in 0..20 {
        write(
            &store,
            &orders(),
            Record::new(format!("k-{i}"), "old"),
            ttl(600_000),
        )
        .await;
    }
    clock.jump(HOUR);
    for i in 0..20 {
        assert_eq!(read(&store, &orders(), &format!("k-{i}")).await, None);
        if i % 2 == 0 {
            put(&store, &orders(), &format!("k-{i}"), "new").await;
        }
    }
    assert_eq!(
        text(&store, &orders(), "staying").await.as_deref(),
        Some("1")
    );
    clock.jump(-2 * HOUR);
    assert_eq!(
        text(&store, &orders(), "staying").await.as_deref(),
        Some("1")
    );
    for i in (0..20).step_by(2) {
        let found = text(&store, &orders(), &format!("k-{i}")).await;
        assert_eq!(
            found.as_deref(),
            Some("new"),
            "written while the clock was an hour ahead"
        );
    }
    write(&store, &orders(), Record::new("later", "1"), ttl(600_000)).await;
    assert_eq!(text(&store, &orders(), "later").await.as_deref(), Some("1"));
    clock.jump(600_000);
    assert_eq!(read(&store, &orders(), "later").await, None);
}
