//! What stands in etcd, and what others do to it: go-micro, an operator, an attacker.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use common::{PATIENCE, client, eventually, look, open, server, with_option};
use futures_util::StreamExt as _;
use micro_core::ErrorKind;
use micro_etcd::{Client, Compare, Keys, Op, RangeOptions, Txn};
use micro_registry_core::{
    DeregisterOptions, Event, EventKind, EventStream, Node, RegisterOptions, Registry as _,
    Service, WatchOptions,
};
use micro_registry_etcd::EtcdRegistry;
use tokio::time::{sleep, timeout};

/// A directory of the test's own, as the registry sees it and as etcd does.
struct Place {
    registry: Arc<EtcdRegistry>,
    etcd: Client,
    prefix: String,
}

fn place(test: &str) -> Option<Place> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let url = server(test, "MICRO_TEST_ETCD_URL", "etcd")?;
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let born = std::time::UNIX_EPOCH.elapsed().unwrap().as_micros();
    let prefix = format!(
        "/micro/test-{}-{born}-{count}/registry/",
        std::process::id()
    );
    Some(Place {
        registry: open(&with_option(&url, "prefix", &prefix)),
        etcd: client(&url),
        prefix,
    })
}

impl Place {
    fn key(&self, rest: &str) -> String {
        format!("{}{rest}", self.prefix)
    }

    async fn put(&self, rest: &str, value: &str) {
        self.etcd
            .put(self.key(rest), value.to_owned(), 0)
            .await
            .unwrap();
    }

    async fn watch(&self) -> EventStream {
        let opts = WatchOptions::default().with_service("greeter");
        self.registry.watch(opts).await.unwrap()
    }

    async fn register(&self, service: &Service) {
        let opts = RegisterOptions::default().with_ttl(Duration::from_secs(30));
        self.registry.register(service, opts).await.unwrap();
    }

    async fn deregister(&self, service: &Service) {
        let opts = DeregisterOptions::default();
        self.registry.deregister(service, opts).await.unwrap();
    }

    async fn found(&self) -> Vec<Service> {
        look(&*self.registry, "greeter").await
    }
}

fn greeter(id: &str) -> Service {
    Service::new("greeter", "v1").with_node(Node::new(id, "10.0.0.1:1"))
}

async fn next(events: &mut EventStream) -> Event {
    timeout(PATIENCE, events.next())
        .await
        .expect("an event")
        .unwrap()
        .unwrap()
}

fn ids(services: &[Service]) -> Vec<&str> {
    services
        .iter()
        .flat_map(|service| &service.nodes)
        .map(|node| &*node.id)
        .collect()
}

/// A value as go-micro v2 writes it.
fn go_micro(id: &str) -> String {
    format!(
        r#"{{"name":"greeter","version":"latest","metadata":null,"endpoints":[{{"name":"Say.Hello","request":{{"name":"Request","type":"Request","values":null}},"response":{{"name":"Response","type":"Response","values":null}},"metadata":{{}}}}],"nodes":[{{"id":"{id}","address":"10.0.0.7:8080","metadata":{{"protocol":"grpc"}}}}]}}"#
    )
}

#[tokio::test]
async fn go_micro_and_we_share_a_directory() {
    let Some(place) = place("go-micro in etcd") else {
        return;
    };
    let mut events = place.watch().await;
    // As go-micro registers: a lease per node, and the key goes with it.
    let lease = place
        .etcd
        .lease_grant(Duration::from_secs(30))
        .await
        .unwrap();
    let key = place.key("greeter/greeter-5f0c");
    place
        .etcd
        .put(key.clone(), go_micro("greeter-5f0c"), lease.id)
        .await
        .unwrap();
    let created = next(&mut events).await;
    assert_eq!(created.kind, EventKind::Create);
    let found = place.found().await;
    assert_eq!(found, [created.service]);
    assert_eq!(found[0].nodes[0].metadata["protocol"], "grpc");
    assert_eq!(found[0].endpoints[0].request.kind, "Request");

    // What we write: the same key and the same fields, with a lease of the TTL.
    let ours = greeter("ours/1");
    place.register(&ours).await;
    let entry = place
        .etcd
        .get(place.key("greeter/ours-1"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        std::str::from_utf8(&entry.value).unwrap(),
        r#"{"name":"greeter","version":"v1","metadata":{},"endpoints":[],"nodes":[{"id":"ours/1","address":"10.0.0.1:1","metadata":{}}]}"#
    );
    assert_ne!(entry.lease, 0);
    assert_eq!(
        place.etcd.lease_keep_alive(entry.lease).await.unwrap(),
        Some(Duration::from_secs(30))
    );
    assert_eq!(next(&mut events).await.kind, EventKind::Create);

    // A node may be in both: then it is the last one to write who describes it.
    place.put("greeter/ours-1", &go_micro("ours/1")).await;
    let (gone, came) = (next(&mut events).await, next(&mut events).await);
    assert_eq!(
        (gone.kind, &*gone.service.version),
        (EventKind::Delete, "v1")
    );
    assert_eq!(
        (came.kind, &*came.service.version),
        (EventKind::Create, "latest")
    );

    // go-micro deregisters by deleting the key; the lease lives on.
    place.etcd.delete(Keys::one(key)).await.unwrap();
    let deleted = next(&mut events).await;
    assert_eq!(deleted.kind, EventKind::Delete);
    assert_eq!(ids(&[deleted.service]), ["greeter-5f0c"]);
}

#[tokio::test]
async fn every_event_of_a_batch_is_reported() {
    let Some(place) = place("batch in etcd") else {
        return;
    };
    let mut events = place.watch().await;
    let mut txn = Txn::new();
    for i in 0..20 {
        let id = format!("n{i}");
        txn = txn.then(Op::put(
            place.key(&format!("greeter/{id}")),
            go_micro(&id),
            0,
        ));
    }
    place.etcd.txn(txn).await.unwrap();
    let created = next(&mut events).await;
    assert_eq!(
        (created.kind, created.service.nodes.len()),
        (EventKind::Create, 20)
    );
    // One event: whoever calls these nodes can tell that they went all at once.
    place
        .etcd
        .delete(Keys::prefix(place.prefix.clone()))
        .await
        .unwrap();
    let deleted = next(&mut events).await;
    assert_eq!(
        (deleted.kind, deleted.service.nodes.len()),
        (EventKind::Delete, 20)
    );
}

#[tokio::test]
async fn s53_garbage_is_left_out_and_the_others_are_kept() {
    let Some(place) = place("S-53 in etcd") else {
        return;
    };
    place.register(&greeter("good")).await;
    let mut events = place.watch().await;
    let good = String::from_utf8(
        place
            .etcd
            .get(place.key("greeter/good"))
            .await
            .unwrap()
            .unwrap()
            .value
            .to_vec(),
    )
    .unwrap();
    let mebibyte = "x".repeat(1 << 20);
    for (key, value) in [
        ("greeter/empty", String::new()),
        ("greeter/garbage", "\u{0}garbage{".to_owned()),
        ("greeter/schema", r#"{"name":["greeter"]}"#.to_owned()),
        ("greeter/other", good.replace("greeter", "billing")),
        ("greeter/no-node", go_micro("x").replace("nodes", "knots")),
        ("greeter/elsewhere", good.clone()),
        (
            "greeter/break",
            go_micro("break").replace("10.0.0.7:8080", r"10.0.0.7:8080\r\nhost: x"),
        ),
        // As many as would break an answer that is read at once.
        (
            "greeter/long-1",
            go_micro("long-1").replace("\"grpc\"", &format!("\"{mebibyte}\"")),
        ),
        ("greeter/long-2", mebibyte.clone()),
        ("greeter/long-3", mebibyte.clone()),
        ("greeter/long-4", mebibyte.clone()),
        ("greeter/long-5", mebibyte.clone()),
        ("greeter/long-6", mebibyte.clone()),
        ("greeter/long-7", mebibyte.clone()),
        ("greeter/long-8", mebibyte.clone()),
        ("greeter/long-9", mebibyte),
        ("greeter", good.clone()),
        ("", good.clone()),
    ] {
        place.put(key, &value).await;
    }
    let found = place.found().await;
    assert_eq!(found, [greeter("good")]);
    let listed = place
        .registry
        .list_services(Default::default())
        .await
        .unwrap();
    assert_eq!(listed, [greeter("good")]);
    // The watch saw all of it, and says nothing but what is so.
    place.put("greeter/late", &go_micro("late")).await;
    let event = next(&mut events).await;
    assert_eq!(ids(&[event.service]), ["late"]);

    // Our own entry is replaced by garbage, and by another service's: the next heartbeat heals it.
    for value in ["garbage".to_owned(), good.replace("greeter", "billing")] {
        place.put("greeter/good", &value).await;
        assert_eq!(next(&mut events).await.kind, EventKind::Delete);
        assert_eq!(ids(&place.found().await), ["late"]);
        place.register(&greeter("good")).await;
        assert_eq!(
            next(&mut events).await,
            Event::new(EventKind::Create, greeter("good"))
        );
    }
    // And if it leaves while garbage is there, nothing stays.
    place.put("greeter/good", "garbage").await;
    place.deregister(&greeter("good")).await;
    assert_eq!(
        place.etcd.get(place.key("greeter/good")).await.unwrap(),
        None
    );
    place
        .etcd
        .delete(Keys::prefix(place.prefix.clone()))
        .await
        .unwrap();
}

#[tokio::test]
async fn s52_what_hides_something_is_refused() {
    let Some(place) = place("S-52 in etcd") else {
        return;
    };
    let long = greeter("a").with_metadata("long", "x".repeat(1 << 20));
    let mut version = greeter("a");
    version.version = "v1\r\nx: y".to_owned();
    for service in [long, version] {
        let refused = place
            .registry
            .register(&service, RegisterOptions::default())
            .await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
    assert!(place.found().await.is_empty());
}

#[tokio::test]
async fn what_etcd_lost_is_back_with_the_next_registration() {
    let Some(place) = place("healing in etcd") else {
        return;
    };
    let service = greeter("a").with_node(Node::new("b", "10.0.0.2:1"));
    place.register(&service).await;
    let mut events = place.watch().await;
    let key = || place.key("greeter/a");

    // The lease ended, or was revoked.
    let entry = place.etcd.get(key()).await.unwrap().unwrap();
    assert!(place.etcd.lease_revoke(entry.lease).await.unwrap());
    assert_eq!(ids(&[next(&mut events).await.service]), ["a"]);
    place.register(&service).await;
    assert_eq!(place.found().await, std::slice::from_ref(&service));
    assert_eq!(
        next(&mut events).await,
        Event::new(EventKind::Create, greeter("a"))
    );

    // The key was deleted; the lease lives.
    place.etcd.delete(Keys::one(key())).await.unwrap();
    next(&mut events).await;
    place.register(&service).await;
    assert_eq!(next(&mut events).await.kind, EventKind::Create);
    assert_eq!(place.found().await, std::slice::from_ref(&service));

    // Somebody moved it elsewhere.
    let moved = r#"{"name":"greeter","version":"v1","nodes":[{"id":"a","address":"6.6.6.6:1"}]}"#;
    place.put("greeter/a", moved).await;
    assert_eq!(next(&mut events).await.kind, EventKind::Update);
    place.register(&service).await;
    assert_eq!(
        next(&mut events).await,
        Event::new(EventKind::Update, greeter("a"))
    );

    // Nothing happened: nothing is written.
    let before = place.etcd.get(key()).await.unwrap();
    place.register(&service).await;
    assert_eq!(place.etcd.get(key()).await.unwrap(), before);
}

#[tokio::test]
async fn f17_a_deregistered_node_never_comes_back() {
    let Some(place) = place("late heartbeats in etcd") else {
        return;
    };
    let service = greeter("a");
    place.register(&service).await;
    let entry = place
        .etcd
        .get(place.key("greeter/a"))
        .await
        .unwrap()
        .unwrap();
    // What a heartbeat would still have under way when the node has left: it rests on the lease, and
    // on the revision that was read.
    let late = || {
        Txn::new()
            .when(Compare::mod_revision(entry.key.clone(), 0))
            .then(Op::put(entry.key.clone(), entry.value.clone(), entry.lease))
    };
    place.deregister(&service).await;
    let err = place.etcd.txn(late()).await.unwrap_err();
    assert_eq!(
        err.kind(),
        ErrorKind::NotFound,
        "the lease is revoked: {err:?}"
    );

    // Heartbeats without a pause, dropped at some moment, and a deregistration behind them.
    for round in 0..60_u64 {
        let beats = async {
            loop {
                place.register(&service).await;
            }
        };
        let _ = timeout(Duration::from_micros(round * 150), beats).await;
        place.deregister(&service).await;
        assert!(place.found().await.is_empty(), "round {round}");
    }
    sleep(Duration::from_millis(300)).await;
    assert!(place.found().await.is_empty());
    let left = place
        .etcd
        .range(Keys::prefix(place.prefix.clone()), &RangeOptions::default())
        .await;
    assert!(left.unwrap().entries.is_empty());
}

#[tokio::test]
async fn s54_an_old_registration_is_no_news() {
    let Some(place) = place("S-54 in etcd") else {
        return;
    };
    let of = |generation: u64, address: &str| {
        let node =
            Node::new("a", address).with_metadata("micro-generation", generation.to_string());
        Service::new("greeter", "v1").with_node(node)
    };
    let (old, new) = (of(1, "10.0.0.1:1"), of(2, "10.0.0.2:2"));
    let key = place.key("greeter/a");
    place.register(&old).await;
    let replay = place.etcd.get(key.clone()).await.unwrap().unwrap();
    place.register(&new).await;
    let mut events = place.watch().await;
    place
        .etcd
        .put(key.clone(), replay.value.clone(), 0)
        .await
        .unwrap();
    place.put("greeter/b", &go_micro("b")).await;
    assert_eq!(
        ids(&[next(&mut events).await.service]),
        ["b"],
        "the replay is not reported"
    );
    // The node's next heartbeat puts it right.
    place.register(&new).await;
    assert_eq!(place.etcd.get(key).await.unwrap().unwrap().version, 4);

    // A program that was replaced while it hung does not take its node back.
    let late = open(&with_option(
        &server("S-54 in etcd", "MICRO_TEST_ETCD_URL", "etcd").unwrap(),
        "prefix",
        &place.prefix,
    ));
    let refused = late
        .register(&old, RegisterOptions::default())
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::FailedPrecondition, "{refused:?}");
    let found = place.found().await;
    let v1: Vec<_> = found
        .iter()
        .filter(|service| service.version == "v1")
        .collect();
    assert_eq!(v1, [&new]);
}

#[tokio::test]
async fn a_lease_lives_from_heartbeat_to_heartbeat_and_no_longer() {
    let Some(place) = place("leases in etcd") else {
        return;
    };
    let opts = || RegisterOptions::default().with_ttl(Duration::from_secs(3));
    let service = greeter("a");
    place.registry.register(&service, opts()).await.unwrap();
    let first = place
        .etcd
        .get(place.key("greeter/a"))
        .await
        .unwrap()
        .unwrap();
    // The server's heartbeat, a third of the TTL.
    for _ in 0..6 {
        sleep(Duration::from_secs(1)).await;
        assert_eq!(place.found().await.len(), 1);
        place.registry.register(&service, opts()).await.unwrap();
    }
    let last = place
        .etcd
        .get(place.key("greeter/a"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(first, last, "one lease and one write for all of it");
    eventually("the end of the lease", async || {
        place.found().await.is_empty()
    })
    .await;
}

#[tokio::test]
async fn many_nodes_of_one_registration_are_registered_and_leave() {
    let Some(place) = place("many nodes in etcd") else {
        return;
    };
    let mut service = Service::new("greeter", "v1");
    for i in 0..150 {
        service = service.with_node(Node::new(
            format!("n{i:03}"),
            format!("10.0.0.1:{}", 1000 + i),
        ));
    }
    for _ in 0..2 {
        place.register(&service).await;
        assert_eq!(place.found().await, std::slice::from_ref(&service));
    }
    let leases: BTreeMap<i64, ()> = {
        let all = place
            .etcd
            .range(Keys::prefix(place.prefix.clone()), &RangeOptions::default())
            .await;
        all.unwrap()
            .entries
            .into_iter()
            .map(|entry| (entry.lease, ()))
            .collect()
    };
    assert_eq!(leases.len(), 150);
    place.deregister(&service).await;
    assert!(place.found().await.is_empty());
    for lease in leases.into_keys().take(3) {
        assert_eq!(
            place.etcd.lease_keep_alive(lease).await.unwrap(),
            None,
            "no lease is left behind"
        );
    }
}
