//! Discovery between programs and between hosts: how fast, who sees whom, and what a crash leaves.

mod common;

use std::time::Duration;

use futures_util::StreamExt as _;
use micro_registry_core::{EventKind, RegisterOptions, Registry as _, RegistryExt as _, Service};
use micro_registry_mdns::MdnsConfig;
use tokio::time::{Instant, sleep, timeout};

use common::*;

const MS: fn(u64) -> Duration = Duration::from_millis;

#[tokio::test(flavor = "multi_thread")]
async fn two_programs_find_each_other_and_notice_a_goodbye() {
    let port = free_port();
    let (a, b) = (open(loopback(port), ""), open(loopback(port), ""));
    // The first lookup asks the network; nobody is there.
    let start = Instant::now();
    assert!(nodes(&b).await.is_empty());
    figure(&format!("nobody there: {:?}", start.elapsed()));
    assert!(start.elapsed() < MS(1800));

    let service = greeter("a", "127.0.0.1:8080");
    let start = Instant::now();
    register(&a, &service).await;
    let seen = until_nodes(&b, &["a"]).await;
    figure(&format!(
        "register: {:?}, seen by another: {seen:?} later",
        start.elapsed() - seen
    ));
    assert!(seen < MS(1000), "{seen:?}");
    assert_eq!(
        b.get("greeter").await.unwrap(),
        std::slice::from_ref(&service)
    );

    let start = Instant::now();
    assert_eq!(nodes(&b).await.len(), 1);
    figure(&format!("lookup of a known service: {:?}", start.elapsed()));
    assert!(start.elapsed() < MS(20));

    deregister(&a, &service).await;
    let gone = until_nodes(&b, &[]).await;
    figure(&format!("goodbye to gone: {gone:?}"));
    assert!(gone < MS(2000), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_comes_later_finds_who_is_there() {
    let port = free_port();
    let a = open(loopback(port), "");
    register(&a, &greeter("a", "127.0.0.1:1")).await;
    // Past the time in which the daemon would not repeat itself.
    sleep(MS(2500)).await;
    let b = open(loopback(port), "");
    let start = Instant::now();
    assert_eq!(nodes(&b).await.len(), 1);
    figure(&format!(
        "first lookup of a new program: {:?}",
        start.elapsed()
    ));
    assert!(start.elapsed() < MS(500), "{:?}", start.elapsed());
    // At once after another asked: the worst case, for the answer may not be repeated yet.
    let c = open(loopback(port), "");
    let start = Instant::now();
    assert_eq!(nodes(&c).await.len(), 1);
    figure(&format!(
        "first lookup right after another: {:?}",
        start.elapsed()
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_registry_says_goodbye() {
    let port = free_port();
    let (a, b) = (open(loopback(port), ""), open(loopback(port), ""));
    register(&a, &greeter("a", "127.0.0.1:1")).await;
    until_nodes(&b, &["a"]).await;
    let start = Instant::now();
    drop(a);
    figure(&format!("drop: {:?}", start.elapsed()));
    assert!(start.elapsed() < MS(600));
    let gone = until_nodes(&b, &[]).await;
    assert!(gone < MS(2000), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_do_not_meet() {
    let port = free_port();
    let ada = open(loopback(port), "ada");
    let bob = open(loopback(port), "bob");
    let nobody = open(loopback(port), "");
    // The same node everywhere: its names must not collide, either.
    for (registry, address) in [
        (&ada, "127.0.0.1:1"),
        (&bob, "127.0.0.1:2"),
        (&nobody, "127.0.0.1:3"),
    ] {
        register(registry, &greeter("a", address)).await;
    }
    let mut watch = open(loopback(port), "ada")
        .watch(Default::default())
        .await
        .unwrap();
    let mut others = Vec::new();
    for (namespace, address) in [
        ("ada", "127.0.0.1:1"),
        ("bob", "127.0.0.1:2"),
        ("", "127.0.0.1:3"),
    ] {
        let other = open(loopback(port), namespace);
        until_nodes(&other, &["a"]).await;
        assert_eq!(nodes(&other).await, [("a".to_owned(), address.to_owned())]);
        let listed = other.list().await.unwrap();
        assert_eq!(listed.len(), 1, "{listed:?}");
        assert_eq!(listed[0].nodes.len(), 1, "{listed:?}");
        others.push(other);
    }
    // One leaves: the others hear nothing of it.
    deregister(&bob, &greeter("a", "127.0.0.1:2")).await;
    until_nodes(&others[1], &[]).await;
    assert_eq!(nodes(&others[0]).await.len(), 1);
    assert_eq!(nodes(&others[2]).await.len(), 1);
    while let Ok(Some(event)) = timeout(MS(100), watch.next()).await {
        assert_eq!(event.unwrap().service.nodes[0].address, "127.0.0.1:1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_node_is_an_update() {
    let port = free_port();
    let (a, b) = (open(loopback(port), ""), open(loopback(port), ""));
    let mut watch = b.watch(Default::default()).await.unwrap();
    register(&a, &greeter("a", "127.0.0.1:1")).await;
    let mut kinds = Vec::new();
    for build in ["1", "2", "3"] {
        let event = timeout(PATIENCE, watch.next()).await.unwrap().unwrap();
        kinds.push(event.unwrap().kind);
        let service = greeter("a", "127.0.0.1:1").with_metadata("build", build);
        let start = Instant::now();
        register(&a, &service).await;
        while b.get("greeter").await.unwrap()[0].metadata.get("build") != Some(&build.to_owned()) {
            sleep(MS(5)).await;
            assert!(start.elapsed() < PATIENCE);
        }
        figure(&format!("update seen: {:?}", start.elapsed()));
    }
    assert_eq!(
        kinds,
        [EventKind::Create, EventKind::Update, EventKind::Update]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_program_is_gone_by_its_ttl_and_a_living_one_stays() {
    let port = free_port();
    let b = open(loopback(port), "");
    let port = port.to_string();
    let settings = [("TEST_PORT", &*port), ("TEST_TTL", "3")];
    let start = |id: &'static str| {
        let mut settings = settings.to_vec();
        settings.push(("TEST_NODE", id));
        Program::start(None, "program_announces", &settings)
    };
    let (mut killed, mut living) = (start("killed"), start("living"));
    assert_eq!(killed.line().await, "ready");
    assert_eq!(living.line().await, "ready");
    until_nodes(&b, &["killed", "living"]).await;
    // Longer than the TTL: both are asked whether they are there, and are.
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        assert_eq!(nodes(&b).await.len(), 2, "one vanished while it was alive");
        sleep(MS(50)).await;
    }
    killed.child.kill().await.unwrap();
    let gone = until_nodes(&b, &["living"]).await;
    figure(&format!("kill -9 with a TTL of 3 s: gone after {gone:?}"));
    assert!(gone < Duration::from_secs(6), "{gone:?}");

    // A clean end needs no TTL.
    living.stop().await;
    let gone = until_nodes(&b, &[]).await;
    figure(&format!(
        "a program that ended cleanly: gone after {gone:?}"
    ));
    assert!(gone < MS(2000), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_that_is_not_renewed_is_withdrawn() {
    let port = free_port();
    let (a, b) = (open(loopback(port), ""), open(loopback(port), ""));
    // It listens already: otherwise it might ask too late.
    assert!(nodes(&b).await.is_empty());
    let opts = RegisterOptions::default().with_ttl(Duration::from_secs(1));
    let start = Instant::now();
    a.register(&greeter("a", "127.0.0.1:1"), opts)
        .await
        .unwrap();
    until_nodes(&b, &["a"]).await;
    until_nodes(&b, &[]).await;
    let gone = start.elapsed();
    assert!((MS(1000)..MS(3500)).contains(&gone), "{gone:?}");
}

/// A machine with no network at all.
#[tokio::test(flavor = "multi_thread")]
async fn loopback_alone_is_enough() {
    let Some(host) = Host::new("alone") else {
        skip(
            "loopback_alone_is_enough",
            "no network namespace can be made",
            "run as root with iproute2",
        );
        return;
    };
    let mut a = Program::start(Some(&host), "program_announces", &[("TEST_NODE", "a")]);
    assert_eq!(a.line().await, "ready");
    let mut b = Program::start(Some(&host), "program_looks", &[("TEST_WANT", "1")]);
    assert_eq!(b.line().await, "a=127.0.0.1:80");
    a.stop().await;
}

/// What is bound to loopback stays on its machine; what is not is found by others.
#[tokio::test(flavor = "multi_thread")]
async fn two_hosts_see_what_is_on_the_network_and_nothing_else() {
    const TEST: &str = "two_hosts_see_what_is_on_the_network_and_nothing_else";
    let hosts = (Host::new("one"), Host::new("two"));
    let (Some(one), Some(two)) = hosts else {
        skip(
            TEST,
            "no network namespace can be made",
            "run as root with iproute2",
        );
        return;
    };
    if !one.connect(&two, ["10.77.0.1/24", "10.77.0.2/24"]) {
        skip(TEST, "no veth can be made", "load the kernel module veth");
        return;
    }
    // A moment until the wire is up.
    sleep(MS(1000)).await;
    let mut programs = Vec::new();
    for (id, address) in [
        ("local", "127.0.0.1:81"),
        ("network", "10.77.0.1:82"),
        ("elsewhere", "198.51.100.7:83"),
        ("named", "one.example:84"),
    ] {
        let settings = [("TEST_NODE", id), ("TEST_ADDRESS", address)];
        let mut program = Program::start(Some(&one), "program_announces", &settings);
        assert_eq!(program.line().await, "ready");
        programs.push(program);
    }
    let mut there = Program::start(Some(&two), "program_looks", &[("TEST_WANT", "3")]);
    assert_eq!(
        there.line().await,
        "elsewhere=198.51.100.7:83 named=one.example:84 network=10.77.0.1:82"
    );
    let mut here = Program::start(Some(&one), "program_looks", &[("TEST_WANT", "4")]);
    assert_eq!(
        here.line().await,
        "elsewhere=198.51.100.7:83 local=127.0.0.1:81 named=one.example:84 network=10.77.0.1:82"
    );
    for program in programs {
        program.stop().await;
    }
}

/// Not a test: a program that announces a node until it is told to stop.
#[tokio::test(flavor = "multi_thread")]
async fn program_announces() {
    if !is_program() {
        return;
    }
    let mut config = MdnsConfig::default();
    if let Some(port) = setting("TEST_PORT") {
        config = loopback(port.parse().unwrap());
    }
    if let Some(ttl) = setting("TEST_TTL") {
        config = config.with_ttl(Duration::from_secs(ttl.parse().unwrap()));
    }
    let registry = open(config, "");
    let id = setting("TEST_NODE").unwrap();
    let address = setting("TEST_ADDRESS").unwrap_or_else(|| "127.0.0.1:80".to_owned());
    register(&registry, &greeter(&id, &address)).await;
    say("ready");
    until_told_to_stop().await;
}

/// Not a test: a program that looks until it finds as many nodes as it wants, and a bit longer.
#[tokio::test(flavor = "multi_thread")]
async fn program_looks() {
    if !is_program() {
        return;
    }
    let registry = open(MdnsConfig::default(), "");
    let want: usize = setting("TEST_WANT").unwrap().parse().unwrap();
    let start = Instant::now();
    while nodes(&registry).await.len() < want && start.elapsed() < PATIENCE / 2 {
        sleep(MS(50)).await;
    }
    // If more can be seen it is seen by now.
    sleep(MS(1500)).await;
    let found: Vec<String> = nodes(&registry)
        .await
        .into_iter()
        .map(|(id, address)| format!("{id}={address}"))
        .collect();
    say(&found.join(" "));
}

/// How many there are is a matter of the network, not of luck.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_nodes_of_ten_programs_are_all_found() {
    let port = free_port();
    let programs: Vec<_> = (0..10).map(|_| open(loopback(port), "")).collect();
    let mut ids = Vec::new();
    for (p, program) in programs.iter().enumerate() {
        for n in 0..10 {
            let id = format!("node-{p}-{n}");
            let service = Service::new("greeter", "v1").with_node(
                micro_registry_core::Node::new(&id, "127.0.0.1:1").with_metadata("zone", "a"),
            );
            register(program, &service).await;
            ids.push(id);
        }
    }
    ids.sort();
    let looker = open(loopback(port), "");
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let found = until_nodes(&looker, &ids).await;
    figure(&format!("100 nodes of 10 programs: found in {found:?}"));
    let seen = until_nodes(&programs[3], &ids).await;
    assert!(found + seen < Duration::from_secs(10), "{found:?} {seen:?}");
}
