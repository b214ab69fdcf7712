//! Records, one by one; databases and tables.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::StreamExt as _;
use micro_core::{Random as _, SeededRandom};
use micro_store_core::{
    DeleteOptions, ErrorKind, ListOptions, MAX_KEY, MAX_METADATA, MAX_VALUE, Record, Scope,
    ScopesOptions, Table, WriteOptions,
};

use super::{
    Backend, Cases, keys, on_one_handle, orders, put, read, refused, scope, short, text, try_read,
    write,
};

pub(super) fn cases() -> Cases {
    on_one_handle![
        the_backend_s_name_is_a_url_scheme,
        a_missing_record_is_not_found,
        a_written_record_is_read_whole,
        a_write_replaces_the_whole_record,
        any_bytes_are_a_value,
        large_records_survive_and_too_large_ones_are_refused,
        s58_hostile_keys_are_keys_and_bad_ones_are_refused,
        deleting_removes_and_says_whether_there_was_something,
        versions_grow_with_every_write,
        versions_grow_over_deletion_and_expiry,
        s55_odd_names_of_tables_are_names,
        s56_similar_tables_are_apart,
        s62_databases_tables_and_keys_do_not_run_together,
        scopes_are_listed_in_order_and_by_pages,
        a_table_s_short_forms_work,
    ]
}

/// Keys that a query language, a path, a pattern or a sorting order could take for something else.
pub(super) fn hostile_keys() -> Vec<String> {
    let mut keys: Vec<String> = [
        "%",
        "_",
        "\\",
        "\\%",
        "a%b",
        "a_b",
        "'",
        "\"",
        ";",
        "'; DROP TABLE records;--",
        "\0",
        "a\0b",
        "a",
        "a\0",
        "A",
        "é",
        "e\u{301}",
        "😀",
        "\u{ffff}",
        "\u{10ffff}",
        " ",
        "  ",
        " a",
        "a ",
        "\n",
        "\t",
        "..",
        "../x",
        "/",
        "//",
        "a/b",
        "*",
        "?",
        "[a]",
        ".*",
        "$1",
        "{}",
        "{a}",
        "\u{202e}",
        "\u{feff}a",
        "NULL",
        "0",
        "00",
        "-1",
        "1e9",
        "\r\n",
        "\u{7f}",
        "\u{80}",
        ":",
        "a:b",
        "%00",
        "ß",
        "SS",
        "ı",
        "I",
    ]
    .map(str::to_owned)
    .into();
    keys.push("x".repeat(MAX_KEY));
    keys.push("€".repeat(MAX_KEY / 3));
    keys.push(format!("{}y", "x".repeat(MAX_KEY - 1)));
    // What no index can make smaller, and another that differs from it in the end alone.
    let dice = SeededRandom::new(7);
    let mut noise: String = (0..MAX_KEY)
        .map(|_| char::from(b'!' + (dice.next_u64() % 94) as u8))
        .collect();
    noise.replace_range(MAX_KEY - 1.., "a");
    keys.push(noise.clone());
    noise.replace_range(MAX_KEY - 1.., "b");
    keys.push(noise);
    keys
}

/// It is shown to people, and one opens it by it.
async fn the_backend_s_name_is_a_url_scheme(store: Backend) {
    let name = store.backend();
    let mut bytes = name.bytes();
    assert!(
        bytes.next().is_some_and(|b| b.is_ascii_lowercase())
            && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b)),
        "'{name}' is no URL scheme"
    );
}

/// Nothing is there before it is written, in a table of which nobody has heard.
async fn a_missing_record_is_not_found(store: Backend) {
    let result = try_read(&store, &orders(), "o-1").await;
    refused(result, ErrorKind::NotFound, "reading what nobody wrote");
    let found = keys(&store, &orders(), ListOptions::default()).await;
    assert!(found.is_empty(), "an empty table lists {found:?}");
}

/// What was written comes back: value, metadata, expiry, and the version of the writing.
async fn a_written_record_is_read_whole(store: Backend) {
    let expiry = SystemTime::UNIX_EPOCH + Duration::from_millis(33_333_333_333_333);
    let record = Record::new("o-1", "tea")
        .with_metadata("content-type", "text/plain")
        .with_metadata("", "")
        .with_metadata("ü 'x' \"\\\0\n", "😀%_\0")
        .with_expiry(expiry);
    let written = write(&store, &orders(), record.clone(), WriteOptions::default()).await;
    assert!(written.version > 0, "versions begin above 0");
    let expected = record.with_version(written.version);
    let found = read(&store, &orders(), "o-1").await;
    assert_eq!(found.as_ref(), Some(&expected));
    let page = store.list(&orders(), ListOptions::default()).await.unwrap();
    assert_eq!(page.records, [expected]);
}

/// A write leaves nothing of what was there.
async fn a_write_replaces_the_whole_record(store: Backend) {
    let first = Record::new("o-1", "tea").with_metadata("a", "1");
    let opts = WriteOptions::default().with_ttl(Duration::from_secs(3600));
    write(&store, &orders(), first, opts).await;
    let second = Record::new("o-1", "milk").with_metadata("b", "2");
    let written = write(&store, &orders(), second.clone(), WriteOptions::default()).await;
    let found = read(&store, &orders(), "o-1").await;
    assert_eq!(found, Some(second.with_version(written.version)));
}

/// A value is bytes: none, zeros, and what is no text.
async fn any_bytes_are_a_value(store: Backend) {
    let all: Vec<u8> = (0..=255).collect();
    let values: [&[u8]; 5] = [b"", b"\0", b"\xff\xfe", b"'\\x00'", &all];
    for (i, value) in values.iter().enumerate() {
        let key = format!("k-{i}");
        let record = Record::new(&key, Bytes::copy_from_slice(value));
        write(&store, &orders(), record, WriteOptions::default()).await;
        let found = read(&store, &orders(), &key).await;
        assert_eq!(found.expect("it was written").value, *value);
    }
}

/// The limits are the same everywhere; just below them everything works.
async fn large_records_survive_and_too_large_ones_are_refused(store: Backend) {
    let large: Vec<u8> = (0..MAX_VALUE).map(|i| ((i * 31) >> 3) as u8).collect();
    let large = Bytes::from(large);
    let opts = WriteOptions::default;
    let record =
        Record::new("large", large.clone()).with_metadata("k", "v".repeat(MAX_METADATA - 1));
    let written = write(&store, &orders(), record.clone(), opts()).await;
    let found = read(&store, &orders(), "large")
        .await
        .expect("it was written");
    assert!(
        found == record.with_version(written.version),
        "the record of 16 MiB has changed on its way"
    );
    let mut more = large.to_vec();
    more.push(0);
    for (record, what) in [
        (Record::new("more", more), "a value of more than 16 MiB"),
        (
            Record::new("more", "").with_metadata("k", "v".repeat(MAX_METADATA)),
            "metadata of more than 64 KiB",
        ),
    ] {
        let result = store.write(&orders(), record, opts()).await;
        let err = refused(result, ErrorKind::ResourceExhausted, what);
        assert!(!err.is_retryable(), "{what} will never fit: {err:?}");
    }
    assert_eq!(read(&store, &orders(), "more").await, None);
}

/// Every text of 1 to 4,096 bytes is a key, each its own.
async fn s58_hostile_keys_are_keys_and_bad_ones_are_refused(store: Backend) {
    let hostile = hostile_keys();
    for (i, key) in hostile.iter().enumerate() {
        put(&store, &orders(), key, &i.to_string()).await;
    }
    for (i, key) in hostile.iter().enumerate() {
        let found = text(&store, &orders(), key).await;
        assert_eq!(found, Some(i.to_string()), "the value of {}", short(key));
    }
    let mut sorted = hostile.clone();
    sorted.sort();
    let listed = keys(&store, &orders(), ListOptions::default().with_limit(7)).await;
    assert_eq!(
        listed, sorted,
        "keys are listed in the order of their bytes"
    );
    for (i, key) in hostile.iter().enumerate() {
        let deleted = store.delete(&orders(), key, DeleteOptions::default()).await;
        assert!(deleted.expect("it is deleted").existed, "{}", short(key));
        let left = keys(&store, &orders(), ListOptions::default()).await.len();
        assert_eq!(
            left,
            hostile.len() - i - 1,
            "after {} was deleted",
            short(key)
        );
    }
    for (key, what) in [
        (String::new(), "an empty key"),
        ("x".repeat(MAX_KEY + 1), "a key of 4,097 bytes"),
        ("x".repeat(1 << 20), "a key of 1 MiB"),
    ] {
        refused(
            try_read(&store, &orders(), &key).await,
            ErrorKind::InvalidArgument,
            what,
        );
        let record = Record::new(&key, "");
        let result = store
            .write(&orders(), record, WriteOptions::default())
            .await;
        let err = refused(result, ErrorKind::InvalidArgument, what);
        assert!(
            err.to_string().len() < 1000,
            "the error repeats the key: {what}"
        );
        let result = store
            .delete(&orders(), &key, DeleteOptions::default())
            .await;
        refused(result, ErrorKind::InvalidArgument, what);
    }
}

/// Deleting what is not there is no failure.
async fn deleting_removes_and_says_whether_there_was_something(store: Backend) {
    for expected in [false, true, false] {
        let deleted = store.delete(&orders(), "a", DeleteOptions::default()).await;
        assert_eq!(deleted.expect("it is deleted").existed, expected);
        assert_eq!(read(&store, &orders(), "a").await, None);
        if !expected {
            put(&store, &orders(), "a", "1").await;
            put(&store, &orders(), "b", "2").await;
        }
    }
    assert_eq!(text(&store, &orders(), "b").await.as_deref(), Some("2"));
}

/// Also if nothing changes.
async fn versions_grow_with_every_write(store: Backend) {
    let mut last = 0;
    for _ in 0..5 {
        let version = put(&store, &orders(), "a", "same").await;
        assert!(version > last, "after version {last} comes {version}");
        assert_eq!(read(&store, &orders(), "a").await.unwrap().version, version);
        last = version;
    }
}

/// A version never comes back, so that nobody takes a new record for the old one.
async fn versions_grow_over_deletion_and_expiry(store: Backend) {
    let mut last = put(&store, &orders(), "a", "1").await;
    for round in 0..3 {
        store
            .delete(&orders(), "a", DeleteOptions::default())
            .await
            .unwrap();
        let version = put(&store, &orders(), "a", "1").await;
        assert!(
            version > last,
            "deleted at {last}, written again at {version}"
        );
        let brief = WriteOptions::default().with_ttl(Duration::from_millis(1));
        let version = write(&store, &orders(), Record::new("a", "1"), brief)
            .await
            .version;
        assert!(version > last);
        last = version;
        while read(&store, &orders(), "a").await.is_some() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let version = put(&store, &orders(), "a", "1").await;
        assert!(
            version > last,
            "round {round}: expired at {last}, written again at {version}"
        );
        last = version;
    }
}

/// A name is a name, also that of a system table, a keyword, or the longest.
async fn s55_odd_names_of_tables_are_names(store: Backend) {
    put(&store, &orders(), "canary", "sings").await;
    let long = "x".repeat(64);
    for name in [
        "pg_catalog.pg_authid",
        "records",
        "select",
        "0",
        "a--b",
        "NULL",
        "con",
        &long,
    ] {
        let odd = scope(name, name);
        put(&store, &odd, "k", name).await;
        assert_eq!(text(&store, &odd, "k").await.as_deref(), Some(name));
    }
    assert_eq!(
        text(&store, &orders(), "canary").await.as_deref(),
        Some("sings")
    );
}

/// Names that differ in a little are different tables.
async fn s56_similar_tables_are_apart(store: Backend) {
    let scopes: Vec<Scope> = ["a-b", "a_b", "A_B", "a.b", "A-B", "ab", "a-", "a"]
        .iter()
        .flat_map(|name| [scope("d", name), scope(name, "d")])
        .collect();
    each_has_its_own(&store, &scopes, "k").await;
}

/// No table sees another's keys, whatever stands between the names when they are put together.
async fn s62_databases_tables_and_keys_do_not_run_together(store: Backend) {
    let mut scopes = Vec::new();
    for separator in [".", "-", "_", "--", "..", "__"] {
        scopes.push(scope(&format!("x{separator}y"), "z"));
        scopes.push(scope("x", &format!("y{separator}z")));
    }
    scopes.extend([
        scope("xy", "z"),
        scope("x", "yz"),
        scope("x", "y"),
        scope("xyz", "0"),
    ]);
    for key in ["k", "z/k", "z\0k", "z:k", "/", "\0", "z.k"] {
        each_has_its_own(&store, &scopes, key).await;
    }
    for scope in &scopes {
        let found = keys(&store, scope, ListOptions::default()).await.len();
        assert_eq!(found, 7, "{scope} has its own keys and no others");
    }
}

async fn each_has_its_own(store: &Backend, scopes: &[Scope], key: &str) {
    for scope in scopes {
        put(store, scope, key, &scope.to_string()).await;
    }
    for scope in scopes {
        let found = text(store, scope, key).await;
        assert_eq!(found, Some(scope.to_string()), "{} in {scope}", short(key));
        let prefix = ListOptions::default().with_prefix(key);
        assert_eq!(
            keys(store, scope, prefix).await.first().map(String::as_str),
            Some(key)
        );
    }
    let (gone, rest) = scopes.split_first().expect("there are scopes");
    store
        .delete(gone, key, DeleteOptions::default())
        .await
        .unwrap();
    assert_eq!(read(store, gone, key).await, None);
    for scope in rest {
        let found = text(store, scope, key).await;
        assert_eq!(
            found,
            Some(scope.to_string()),
            "after {gone} lost {}",
            short(key)
        );
    }
    put(store, gone, key, &gone.to_string()).await;
}

/// One who copies a store finds every table.
async fn scopes_are_listed_in_order_and_by_pages(store: Backend) {
    let list = async |opts: ScopesOptions| store.scopes(opts).await.expect("scopes are listed");
    assert_eq!(list(ScopesOptions::default()).await, []);
    let mut all: Vec<Scope> = [
        ("b", "x"),
        ("a", "x"),
        ("a", "x-y"),
        ("a-b", "x"),
        ("a", "X"),
        ("B", "y"),
    ]
    .map(|(database, table)| scope(database, table))
    .into();
    for scope in &all {
        put(&store, scope, "\u{10ffff}", "1").await;
        put(&store, scope, "\0", "1").await;
    }
    all.sort();
    assert_eq!(list(ScopesOptions::default()).await, all);
    let mut paged = Vec::new();
    loop {
        let page = list(
            ScopesOptions::default()
                .with_limit(2)
                .with_after(paged.last().cloned()),
        )
        .await;
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 2);
        paged.extend(page);
    }
    assert_eq!(paged, all);
    let of_a: Vec<Scope> = all
        .iter()
        .filter(|s| s.database() == "a")
        .cloned()
        .collect();
    assert_eq!(
        list(ScopesOptions::default().with_database("a")).await,
        of_a
    );
    let behind = ScopesOptions::default()
        .with_database("a")
        .with_after(of_a[0].clone());
    assert_eq!(list(behind).await, of_a[1..]);
    assert_eq!(list(ScopesOptions::default().with_database("c")).await, []);
    for opts in [
        ScopesOptions::default().with_limit(0),
        ScopesOptions::default().with_limit(usize::MAX),
        ScopesOptions::default().with_database("a/b"),
    ] {
        let result = store.scopes(opts.clone()).await;
        refused(result, ErrorKind::InvalidArgument, &format!("{opts:?}"));
    }
}

/// What callers use: JSON, absence as `None`, every record as a stream.
async fn a_table_s_short_forms_work(store: Backend) {
    let table = Table::new(store, orders());
    assert_eq!(table.get::<u32>("n").await.unwrap(), None);
    for i in 0..25_u32 {
        table.put(&format!("n-{i:02}"), &i).await.unwrap();
    }
    assert_eq!(table.get::<u32>("n-07").await.unwrap(), Some(7));
    let err = table
        .get::<BTreeMap<String, String>>("n-07")
        .await
        .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Corrupt, "{err:?}");
    assert_eq!(table.find("n-99").await.unwrap(), None);
    let opts = ListOptions::default().with_limit(4).with_offset(3);
    let all: Vec<_> = table.scan(opts).collect().await;
    let all: Vec<u32> = all
        .into_iter()
        .map(|r| r.unwrap().json().unwrap())
        .collect();
    assert_eq!(all, (3..25).collect::<Vec<_>>());
    assert!(table.delete("n-07").await.unwrap());
    assert!(!table.delete("n-07").await.unwrap());
    let sibling = table.sibling("others").unwrap();
    assert_eq!(sibling.find("n-01").await.unwrap(), None);
}
