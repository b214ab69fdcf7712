//! Behavior that every [`Registry`] shares.
//!
//! Registries may be slow to show a change, as multicast DNS is between machines: what must become
//! true is waited for, and what must not happen is looked for at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{FutureExt as _, StreamExt as _};
use micro_registry_core::{
    Capabilities, DeregisterOptions, Endpoint, ErrorKind, Event, EventKind, EventStream,
    GetOptions, Node, RegisterOptions, Registry, RegistryExt as _, Result, Service, Value,
    WatchOptions,
};
use tokio::time::{Instant, sleep, timeout};

use crate::harness::{Case, cases, run_cases, runtime};

type Backend = Arc<dyn Registry>;

/// How long a change may take to show.
const PATIENCE: Duration = Duration::from_secs(15);

/// Runs the suite; `open` returns a fresh, empty registry for each case.
///
/// Cases run side by side: each registry that `open` returns has a directory of its own.
///
/// # Panics
///
/// If `open` fails the first time.
pub fn run<F>(open: F) -> ExitCode
where
    F: AsyncFn() -> Result<Backend> + Clone + Send + 'static,
{
    let open = move || runtime().block_on(open());
    let capabilities = match open() {
        Ok(backend) => backend.capabilities(),
        Err(err) => panic!("the backend does not open: {err:?}"),
    };
    let mut cases = cases![Capabilities;
        missing_service_is_not_found,
        registered_service_is_found_whole,
        versions_are_separate_entries,
        nodes_of_one_version_share_an_entry,
        one_registration_may_bring_several_nodes,
        registering_a_node_again_replaces_it,
        description_is_that_of_the_last_registration,
        deregistering_removes_just_those_nodes,
        deregistering_the_last_node_removes_the_service,
        deregistering_twice_succeeds,
        a_service_can_come_back,
        similar_names_are_apart,
        names_may_be_long_and_dotted,
        list_has_each_service_once,
        an_empty_registry_lists_nothing,
        watch_reports_create_update_and_delete,
        watch_reports_every_change_of_many,
        watch_reports_no_past,
        watch_of_one_service_is_silent_about_others,
        refreshing_without_change_is_not_reported,
        a_dropped_watch_disturbs_no_other,
        bad_names_are_refused,
        incomplete_registrations_are_refused,
        odd_metadata_survive,
        long_metadata_survive,
        odd_node_ids_survive,
        ipv6_addresses_survive,
        fifty_nodes_are_found,
        concurrent_registrations_all_arrive,
        a_dropped_call_leaves_the_registry_usable,
        registration_expires if ttl,
        expiry_is_announced if ttl,
        registering_again_keeps_a_node_alive if ttl,
    ];
    cases.push(Case {
        name: "ttl_is_refused_where_it_would_be_ignored",
        applies: |capabilities: &Capabilities| !capabilities.ttl,
        run: |backend| ttl_is_refused_where_it_would_be_ignored(backend).boxed(),
    });
    run_cases(cases, &capabilities, &open)
}

async fn missing_service_is_not_found(registry: Backend) {
    let err = registry.get("nobody").await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::NotFound, "{err}");
}

async fn registered_service_is_found_whole(registry: Backend) {
    let request = Value::new("HelloRequest", "HelloRequest")
        .with_value(Value::new("name", "string"))
        .with_value(
            Value::new("where", "Place")
                .with_value(Value::new("x", "double"))
                .with_value(Value::new("y", "double")),
        );
    let service = Service::new("greeter", "v1.2.3")
        .with_metadata("team", "hello")
        .with_endpoint(
            Endpoint::new("Greeter.Hello")
                .with_values(request, Value::new("HelloReply", "HelloReply"))
                .with_metadata("description", "Greets a person by name."),
        )
        .with_endpoint(Endpoint::new("Greeter.Watch").with_metadata("stream", "true"))
        .with_node(
            Node::new("greeter-1", "127.0.0.1:8080")
                .with_metadata("transport", "grpc")
                .with_metadata("zone", "a"),
        );
    register(&registry, &service).await;
    let found = found(&registry, "greeter", |found| !found.is_empty()).await;
    assert_eq!(found, [service]);
}

async fn versions_are_separate_entries(registry: Backend) {
    let versions = ["", "latest", "v1.2.3-rc.1+build 5"];
    for (i, version) in versions.iter().enumerate() {
        let service = Service::new("greeter", *version)
            .with_metadata("which", i.to_string())
            .with_node(Node::new(format!("node-{i}"), "127.0.0.1:1"));
        register(&registry, &service).await;
    }
    let found = found(&registry, "greeter", |found| node_ids(found).len() == 3).await;
    assert_eq!(found.len(), 3, "one entry per version: {found:?}");
    for (i, version) in versions.iter().enumerate() {
        let entry = found.iter().find(|entry| entry.version == *version);
        let entry = entry.unwrap_or_else(|| panic!("version '{version}' is missing: {found:?}"));
        assert_eq!(entry.metadata["which"], i.to_string());
        assert_eq!(entry.nodes[0].id, format!("node-{i}"));
        assert_eq!(entry.nodes.len(), 1);
    }
}

async fn nodes_of_one_version_share_an_entry(registry: Backend) {
    register(&registry, &greeter("a", "127.0.0.1:1")).await;
    register(&registry, &greeter("b", "127.0.0.1:2")).await;
    let found = found(&registry, "greeter", |found| node_ids(found).len() == 2).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        addresses(&found),
        [("a", "127.0.0.1:1"), ("b", "127.0.0.1:2")]
    );
}

async fn one_registration_may_bring_several_nodes(registry: Backend) {
    let service = greeter("a", "127.0.0.1:1").with_node(Node::new("b", "127.0.0.1:2"));
    register(&registry, &service).await;
    let found = found(&registry, "greeter", |found| node_ids(found).len() == 2).await;
    assert_eq!(
        addresses(&found),
        [("a", "127.0.0.1:1"), ("b", "127.0.0.1:2")]
    );
}

async fn registering_a_node_again_replaces_it(registry: Backend) {
    register(&registry, &greeter("a", "127.0.0.1:1")).await;
    found(&registry, "greeter", |found| !found.is_empty()).await;
    let moved = Service::new("greeter", "v1")
        .with_node(Node::new("a", "127.0.0.1:2").with_metadata("zone", "b"));
    register(&registry, &moved).await;
    let found = found(&registry, "greeter", |found| {
        addresses(found).iter().any(|(_, at)| *at == "127.0.0.1:2")
    })
    .await;
    assert_eq!(found, [moved]);
}

async fn description_is_that_of_the_last_registration(registry: Backend) {
    let first = greeter("a", "127.0.0.1:1")
        .with_metadata("build", "1")
        .with_endpoint(Endpoint::new("Greeter.Hello"));
    register(&registry, &first).await;
    found(&registry, "greeter", |found| !found.is_empty()).await;
    let second = greeter("a", "127.0.0.1:1")
        .with_metadata("build", "2")
        .with_endpoint(Endpoint::new("Greeter.Hello"))
        .with_endpoint(Endpoint::new("Greeter.Bye"));
    register(&registry, &second).await;
    let found = found(&registry, "greeter", |found| {
        found.iter().any(|entry| {
            entry
                .metadata
                .get("build")
                .is_some_and(|build| build == "2")
        })
    })
    .await;
    assert_eq!(found, [second]);
}

async fn deregistering_removes_just_those_nodes(registry: Backend) {
    for (id, address) in [("a", "127.0.0.1:1"), ("b", "127.0.0.1:2")] {
        register(&registry, &greeter(id, address)).await;
    }
    let other = Service::new("greeter", "v2").with_node(Node::new("c", "127.0.0.1:3"));
    register(&registry, &other).await;
    found(&registry, "greeter", |found| node_ids(found).len() == 3).await;
    deregister(&registry, &greeter("a", "127.0.0.1:1")).await;
    let found = found(&registry, "greeter", |found| node_ids(found).len() == 2).await;
    assert_eq!(
        addresses(&found),
        [("b", "127.0.0.1:2"), ("c", "127.0.0.1:3")]
    );
}

async fn deregistering_the_last_node_removes_the_service(registry: Backend) {
    let service = greeter("a", "127.0.0.1:1");
    register(&registry, &service).await;
    found(&registry, "greeter", |found| !found.is_empty()).await;
    // By id: the address may be another by then.
    deregister(&registry, &greeter("a", "127.0.0.1:9")).await;
    gone(&registry, "greeter").await;
    let listed = registry.list().await.unwrap();
    assert!(listed.is_empty(), "{listed:?}");
}

async fn deregistering_twice_succeeds(registry: Backend) {
    let service = greeter("a", "127.0.0.1:1");
    deregister(&registry, &service).await;
    register(&registry, &service).await;
    deregister(&registry, &service).await;
    deregister(&registry, &service).await;
    gone(&registry, "greeter").await;
}

async fn a_service_can_come_back(registry: Backend) {
    let service = greeter("a", "127.0.0.1:1");
    for _ in 0..3 {
        register(&registry, &service).await;
        found(&registry, "greeter", |found| !found.is_empty()).await;
        deregister(&registry, &service).await;
        gone(&registry, "greeter").await;
    }
}

async fn similar_names_are_apart(registry: Backend) {
    let names = ["greet", "greeter", "greeter-2", "greeter.v2", "my.greeter"];
    for name in names {
        let service = Service::new(name, "v1").with_node(Node::new(name, "127.0.0.1:1"));
        register(&registry, &service).await;
    }
    for name in names {
        let found = found(&registry, name, |found| !found.is_empty()).await;
        assert_eq!(node_ids(&found), BTreeSet::from([name]), "{found:?}");
        assert!(found.iter().all(|entry| entry.name == name), "{found:?}");
    }
    // Nor does removing one touch those that begin alike.
    let service = Service::new("greeter", "v1").with_node(Node::new("greeter", "127.0.0.1:1"));
    deregister(&registry, &service).await;
    gone(&registry, "greeter").await;
    found(&registry, "greeter-2", |found| !found.is_empty()).await;
    found(&registry, "greeter.v2", |found| !found.is_empty()).await;
}

async fn names_may_be_long_and_dotted(registry: Backend) {
    let mut long = "a".repeat(63);
    long.push('.');
    long.push_str(&"b".repeat(64));
    // They differ in their last character only, far behind where a label or a key may be cut.
    let other = format!("{}c", &long[..127]);
    for name in ["go.micro.srv.greeter", &long, &other] {
        let service = Service::new(name, "v1").with_node(Node::new("a", "127.0.0.1:1"));
        register(&registry, &service).await;
        let found = found(&registry, name, |found| !found.is_empty()).await;
        assert_eq!(found, [service]);
    }
    gone_after_deregistering(&registry, &other).await;
    found(&registry, &long, |found| !found.is_empty()).await;
}

async fn gone_after_deregistering(registry: &Backend, name: &str) {
    let service = Service::new(name, "v1").with_node(Node::new("a", "127.0.0.1:1"));
    deregister(registry, &service).await;
    gone(registry, name).await;
}

async fn list_has_each_service_once(registry: Backend) {
    for name in ["a", "b", "c"] {
        for node in ["1", "2"] {
            let service = Service::new(name, "v1")
                .with_node(Node::new(format!("{name}-{node}"), "127.0.0.1:1"));
            register(&registry, &service).await;
        }
    }
    let until = Instant::now() + PATIENCE;
    loop {
        let listed = registry.list().await.unwrap();
        let mut names: Vec<_> = listed.iter().map(|service| &*service.name).collect();
        names.sort_unstable();
        if names == ["a", "b", "c"] {
            return;
        }
        assert!(Instant::now() < until, "the list is {names:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

async fn an_empty_registry_lists_nothing(registry: Backend) {
    let listed = registry.list().await.unwrap();
    assert!(listed.is_empty(), "{listed:?}");
}

async fn watch_reports_create_update_and_delete(registry: Backend) {
    let mut events = watch(&registry, "greeter").await;
    register(&registry, &greeter("a", "127.0.0.1:1")).await;
    let event = next(&mut events).await;
    assert_eq!(
        event,
        Event::new(EventKind::Create, greeter("a", "127.0.0.1:1"))
    );

    register(&registry, &greeter("b", "127.0.0.1:2")).await;
    let event = next(&mut events).await;
    assert_eq!(event.kind, EventKind::Create);
    // The node that is new, and no other.
    assert_eq!(event.service.nodes, [Node::new("b", "127.0.0.1:2")]);

    let moved = Service::new("greeter", "v1")
        .with_node(Node::new("a", "127.0.0.1:3").with_metadata("zone", "b"));
    register(&registry, &moved).await;
    assert_eq!(
        next(&mut events).await,
        Event::new(EventKind::Update, moved)
    );

    deregister(&registry, &greeter("b", "127.0.0.1:2")).await;
    let event = next(&mut events).await;
    assert_eq!(event.kind, EventKind::Delete);
    assert_eq!(node_ids(&[event.service]), BTreeSet::from(["b"]));
}

async fn watch_reports_every_change_of_many(registry: Backend) {
    let mut events = registry.watch(WatchOptions::default()).await.unwrap();
    for i in 0..20 {
        let service = Service::new(format!("service-{}", i % 4), "v1")
            .with_node(Node::new(format!("node-{i}"), "127.0.0.1:1"));
        register(&registry, &service).await;
    }
    let mut seen = BTreeSet::new();
    while seen.len() < 20 {
        let event = next(&mut events).await;
        assert_eq!(event.kind, EventKind::Create, "{event:?}");
        for node in event.service.nodes {
            assert!(seen.insert(node.id.clone()), "{} came twice", node.id);
        }
    }
}

async fn watch_reports_no_past(registry: Backend) {
    register(&registry, &greeter("a", "127.0.0.1:1")).await;
    found(&registry, "greeter", |found| !found.is_empty()).await;
    let mut events = watch(&registry, "greeter").await;
    register(&registry, &greeter("b", "127.0.0.1:2")).await;
    let event = next(&mut events).await;
    assert_eq!(node_ids(&[event.service]), BTreeSet::from(["b"]));
}

async fn watch_of_one_service_is_silent_about_others(registry: Backend) {
    let mut events = watch(&registry, "greeter").await;
    for name in ["greet", "greeter-2", "greeter.v2"] {
        let service = Service::new(name, "v1").with_node(Node::new(name, "127.0.0.1:1"));
        register(&registry, &service).await;
        deregister(&registry, &service).await;
    }
    register(&registry, &greeter("a", "127.0.0.1:1")).await;
    let event = next(&mut events).await;
    assert_eq!(event.service.name, "greeter", "{event:?}");
}

async fn refreshing_without_change_is_not_reported(registry: Backend) {
    let mut events = watch(&registry, "greeter").await;
    for _ in 0..3 {
        register(&registry, &greeter("a", "127.0.0.1:1")).await;
    }
    register(&registry, &greeter("b", "127.0.0.1:2")).await;
    // Two changes; which of the nodes is seen first is up to the backend.
    let mut seen = Vec::new();
    for _ in 0..2 {
        let event = next(&mut events).await;
        assert_eq!(event.kind, EventKind::Create, "{event:?}");
        seen.extend(event.service.nodes.into_iter().map(|node| node.id));
    }
    seen.sort();
    assert_eq!(seen, ["a", "b"]);
}

async fn a_dropped_watch_disturbs_no_other(registry: Backend) {
    let dropped = watch(&registry, "greeter").await;
    let mut kept = watch(&registry, "greeter").await;
    drop(dropped);
    register(&registry, &greeter("a", "127.0.0.1:1")).await;
    assert_eq!(next(&mut kept).await.kind, EventKind::Create);
}

async fn bad_names_are_refused(registry: Backend) {
    let long = "a".repeat(129);
    for name in ["", "a b", "a/b", "../a", "-a", "a.", "ä", "a\nb", &long] {
        let service = Service::new(name, "v1").with_node(Node::new("a", "127.0.0.1:1"));
        let results = [
            registry
                .register(&service, RegisterOptions::default())
                .await,
            registry
                .deregister(&service, DeregisterOptions::default())
                .await,
            registry.get(name).await.map(drop),
            registry
                .watch(WatchOptions::default().with_service(name))
                .await
                .map(drop),
        ];
        for (result, call) in results
            .iter()
            .zip(["register", "deregister", "get", "watch"])
        {
            let err = match result {
                Ok(()) => panic!("{call} accepted {name:?}"),
                Err(err) => err,
            };
            assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{call}: {err}");
        }
    }
}

async fn incomplete_registrations_are_refused(registry: Backend) {
    let bare = Service::new("greeter", "v1");
    for service in [
        bare.clone(),
        bare.clone().with_node(Node::new("", "127.0.0.1:1")),
        bare.clone().with_node(Node::new("a", "")),
        // One good node does not excuse another.
        bare.clone()
            .with_node(Node::new("a", "127.0.0.1:1"))
            .with_node(Node::new("b", "")),
    ] {
        let opts = RegisterOptions::default();
        let err = registry.register(&service, opts).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{err}");
    }
    let err = registry.get("greeter").await.unwrap_err();
    assert_eq!(
        err.kind(),
        ErrorKind::NotFound,
        "half of it remained: {err}"
    );
}

async fn odd_metadata_survive(registry: Backend) {
    let odd = [
        ("empty", ""),
        ("spaces", "  a  b  "),
        ("unicode", "größe 東京 🦀"),
        ("equals", "a=b=c"),
        ("a=b", "the name has an equals sign"),
        ("größe", "the name is not ASCII"),
        ("Case", "upper"),
        ("case", "lower"),
        ("lines", "one\ntwo\r\n\tthree"),
        ("quotes", r#"{"json": "\\"}"#),
    ];
    let metadata: BTreeMap<String, String> = odd
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let mut service = greeter("a", "127.0.0.1:1");
    service.metadata.clone_from(&metadata);
    service.nodes[0].metadata.clone_from(&metadata);
    service.endpoints = vec![Endpoint::new("Greeter.Hello")];
    service.endpoints[0].metadata = metadata;
    register(&registry, &service).await;
    let found = found(&registry, "greeter", |found| !found.is_empty()).await;
    assert_eq!(found, [service]);
}

async fn long_metadata_survive(registry: Backend) {
    let mut node = Node::new("a", "127.0.0.1:1").with_metadata("long", "x".repeat(1000));
    for i in 0..30 {
        node = node.with_metadata(format!("name-{i}"), format!("value-{i}"));
    }
    let service = Service::new("greeter", "v1").with_node(node);
    register(&registry, &service).await;
    let found = found(&registry, "greeter", |found| !found.is_empty()).await;
    assert_eq!(found, [service]);
}

async fn odd_node_ids_survive(registry: Backend) {
    let long = format!("greeter-{}", "x".repeat(200));
    let ids = ["a/b", "a b", "a.b.", "größe", "A", "a", "a\\b", &long];
    for id in ids {
        register(&registry, &greeter(id, "127.0.0.1:1")).await;
    }
    let all = found(&registry, "greeter", |found| {
        node_ids(found).len() == ids.len()
    })
    .await;
    assert_eq!(node_ids(&all), BTreeSet::from(ids));
    deregister(&registry, &greeter("a", "127.0.0.1:1")).await;
    let rest = found(&registry, "greeter", |found| {
        node_ids(found).len() == ids.len() - 1
    })
    .await;
    assert!(!node_ids(&rest).contains("a"));
}

async fn ipv6_addresses_survive(registry: Backend) {
    register(&registry, &greeter("loopback", "[::1]:8080")).await;
    register(&registry, &greeter("far", "[2001:db8::7]:65535")).await;
    let found = found(&registry, "greeter", |found| node_ids(found).len() == 2).await;
    assert_eq!(
        addresses(&found),
        [("far", "[2001:db8::7]:65535"), ("loopback", "[::1]:8080")]
    );
}

async fn fifty_nodes_are_found(registry: Backend) {
    for i in 0..50 {
        let node = Node::new(format!("node-{i}"), format!("127.0.0.1:{}", 1000 + i));
        register(&registry, &Service::new("greeter", "v1").with_node(node)).await;
    }
    let found = found(&registry, "greeter", |found| node_ids(found).len() == 50).await;
    assert_eq!(found.len(), 1);
    let distinct: BTreeSet<_> = addresses(&found).into_iter().map(|(_, at)| at).collect();
    assert_eq!(distinct.len(), 50);
}

async fn concurrent_registrations_all_arrive(registry: Backend) {
    let tasks = (0..20).map(|i| {
        let registry = Arc::clone(&registry);
        tokio::spawn(async move {
            let id = format!("node-{i}");
            register(&registry, &greeter(&id, "127.0.0.1:1")).await;
            // Every other one leaves again.
            if i % 2 == 1 {
                deregister(&registry, &greeter(&id, "127.0.0.1:1")).await;
            }
        })
    });
    for done in join_all(tasks).await {
        done.unwrap();
    }
    let found = found(&registry, "greeter", |found| node_ids(found).len() == 10).await;
    let even: BTreeSet<String> = (0..20).step_by(2).map(|i| format!("node-{i}")).collect();
    assert_eq!(node_ids(&found), even.iter().map(String::as_str).collect());
}

async fn a_dropped_call_leaves_the_registry_usable(registry: Backend) {
    let service = greeter("a", "127.0.0.1:1");
    for _ in 0..5 {
        let _ = registry
            .register(&service, RegisterOptions::default())
            .now_or_never();
        let _ = registry
            .get_service("greeter", GetOptions::default())
            .now_or_never();
        let _ = registry.list().now_or_never();
        let _ = registry.watch(WatchOptions::default()).now_or_never();
        let _ = registry
            .deregister(&service, DeregisterOptions::default())
            .now_or_never();
    }
    register(&registry, &service).await;
    let found = found(&registry, "greeter", |found| !found.is_empty()).await;
    assert_eq!(found, std::slice::from_ref(&service));
    deregister(&registry, &service).await;
    gone(&registry, "greeter").await;
}

async fn registration_expires(registry: Backend) {
    let opts = RegisterOptions::default().with_ttl(Duration::from_secs(1));
    let leaving = greeter("leaving", "127.0.0.1:1");
    registry.register(&leaving, opts).await.unwrap();
    register(&registry, &greeter("staying", "127.0.0.1:2")).await;
    found(&registry, "greeter", |found| {
        node_ids(found).contains("staying")
    })
    .await;
    let left = found(&registry, "greeter", |found| node_ids(found).len() == 1).await;
    assert_eq!(node_ids(&left), BTreeSet::from(["staying"]));
}

async fn expiry_is_announced(registry: Backend) {
    let mut events = watch(&registry, "greeter").await;
    let opts = RegisterOptions::default().with_ttl(Duration::from_secs(1));
    let service = greeter("a", "127.0.0.1:1");
    registry.register(&service, opts).await.unwrap();
    assert_eq!(next(&mut events).await.kind, EventKind::Create);
    let event = next(&mut events).await;
    assert_eq!(event.kind, EventKind::Delete);
    assert_eq!(node_ids(&[event.service]), BTreeSet::from(["a"]));
    gone(&registry, "greeter").await;
}

async fn registering_again_keeps_a_node_alive(registry: Backend) {
    let ttl = Duration::from_secs(2);
    let service = greeter("a", "127.0.0.1:1");
    let until = Instant::now() + 2 * ttl;
    let mut seen = false;
    while Instant::now() < until {
        let opts = RegisterOptions::default().with_ttl(ttl);
        registry.register(&service, opts).await.unwrap();
        sleep(ttl / 8).await;
        let found = registry.get("greeter").await.is_ok();
        assert!(found || !seen, "it vanished while it was kept alive");
        seen |= found;
    }
    assert!(seen, "it never showed");
}

async fn ttl_is_refused_where_it_would_be_ignored(registry: Backend) {
    let opts = RegisterOptions::default().with_ttl(Duration::from_secs(30));
    let service = greeter("a", "127.0.0.1:1");
    let err = registry.register(&service, opts).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unimplemented, "{err}");
}

fn greeter(id: &str, address: &str) -> Service {
    Service::new("greeter", "v1").with_node(Node::new(id, address))
}

async fn register(registry: &Backend, service: &Service) {
    let opts = RegisterOptions::default();
    registry.register(service, opts).await.unwrap();
}

async fn deregister(registry: &Backend, service: &Service) {
    let opts = DeregisterOptions::default();
    registry.deregister(service, opts).await.unwrap();
}

async fn watch(registry: &Backend, name: &str) -> EventStream {
    let opts = WatchOptions::default().with_service(name);
    registry.watch(opts).await.unwrap()
}

async fn next(events: &mut EventStream) -> Event {
    match timeout(PATIENCE, events.next()).await {
        Ok(Some(Ok(event))) => event,
        Ok(Some(Err(err))) => panic!("the watch failed: {err:?}"),
        Ok(None) => panic!("the watch ended"),
        Err(_) => panic!("no event came within {PATIENCE:?}"),
    }
}

/// Waits until what is found is as it should be; nothing found is an empty list.
async fn found(registry: &Backend, name: &str, good: impl Fn(&[Service]) -> bool) -> Vec<Service> {
    let until = Instant::now() + PATIENCE;
    loop {
        let found = match registry.get(name).await {
            Ok(found) => {
                assert!(
                    found.iter().all(|entry| !entry.nodes.is_empty()),
                    "an entry without nodes: {found:?}"
                );
                found
            }
            Err(err) if err.kind() == ErrorKind::NotFound => Vec::new(),
            Err(err) => panic!("{err:?}"),
        };
        if good(&found) {
            return found;
        }
        assert!(Instant::now() < until, "{name} is still {found:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

async fn gone(registry: &Backend, name: &str) {
    found(registry, name, <[Service]>::is_empty).await;
}

fn node_ids(services: &[Service]) -> BTreeSet<&str> {
    services
        .iter()
        .flat_map(|service| &service.nodes)
        .map(|node| &*node.id)
        .collect()
}

fn addresses(services: &[Service]) -> Vec<(&str, &str)> {
    let mut all: Vec<_> = services
        .iter()
        .flat_map(|service| &service.nodes)
        .map(|node| (&*node.id, &*node.address))
        .collect();
    all.sort_unstable();
    all
}
