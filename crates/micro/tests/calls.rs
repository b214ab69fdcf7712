//! The whole path of a call, over real gRPC on loopback.

mod common;

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::{Fleet, Ping, Probe as _, ProbeClient, ping, until};
use micro::{CallOptions, Context, Discovery, ErrorKind, Streaming};

#[expect(clippy::disallowed_methods, reason = "a test measures real time")]
fn now() -> Instant {
    Instant::now()
}

fn within(limit: Duration) -> Context {
    Context::new().with_timeout(limit)
}

#[tokio::test]
async fn all_four_shapes_by_name() {
    let fleet = Fleet::new();
    let (_running, _) = fleet.start("probe", "probe-1").await;
    let probe = fleet.probe("probe").await;
    let cx = within(Duration::from_secs(10));

    assert_eq!(
        probe.echo(&cx, ping("hello", 7)).await.unwrap(),
        ping("hello", 7)
    );
    let counted = probe
        .count(&cx, ping("n", 1000))
        .await
        .unwrap()
        .collect(2000)
        .await
        .unwrap();
    assert!(counted.iter().map(|ping| ping.number).eq(0..1000));
    let pings: Streaming<Ping> = (1..=100).map(|number| ping("", number)).collect();
    assert_eq!(probe.sum(&cx, pings).await.unwrap().number, 5050);
    let (sender, pings) = Streaming::channel(1);
    let mut chat = probe.chat(&cx, pings).await.unwrap();
    for number in 0..10 {
        // Each reply before the next request: nothing is held back on the way.
        sender.send(ping("chat", number)).await.unwrap();
        assert_eq!(chat.next().await.unwrap().unwrap().number, number);
    }
    drop(sender);
    assert!(chat.next().await.is_none());
}

#[tokio::test]
async fn metadata_travel_both_ways() {
    let fleet = Fleet::new();
    let (_running, _) = fleet.start("probe", "probe-1").await;
    let probe = fleet.probe("probe").await;
    let (cx, received) = within(Duration::from_secs(10))
        .with_metadata("X-Tenant", "acme")
        .unwrap()
        .with_received();
    probe.echo(&cx, ping("", 0)).await.unwrap();
    let metadata = received.metadata().unwrap();
    assert_eq!(metadata.get("x-tenant-seen"), Some("acme"));
    assert_eq!(metadata.get("x-node"), Some("probe-1"));
}

#[tokio::test]
async fn every_code_comes_back_as_its_kind() {
    let fleet = Fleet::new();
    let (_running, _) = fleet.start("probe", "probe-1").await;
    let probe = fleet.probe("probe").await;
    for code in 1..=16 {
        let err = probe
            .fail(&within(Duration::from_secs(10)), ping("föö % \n", code))
            .await
            .unwrap_err();
        assert_eq!(u64::from(err.kind().code()), code);
        assert_eq!(err.message(), "föö % \n");
    }
}

#[tokio::test]
async fn a_panic_is_internal_and_the_server_lives_on() {
    let fleet = Fleet::new();
    let (_running, _) = fleet.start("probe", "probe-1").await;
    let probe = fleet.probe("probe").await;
    let err = probe
        .panic(&within(Duration::from_secs(10)), ping("secret", 0))
        .await
        .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Internal);
    assert!(!err.message().contains("secret"), "{err}");
    probe
        .echo(&within(Duration::from_secs(10)), ping("", 0))
        .await
        .unwrap();
}

#[tokio::test]
async fn the_first_call_waits_for_the_service_to_start() {
    let fleet = Fleet::new();
    let probe = fleet.probe("late").await;
    let call = tokio::spawn(async move {
        probe
            .echo(&within(Duration::from_secs(10)), ping("", 1))
            .await
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (_running, _) = fleet.start("late", "late-1").await;
    call.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_missing_service_is_explained() {
    let fleet = Fleet::new();
    let (_running, _) = fleet.start("greeter", "greeter-1").await;
    let client = fleet.client().await;
    let fail_fast = CallOptions::new().with_discovery(Discovery::FailFast);
    let probe = ProbeClient::new(client.with_options(fail_fast), "greter");
    let start = now();
    let err = probe
        .echo(&within(Duration::from_secs(10)), ping("", 0))
        .await
        .unwrap_err();
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(err.kind(), ErrorKind::Unavailable);
    let text = err.to_string();
    for part in [
        "'greter'",
        "registry: memory",
        "namespace: (default)",
        "waited: ",
        "services seen: greeter",
        "MICRO_REGISTRY",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let err = ProbeClient::new(client, "no such name")
        .echo(&Context::new(), ping("", 0))
        .await
        .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn one_dead_node_of_three_is_not_noticed() {
    let fleet = Fleet::new();
    let (_one, seen_one) = fleet.start("probe", "probe-1").await;
    let (_two, seen_two) = fleet.start("probe", "probe-2").await;
    // Registered, and nobody is there.
    let dead = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let node = micro::registry::Node::new("probe-3", dead.to_string());
    let service = micro::registry::Service::new("probe", "latest").with_node(node);
    fleet
        .registry
        .register(&service, Default::default())
        .await
        .unwrap();

    let probe = fleet.probe("probe").await;
    for _ in 0..200 {
        probe
            .echo(&within(Duration::from_secs(10)), ping("", 0))
            .await
            .unwrap();
    }
    let calls = [&seen_one, &seen_two].map(|seen| seen.calls.load(Ordering::SeqCst));
    assert_eq!(
        calls.iter().sum::<usize>(),
        200,
        "nothing ran twice: {calls:?}"
    );
}

#[tokio::test]
async fn a_node_that_dies_between_calls_is_left_out() {
    let fleet = Fleet::new();
    let (_one, _) = fleet.start("probe", "probe-1").await;
    let (two, _) = fleet.start("probe", "probe-2").await;
    let probe = fleet.probe("probe").await;
    for _ in 0..20 {
        probe
            .safe(&within(Duration::from_secs(10)), ping("", 0))
            .await
            .unwrap();
    }
    // No goodbye: the connection breaks, the registration stays.
    drop(two);
    for _ in 0..100 {
        probe
            .safe(&within(Duration::from_secs(10)), ping("", 0))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn only_idempotent_calls_are_repeated() {
    let fleet = Fleet::new();
    let (_one, seen) = fleet.start("probe", "probe-1").await;
    let probe = fleet.probe("probe").await;
    seen.fail.store(1, Ordering::SeqCst);
    let cx = within(Duration::from_secs(10));
    probe.echo(&cx, ping("", 0)).await.unwrap_err();
    assert_eq!(seen.calls.swap(0, Ordering::SeqCst), 1);
    probe.safe(&cx, ping("", 0)).await.unwrap_err();
    assert_eq!(seen.calls.swap(0, Ordering::SeqCst), 3);
    // A repetition further up is not repeated here.
    probe
        .safe(&cx.clone().with_attempt(1), ping("", 0))
        .await
        .unwrap_err();
    assert_eq!(seen.calls.swap(0, Ordering::SeqCst), 1);
    // The budget: many failing calls are not tripled.
    for _ in 0..200 {
        probe.safe(&cx, ping("", 0)).await.unwrap_err();
    }
    let calls = seen.calls.load(Ordering::SeqCst);
    assert!(calls <= 200 + 40 + 100, "{calls}");
}

#[tokio::test]
async fn versions_labels_and_addresses_choose_nodes() {
    let fleet = Fleet::new();
    let mut running = Vec::new();
    for (id, version, zone) in [
        ("a", "v1", "east"),
        ("b", "v2", "east"),
        ("c", "v2", "west"),
    ] {
        let change = |service: micro::Service| service.version(version).metadata("zone", zone);
        running.push(fleet.start_with("probe", id, change).await);
    }
    // Each node in turn: the default would stay with the quickest.
    let client = fleet
        .service("tester")
        .selector_url("random")
        .client()
        .await
        .unwrap();
    let nodes = async |options: CallOptions| {
        let probe = ProbeClient::new(client.with_options(options), "probe");
        let mut nodes = HashSet::new();
        for _ in 0..60 {
            let (cx, received) = within(Duration::from_secs(10)).with_received();
            probe.echo(&cx, ping("", 0)).await.unwrap();
            nodes.insert(
                received
                    .metadata()
                    .unwrap()
                    .get("x-node")
                    .unwrap()
                    .to_owned(),
            );
        }
        let mut nodes: Vec<_> = nodes.into_iter().collect();
        nodes.sort();
        nodes.join("")
    };
    assert_eq!(nodes(CallOptions::new()).await, "abc");
    assert_eq!(nodes(CallOptions::new().with_version("v2")).await, "bc");
    assert_eq!(
        nodes(CallOptions::new().with_label("zone", "east")).await,
        "ab"
    );
    assert_eq!(
        nodes(
            CallOptions::new()
                .with_version("v2")
                .with_label("zone", "west")
        )
        .await,
        "c"
    );
    let address = running[0].0.address().to_owned();
    assert_eq!(nodes(CallOptions::new().with_address(address)).await, "a");
    let probe = ProbeClient::new(
        client.with_options(CallOptions::new().with_version("v3")),
        "probe",
    );
    let err = probe
        .echo(&within(Duration::from_secs(10)), ping("", 0))
        .await
        .unwrap_err();
    assert!(err.to_string().contains("version: v3"), "{err}");
}

#[tokio::test]
async fn calls_without_a_generated_type() {
    let fleet = Fleet::new();
    let (_running, _) = fleet.start("probe", "probe-1").await;
    let client = fleet.client().await;
    let cx = within(Duration::from_secs(10));
    let reply: Ping = client
        .call("probe", "Probe.Echo", &ping("x", 1))
        .send(&cx)
        .await
        .unwrap();
    assert_eq!(reply, ping("x", 1));
    let pings: Vec<Ping> = client
        .call("probe", "/probe.Probe/Count", &ping("x", 3))
        .stream(&cx)
        .await
        .unwrap()
        .collect(10)
        .await
        .unwrap();
    assert_eq!(pings.len(), 3);
    let raw = client
        .call_raw(
            "probe",
            "Probe.Echo",
            "application/json",
            r#"{"text":"raw","number":2}"#.into(),
        )
        .metadata("x-tenant", "acme")
        .send(&cx)
        .await
        .unwrap();
    assert_eq!(raw, r#"{"text":"raw","number":2}"#);
    let messages = Streaming::from_iter([
        r#"{"text":"","number":2}"#.into(),
        r#"{"text":"","number":3}"#.into(),
    ]);
    let raw = client
        .call_raw("probe", "Probe.Sum", "application/json", Default::default())
        .messages(messages)
        .send(&cx)
        .await
        .unwrap();
    assert_eq!(raw, r#"{"text":"","number":5}"#);
    let err = client
        .call_raw(
            "probe",
            "Probe.Echo",
            "application/x-unheard-of",
            "x".into(),
        )
        .send(&cx)
        .await
        .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unimplemented);
    let err = client
        .call_raw("probe", "Probe.Nothing", "application/json", "{}".into())
        .send(&cx)
        .await
        .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unimplemented);
    let bad: micro::Result<Ping> = client
        .call("probe", "Probe.Echo", &ping("", 0))
        .metadata("bad\n", "x")
        .send(&cx)
        .await;
    assert_eq!(bad.unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn a_deadline_ends_both_sides() {
    let fleet = Fleet::new();
    let (_running, seen) = fleet.start("probe", "probe-1").await;
    let probe = fleet.probe("probe").await;
    probe
        .echo(&within(Duration::from_secs(10)), ping("", 0))
        .await
        .unwrap();
    let start = now();
    let err = probe
        .sleep(&within(Duration::from_millis(100)), ping("", 10_000))
        .await
        .unwrap_err();
    let took = start.elapsed();
    assert_eq!(err.kind(), ErrorKind::DeadlineExceeded);
    assert!((95..150).contains(&took.as_millis()), "{took:?}");
    until("the handler is dropped", || {
        seen.under_way.load(Ordering::SeqCst) == 0
    })
    .await;
    assert!(
        start.elapsed() < Duration::from_millis(250),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn the_budget_of_time_shrinks_over_three_hops() {
    let fleet = Fleet::new();
    let (_one, _) = fleet.start("one", "one-1").await;
    let (_two, _) = fleet.start("two", "two-1").await;
    let (_three, seen) = fleet.start("three", "three-1").await;
    let probe = fleet.probe("one").await;
    let reply = probe
        .left(&within(Duration::from_secs(5)), ping("two three end", 0))
        .await;
    // "end" is no service: the third hop does not call on, for nothing follows it.
    let text = match reply {
        Ok(reply) => reply.text,
        Err(err) => panic!("{err}"),
    };
    let left: Vec<u64> = text.split(' ').map(|left| left.parse().unwrap()).collect();
    assert_eq!(left.len(), 3, "{text}");
    assert!(
        left[0] >= left[1] + 20 && left[1] >= left[2] + 20,
        "{left:?}"
    );

    let start = now();
    let err = probe
        .left(
            &within(Duration::from_millis(300)),
            ping("two three end", 10_000),
        )
        .await
        .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::DeadlineExceeded);
    assert!(
        start.elapsed() < Duration::from_millis(350),
        "{:?}",
        start.elapsed()
    );
    until("the last handler is dropped", || {
        seen.under_way.load(Ordering::SeqCst) == 0
    })
    .await;
}

#[tokio::test]
async fn cancelling_the_first_hop_cancels_the_last() {
    let fleet = Fleet::new();
    let (_one, _) = fleet.start("one", "one-1").await;
    let (_two, _) = fleet.start("two", "two-1").await;
    let (_three, seen) = fleet.start("three", "three-1").await;
    let probe = fleet.probe("one").await;
    let (cx, canceller) = within(Duration::from_secs(20)).with_cancel();
    let call = tokio::spawn(async move { probe.left(&cx, ping("two three end", 10_000)).await });
    until("the call arrives", || {
        seen.under_way.load(Ordering::SeqCst) == 1
    })
    .await;
    canceller.cancel();
    let err = call.await.unwrap().unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Cancelled);
    until("the last handler is dropped", || {
        seen.under_way.load(Ordering::SeqCst) == 0
    })
    .await;
}

#[tokio::test]
async fn ten_thousand_cancelled_calls_leave_nothing_behind() {
    let fleet = Fleet::new();
    let (_running, seen) = fleet.start("probe", "probe-1").await;
    let probe = fleet.probe("probe").await;
    probe
        .echo(&within(Duration::from_secs(10)), ping("", 0))
        .await
        .unwrap();
    let tasks = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    for _ in 0..100 {
        let calls: Vec<_> = (0..100)
            .map(|_| {
                let probe = probe.clone();
                tokio::spawn(async move {
                    probe
                        .sleep(&within(Duration::from_secs(60)), ping("", 60_000))
                        .await
                })
            })
            .collect();
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        for call in calls {
            call.abort();
        }
    }
    until("every handler is dropped", || {
        seen.under_way.load(Ordering::SeqCst) == 0
    })
    .await;
    until("no task is left", || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
            <= tasks + 8
    })
    .await;
    probe
        .echo(&within(Duration::from_secs(10)), ping("", 0))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_reader_that_leaves_ends_the_stream() {
    let fleet = Fleet::new();
    let (_running, seen) = fleet.start("probe", "probe-1").await;
    let probe = fleet.probe("probe").await;
    let mut stream = probe
        .count(&within(Duration::from_secs(20)), ping("", 1 << 40))
        .await
        .unwrap();
    stream.next().await.unwrap().unwrap();
    drop(stream);
    until("the producer ends", || {
        seen.under_way.load(Ordering::SeqCst) == 0
    })
    .await;
}

#[tokio::test]
async fn a_stream_ends_at_its_deadline() {
    let fleet = Fleet::new();
    let (_running, seen) = fleet.start("probe", "probe-1").await;
    let probe = fleet.probe("probe").await;
    let mut stream = probe
        .count(&within(Duration::from_millis(200)), ping("", 1 << 40))
        .await
        .unwrap();
    let err = loop {
        match stream.next().await {
            Some(Ok(_)) => {}
            Some(Err(err)) => break err,
            None => panic!("the stream ended without a word"),
        }
    };
    assert_eq!(err.kind(), ErrorKind::DeadlineExceeded, "{err}");
    assert!(stream.next().await.is_none());
    until("the producer ends", || {
        seen.under_way.load(Ordering::SeqCst) == 0
    })
    .await;
}

#[tokio::test]
async fn a_call_in_this_process_needs_no_network() {
    let mut fleet = Fleet::new();
    fleet.transport = "memory";
    let transport = std::sync::Arc::new(micro::transport::memory::MemoryTransport::new());
    let with = |service: micro::Service| {
        service.with_transport(
            std::sync::Arc::<micro::transport::memory::MemoryTransport>::clone(&transport),
        )
    };
    let (_running, _) = fleet.start_with("probe", "probe-1", with).await;
    let client = with(fleet.service("tester")).client().await.unwrap();
    let probe = ProbeClient::new(client, "probe");
    assert_eq!(
        probe
            .echo(&within(Duration::from_secs(10)), ping("x", 1))
            .await
            .unwrap(),
        ping("x", 1)
    );
}
