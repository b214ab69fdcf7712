//! What happens when the API server breaks off, forgets, refuses or is told by others: against the
//! scripted API server.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::Server;
use futures_util::StreamExt as _;
use micro_registry_core::{
    DeregisterOptions, Drivers, Env, ErrorKind, Event, EventKind, EventStream, Node,
    RegisterOptions, Registry, RegistryExt as _, Service, WatchOptions,
};
use micro_registry_kubernetes::KubernetesDriver;
use serde_json::json;

async fn open(url: &str) -> Arc<dyn Registry> {
    let drivers = Drivers::new().with(KubernetesDriver);
    drivers.open(url, &Env::new()).await.unwrap()
}

async fn open_at(server: &Server) -> Arc<dyn Registry> {
    open(&format!("kubernetes://{}?namespace=shop", server.address)).await
}

fn greeter(id: &str) -> Service {
    Service::new("greeter", "v1").with_node(Node::new(id, "10.0.0.1:1"))
}

async fn register(registry: &Arc<dyn Registry>, id: &str) {
    let opts = RegisterOptions::default();
    registry.register(&greeter(id), opts).await.unwrap();
}

async fn deregister(registry: &Arc<dyn Registry>, id: &str) {
    let opts = DeregisterOptions::default();
    registry.deregister(&greeter(id), opts).await.unwrap();
}

async fn watch(registry: &Arc<dyn Registry>) -> EventStream {
    let opts = WatchOptions::default().with_service("greeter");
    registry.watch(opts).await.unwrap()
}

async fn next(events: &mut EventStream) -> (EventKind, String) {
    let event: Event = tokio::time::timeout(Duration::from_secs(10), events.next())
        .await
        .expect("an event comes")
        .expect("the watch goes on")
        .unwrap();
    (event.kind, event.service.nodes[0].id.clone())
}

fn create(id: &str) -> (EventKind, String) {
    (EventKind::Create, id.to_owned())
}

fn delete(id: &str) -> (EventKind, String) {
    (EventKind::Delete, id.to_owned())
}

/// Waits until the stream's watch request is at the server: the stream is polled by then.
async fn settled(server: &Server, events: &mut EventStream, watches: u32) {
    for _ in 0..200 {
        let none = tokio::time::timeout(Duration::from_millis(20), events.next()).await;
        assert!(none.is_err(), "no event is due: {none:?}");
        if server.requests("watch") >= watches {
            return;
        }
    }
    panic!("the watch is not made");
}

#[tokio::test]
async fn a_watch_that_breaks_off_goes_on_where_it_was() {
    let server = Server::start().await;
    let registry = open_at(&server).await;
    register(&registry, "before").await;
    let mut events = watch(&registry).await;
    register(&registry, "a").await;
    assert_eq!(next(&mut events).await, create("a"));
    let lists = server.requests("list");
    for id in ["b", "c", "d"] {
        server.cut();
        register(&registry, id).await;
        assert_eq!(next(&mut events).await, create(id));
        // Longer than what is taken for a failure.
        let idle = tokio::time::timeout(Duration::from_millis(1100), events.next()).await;
        assert!(idle.is_err(), "{idle:?}");
    }
    // Each registration looks once for what expired; the watch did not list again.
    assert_eq!(server.requests("list"), lists + 3);
    assert!(server.requests("watch") >= 4);
}

#[tokio::test]
async fn a_version_that_is_gone_is_listed_again() {
    let server = Server::start().await;
    let registry = open_at(&server).await;
    register(&registry, "before").await;
    let mut events = watch(&registry).await;
    settled(&server, &mut events, 1).await;
    // What changes while nobody watches is not in the log any more.
    server.compact();
    server.cut();
    register(&registry, "a").await;
    deregister(&registry, "before").await;
    server.compact();
    let mut seen = [next(&mut events).await, next(&mut events).await];
    seen.sort_by_key(|(_, id)| id.clone());
    assert_eq!(seen, [create("a"), delete("before")]);
    // And when the server says so within the stream.
    server.say_gone(1);
    server.cut();
    register(&registry, "b").await;
    assert_eq!(next(&mut events).await, create("b"));
}

#[tokio::test]
async fn a_watch_of_a_server_that_is_away_says_so_and_ends() {
    let server = Server::start().await;
    let registry = open_at(&server).await;
    let mut events = watch(&registry).await;
    settled(&server, &mut events, 1).await;
    server.want_token("nobody has it");
    server.cut();
    let told = tokio::time::timeout(Duration::from_secs(10), events.next()).await;
    let err = told.unwrap().unwrap().unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unauthenticated, "{err}");
    assert!(events.next().await.is_none());

    let opts = RegisterOptions::default();
    let err = open("kubernetes://127.0.0.1:1?timeout=1s")
        .await
        .register(&greeter("a"), opts)
        .await
        .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unavailable, "{err}");
    assert!(err.is_retryable());
}

#[tokio::test]
async fn a_token_that_was_rotated_is_read_again() {
    let server = Server::start().await;
    let path = std::env::temp_dir().join(format!("micro-kubernetes-token-{}", std::process::id()));
    std::fs::write(&path, "one\n").unwrap();
    server.want_token("one");
    let url = format!(
        "kubernetes://{}?token_file={}",
        server.address,
        path.display()
    );
    let registry = open(&url).await;
    register(&registry, "a").await;
    let mut events = watch(&registry).await;
    settled(&server, &mut events, 1).await;

    server.want_token("two");
    let err = registry.get("greeter").await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unauthenticated, "{err}");
    std::fs::write(&path, "two\n").unwrap();
    let refused = server.requests("unauthorized");
    registry.get("greeter").await.unwrap();
    assert_eq!(server.requests("unauthorized"), refused + 1);
    // Known from now on, by the watch as well.
    server.cut();
    register(&registry, "b").await;
    assert_eq!(next(&mut events).await, create("b"));
    assert_eq!(server.requests("unauthorized"), refused + 1);
    std::fs::remove_file(&path).unwrap();
    // A file that is away for a moment does not cost the token.
    registry.get("greeter").await.unwrap();

    let registry = open(&url).await;
    let err = registry.get("greeter").await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unauthenticated, "{err}");
}

#[tokio::test]
async fn a_registration_wins_over_conflicts() {
    let server = Server::start().await;
    let (one, two) = (open_at(&server).await, open_at(&server).await);
    register(&one, "a").await;
    // The same node by another process, and then by the first again, whose version is old by now.
    register(&two, "a").await;
    let moved = Service::new("greeter", "v1").with_node(Node::new("a", "10.0.0.2:2"));
    one.register(&moved, RegisterOptions::default())
        .await
        .unwrap();
    assert_eq!(one.get("greeter").await.unwrap(), [moved]);
    server.refuse_updates(3);
    register(&one, "a").await;
    server.refuse_updates(100);
    let err = one
        .register(&greeter("a"), RegisterOptions::default())
        .await
        .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unavailable, "{err}");
    server.refuse_updates(0);
    // Deleted behind our back: the next heartbeat brings it back.
    deregister(&two, "a").await;
    register(&one, "a").await;
    assert_eq!(one.get("greeter").await.unwrap(), [greeter("a")]);
}

#[tokio::test]
async fn a_slice_of_somebody_else_is_not_taken() {
    let server = Server::start().await;
    let registry = open_at(&server).await;
    register(&registry, "a").await;
    let [name] = &server.names()[..] else {
        panic!("one slice")
    };
    let mut object = server.object(name);
    object["metadata"]["labels"] = json!({});
    server.put("shop", object);
    let registry = open_at(&server).await;
    let opts = RegisterOptions::default();
    let err = registry.register(&greeter("a"), opts).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::AlreadyExists, "{err}");
}

#[tokio::test]
async fn s54_a_late_heartbeat_does_not_revive_a_node() {
    let server = Server::start().await;
    let registry = open_at(&server).await;
    let service = greeter("a");
    for _ in 0..20 {
        let heartbeat = registry.register(&service, RegisterOptions::default());
        let goodbye = registry.deregister(&service, DeregisterOptions::default());
        let (heartbeat, goodbye) = tokio::join!(biased; heartbeat, goodbye);
        heartbeat.unwrap();
        goodbye.unwrap();
        let err = registry.get("greeter").await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::NotFound, "{err}");
    }
}

#[tokio::test]
async fn who_comes_new_sweeps_away_what_expired() {
    let server = Server::start().await;
    let registry = open_at(&server).await;
    let opts = RegisterOptions::default().with_ttl(Duration::from_millis(20));
    registry.register(&greeter("a"), opts).await.unwrap();
    register(&registry, "b").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let found = registry.get("greeter").await.unwrap();
    assert_eq!(found, [greeter("b")]);
    register(&registry, "c").await;
    assert_eq!(server.names().len(), 2);
}

/// What the cluster's own controller writes is found without any registration.
#[tokio::test]
async fn pods_are_found_without_registering() {
    let server = Server::start().await;
    let registry = open_at(&server).await;
    let mut events = watch(&registry).await;
    let slice = |name: &str, pods: &[(&str, &str, bool)]| {
        let endpoints: Vec<_> = pods
            .iter()
            .map(|(pod, ip, ready)| {
                json!({"addresses": [ip], "conditions": {"ready": ready}, "zone": "eu-1a",
                       "targetRef": {"kind": "Pod", "name": pod}})
            })
            .collect();
        json!({"kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints,
               "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "greeter"}},
               "ports": [{"name": "grpc", "port": 80, "protocol": "TCP"}]})
    };
    server.put(
        "shop",
        slice(
            "greeter-1",
            &[("a", "10.0.0.1", true), ("b", "10.0.0.2", false)],
        ),
    );
    server.put("shop", slice("greeter-2", &[("c", "10.0.0.3", true)]));
    assert_eq!(next(&mut events).await, create("a"));
    assert_eq!(next(&mut events).await, create("c"));
    server.put(
        "shop",
        slice(
            "greeter-1",
            &[("a", "10.0.0.1", false), ("b", "10.0.0.2", true)],
        ),
    );
    assert_eq!(next(&mut events).await, delete("a"));
    assert_eq!(next(&mut events).await, create("b"));
    // By pages of one, and with metadata.
    server.page(1);
    let found = registry.get("greeter").await.unwrap();
    assert_eq!(found[0].nodes.len(), 2);
    assert_eq!(found[0].nodes[0].metadata["zone"], "eu-1a");
    // A pod that registers by itself is there once, as it describes itself.
    let own = Service::new("greeter", "v2").with_node(Node::new("own", "10.0.0.3:80"));
    registry
        .register(&own, RegisterOptions::default())
        .await
        .unwrap();
    let found = registry.get("greeter").await.unwrap();
    let nodes: Vec<_> = found
        .iter()
        .flat_map(|service| {
            service
                .nodes
                .iter()
                .map(|node| (&*service.version, &*node.id))
        })
        .collect();
    assert_eq!(nodes, [("", "b"), ("v2", "own")]);
}
