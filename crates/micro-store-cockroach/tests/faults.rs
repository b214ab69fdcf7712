//! What goes wrong between a store and its server, at every request of every operation.
//!
//! This is as close to CockroachDB as one gets without one: a real PostgreSQL behind a proxy that gives
//! the errors CockroachDB is known for.

mod common;
#[path = "common/proxy.rs"]
mod proxy;

use std::time::Duration;

use futures_util::future::join_all;
use micro_core::{Fence, FencingToken};
use micro_store_cockroach::CockroachStore;
use micro_store_core::{
    BatchOptions, Condition, DeleteOptions, ErrorKind, ListOptions, Operation, Record, Result,
    ScopesOptions, Store as _, Table, WriteOptions,
};
use tokio::time::{Instant, sleep};

use common::{PATIENCE, Schema, orders, postgres, table, with};
use proxy::{Fault, Proxy};

/// Tables behind a proxy, and the way around it.
struct Bench {
    proxy: Proxy,
    /// Through the proxy.
    store: CockroachStore,
    table: Table,
    /// Around it.
    direct: Table,
    schema: Schema,
}

impl Bench {
    async fn new(url: &str, options: &str) -> Self {
        let schema = Schema::new(url).await;
        let direct = table(&schema.open().await);
        let address = micro_core::url::resolve(url).unwrap();
        let address = format!(
            "{}:{}",
            address.host_str().unwrap(),
            address.port().unwrap()
        );
        let proxy = Proxy::new(&address).await;
        let store = common::open(&with(&proxy.url(&schema.url), options)).await;
        let store = store.unwrap();
        Self {
            proxy,
            table: table(&store),
            store,
            direct,
            schema,
        }
    }
}

/// Something that a store does to the record `a`, which has a known version before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    Write,
    WriteIfAbsent,
    WriteIfVersion,
    Delete,
    DeleteIfVersion,
    WriteFenced,
    Batch,
    Read,
    List,
    ListKeys,
    Scopes,
}

impl Doing {
    const ALL: [Self; 11] = [
        Self::Write,
        Self::WriteIfAbsent,
        Self::WriteIfVersion,
        Self::Delete,
        Self::DeleteIfVersion,
        Self::WriteFenced,
        Self::Batch,
        Self::Read,
        Self::List,
        Self::ListKeys,
        Self::Scopes,
    ];

    fn is_read(self) -> bool {
        matches!(
            self,
            Self::Read | Self::List | Self::ListKeys | Self::Scopes
        )
    }

    /// Whether it is one statement, which is its own commit.
    fn is_single(self) -> bool {
        !self.is_read() && !matches!(self, Self::WriteFenced | Self::Batch)
    }

    async fn run(self, bench: &Bench, version: u64, round: u64) -> Result<()> {
        let table = &bench.table;
        let record = || Record::new("a", "new");
        let on = |condition| WriteOptions::default().with_condition(condition);
        let fence = Fence::new("lock", FencingToken::new(1, round));
        match self {
            Self::Write => table
                .write(record(), WriteOptions::default())
                .await
                .map(drop),
            Self::WriteIfAbsent => table
                .write(Record::new("absent", "new"), on(Condition::Absent))
                .await
                .map(drop),
            Self::WriteIfVersion => table
                .write(record(), on(Condition::Version(version)))
                .await
                .map(drop),
            Self::Delete => table.delete("a").await.map(drop),
            Self::DeleteIfVersion => {
                let opts = DeleteOptions::default().with_condition(Condition::Version(version));
                table.delete_with("a", opts).await.map(drop)
            }
            Self::WriteFenced => {
                let opts = WriteOptions::default().with_fence(fence);
                table.write(record(), opts).await.map(drop)
            }
            Self::Batch => {
                let operations = vec![
                    Operation::write(&orders(), Record::new("b", "new")),
                    Operation::write_with(&orders(), record(), on(Condition::Version(version))),
                    Operation::delete(&orders(), "c"),
                ];
                table
                    .batch(operations, BatchOptions::default())
                    .await
                    .map(drop)
            }
            Self::Read => table.read("a").await.map(drop),
            Self::List => table.list(ListOptions::default()).await.map(drop),
            Self::ListKeys => {
                let opts = ListOptions::default().with_keys_only(true);
                table.list(opts).await.map(drop)
            }
            Self::Scopes => bench.store.scopes(ScopesOptions::default()).await.map(drop),
        }
    }

    /// Whether it has happened, wholly: what a caller finds out when he reads.
    async fn has_happened(self, bench: &Bench, version: u64) -> bool {
        let found = |key| async move { bench.direct.find(key).await.unwrap() };
        let new = |record: &Option<Record>| record.as_ref().is_some_and(|r| &*r.value == b"new");
        let a = found("a").await;
        match self {
            Self::WriteIfAbsent => found("absent").await.is_some(),
            Self::Delete | Self::DeleteIfVersion => a.is_none(),
            Self::Batch => {
                let (b, c) = (found("b").await, found("c").await);
                let parts = [new(&a), new(&b), c.is_none()];
                assert!(
                    parts == [true; 3] || parts == [false; 3],
                    "a part of a batch has happened: {parts:?}"
                );
                parts[0]
            }
            _ => {
                let changed = new(&a);
                let newer = a.is_some_and(|a| a.version > version);
                assert_eq!(changed, newer, "value and version belong together");
                changed
            }
        }
    }

    /// What is there before; answers with the version of `a`.
    async fn prepare(bench: &Bench) -> u64 {
        bench.direct.delete("absent").await.unwrap();
        let write = |key: &str| {
            let record = Record::new(key, "old");
            bench.direct.write(record, WriteOptions::default())
        };
        write("b").await.unwrap();
        write("c").await.unwrap();
        write("a").await.unwrap().version
    }
}

/// A conflict is tried again; whatever was lost before the commit as well; of what was lost with the
/// commit nobody claims to know more than he does, and a look at the record tells.
#[tokio::test(flavor = "multi_thread")]
async fn every_request_of_every_operation_may_go_wrong() {
    let Some(url) = postgres("every_request_of_every_operation_may_go_wrong") else {
        return;
    };
    let bench = Bench::new(&url, "connections=1").await;
    let faults = [
        Fault::Refused("40001"),
        Fault::Refused("40P01"),
        Fault::Refused("40003"),
        Fault::Refused("57P01"),
        Fault::Refused("08006"),
        Fault::Disowned("40003"),
        Fault::Disowned("08006"),
        Fault::CutBefore,
        Fault::CutAfter,
    ];
    let (mut round, mut unknown) = (0, 0);
    for doing in Doing::ALL {
        // Once for the preparation of its statements, and once to count.
        let mut requests = 0;
        for _ in 0..2 {
            let version = Doing::prepare(&bench).await;
            round += 1;
            let before = bench.proxy.requests();
            doing.run(&bench, version, round).await.unwrap();
            requests = bench.proxy.requests() - before;
        }
        for n in 1..=requests {
            for fault in faults {
                let what = format!("{doing:?}, request {n} of {requests}: {fault:?}");
                let version = Doing::prepare(&bench).await;
                round += 1;
                // Whatever the last fault has cost is made up for first.
                bench.table.find("a").await.unwrap();
                if !doing.is_read() {
                    warm_up(doing, &bench, round).await;
                }
                bench.proxy.arm(n, fault);
                let result = doing.run(&bench, version, round).await;
                assert!(!bench.proxy.is_armed(), "{what}: the fault never came");
                let conflict = matches!(fault, Fault::Refused("40001" | "40P01"));
                let commits = doing.is_single() || (!doing.is_read() && n == requests);
                if conflict || !commits {
                    result.unwrap_or_else(|err| panic!("{what}: {err:?}"));
                    if !doing.is_read() {
                        assert!(doing.has_happened(&bench, version).await, "{what}");
                    }
                    continue;
                }
                let err = result.expect_err(&what);
                assert_eq!(err.kind(), ErrorKind::OutcomeUnknown, "{what}: {err:?}");
                assert!(!err.is_retryable(), "{what}: {err:?}");
                unknown += 1;
                let expected = matches!(fault, Fault::Disowned(_) | Fault::CutAfter);
                let found = doing.has_happened(&bench, version).await;
                assert_eq!(found, expected, "{what}");
            }
        }
    }
    // Of seven changes, at their commit, by the seven faults that are no conflicts.
    assert_eq!(unknown, 49);
    bench.schema.remove().await;
}

/// Does the same to no effect: a connection that was just made prepares its statements first, and those
/// requests are not meant.
async fn warm_up(doing: Doing, bench: &Bench, round: u64) {
    if matches!(doing, Doing::Delete) {
        bench.table.delete("nothing").await.unwrap();
        return;
    }
    if matches!(doing, Doing::Write) {
        let record = Record::new("other", "");
        bench
            .table
            .write(record, WriteOptions::default())
            .await
            .unwrap();
        return;
    }
    // A condition that fails, or a token that does not; then everything is undone.
    let result = match doing {
        Doing::WriteIfAbsent => {
            let opts = WriteOptions::default().with_condition(Condition::Absent);
            bench
                .table
                .write(Record::new("a", "x"), opts)
                .await
                .map(drop)
        }
        Doing::WriteFenced => {
            let fence = Fence::new("lock", FencingToken::new(0, 0));
            if round == 1 {
                return;
            }
            let opts = WriteOptions::default().with_fence(fence);
            bench
                .table
                .write(Record::new("a", "x"), opts)
                .await
                .map(drop)
        }
        _ => doing.run(bench, u64::MAX, round).await,
    };
    result.expect_err("the condition does not hold");
}

/// Whoever holds the record: the server gives the change up, and it has not happened.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_waits_too_long_is_given_up() {
    let Some(url) = postgres("a_change_that_waits_too_long_is_given_up") else {
        return;
    };
    let schema = Schema::new(&url).await;
    let table = table(&schema.open_with("timeout=300ms").await);
    let version = table.put("a", &1).await.unwrap().version;
    let hold = "BEGIN; UPDATE micro_records SET value = value; SELECT pg_sleep(4); ROLLBACK";
    let (held, begin) = (schema.raw.run(hold), Instant::now());
    let change = async {
        sleep(Duration::from_millis(300)).await;
        let err = table.put("a", &2).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unavailable, "{err:?}");
        let operations = vec![
            Operation::write(&orders(), Record::new("a", "2")),
            Operation::write(&orders(), Record::new("b", "2")),
        ];
        let result = table.batch(operations, BatchOptions::default()).await;
        let err = result.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unavailable, "{err:?}");
        assert!(
            begin.elapsed() < Duration::from_millis(3900),
            "{:?}",
            begin.elapsed()
        );
    };
    futures_util::future::join(held, change).await.0.unwrap();
    assert_eq!(table.read("a").await.unwrap().version, version);
    assert_eq!(table.find("b").await.unwrap(), None);
    schema.remove().await;
}

/// While nothing comes through, calls end in time; afterwards the store works, and the server keeps no
/// more connections than the pool may have.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stands_still_holds_nobody() {
    let Some(url) = postgres("a_server_that_stands_still_holds_nobody") else {
        return;
    };
    let bench = Bench::new(
        &url,
        "connections=3&timeout=300ms&connect=300ms&name=micro-stall",
    )
    .await;
    bench.table.put("a", &0).await.unwrap();
    for _ in 0..2 {
        bench.proxy.stall(true);
        let begin = Instant::now();
        let calls = (0..12).map(|i| {
            let table = bench.table.clone();
            async move {
                match i % 2 {
                    0 => table.put("a", &i).await.map(drop),
                    _ => table.find("a").await.map(drop),
                }
            }
        });
        for result in join_all(calls).await {
            let err = result.unwrap_err();
            let kind = err.kind();
            assert!(
                matches!(kind, ErrorKind::Unavailable | ErrorKind::OutcomeUnknown),
                "{err:?}"
            );
        }
        let took = begin.elapsed();
        assert!(took < Duration::from_secs(8), "it took {took:?}");
        bench.proxy.stall(false);
        bench.table.put("a", &"on again").await.unwrap();
    }
    let begin = Instant::now();
    loop {
        let count = bench
            .schema
            .raw
            .number("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'micro-stall'")
            .await;
        if count <= 3 {
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "{count} connections are left");
        sleep(Duration::from_millis(20)).await;
    }
    bench.schema.remove().await;
}

/// Whoever ends connections, on whichever side: reads do not notice, and changes are known to be done,
/// known not to be, or say that they are not known.
#[tokio::test(flavor = "multi_thread")]
async fn connections_are_ended_under_load() {
    const WRITERS: usize = 8;
    let Some(url) = postgres("connections_are_ended_under_load") else {
        return;
    };
    let bench = Bench::new(&url, "connections=6&name=micro-ended").await;
    let end = Instant::now() + Duration::from_secs(3);
    let writers = (0..WRITERS).map(|writer| {
        let (table, direct) = (bench.table.clone(), bench.direct.clone());
        tokio::spawn(async move {
            let key = format!("k-{writer}");
            let (mut value, mut version) = (0_u64, None);
            let (mut acked, mut unknown) = (0, 0);
            while Instant::now() < end {
                let condition = version.map_or(Condition::Absent, Condition::Version);
                let opts = WriteOptions::default().with_condition(condition);
                match table.put_with(&key, &(value + 1), opts).await {
                    Ok(written) => {
                        (value, version) = (value + 1, Some(written.version));
                        acked += 1;
                    }
                    Err(err) if err.kind() == ErrorKind::OutcomeUnknown => {
                        unknown += 1;
                        // What was cut off is still on its way to its end, for a moment.
                        sleep(Duration::from_millis(200)).await;
                        let there = direct.find(&key).await.unwrap();
                        let there =
                            there.map(|record| (record.json::<u64>().unwrap(), record.version));
                        if there.map(|(_, version)| version) != version {
                            let (found, newer) = there.expect("nobody deletes it");
                            assert_eq!(
                                found,
                                value + 1,
                                "another value than the one that was sent"
                            );
                            (value, version) = (found, Some(newer));
                        }
                    }
                    Err(err) => panic!("nobody else writes {key}: {err:?}"),
                }
                let found = table.get::<u64>(&key).await.unwrap();
                assert_eq!(found.unwrap_or_default(), value, "{key}");
            }
            (acked, unknown)
        })
    });
    let writers: Vec<_> = writers.collect();
    let mut ended = 0;
    while Instant::now() < end {
        sleep(Duration::from_millis(100)).await;
        match ended % 2 {
            0 => bench.proxy.cut(),
            _ => {
                let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                            WHERE application_name = 'micro-ended'";
                bench.schema.raw.number(kill).await;
            }
        }
        ended += 1;
    }
    let (mut acked, mut unknown) = (0, 0);
    for writer in join_all(writers).await {
        let (of_acked, of_unknown) = writer.expect("the records are as they were acknowledged");
        acked += of_acked;
        unknown += of_unknown;
    }
    common::figure(&format!(
        "{ended} times all connections ended: acknowledged {acked}, unknown {unknown}, all resolved, lost 0"
    ));
    assert!(acked > 10, "{acked} were acknowledged");
    assert!(unknown > 0, "nothing was in the way");
    bench.schema.remove().await;
}
