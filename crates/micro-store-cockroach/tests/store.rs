//! What this store promises beyond the suite, on a real PostgreSQL.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::{join_all, try_join_all};
use micro_store_core::{
    BatchOptions, Condition, Durability, ErrorKind, ListOptions, Operation, Record, Scope,
    Store as _, StoreErrorExt as _, Table, WriteOptions,
};
use tokio::time::{Instant, sleep};

use common::{PATIENCE, Schema, open, orders, postgres, server, table, text, with};

/// Whoever is first, everybody finds the tables; and nobody leaves more than three things behind.
#[tokio::test(flavor = "multi_thread")]
async fn many_open_an_empty_database_at_once() {
    let Some(url) = postgres("many_open_an_empty_database_at_once") else {
        return;
    };
    for round in 0..5 {
        let schema = Schema::new(&url).await;
        let stores = (0..12).map(|_| schema.open_with("connections=1"));
        for (i, store) in join_all(stores).await.into_iter().enumerate() {
            table(&store).put(&format!("k-{i}"), &i).await.unwrap();
        }
        let tables = text(format!(
            "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = '{}' AND c.relkind IN ('r', 'S')",
            schema.name
        ));
        assert_eq!(schema.raw.number(tables).await, 3, "round {round}");
        assert_eq!(
            schema
                .raw
                .number("SELECT count(*) FROM micro_records")
                .await,
            12
        );
        schema.remove().await;
    }
}

/// It says so, and touches nothing.
#[tokio::test(flavor = "multi_thread")]
async fn tables_of_another_layout_are_refused() {
    let Some(url) = postgres("tables_of_another_layout_are_refused") else {
        return;
    };
    let schema = Schema::new(&url).await;
    let create = "CREATE TABLE micro_records (key TEXT PRIMARY KEY, value BYTEA)";
    schema.raw.run(create).await.unwrap();
    let err = open(&schema.url).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::FailedPrecondition, "{err:?}");
    assert_eq!(
        schema
            .raw
            .number("SELECT count(*) FROM micro_records")
            .await,
        0
    );
    schema.remove().await;
}

/// One who may not make tables uses those that are there, and is told if they are not.
#[tokio::test(flavor = "multi_thread")]
async fn rights_to_the_tables_are_enough() {
    let Some(url) = postgres("rights_to_the_tables_are_enough") else {
        return;
    };
    let schema = Schema::new(&url).await;
    let role = format!("{}_role", schema.name);
    let grant = text(format!(
        "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA {} TO {role}",
        schema.name
    ));
    schema.raw.run(grant).await.unwrap();
    let mut other = micro_core::url::resolve(&schema.url).unwrap();
    other.set_username(&role).unwrap();
    let err = open(other.as_str()).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::PermissionDenied, "{err:?}");
    drop(schema.open().await);
    let grant = text(format!(
        "GRANT SELECT, INSERT, UPDATE, DELETE ON micro_records, micro_fences TO {role}; \
         GRANT USAGE ON SEQUENCE micro_versions TO {role}"
    ));
    schema.raw.run(grant).await.unwrap();
    let store = open(other.as_str()).await.unwrap();
    table(&store).put("a", &1).await.unwrap();
    drop(store);
    let name = schema.name.clone();
    let raw = common::Raw::new(&with(&url, "connections=1"));
    schema.remove().await;
    let role = text(format!("DROP ROLE {name}_role"));
    raw.run(role).await.unwrap();
}

/// What nobody can have meant, and what does not answer.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_opened_says_why() {
    let Some(url) = postgres("what_cannot_be_opened_says_why") else {
        return;
    };
    let nobody = "postgres://micro@127.0.0.1:1/postgres?timeout=200ms";
    let elsewhere = url
        .replace("/postgres", "/no such database")
        .replace(' ', "%20");
    let stranger = url.replace("micro@", "nobody-of-this-name@");
    let no_tls = with(&url, "tls=true");
    for (url, kind) in [
        (nobody, ErrorKind::Unavailable),
        (&elsewhere, ErrorKind::FailedPrecondition),
        (&stranger, ErrorKind::Unauthenticated),
        (&no_tls, ErrorKind::FailedPrecondition),
    ] {
        let begin = Instant::now();
        let err = open(url).await.unwrap_err();
        assert_eq!(err.kind(), kind, "{url}: {err:?}");
        assert_eq!(err.operation(), "store.open", "{err:?}");
        assert!(begin.elapsed() < Duration::from_secs(5), "{url}");
    }
    // One of several is enough.
    let schema = Schema::new(&url).await;
    let mut first = micro_core::url::resolve(&schema.url).unwrap();
    let second = format!("{}:{}", first.host_str().unwrap(), first.port().unwrap());
    first.set_port(Some(1)).unwrap();
    let store = open(&with(first.as_str(), &format!("endpoint={second}")))
        .await
        .unwrap();
    table(&store).put("a", &1).await.unwrap();
    schema.remove().await;
}

/// A certificate of another authority or for another name, no TLS, and a wrong password.
#[tokio::test(flavor = "multi_thread")]
async fn tls_is_verified_and_the_password_asked_for() {
    let test = "tls_is_verified_and_the_password_asked_for";
    let Some(url) = server(test, "MICRO_TEST_POSTGRES_TLS_URL", "postgres_tls") else {
        return;
    };
    // Those that fail need no more time.
    let (good, url) = (url.clone(), with(&url, "timeout=300ms"));
    let (plain, query) = url.split_once('?').unwrap();
    let ca = query
        .split('&')
        .find(|option| option.starts_with("ca="))
        .unwrap();
    let platform = format!("{plain}?sslmode=verify-full&timeout=300ms");
    let name = url.replace("127.0.0.1", "127.0.0.2");
    let bare = format!("{plain}?timeout=300ms");
    let wrong = url.replace("hunter2", "hunter3");
    let none = url.replace(":hunter2", "");
    let missing = url.replace(ca, "ca=/nonexistent/ca.crt");
    for (url, kinds) in [
        (
            &platform,
            &[ErrorKind::Unavailable, ErrorKind::InvalidArgument][..],
        ),
        (&name, &[ErrorKind::Unavailable]),
        (&bare, &[ErrorKind::Unauthenticated]),
        (&wrong, &[ErrorKind::Unauthenticated]),
        (&none, &[ErrorKind::Unauthenticated]),
        (&missing, &[ErrorKind::NotFound]),
    ] {
        let err = open(url).await.unwrap_err();
        assert!(kinds.contains(&err.kind()), "{url}: {err:?}");
        assert!(!format!("{err:?}").contains("hunter"), "{err:?}");
    }
    let schema = Schema::new(&good).await;
    let store = schema.open().await;
    assert_eq!(store.capabilities().durability, Durability::Power);
    let encrypted = schema
        .raw
        .number("SELECT count(*) FROM pg_stat_ssl WHERE pid = pg_backend_pid() AND ssl")
        .await;
    assert_eq!(encrypted, 1);
    drop(store);
    schema.remove().await;
}

/// A server without fsync promises less, and refuses who asks for more; a session that would not wait
/// for the disk is made to.
#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_promised_than_the_server_does() {
    let Some(url) = postgres("no_more_is_promised_than_the_server_does") else {
        return;
    };
    let schema = Schema::new(&url).await;
    let fsync = schema
        .raw
        .query("SELECT current_setting('fsync')")
        .await
        .unwrap();
    let expected = match fsync[0].get(0) {
        "off" => Durability::Process,
        _ => Durability::Power,
    };
    let store = schema.open().await;
    assert_eq!(store.capabilities().durability, expected);
    let opts = WriteOptions::default().with_durability(Durability::Quorum);
    let err = table(&store).put_with("a", &1, opts).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unimplemented, "{err:?}");
    drop(store);
    schema.remove().await;
}

/// Sixteen who get in each other's way as much as they can: no increment is lost, none counts twice.
#[tokio::test(flavor = "multi_thread")]
async fn sixteen_writers_on_four_keys_count_exactly() {
    const WRITERS: usize = 16;
    const EACH: usize = 125;
    let Some(url) = postgres("sixteen_writers_on_four_keys_count_exactly") else {
        return;
    };
    let schema = Schema::new(&url).await;
    // Two processes, as far as the database can tell.
    let stores = [schema.open().await, schema.open().await];
    let conflicts = Arc::new(AtomicU64::new(0));
    let writers = (0..WRITERS).map(|writer| {
        let (table, conflicts) = (table(&stores[writer % 2]), Arc::clone(&conflicts));
        tokio::spawn(async move {
            for i in 0..EACH {
                let key = format!("counter-{}", (writer + i) % 4);
                conflicts.fetch_add(increment(&table, &key).await, Ordering::Relaxed);
            }
        })
    });
    for writer in join_all(writers).await {
        writer.expect("it counts to its end");
    }
    let mut sum = 0;
    for i in 0..4 {
        sum += table(&stores[0])
            .get::<usize>(&format!("counter-{i}"))
            .await
            .unwrap()
            .unwrap();
    }
    assert_eq!(sum, WRITERS * EACH);
    common::figure(&format!(
        "{sum} increments by {WRITERS} writers on 4 keys, {} began anew",
        conflicts.load(Ordering::Relaxed)
    ));
    schema.remove().await;
}

async fn increment(table: &Table, key: &str) -> u64 {
    let mut conflicts = 0;
    loop {
        let (number, condition) = match table.find(key).await.unwrap() {
            Some(record) => (
                record.json::<u64>().unwrap(),
                Condition::Version(record.version),
            ),
            None => (0, Condition::Absent),
        };
        let opts = WriteOptions::default().with_condition(condition);
        match table.put_with(key, &(number + 1), opts).await {
            Ok(_) => return conflicts,
            Err(err) if err.is_conflict() => conflicts += 1,
            Err(err) => panic!("neither written nor refused: {err:?}"),
        }
    }
}

/// Versions come in the order of the changes, however many write, delete and create one key.
#[tokio::test(flavor = "multi_thread")]
async fn versions_grow_whoever_is_in_the_way() {
    const WRITERS: usize = 12;
    const EACH: usize = 100;
    let Some(url) = postgres("versions_grow_whoever_is_in_the_way") else {
        return;
    };
    let schema = Schema::new(&url).await;
    let store = schema.open().await;
    // The highest version of an answer that has been given.
    let seen = Arc::new(AtomicU64::new(0));
    let writers = (0..WRITERS).map(|writer| {
        let (table, seen) = (table(&store), Arc::clone(&seen));
        tokio::spawn(async move {
            for i in 0..EACH {
                let before = seen.load(Ordering::SeqCst);
                let change = match (writer + i) % 3 {
                    0 => Operation::delete(&orders(), "a"),
                    _ => Operation::write(&orders(), Record::new("a", "x")),
                };
                let changed = table
                    .batch(vec![change], BatchOptions::default())
                    .await
                    .unwrap();
                let version = changed[0].version;
                // Zero: there was nothing to delete.
                assert!(version == 0 || version > before, "{version} after {before}");
                seen.fetch_max(version, Ordering::SeqCst);
            }
        })
    });
    for writer in join_all(writers).await {
        writer.expect("versions grow");
    }
    schema.remove().await;
}

/// A record that is written again while the old one is being removed for good stays, every time.
#[tokio::test(flavor = "multi_thread")]
async fn purging_never_removes_a_newer_record() {
    const KEYS: usize = 50;
    const ROUNDS: usize = 60;
    let Some(url) = postgres("purging_never_removes_a_newer_record") else {
        return;
    };
    let schema = Schema::new(&url).await;
    let stores = [
        schema.open_with("connections=3&purge=10ms").await,
        schema.open_with("connections=3&purge=10ms").await,
    ];
    let mut removed = 0;
    for round in 0..ROUNDS {
        let write = |i: usize, value: usize, ttl| {
            let table = table(&stores[i % 2]);
            let opts = WriteOptions::default().with_ttl(Duration::from_millis(ttl));
            async move { table.put_with(&format!("k-{i}"), &value, opts).await }
        };
        try_join_all((0..KEYS).map(|i| write(i, round, 1)))
            .await
            .unwrap();
        // As if they had expired or been deleted long ago: purging begins with them at once.
        let age = match round % 2 {
            0 => "UPDATE micro_records SET expires_at = 1",
            _ => "UPDATE micro_records SET expires_at = -1",
        };
        schema.raw.run(age).await.unwrap();
        sleep(Duration::from_micros(300 * (round % 30) as u64)).await;
        let left = schema
            .raw
            .number("SELECT count(*) FROM micro_records WHERE abs(expires_at) = 1");
        removed += KEYS as i64 - left.await;
        let newer = try_join_all((0..KEYS).map(|i| write(i, round, 3_600_000)))
            .await
            .unwrap();
        for (i, newer) in newer.into_iter().enumerate() {
            let found = table(&stores[i % 2]).find(&format!("k-{i}")).await.unwrap();
            assert_eq!(
                found.map(|found| found.version),
                Some(newer.version),
                "k-{i}"
            );
        }
    }
    assert!(removed > 0, "nothing was removed in time");
    common::figure(&format!(
        "{} writes while {removed} old records were removed: none is missing",
        KEYS * ROUNDS
    ));
    schema.remove().await;
}

/// What is over is removed, after a time; what was deleted a moment ago stays as a grave, which nobody sees.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_is_removed_for_good() {
    let Some(url) = postgres("what_is_over_is_removed_for_good") else {
        return;
    };
    let schema = Schema::new(&url).await;
    let store = schema.open_with("purge=20ms").await;
    let table = table(&store);
    let count = "SELECT count(*) FROM micro_records";
    let many = (0..2500).map(|i| Operation::write(&orders(), Record::new(format!("k-{i}"), "x")));
    table
        .batch(many.collect(), BatchOptions::default())
        .await
        .unwrap();
    table.put("staying", &1).await.unwrap();
    table.delete("k-0").await.unwrap();
    sleep(Duration::from_millis(100)).await;
    assert_eq!(schema.raw.number(count).await, 2501);
    assert_eq!(table.find("k-0").await.unwrap(), None);
    let grave = "SELECT octet_length(value)::INT8 FROM micro_records WHERE expires_at < 0";
    assert_eq!(schema.raw.number(grave).await, 0, "a grave keeps no value");
    let age = "UPDATE micro_records SET expires_at = 1 WHERE head <> 'staying'";
    schema.raw.run(age).await.unwrap();
    let begin = Instant::now();
    while schema.raw.number(count).await > 1 {
        assert!(begin.elapsed() < PATIENCE);
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(table.get::<u32>("staying").await.unwrap(), Some(1));
    schema.remove().await;
}

/// A page is found by the index wherever it begins, also in a table that was small when the statement
/// was planned.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_costs_the_same_in_a_large_table() {
    const MANY: usize = 60_000;
    let Some(url) = postgres("a_page_costs_the_same_in_a_large_table") else {
        return;
    };
    let schema = Schema::new(&url).await;
    let store = schema.open_with("connections=1").await;
    let table = table(&store);
    let opts = ListOptions::default().with_limit(10);
    for _ in 0..10 {
        table.list(opts.clone()).await.unwrap();
    }
    let fill = text(format!(
        "INSERT INTO micro_records SELECT '\\x73686f70', '\\x6f7264657273', \
         convert_to(lpad(i::TEXT, 8, '0'), 'UTF8'), '', '', 'value', '', NULL, \
         nextval('micro_versions') FROM generate_series(1, {MANY}) AS i"
    ));
    schema.raw.run(fill).await.unwrap();
    let mut quickest = Duration::MAX;
    for i in 0..10 {
        let after = micro_store_core::Cursor::after(format!("{:08}", MANY / 10 * i));
        let begin = Instant::now();
        let page = table.list(opts.clone().with_after(after)).await.unwrap();
        quickest = quickest.min(begin.elapsed());
        assert_eq!(page.records.len(), 10);
        assert_eq!(page.records[0].key, format!("{:08}", MANY / 10 * i + 1));
    }
    assert!(
        quickest < Duration::from_millis(50),
        "a page takes {quickest:?}"
    );
    let scopes = Scope::new("shop", "other").unwrap();
    Table::new(Arc::new(store.clone()), scopes)
        .put("k", &1)
        .await
        .unwrap();
    let begin = Instant::now();
    assert_eq!(store.scopes(Default::default()).await.unwrap().len(), 2);
    assert!(
        begin.elapsed() < Duration::from_secs(2),
        "{:?}",
        begin.elapsed()
    );
    let all = table.scan(ListOptions::default().with_keys_only(true));
    assert_eq!(all.count().await, MANY);
    schema.remove().await;
}

/// Nothing of what is given to the store becomes a part of a statement.
#[tokio::test(flavor = "multi_thread")]
async fn s55_nothing_from_outside_is_a_statement() {
    let Some(url) = postgres("s55_nothing_from_outside_is_a_statement") else {
        return;
    };
    let schema = Schema::new(&url).await;
    let store = schema.open().await;
    let table = table(&store);
    schema
        .raw
        .run("CREATE TABLE canary (i INT8)")
        .await
        .unwrap();
    let evil = "x'); DROP TABLE canary; DROP TABLE micro_records; --";
    let record = Record::new(evil, evil).with_metadata(evil, evil);
    table.write(record, WriteOptions::default()).await.unwrap();
    let opts = ListOptions::default().with_prefix("x'").with_suffix("; --");
    assert_eq!(table.list(opts).await.unwrap().records.len(), 1);
    table.delete(evil).await.unwrap();
    assert_eq!(schema.raw.number("SELECT count(*) FROM canary").await, 0);
    assert_eq!(
        schema
            .raw
            .number("SELECT count(*) FROM micro_records")
            .await,
        1
    );
    schema.remove().await;
}

/// Rows that no store has written are errors, not panics and not values.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_strangers_are_corrupt() {
    let Some(url) = postgres("rows_of_strangers_are_corrupt") else {
        return;
    };
    let schema = Schema::new(&url).await;
    let store = schema.open().await;
    let table = table(&store);
    for (change, key) in [
        ("UPDATE micro_records SET metadata = '{'", "a"),
        ("UPDATE micro_records SET metadata = '[1]'", "a"),
        ("UPDATE micro_records SET version = -1", "a"),
    ] {
        table.put(key, &1).await.unwrap();
        schema.raw.run(change).await.unwrap();
        let err = table.read(key).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Corrupt, "{change}: {err:?}");
        let err = table.list(ListOptions::default()).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Corrupt, "{change}: {err:?}");
        // It can be written over.
        table.put(key, &2).await.unwrap();
        assert_eq!(table.get::<u32>(key).await.unwrap(), Some(2), "{change}");
    }
    schema
        .raw
        .run("UPDATE micro_records SET head = '\\xc3'")
        .await
        .unwrap();
    let err = table.list(ListOptions::default()).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Corrupt, "{err:?}");
    schema
        .raw
        .run("UPDATE micro_records SET db = '\\xc3'")
        .await
        .unwrap();
    let err = store.scopes(Default::default()).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Corrupt, "{err:?}");
    schema.remove().await;
}
