//! Against real etcds: one that is shared, one with TLS and users, and some of the tests' own.

mod common;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use common::{Etcd, PATIENCE, Proxy, client, eventually, server, with_option};
use micro_core::ErrorKind;
use micro_etcd::{Client, Compare, Done, Keys, Op, Position, RangeOptions, Txn, Watch, WatchEvent};
use tokio::time::{Instant, sleep, timeout};

/// A prefix that no other test uses.
fn prefix() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let born = std::time::UNIX_EPOCH.elapsed().unwrap().as_micros();
    format!("/micro/test-{}-{born}-{count}/", std::process::id())
}

async fn changes(watch: &mut Watch) -> Vec<(String, Option<String>)> {
    loop {
        match timeout(PATIENCE, watch.next())
            .await
            .expect("an event")
            .unwrap()
        {
            WatchEvent::Changes(changes) => {
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                let one = |change: micro_etcd::Change| {
                    (text(&change.key), change.now.map(|now| text(&now.value)))
                };
                return changes.into_iter().map(one).collect();
            }
            WatchEvent::Progress(_) => {}
            other => panic!("changes were to come, not {other:?}"),
        }
    }
}

async fn keys_values_and_transactions(client: &Client) {
    let prefix = prefix();
    let key = |name: &str| format!("{prefix}{name}");
    assert_eq!(client.get(key("a")).await.unwrap(), None);
    let first = client.put(key("a"), "1", 0).await.unwrap();
    let found = client.get(key("a")).await.unwrap().unwrap();
    assert_eq!(
        (&*found.value, found.mod_revision),
        (&b"1"[..], first.revision)
    );
    assert_eq!(
        (found.create_revision, found.version, found.lease),
        (first.revision, 1, 0)
    );

    let swap = |revision: i64, value: &'static str| {
        Txn::new()
            .when(Compare::mod_revision(key("a"), revision))
            .then(Op::put(key("a"), value, 0))
            .otherwise(Op::range(Keys::one(key("a")), &RangeOptions::default()))
    };
    assert!(
        client
            .txn(swap(first.revision, "2"))
            .await
            .unwrap()
            .succeeded
    );
    let refused = client.txn(swap(first.revision, "3")).await.unwrap();
    assert!(!refused.succeeded);
    let [Done::Found(found)] = &refused.done[..] else {
        panic!("it was to read: {refused:?}");
    };
    assert_eq!(&*found.entries[0].value, b"2");
    for (compare, holds) in [
        (Compare::value(key("a"), "2"), true),
        (Compare::value(key("b"), ""), false),
        (Compare::lease(key("a"), 0), true),
        (Compare::create_revision(key("b"), 0), true),
        (Compare::create_revision(key("a"), first.revision), true),
    ] {
        let shown = format!("{compare:?}");
        let done = client.txn(Txn::new().when(compare)).await.unwrap();
        assert_eq!(done.succeeded, holds, "{shown}");
    }

    let old = RangeOptions::default().with_revision(first.revision);
    let found = client
        .range(Keys::prefix(prefix.clone()), &old)
        .await
        .unwrap();
    assert_eq!(&*found.entries[0].value, b"1");
    let none = RangeOptions::default().with_revision(i64::MAX);
    let err = client.range(Keys::one(key("a")), &none).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::OutOfRange, "{err:?}");
    assert_eq!(
        client.delete(Keys::prefix(prefix.clone())).await.unwrap(),
        1
    );
}

async fn leases(client: &Client) {
    let prefix = prefix();
    let lease = client
        .lease_grant(Duration::from_millis(1500))
        .await
        .unwrap();
    assert_eq!(lease.ttl, Duration::from_secs(2), "rounded up");
    client
        .put(format!("{prefix}a"), "1", lease.id)
        .await
        .unwrap();
    assert_eq!(
        client.lease_keep_alive(lease.id).await.unwrap(),
        Some(lease.ttl)
    );
    assert!(client.lease_revoke(lease.id).await.unwrap());
    assert!(!client.lease_revoke(lease.id).await.unwrap());
    assert_eq!(client.lease_keep_alive(lease.id).await.unwrap(), None);
    assert_eq!(client.get(format!("{prefix}a")).await.unwrap(), None);
    let err = client
        .put(format!("{prefix}a"), "1", lease.id)
        .await
        .unwrap_err();
    assert_eq!(
        err.kind(),
        ErrorKind::NotFound,
        "a lease that ended fences: {err:?}"
    );
}

async fn watches(client: &Client) {
    let prefix = prefix();
    let since = client.put(format!("{prefix}a"), "0", 0).await.unwrap();
    let mut watch = client.watch(Keys::prefix(prefix.clone()), since);
    let lease = client.lease_grant(Duration::from_secs(60)).await.unwrap();
    // Made before the watch is open, and in one revision.
    let both = Txn::new()
        .then(Op::put(format!("{prefix}a"), "1", 0))
        .then(Op::put(format!("{prefix}b"), "1", lease.id));
    client.txn(both).await.unwrap();
    let expected = [
        (format!("{prefix}a"), Some("1".to_owned())),
        (format!("{prefix}b"), Some("1".to_owned())),
    ];
    assert_eq!(changes(&mut watch).await, expected);
    client.lease_revoke(lease.id).await.unwrap();
    assert_eq!(changes(&mut watch).await, [(format!("{prefix}b"), None)]);
    client.delete(Keys::prefix(prefix.clone())).await.unwrap();
    assert_eq!(changes(&mut watch).await, [(format!("{prefix}a"), None)]);
}

async fn long_values_are_read_page_by_page(client: &Client) {
    let prefix = prefix();
    for i in 0..40 {
        client
            .put(format!("{prefix}{i:02}"), vec![b'x'; 1 << 20], 0)
            .await
            .unwrap();
    }
    let all = client
        .range(Keys::prefix(prefix.clone()), &RangeOptions::default())
        .await;
    assert_eq!(all.unwrap_err().kind(), ErrorKind::ResourceExhausted);
    let mut seen = Vec::new();
    let scan = client.scan(Keys::prefix(prefix.clone()), |found| {
        assert_eq!(found.value.len(), 1 << 20);
        seen.push(found.key);
        Ok(())
    });
    scan.await.unwrap();
    assert_eq!(seen.len(), 40);
    assert!(seen.is_sorted());
    client.delete(Keys::prefix(prefix)).await.unwrap();
}

async fn everything(client: &Client) {
    keys_values_and_transactions(client).await;
    leases(client).await;
    watches(client).await;
}

#[tokio::test]
async fn keys_leases_and_watches_work() {
    let Some(url) = server("micro-etcd plain", "MICRO_TEST_ETCD_URL", "etcd") else {
        return;
    };
    everything(&client(&url)).await;
    long_values_are_read_page_by_page(&client(&url)).await;
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn the_same_with_certificates_and_a_password() {
    let Some(url) = server("micro-etcd TLS", "MICRO_TEST_ETCD_TLS_URL", "etcd_tls") else {
        return;
    };
    everything(&client(&url)).await;

    // What is not ours is refused, and a watch of it says so.
    let secured = client(&url);
    let err = secured.get("/elsewhere").await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::PermissionDenied, "{err:?}");
    let mut watch = secured.watch(Keys::one("/elsewhere"), Position::default());
    let err = timeout(PATIENCE, watch.next()).await.unwrap().unwrap_err();
    assert_eq!(err.kind(), ErrorKind::PermissionDenied, "{err:?}");

    let wrong = [
        (
            url.replace("hunter2", "hunter3"),
            ErrorKind::Unauthenticated,
        ),
        // Then the name in our certificate is the user, and has no rights.
        (
            url.replace("micro:hunter2@", ""),
            ErrorKind::PermissionDenied,
        ),
        // The certificate is for localhost and 127.0.0.1.
        (
            with_option(&url, "server_name", "etcd.example"),
            ErrorKind::Unavailable,
        ),
        // No certificate of ours, where one is demanded.
        (
            url.split_once("&cert=").unwrap().0.to_owned(),
            ErrorKind::Unavailable,
        ),
        // The platform's authorities did not sign it.
        (
            "etcd://micro:hunter2@127.0.0.1:22381?tls=true".to_owned(),
            ErrorKind::Unavailable,
        ),
        (
            "etcd://micro:hunter2@127.0.0.1:22381".to_owned(),
            ErrorKind::Unavailable,
        ),
    ];
    for (url, kind) in wrong {
        let wrong = client(&with_option(&url, "timeout", "1s"));
        let err = wrong.get("/micro/a").await.unwrap_err();
        assert_eq!(err.kind(), kind, "{err:?}");
        assert!(!format!("{err:?}").contains("hunter"), "{err:?}");
    }
}

#[tokio::test]
async fn another_member_is_used_when_one_fails() {
    let Some(etcd) = Etcd::start("micro-etcd failover").await else {
        return;
    };
    let (mut one, mut two) = (
        Proxy::start(etcd.port()).await,
        Proxy::start(etcd.port()).await,
    );
    let endpoint = two.url().replace("etcd://", "");
    let both = client(&with_option(&one.url(), "endpoint", &endpoint));
    let since = both.put("a", "0", 0).await.unwrap();
    let mut watch = both.watch(Keys::prefix("a"), since);
    for round in 0..6 {
        // Refusing and silent in turn.
        let broken = if round % 2 == 0 { &mut one } else { &mut two };
        if round < 2 {
            broken.cut();
        } else {
            broken.swallow().await;
        }
        let began = Instant::now();
        both.get("a").await.expect("the other one answers");
        let took = began.elapsed();
        assert!(took < Duration::from_secs(5), "{took:?}");
        etcd.client().put("a", format!("{round}"), 0).await.unwrap();
        assert_eq!(
            changes(&mut watch).await,
            [("a".to_owned(), Some(format!("{round}")))]
        );
        let broken = if round % 2 == 0 { &mut one } else { &mut two };
        broken.cut();
        broken.open().await;
    }
}

#[tokio::test]
async fn a_watch_resumes_after_a_gap_and_says_what_was_compacted() {
    let Some(etcd) = Etcd::start("micro-etcd gap").await else {
        return;
    };
    let direct = etcd.client();
    let mut proxy = Proxy::start(etcd.port()).await;
    let through = client(&proxy.url());
    let since = through.put("k/0", "0", 0).await.unwrap();
    let mut watch = through.watch(Keys::prefix("k/"), since);
    direct.put("k/1", "1", 0).await.unwrap();
    assert_eq!(changes(&mut watch).await.len(), 1);

    proxy.cut();
    for i in 0..100 {
        direct
            .put(format!("k/{}", i % 7), format!("{i}"), 0)
            .await
            .unwrap();
    }
    // It waits through the outage.
    assert!(
        timeout(Duration::from_millis(300), watch.next())
            .await
            .is_err()
    );
    proxy.open().await;
    let mut seen = Vec::new();
    while seen.len() < 100 {
        seen.extend(changes(&mut watch).await);
    }
    let values: Vec<String> = seen.into_iter().filter_map(|(_, value)| value).collect();
    let all: Vec<String> = (0..100).map(|i| i.to_string()).collect();
    assert_eq!(values, all, "every change, once, in order");

    proxy.cut();
    direct.put("k/1", "x", 0).await.unwrap();
    let last = direct.put("k/1", "y", 0).await.unwrap();
    direct.compact(last.revision).await.unwrap();
    proxy.open().await;
    let event = timeout(PATIENCE, watch.next()).await.unwrap().unwrap();
    assert_eq!(
        event,
        WatchEvent::Compacted {
            revision: last.revision
        }
    );
    let err = watch.next().await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::FailedPrecondition);
}

#[tokio::test]
async fn lost_data_and_lost_tokens_are_noticed() {
    let Some(mut etcd) = Etcd::start("micro-etcd restart").await else {
        return;
    };
    for i in 0..20 {
        etcd.client().put("k", format!("{i}"), 0).await.unwrap();
    }
    let before = etcd.client();
    let since = before.get("k").await.unwrap().unwrap();
    let mut position = Position::default();
    position.revision = since.mod_revision;
    let mut watch = before.watch(Keys::one("k"), position);
    etcd.client().put("k", "last", 0).await.unwrap();
    assert_eq!(
        changes(&mut watch).await,
        [("k".to_owned(), Some("last".to_owned()))]
    );

    etcd.kill();
    etcd.run().await;
    // All is there, and the watch goes on.
    etcd.client().put("k", "after", 0).await.unwrap();
    assert_eq!(
        changes(&mut watch).await,
        [("k".to_owned(), Some("after".to_owned()))]
    );

    etcd.kill();
    etcd.wipe();
    etcd.run().await;
    let event = timeout(PATIENCE, watch.next()).await.unwrap().unwrap();
    assert!(matches!(event, WatchEvent::Rewound(_)), "{event:?}");
}

#[tokio::test]
async fn a_token_that_etcd_forgot_is_replaced() {
    let Some(mut etcd) = Etcd::start("micro-etcd token").await else {
        return;
    };
    etcd.enable_auth().await;
    let user = client(&etcd.url().replace("//", "//root:secret@"));
    user.put("k", "1", 0).await.unwrap();
    let nobody = client(&with_option(&etcd.url(), "timeout", "1s"));
    assert_eq!(
        nobody.get("k").await.unwrap_err().kind(),
        ErrorKind::Unauthenticated
    );
    let since = user.put("k", "2", 0).await.unwrap();
    let mut watch = user.watch(Keys::one("k"), since);

    // Tokens are in etcd's memory only.
    etcd.kill();
    etcd.run().await;
    eventually("the put", async || user.put("k", "3", 0).await.is_ok()).await;
    assert_eq!(
        changes(&mut watch).await,
        [("k".to_owned(), Some("3".to_owned()))]
    );
    etcd.kill();
    etcd.run().await;
    // The watch is the first to find out.
    let other = client(&etcd.url().replace("//", "//root:secret@"));
    let opened = async {
        sleep(Duration::from_millis(100)).await;
        other.put("k", "4", 0).await.unwrap();
    };
    let (seen, ()) = tokio::join!(changes(&mut watch), opened);
    assert_eq!(seen, [("k".to_owned(), Some("4".to_owned()))]);
}
