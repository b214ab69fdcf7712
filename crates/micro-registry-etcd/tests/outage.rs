//! Bad days: an etcd that is killed, cut off, silent, or back with nothing.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{Etcd, PATIENCE, Proxy, eventually, figure, look, open, with_option};
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use micro_core::ErrorKind;
use micro_registry_cache::{Resolver, ResolverOptions};
use micro_registry_core::{
    DeregisterOptions, EventKind, EventStream, Node, RegisterOptions, Registry, Service,
    WatchOptions,
};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

fn service(i: usize) -> Service {
    Service::new("greeter", "v1").with_node(Node::new(
        format!("node-{i:02}"),
        format!("127.0.0.1:{}", 4000 + i),
    ))
}

fn opts(ttl: Duration) -> RegisterOptions {
    RegisterOptions::default().with_ttl(ttl)
}

async fn watch(registry: &dyn Registry) -> EventStream {
    let opts = WatchOptions::default().with_service("greeter");
    registry.watch(opts).await.unwrap()
}

/// The nodes as somebody knows them who only hears a watch.
#[derive(Default)]
struct Heard(BTreeMap<String, String>);

impl Heard {
    /// Listens until it knows just these nodes, by id and address.
    async fn until(&mut self, events: &mut EventStream, expected: &[Service]) {
        let expected: BTreeMap<String, String> = expected
            .iter()
            .flat_map(|service| &service.nodes)
            .map(|node| (node.id.clone(), node.address.clone()))
            .collect();
        while self.0 != expected {
            let event = timeout(PATIENCE, events.next()).await;
            let event = event.unwrap_or_else(|_| panic!("{:?} is known, not {expected:?}", self.0));
            let event = event.unwrap().unwrap();
            for node in event.service.nodes {
                match event.kind {
                    EventKind::Delete => {
                        assert!(
                            self.0.remove(&node.id).is_some(),
                            "a ghost left: {}",
                            node.id
                        );
                    }
                    _ => {
                        self.0.insert(node.id, node.address);
                    }
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f11_killed_and_started_again_it_fails_no_lookup_and_knows_everybody() {
    const NODES: usize = 20;
    const KILLS: usize = 3;
    let ttl = Duration::from_secs(6);
    let Some(mut etcd) = Etcd::start("etcd killed").await else {
        return;
    };
    let url = with_option(&etcd.url(), "timeout", "1s");
    let mut nodes = JoinSet::new();
    for i in 0..NODES {
        let registry = open(&url);
        nodes.spawn(async move {
            loop {
                // As the server does: soon again after a failure, else in a third of the TTL.
                let done = registry.register(&service(i), opts(ttl)).await;
                let pause = if done.is_ok() { ttl / 3 } else { ttl / 30 };
                sleep(pause).await;
            }
        });
    }
    let registry = open(&url);
    eventually("all are there", async || {
        look(&*registry, "greeter")
            .await
            .iter()
            .map(|found| found.nodes.len())
            .sum::<usize>()
            == NODES
    })
    .await;

    let resolver = Resolver::new(open(&url), ResolverOptions::default());
    let resolved = resolver.service("greeter").unwrap();
    resolved.known(None).await.unwrap();
    let (lookups, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let caller = {
        let (lookups, failed) = (Arc::clone(&lookups), Arc::clone(&failed));
        tokio::spawn(async move {
            loop {
                lookups.fetch_add(1, Ordering::Relaxed);
                let gone = resolved.known(None).await.is_err() || resolved.snapshot().is_empty();
                failed.fetch_add(usize::from(gone), Ordering::Relaxed);
                sleep(Duration::from_millis(2)).await;
            }
        })
    };
    let mut slowest = Duration::ZERO;
    for kill in 0..KILLS {
        etcd.kill();
        sleep(Duration::from_secs(1)).await;
        if kill == KILLS - 1 {
            // The worst day: it comes back with nothing.
            etcd.wipe();
        }
        etcd.run().await;
        let back = Instant::now();
        eventually("all are there again", async || {
            registry
                .get_service("greeter", Default::default())
                .await
                .is_ok_and(|found| {
                    found.iter().map(|found| found.nodes.len()).sum::<usize>() == NODES
                })
        })
        .await;
        slowest = slowest.max(back.elapsed());
    }
    caller.abort();
    let (lookups, failed) = (
        lookups.load(Ordering::Relaxed),
        failed.load(Ordering::Relaxed),
    );
    figure(&format!(
        "registry.etcd kills={KILLS} lookups={lookups} failed_lookups={failed} converge_max={slowest:?} ttl={ttl:?}"
    ));
    assert_eq!(failed, 0, "of {lookups} lookups");
    assert!(lookups > 500, "{lookups}");
    assert!(slowest <= ttl, "{slowest:?}");
}

#[tokio::test]
async fn f12_after_a_gap_with_compaction_the_watch_knows_what_etcd_knows() {
    let Some(etcd) = Etcd::start("etcd gap").await else {
        return;
    };
    let direct = open(&etcd.url());
    let mut proxy = Proxy::start(etcd.port()).await;
    let through = open(&with_option(&proxy.url(), "timeout", "1s"));
    let mut events = watch(&*through).await;
    let mut heard = Heard::default();
    let register = async |i| {
        direct
            .register(&service(i), RegisterOptions::default())
            .await
            .unwrap()
    };
    for i in 0..5 {
        register(i).await;
    }
    heard
        .until(&mut events, &[0, 1, 2, 3, 4].map(service))
        .await;

    for compact in [false, true, true] {
        proxy.cut();
        let err = through
            .get_service("greeter", Default::default())
            .await
            .unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unavailable, "{err:?}");
        // Nodes leave, come, leave and come again, and change.
        direct
            .deregister(&service(0), DeregisterOptions::default())
            .await
            .unwrap();
        direct
            .deregister(&service(1), DeregisterOptions::default())
            .await
            .unwrap();
        register(7).await;
        direct
            .deregister(&service(7), DeregisterOptions::default())
            .await
            .unwrap();
        register(1).await;
        register(8).await;
        let moved = Service::new("greeter", "v1").with_node(Node::new("node-02", "127.0.0.1:9"));
        direct
            .register(&moved, RegisterOptions::default())
            .await
            .unwrap();
        if compact {
            let client = etcd.client();
            let now = client.put("other", "", 0).await.unwrap();
            client.compact(now.revision).await.unwrap();
        }
        proxy.open().await;
        let now = look(&*direct, "greeter").await;
        heard.until(&mut events, &now).await;
        // It goes on from there, and is as it was for the next round.
        register(0).await;
        register(2).await;
        direct
            .deregister(&service(8), DeregisterOptions::default())
            .await
            .unwrap();
        heard
            .until(&mut events, &[0, 1, 2, 3, 4].map(service))
            .await;
    }
    // Nothing more is said than is so.
    assert!(
        timeout(Duration::from_millis(300), events.next())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn an_etcd_that_lost_its_data_is_believed_as_a_whole() {
    let Some(mut etcd) = Etcd::start("etcd wiped").await else {
        return;
    };
    let registry = open(&with_option(&etcd.url(), "timeout", "1s"));
    for i in 0..5 {
        registry
            .register(&service(i), opts(Duration::from_secs(60)))
            .await
            .unwrap();
    }
    let mut events = watch(&*registry).await;
    etcd.kill();
    etcd.wipe();
    etcd.run().await;
    // The lease is unknown there, so the very next heartbeat registers anew.
    registry
        .register(&service(0), opts(Duration::from_secs(60)))
        .await
        .unwrap();
    let mut left = 5;
    while left > 1 {
        let event = timeout(PATIENCE, events.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        match event.kind {
            EventKind::Delete => {
                // In one event, so that whoever calls these nodes can doubt it.
                assert!(event.service.nodes.len() > 1, "{event:?}");
                left -= event.service.nodes.len();
            }
            _ => left += event.service.nodes.len(),
        }
    }
    let found = look(&*registry, "greeter").await;
    assert_eq!(found, [service(0)]);
}

#[tokio::test]
async fn a_silent_etcd_is_given_up_in_time_and_found_again() {
    let Some(etcd) = Etcd::start("etcd silent").await else {
        return;
    };
    let mut proxy = Proxy::start(etcd.port()).await;
    let registry = open(&with_option(&proxy.url(), "timeout", "800ms"));
    let ttl = Duration::from_secs(60);
    registry.register(&service(0), opts(ttl)).await.unwrap();
    proxy.swallow().await;
    let began = Instant::now();
    let second = service(1);
    let calls = async {
        let (one, two, three) = tokio::join!(
            registry.register(&second, opts(ttl)),
            registry.get_service("greeter", Default::default()),
            registry.watch(WatchOptions::default()),
        );
        [one.unwrap_err(), two.unwrap_err(), three.err().unwrap()]
    };
    for err in calls.await {
        assert_eq!(err.kind(), ErrorKind::Unavailable, "{err:?}");
        assert!(err.is_retryable());
    }
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    proxy.cut();
    proxy.open().await;
    eventually("it is found again", async || {
        registry.register(&service(1), opts(ttl)).await.is_ok()
    })
    .await;
    assert_eq!(look(&*registry, "greeter").await[0].nodes.len(), 2);
}

#[tokio::test]
async fn a_registration_that_was_cut_off_never_undoes_what_followed() {
    let Some(etcd) = Etcd::start("etcd cut off").await else {
        return;
    };
    let mut proxy = Proxy::start(etcd.port()).await;
    let through = open(&with_option(&proxy.url(), "timeout", "2s"));
    let direct = open(&etcd.url());
    let first = service(0);
    for round in 0..30_u64 {
        let registering = through.register(&first, opts(Duration::from_secs(60)));
        let cut = async {
            sleep(Duration::from_micros(round * 200)).await;
            proxy.cut();
            proxy.open().await;
        };
        let (registered, ()) = tokio::join!(registering, cut);
        if let Err(err) = registered {
            assert_eq!(err.kind(), ErrorKind::Unavailable, "{err:?}");
        }
        eventually("it leaves", async || {
            through
                .deregister(&service(0), DeregisterOptions::default())
                .await
                .is_ok()
        })
        .await;
        assert!(look(&*direct, "greeter").await.is_empty(), "round {round}");
    }
    sleep(Duration::from_millis(300)).await;
    assert!(look(&*direct, "greeter").await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f15_a_fleet_that_lost_its_etcd_comes_back_spread_out() {
    const CLIENTS: usize = 150;
    let slice = Duration::from_millis(100);
    let Some(etcd) = Etcd::start("etcd herd").await else {
        return;
    };
    let mut proxy = Proxy::start(etcd.port()).await;
    let url = with_option(&proxy.url(), "timeout", "3s");
    let direct = open(&etcd.url());
    direct
        .register(&service(0), RegisterOptions::default())
        .await
        .unwrap();
    let fleet: Vec<_> = (0..CLIENTS).map(|_| open(&url)).collect();
    let mut watches = join_all(fleet.iter().map(|registry| watch(&**registry))).await;
    // Everybody listens, through an outage that is long enough to make them patient.
    proxy.cut();
    let listening: Vec<_> = watches
        .drain(..)
        .map(|mut events| tokio::spawn(async move { events.next().await.unwrap().unwrap() }))
        .collect();
    sleep(Duration::from_secs(4)).await;
    proxy.take_times();
    proxy.open().await;
    let back = Instant::now();
    direct
        .register(&service(1), RegisterOptions::default())
        .await
        .unwrap();
    for heard in listening {
        let event = timeout(PATIENCE, heard).await.unwrap().unwrap();
        assert_eq!(event.service.nodes[0].id, "node-01");
    }
    let took = back.elapsed();
    let mut slices: BTreeMap<u128, usize> = BTreeMap::new();
    let times = proxy.take_times();
    for time in &times {
        *slices
            .entry((*time - back).as_millis() / slice.as_millis())
            .or_default() += 1;
    }
    let peak = slices.values().max().copied().unwrap_or_default();
    figure(&format!(
        "registry.etcd herd clients={CLIENTS} connections={} peak_per_100ms={peak} back_within={took:?}",
        times.len()
    ));
    assert_eq!(times.len(), CLIENTS, "one connection each");
    assert!(peak <= CLIENTS / 5, "{slices:?}");
}
