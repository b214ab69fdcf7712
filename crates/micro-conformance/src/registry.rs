//! Behavior that every [`Registry`] shares.
//!
//! Registries may be slow to show a change, as multicast DNS is between machines: what must become
//! true is waited for, and what must not happen is looked for at the end.
//!
//! # Cases
//!
//! On one handle:
//!
//! - `the_backend_s_name_is_a_url_scheme`
//! - `missing_service_is_not_found`
//! - `registered_service_is_found_whole`
//! - `versions_are_separate_entries`
//! - `nodes_of_one_version_share_an_entry`
//! - `one_registration_may_bring_several_nodes`
//! - `registering_a_node_again_replaces_it`
//! - `description_is_that_of_the_last_registration`
//! - `the_last_registration_describes_the_whole_version`
//! - `deregistering_removes_just_those_nodes`
//! - `deregistering_leaves_the_same_id_of_another_version`
//! - `deregistering_needs_ids_only`
//! - `deregistering_the_last_node_removes_the_service`
//! - `deregistering_twice_succeeds`
//! - `a_service_can_come_back`
//! - `similar_names_are_apart`
//! - `names_may_be_long_and_dotted`
//! - `list_has_each_service_once`
//! - `an_empty_registry_lists_nothing`
//! - `watch_reports_create_update_and_delete`
//! - `an_update_names_the_nodes_that_were_registered`
//! - `watch_reports_every_change_of_many`
//! - `a_watch_that_is_not_read_misses_nothing_silently`
//! - `watch_reports_no_past`
//! - `watch_of_one_service_is_silent_about_others`
//! - `refreshing_without_change_is_not_reported`
//! - `a_dropped_watch_disturbs_no_other`
//! - `bad_names_are_refused`
//! - `incomplete_registrations_are_refused`
//! - `odd_metadata_survive`
//! - `long_metadata_survive`
//! - `odd_node_ids_survive`
//! - `ipv6_addresses_survive`
//! - `fifty_nodes_are_found`
//! - `concurrent_registrations_all_arrive`
//! - `a_dropped_call_leaves_the_registry_usable`
//! - `a_dropped_call_takes_no_effect_behind_a_later_one`
//! - `a_dropped_registration_is_whole_or_nothing`
//! - `registration_expires`, if `ttl`
//! - `expiry_is_announced`, if `ttl`
//! - `registering_again_keeps_a_node_alive`, if `ttl`
//! - `registering_again_without_a_ttl_ends_it`, if `ttl`
//! - `registering_again_with_a_ttl_begins_it`, if `ttl`
//! - `ttl_is_refused_where_it_would_be_ignored`, if not `ttl`
//!
//! On several handles of one [`Place`]:
//!
//! - `namespaces_do_not_see_each_other`
//! - `namespaces_and_names_do_not_run_together`
//! - `ttl_goes_by_the_clock_it_was_opened_with`, if `ttl`
//! - `handles_of_one_place_see_each_other`, if `shared`
//! - `deregistering_another_s_node_counts_for_all_or_for_none`, if `shared`
//! - `expiry_shows_on_every_handle`, if `shared` and `ttl`

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::poll_fn;
use std::panic::Location;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use futures_util::{FutureExt as _, StreamExt as _};
use micro_core::{Clock, Env, Random as _, SystemClock, SystemRandom};
use micro_registry_core::{
    Capabilities, DeregisterOptions, Endpoint, Error, ErrorKind, Event, EventKind, EventStream,
    GetOptions, Node, RegisterOptions, Registry, RegistryExt as _, Result, Service, Value,
    WatchOptions,
};
use tokio::time::{Instant, sleep, timeout};

use crate::harness::{Case, cases, run_cases, runtime};

type Backend = Arc<dyn Registry>;

/// How long a change may take to show.
const PATIENCE: Duration = Duration::from_secs(15);
/// What is done behind our back has been done after so long.
const BEHIND: Duration = Duration::from_millis(500);
/// So many changes are made while nobody reads the watch, if they can be made in [`BURST_TIME`].
const BURST: usize = 5000;
const BURST_TIME: Duration = Duration::from_secs(8);

/// Where a case wants a registry opened.
///
/// One id is one directory: what is opened at it twice, in one namespace, must meet if the backend
/// is [`shared`](Capabilities::shared). Another id is another directory, which is empty.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Place {
    id: Arc<str>,
    env: Env,
}

impl Place {
    /// A place where nothing was opened, in this run or an earlier one.
    fn new() -> Self {
        static RUN: LazyLock<u64> = LazyLock::new(|| SystemRandom.next_u64());
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self {
            id: Arc::from(format!("t{:08x}-{count}", *RUN >> 32)),
            env: Env::new(),
        }
    }

    /// A short name for the directory: lower-case letters, digits and `-`, so that it can be
    /// a file's name or part of a key.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What to open with: the namespace and the clock.
    #[must_use]
    pub fn env(&self) -> &Env {
        &self.env
    }
}

/// The directory of one case, and the way to open it.
struct Site {
    place: Place,
    open: Mutex<Box<dyn FnMut(Place) -> Result<Backend> + Send>>,
}

impl Site {
    /// Another handle, with the machine's clock and without a namespace.
    async fn open(self: &Arc<Self>) -> Backend {
        self.open_with(Env::new()).await
    }

    async fn open_in(self: &Arc<Self>, namespace: &str) -> Backend {
        self.open_with(Env::new().with_namespace(namespace)).await
    }

    async fn open_with(self: &Arc<Self>, env: Env) -> Backend {
        let site = Arc::clone(self);
        // On a thread of its own: the future of a stranger's closure need not be `Send`.
        let opened = tokio::task::spawn_blocking(move || {
            let place = Place {
                env,
                ..site.place.clone()
            };
            let mut open = site.open.lock().unwrap_or_else(PoisonError::into_inner);
            open(place)
        });
        match opened.await {
            Ok(Ok(backend)) => backend,
            Ok(Err(err)) => panic!("the backend does not open: {err:?}"),
            Err(err) => panic!("opening the backend panicked: {err}"),
        }
    }
}

/// Runs the suite; `open` returns a handle to the directory of a [`Place`].
///
/// Cases run side by side, each at a place of its own.
///
/// # Panics
///
/// If `open` fails the first time.
pub fn run<F>(open: F) -> ExitCode
where
    F: AsyncFn(Place) -> Result<Backend> + Clone + Send + 'static,
{
    let open = move |place: Place| runtime().block_on(open(place));
    let capabilities = match open(Place::new()) {
        Ok(backend) => backend.capabilities(),
        Err(err) => panic!("the backend does not open: {err:?}"),
    };
    run_cases(all_cases(), &capabilities, &move || {
        Ok(Arc::new(Site {
            place: Place::new(),
            open: Mutex::new(Box::new(open.clone())),
        }))
    })
}

/// Lists cases that need one handle: `name`, or `name if capability`.
macro_rules! on_one_handle {
    ($($name:ident $(if $needs:ident)?),* $(,)?) => {
        vec![$(Case {
            name: stringify!($name),
            applies: |_capabilities: &Capabilities| true $(&& _capabilities.$needs)?,
            run: |site: Arc<Site>| async move { $name(site.open().await).await }.boxed(),
        }),*]
    };
}

fn all_cases() -> Vec<Case<Site, Capabilities>> {
    let mut all = on_one_handle![
        the_backend_s_name_is_a_url_scheme,
        missing_service_is_not_found,
        registered_service_is_found_whole,
        versions_are_separate_entries,
        nodes_of_one_version_share_an_entry,
        one_registration_may_bring_several_nodes,
        registering_a_node_again_replaces_it,
        description_is_that_of_the_last_registration,
        the_last_registration_describes_the_whole_version,
        deregistering_removes_just_those_nodes,
        deregistering_leaves_the_same_id_of_another_version,
        deregistering_needs_ids_only,
        deregistering_the_last_node_removes_the_service,
        deregistering_twice_succeeds,
        a_service_can_come_back,
        similar_names_are_apart,
        names_may_be_long_and_dotted,
        list_has_each_service_once,
        an_empty_registry_lists_nothing,
        watch_reports_create_update_and_delete,
        an_update_names_the_nodes_that_were_registered,
        watch_reports_every_change_of_many,
        a_watch_that_is_not_read_misses_nothing_silently,
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
        a_dropped_call_takes_no_effect_behind_a_later_one,
        a_dropped_registration_is_whole_or_nothing,
        registration_expires if ttl,
        expiry_is_announced if ttl,
        registering_again_keeps_a_node_alive if ttl,
        registering_again_without_a_ttl_ends_it if ttl,
        registering_again_with_a_ttl_begins_it if ttl,
    ];
    all.push(Case {
        name: "ttl_is_refused_where_it_would_be_ignored",
        applies: |capabilities: &Capabilities| !capabilities.ttl,
        run: |site| {
            async move { ttl_is_refused_where_it_would_be_ignored(site.open().await).await }.boxed()
        },
    });
    all.extend(cases![Capabilities;
        namespaces_do_not_see_each_other,
        namespaces_and_names_do_not_run_together,
        ttl_goes_by_the_clock_it_was_opened_with if ttl,
        handles_of_one_place_see_each_other if shared,
        deregistering_another_s_node_counts_for_all_or_for_none if shared,
    ]);
    all.push(Case {
        name: "expiry_shows_on_every_handle",
        applies: |capabilities: &Capabilities| capabilities.shared && capabilities.ttl,
        run: |site| expiry_shows_on_every_handle(site).boxed(),
    });
    all
}

/// A service that nobody registered is `NotFound`.
async fn missing_service_is_not_found(registry: Backend) {
    refused(
        registry.get("nobody").await,
        ErrorKind::NotFound,
        "looking up a service that nobody registered",
    );
}

/// Whatever was registered comes back: metadata, endpoints with their shapes, nodes.
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
    let found = appears(&registry, "greeter").await;
    assert_eq!(found, [service]);
}

/// Each version is an entry of its own, with its own metadata and nodes.
async fn versions_are_separate_entries(registry: Backend) {
    let versions = ["", "latest", "v1.2.3-rc.1+build 5"];
    for (i, version) in versions.iter().enumerate() {
        let service = Service::new("greeter", *version)
            .with_metadata("which", i.to_string())
            .with_node(Node::new(format!("node-{i}"), "127.0.0.1:1"));
        register(&registry, &service).await;
    }
    let found = counted(&registry, "greeter", 3).await;
    assert_eq!(found.len(), 3, "one entry per version: {found:?}");
    for (i, version) in versions.iter().enumerate() {
        let entry = found.iter().find(|entry| entry.version == *version);
        let entry = entry.unwrap_or_else(|| panic!("version '{version}' is missing: {found:?}"));
        assert_eq!(entry.metadata["which"], i.to_string());
        assert_eq!(entry.nodes[0].id, format!("node-{i}"));
        assert_eq!(entry.nodes.len(), 1);
    }
}

/// Nodes that were registered one by one stand in one entry.
async fn nodes_of_one_version_share_an_entry(registry: Backend) {
    register(&registry, &greeter("a", "127.0.0.1:1")).await;
    register(&registry, &greeter("b", "127.0.0.1:2")).await;
    let found = counted(&registry, "greeter", 2).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        addresses(&found),
        [("a", "127.0.0.1:1"), ("b", "127.0.0.1:2")]
    );
}

/// All nodes of a registration are found.
async fn one_registration_may_bring_several_nodes(registry: Backend) {
    let service = greeter("a", "127.0.0.1:1").with_node(Node::new("b", "127.0.0.1:2"));
    register(&registry, &service).await;
    let found = counted(&registry, "greeter", 2).await;
    assert_eq!(
        addresses(&found),
        [("a", "127.0.0.1:1"), ("b", "127.0.0.1:2")]
    );
}

/// The node with the same id is replaced, and not merged with what it was.
async fn registering_a_node_again_replaces_it(registry: Backend) {
    register(&registry, &greeter("a", "127.0.0.1:1")).await;
    appears(&registry, "greeter").await;
    let moved = Service::new("greeter", "v1")
        .with_node(Node::new("a", "127.0.0.1:2").with_metadata("zone", "b"));
    register(&registry, &moved).await;
    let found = found(&registry, "greeter", "the new address", |found| {
        addresses(found).iter().any(|(_, at)| *at == "127.0.0.1:2")
    })
    .await;
    assert_eq!(found, [moved]);
}

/// Metadata and endpoints are replaced by another registration, and not merged.
async fn description_is_that_of_the_last_registration(registry: Backend) {
    let first = greeter("a", "127.0.0.1:1")
        .with_metadata("build", "1")
        .with_endpoint(Endpoint::new("Greeter.Hello"));
    register(&registry, &first).await;
    appears(&registry, "greeter").await;
    let second = greeter("a", "127.0.0.1:1")
        .with_metadata("build", "2")
        .with_endpoint(Endpoint::new("Greeter.Hello"))
        .with_endpoint(Endpoint::new("Greeter.Bye"));
    register(&registry, &second).await;
    let found = found(&registry, "greeter", "build 2", |found| {
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

/// Nodes that were not named stay.
async fn deregistering_removes_just_those_nodes(registry: Backend) {
    for (id, address) in [("a", "127.0.0.1:1"), ("b", "127.0.0.1:2")] {
        register(&registry, &greeter(id, address)).await;
    }
    let other = Service::new("greeter", "v2").with_node(Node::new("c", "127.0.0.1:3"));
    register(&registry, &other).await;
    counted(&registry, "greeter", 3).await;
    deregister(&registry, &greeter("a", "127.0.0.1:1")).await;
    let found = counted(&registry, "greeter", 2).await;
    assert_eq!(
        addresses(&found),
        [("b", "127.0.0.1:2"), ("c", "127.0.0.1:3")]
    );
}

/// Without nodes a service is neither found nor listed; its nodes are removed by their ids.
async fn deregistering_the_last_node_removes_the_service(registry: Backend) {
    let service = greeter("a", "127.0.0.1:1");
    register(&registry, &service).await;
    appears(&registry, "greeter").await;
    // By id: the address may be another by then.
    deregister(&registry, &greeter("a", "127.0.0.1:9")).await;
    gone(&registry, "greeter").await;
    listed(&registry, &[]).await;
}

/// Removing what is not there is no failure.
async fn deregistering_twice_succeeds(registry: Backend) {
    let service = greeter("a", "127.0.0.1:1");
    deregister(&registry, &service).await;
    register(&registry, &service).await;
    deregister(&registry, &service).await;
    deregister(&registry, &service).await;
    gone(&registry, "greeter").await;
}

/// A node that was removed can be registered again.
async fn a_service_can_come_back(registry: Backend) {
    let service = greeter("a", "127.0.0.1:1");
    for _ in 0..3 {
        register(&registry, &service).await;
        appears(&registry, "greeter").await;
        deregister(&registry, &service).await;
        gone(&registry, "greeter").await;
    }
}

/// A name that begins like another one has nothing to do with it.
async fn similar_names_are_apart(registry: Backend) {
    let names = ["greet", "greeter", "greeter-2", "greeter.v2", "my.greeter"];
    for name in names {
        let service = Service::new(name, "v1").with_node(Node::new(name, "127.0.0.1:1"));
        register(&registry, &service).await;
    }
    for name in names {
        let found = appears(&registry, name).await;
        assert_eq!(node_ids(&found), BTreeSet::from([name]), "{found:?}");
        assert!(found.iter().all(|entry| entry.name == name), "{found:?}");
    }
    // Nor does removing one touch those that begin alike.
    let service = Service::new("greeter", "v1").with_node(Node::new("greeter", "127.0.0.1:1"));
    deregister(&registry, &service).await;
    gone(&registry, "greeter").await;
    appears(&registry, "greeter-2").await;
    appears(&registry, "greeter.v2").await;
}

/// Names of 128 bytes work, and differ in their last one.
async fn names_may_be_long_and_dotted(registry: Backend) {
    let mut long = "a".repeat(63);
    long.push('.');
    long.push_str(&"b".repeat(64));
    // They differ in their last character only, far behind where a label or a key may be cut.
    let other = format!("{}c", &long[..127]);
    for name in ["go.micro.srv.greeter", &long, &other] {
        let service = Service::new(name, "v1").with_node(Node::new("a", "127.0.0.1:1"));
        register(&registry, &service).await;
        let found = appears(&registry, name).await;
        assert_eq!(found, [service]);
    }
    gone_after_deregistering(&registry, &other).await;
    appears(&registry, &long).await;
}

async fn gone_after_deregistering(registry: &Backend, name: &str) {
    let service = Service::new(name, "v1").with_node(Node::new("a", "127.0.0.1:1"));
    deregister(registry, &service).await;
    gone(registry, name).await;
}

/// The list has one entry per service and version, however many nodes there are.
async fn list_has_each_service_once(registry: Backend) {
    for name in ["a", "b", "c"] {
        for node in ["1", "2"] {
            let service = Service::new(name, "v1")
                .with_node(Node::new(format!("{name}-{node}"), "127.0.0.1:1"));
            register(&registry, &service).await;
        }
    }
    listed(&registry, &["a", "b", "c"]).await;
}

/// An empty list is no failure.
async fn an_empty_registry_lists_nothing(registry: Backend) {
    match registry.list().await {
        Ok(listed) => assert!(listed.is_empty(), "nothing was registered: {listed:?}"),
        Err(err) => panic!("an empty list is no failure: {err:?}"),
    }
}

/// Each change is an event, with the node that changed and no other.
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
    assert_eq!(event.kind, EventKind::Create, "{event:?}");
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
    assert_eq!(event.kind, EventKind::Delete, "{event:?}");
    assert_eq!(node_ids(&[event.service]), BTreeSet::from(["b"]));
}

/// A watch of everything reports all services, and each change once.
async fn watch_reports_every_change_of_many(registry: Backend) {
    let mut events = match registry.watch(WatchOptions::default()).await {
        Ok(events) => events,
        Err(err) => panic!("watching everything is to succeed, and failed: {err:?}"),
    };
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

/// What was registered before the watch is not reported.
async fn watch_reports_no_past(registry: Backend) {
    register(&registry, &greeter("a", "127.0.0.1:1")).await;
    appears(&registry, "greeter").await;
    let mut events = watch(&registry, "greeter").await;
    register(&registry, &greeter("b", "127.0.0.1:2")).await;
    let event = next(&mut events).await;
    assert_eq!(node_ids(&[event.service]), BTreeSet::from(["b"]));
}

/// A watch of one service does not report those whose names begin alike.
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

/// Registering again what is registered is no change.
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

/// Watches end one by one.
async fn a_dropped_watch_disturbs_no_other(registry: Backend) {
    let dropped = watch(&registry, "greeter").await;
    let mut kept = watch(&registry, "greeter").await;
    drop(dropped);
    register(&registry, &greeter("a", "127.0.0.1:1")).await;
    let event = next(&mut kept).await;
    assert_eq!(event.kind, EventKind::Create, "{event:?}");
}

/// Every call refuses a name that is none.
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
            .into_iter()
            .zip(["register", "deregister", "get", "watch"])
        {
            let what = format!("{call} of the name {name:?}");
            refused(result, ErrorKind::InvalidArgument, &what);
        }
    }
}

/// What `check_registration` refuses is refused, and nothing of it remains.
async fn incomplete_registrations_are_refused(registry: Backend) {
    let bare = Service::new("greeter", "v1");
    let node = |id: &str, address: &str| bare.clone().with_node(Node::new(id, address));
    for (what, service) in [
        ("no node", bare.clone()),
        ("a node without an id", node("", "127.0.0.1:1")),
        ("a node without an address", node("a", "")),
        ("a line break in an id", node("a\nb", "127.0.0.1:1")),
        ("a line break in an address", node("a", "127.0.0.1:1\n")),
        ("an id of 513 bytes", node(&"a".repeat(513), "127.0.0.1:1")),
        (
            "a good node and one without an address",
            node("a", "127.0.0.1:1").with_node(Node::new("b", "")),
        ),
    ] {
        refused(
            registry
                .register(&service, RegisterOptions::default())
                .await,
            ErrorKind::InvalidArgument,
            &format!("registering {what}"),
        );
    }
    refused(
        registry.get("greeter").await,
        ErrorKind::NotFound,
        "looking up what was refused",
    );
}

/// Metadata may hold any text, in names as in values.
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
    let found = appears(&registry, "greeter").await;
    assert_eq!(found, [service]);
}

/// Metadata may be long and many.
async fn long_metadata_survive(registry: Backend) {
    let mut node = Node::new("a", "127.0.0.1:1").with_metadata("long", "x".repeat(1000));
    for i in 0..30 {
        node = node.with_metadata(format!("name-{i}"), format!("value-{i}"));
    }
    let service = Service::new("greeter", "v1").with_node(node);
    register(&registry, &service).await;
    let found = appears(&registry, "greeter").await;
    assert_eq!(found, [service]);
}

/// Node ids are any text, and told apart by their case.
async fn odd_node_ids_survive(registry: Backend) {
    let long = format!("greeter-{}", "x".repeat(200));
    let ids = ["a/b", "a b", "a.b.", "größe", "A", "a", "a\\b", &long];
    for id in ids {
        register(&registry, &greeter(id, "127.0.0.1:1")).await;
    }
    let all = counted(&registry, "greeter", ids.len()).await;
    assert_eq!(node_ids(&all), BTreeSet::from(ids));
    deregister(&registry, &greeter("a", "127.0.0.1:1")).await;
    let rest = counted(&registry, "greeter", ids.len() - 1).await;
    assert!(!node_ids(&rest).contains("a"));
}

/// Addresses come back as they were written, brackets included.
async fn ipv6_addresses_survive(registry: Backend) {
    register(&registry, &greeter("loopback", "[::1]:8080")).await;
    register(&registry, &greeter("far", "[2001:db8::7]:65535")).await;
    let found = counted(&registry, "greeter", 2).await;
    assert_eq!(
        addresses(&found),
        [("far", "[2001:db8::7]:65535"), ("loopback", "[::1]:8080")]
    );
}

/// Nothing is cut where an answer has many nodes.
async fn fifty_nodes_are_found(registry: Backend) {
    for i in 0..50 {
        let node = Node::new(format!("node-{i}"), format!("127.0.0.1:{}", 1000 + i));
        register(&registry, &Service::new("greeter", "v1").with_node(node)).await;
    }
    let found = counted(&registry, "greeter", 50).await;
    assert_eq!(found.len(), 1);
    let distinct: BTreeSet<_> = addresses(&found).into_iter().map(|(_, at)| at).collect();
    assert_eq!(distinct.len(), 50);
}

/// Calls side by side on one handle do not overwrite each other.
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
        if let Err(err) = done {
            panic!("a call beside others failed: {err}");
        }
    }
    let found = counted(&registry, "greeter", 10).await;
    let even: BTreeSet<String> = (0..20).step_by(2).map(|i| format!("node-{i}")).collect();
    assert_eq!(node_ids(&found), even.iter().map(String::as_str).collect());
}

/// Any call may be dropped after its first poll.
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
    let found = appears(&registry, "greeter").await;
    assert_eq!(found, std::slice::from_ref(&service));
    deregister(&registry, &service).await;
    gone(&registry, "greeter").await;
}

/// What was registered with a TTL goes after it; what was not, stays.
async fn registration_expires(registry: Backend) {
    let leaving = greeter("leaving", "127.0.0.1:1");
    register_for(&registry, &leaving, Duration::from_secs(1)).await;
    register(&registry, &greeter("staying", "127.0.0.1:2")).await;
    found(&registry, "greeter", "the node without a TTL", |found| {
        node_ids(found).contains("staying")
    })
    .await;
    let left = counted(&registry, "greeter", 1).await;
    assert_eq!(node_ids(&left), BTreeSet::from(["staying"]));
}

/// Watchers are told of an expiry as of a deregistration.
async fn expiry_is_announced(registry: Backend) {
    let mut events = watch(&registry, "greeter").await;
    let service = greeter("a", "127.0.0.1:1");
    register_for(&registry, &service, Duration::from_secs(1)).await;
    let event = next(&mut events).await;
    assert_eq!(event.kind, EventKind::Create, "{event:?}");
    let event = next(&mut events).await;
    assert_eq!(event.kind, EventKind::Delete, "{event:?}");
    assert_eq!(node_ids(&[event.service]), BTreeSet::from(["a"]));
    gone(&registry, "greeter").await;
}

/// A node that is registered again in time never vanishes.
async fn registering_again_keeps_a_node_alive(registry: Backend) {
    let ttl = Duration::from_secs(2);
    let service = greeter("a", "127.0.0.1:1");
    let until = Instant::now() + 2 * ttl;
    let mut seen = false;
    while Instant::now() < until {
        register_for(&registry, &service, ttl).await;
        sleep(ttl / 8).await;
        let found = registry.get("greeter").await.is_ok();
        assert!(found || !seen, "it vanished while it was kept alive");
        seen |= found;
    }
    assert!(seen, "it never showed");
}

/// A backend that cannot forget says so, and does not pretend.
async fn ttl_is_refused_where_it_would_be_ignored(registry: Backend) {
    let opts = RegisterOptions::default().with_ttl(Duration::from_secs(30));
    let service = greeter("a", "127.0.0.1:1");
    refused(
        registry.register(&service, opts).await,
        ErrorKind::Unimplemented,
        "registering with a TTL, which this backend does not claim,",
    );
}

/// The name is that of a URL scheme: in lower case, beginning with a letter.
async fn the_backend_s_name_is_a_url_scheme(registry: Backend) {
    let name = registry.backend();
    let good = name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte)
        });
    assert!(
        good,
        "backend() is to be the scheme of the backend's URL, in lower case, and is {name:?}"
    );
}

/// Another node's registration describes its whole version, and no other version.
async fn the_last_registration_describes_the_whole_version(registry: Backend) {
    let other = Service::new("greeter", "v2")
        .with_metadata("build", "0")
        .with_node(Node::new("a", "127.0.0.1:9"));
    register(&registry, &other).await;
    appears(&registry, "greeter").await;
    for (build, id) in [("1", "a"), ("2", "b"), ("3", "a")] {
        let service = greeter(id, "127.0.0.1:1")
            .with_metadata("build", build)
            .with_endpoint(Endpoint::new(format!("Greeter.Hello{build}")));
        register(&registry, &service).await;
        let all = found(
            &registry,
            "greeter",
            &format!("v1 to be as its last registration says, build {build}"),
            |found| {
                found.iter().any(|entry| {
                    entry.version == "v1"
                        && entry.metadata == service.metadata
                        && entry.endpoints == service.endpoints
                })
            },
        )
        .await;
        assert_eq!(all.len(), 2, "one entry per version: {all:?}");
        let v2 = all.iter().find(|entry| entry.version == "v2");
        assert_eq!(v2, Some(&other), "v2 was not registered again");
    }
    counted(&registry, "greeter", 2).await;
}

/// An update has the nodes that were registered, though the others' version changed with them.
async fn an_update_names_the_nodes_that_were_registered(registry: Backend) {
    let both = greeter("a", "127.0.0.1:1").with_node(Node::new("b", "127.0.0.1:2"));
    register(&registry, &both).await;
    counted(&registry, "greeter", 2).await;
    let mut events = watch(&registry, "greeter").await;
    let changed = greeter("a", "127.0.0.1:1").with_metadata("build", "2");
    register(&registry, &changed).await;
    let event = next(&mut events).await;
    assert_eq!(event, Event::new(EventKind::Update, changed));
    deregister(&registry, &both).await;
    let mut gone = BTreeSet::new();
    while gone.len() < 2 {
        let event = next(&mut events).await;
        assert_eq!(event.kind, EventKind::Delete, "no other update: {event:?}");
        gone.extend(event.service.nodes.into_iter().map(|node| node.id));
    }
}

/// The same id in another version is another node.
async fn deregistering_leaves_the_same_id_of_another_version(registry: Backend) {
    let kept = Service::new("greeter", "v2").with_node(Node::new("a", "127.0.0.1:2"));
    register(&registry, &greeter("a", "127.0.0.1:1")).await;
    register(&registry, &kept).await;
    found(&registry, "greeter", "two versions", |found| {
        found.len() == 2
    })
    .await;
    deregister(&registry, &greeter("a", "127.0.0.1:1")).await;
    let left = found(&registry, "greeter", "v1 to be gone", |found| {
        found.iter().all(|entry| entry.version != "v1")
    })
    .await;
    assert_eq!(left, [kept], "v2 was not deregistered");
}

/// Deregistering takes the ids of nodes, and refuses a node without one.
async fn deregistering_needs_ids_only(registry: Backend) {
    register(&registry, &greeter("a", "127.0.0.1:1")).await;
    appears(&registry, "greeter").await;
    let opts = DeregisterOptions::default();
    let nameless = greeter("", "127.0.0.1:1");
    refused(
        registry.deregister(&nameless, opts.clone()).await,
        ErrorKind::InvalidArgument,
        "deregistering a node without an id",
    );
    if let Err(err) = registry.deregister(&greeter("a", ""), opts).await {
        panic!("deregistering a node by its id needs no address, and failed: {err:?}");
    }
    gone(&registry, "greeter").await;
}

/// What a slow reader misses, it is told of: by an error or by the end of the stream.
///
/// Changes may be merged, so it is not counted: the nodes as the reader knows them must be those
/// that there are.
async fn a_watch_that_is_not_read_misses_nothing_silently(registry: Backend) {
    const NODES: usize = 50;
    register(&registry, &greeter("before", "127.0.0.1:1")).await;
    appears(&registry, "greeter").await;
    let mut events = watch(&registry, "greeter").await;
    let mut known = BTreeMap::from([("before".to_owned(), String::new())]);
    // Node after node, so that whichever part of the changes is lost, some node shows it.
    deregister(&registry, &greeter("before", "127.0.0.1:1")).await;
    let (start, mut changes) = (Instant::now(), 0);
    let mut real = BTreeMap::new();
    for node in 0..NODES {
        let time = BURST_TIME * u32::try_from(node + 1).unwrap_or(1) / NODES as u32;
        let id = format!("node-{node:02}");
        for turn in 0..BURST / NODES {
            let service = Service::new("greeter", "v1")
                .with_node(Node::new(&id, "127.0.0.1:1").with_metadata("turn", turn.to_string()));
            register(&registry, &service).await;
            real.insert(id.clone(), turn.to_string());
            changes += 1;
            if start.elapsed() > time {
                break;
            }
        }
    }
    let until = Instant::now() + PATIENCE;
    while known != real {
        let left = until.saturating_duration_since(Instant::now());
        let event = match timeout(left, events.next()).await {
            Ok(Some(Ok(event))) => event,
            // It says so: this is what it shall do.
            Ok(Some(Err(_)) | None) => return,
            Err(_) => {
                let wrong: Vec<_> = real
                    .keys()
                    .chain(known.keys())
                    .filter(|id| real.get(*id) != known.get(*id))
                    .collect();
                panic!(
                    "after {changes} changes that were not read at once, the watch is to report all of them or to end; it is silent, and these nodes are not as it reported them: {wrong:?}"
                );
            }
        };
        for node in event.service.nodes {
            if event.kind == EventKind::Delete {
                known.remove(&node.id);
            } else {
                let turn = node.metadata.get("turn").cloned().unwrap_or_default();
                known.insert(node.id, turn);
            }
        }
    }
}

/// Whatever a dropped call did, the next one has the last word.
async fn a_dropped_call_takes_no_effect_behind_a_later_one(registry: Backend) {
    const TRIES: usize = 50;
    // Side by side, so that work which was left to other threads gets into disorder if it can.
    const LANES: usize = 5;
    let lanes = (0..LANES).map(|lane| {
        let registry = Arc::clone(&registry);
        tokio::spawn(async move {
            for i in (lane..TRIES).step_by(LANES) {
                drop_then_call(&registry, i).await;
            }
        })
    });
    for done in join_all(lanes).await {
        if let Err(err) = done {
            panic!("a call behind a dropped one failed: {err}");
        }
    }
    // First as soon as it is so, then once what is late has had its time.
    for pause in [Duration::ZERO, BEHIND] {
        sleep(pause).await;
        for i in 0..TRIES {
            let (dropped, later, expected) = match i % 3 {
                0 => ("register", "register", Some("127.0.0.1:2")),
                1 => ("register", "deregister", None),
                _ => ("deregister", "register", Some("127.0.0.1:2")),
            };
            let name = format!("greeter-{i}");
            let expected_text = format!(
                "node a at {expected:?}, as the later call says: {later}, after a {dropped} that was dropped after {} polls",
                polls(i)
            );
            let good = |found: &[Service]| {
                let all = addresses(found);
                let a = all.iter().find(|(id, _)| *id == "a").map(|(_, at)| *at);
                a == expected
            };
            if pause.is_zero() {
                found(&registry, &name, &expected_text, good).await;
            } else {
                let found = get(&registry, &name).await;
                assert!(
                    good(&found),
                    "{name} was as it is to be, and is no more\n  expected: {expected_text}\n  found: {found:?}"
                );
            }
        }
    }
}

/// Mostly one: what the call does is under way then, and not waited for.
const fn polls(i: usize) -> usize {
    [1, 0, 1, 2, 1, 3][i / 3 % 6]
}

async fn drop_then_call(registry: &Backend, i: usize) {
    let service = |address: &str| {
        Service::new(format!("greeter-{i}"), "v1").with_node(Node::new("a", address))
    };
    // The dropped call has more to do than the one that follows, so that it would end later.
    let mut many = Service::new(format!("greeter-{i}"), "v1");
    if polls(i) == 1 {
        for other in 0..20 {
            many = many.with_node(Node::new(format!("other-{other}"), "127.0.0.1:1"));
        }
    }
    many = many.with_node(Node::new("a", "127.0.0.1:1"));
    if i % 3 == 2 {
        register(registry, &many).await;
        let opts = DeregisterOptions::default();
        poll_and_drop(registry.deregister(&many, opts), polls(i)).await;
    } else {
        let opts = RegisterOptions::default();
        poll_and_drop(registry.register(&many, opts), polls(i)).await;
    }
    if i % 3 == 1 {
        deregister(registry, &service("127.0.0.1:1")).await;
    } else {
        register(registry, &service("127.0.0.1:2")).await;
    }
}

/// A dropped registration is there with all its nodes, or not at all.
async fn a_dropped_registration_is_whole_or_nothing(registry: Backend) {
    const NODES: usize = 5;
    for i in 0..12 {
        let mut service = Service::new(format!("greeter-{i}"), "v1");
        for node in 0..NODES {
            service = service.with_node(Node::new(format!("node-{node}"), "127.0.0.1:1"));
        }
        poll_and_drop(
            registry.register(&service, RegisterOptions::default()),
            i / 2,
        )
        .await;
    }
    sleep(BEHIND).await;
    for i in 0..12 {
        let name = format!("greeter-{i}");
        found(
            &registry,
            &name,
            &format!("none or {NODES} nodes"),
            |found| [0, NODES].contains(&node_ids(found).len()),
        )
        .await;
    }
}

/// Registering again without a TTL keeps the node for good.
async fn registering_again_without_a_ttl_ends_it(registry: Backend) {
    let service = greeter("a", "127.0.0.1:1");
    register_for(&registry, &service, Duration::from_secs(1)).await;
    register(&registry, &service).await;
    appears(&registry, "greeter").await;
    sleep(Duration::from_secs(3)).await;
    let found = get(&registry, "greeter").await;
    assert_eq!(
        found,
        [service],
        "registered again without a TTL, it is to stay; 3 s later it is gone"
    );
}

/// Registering again with a TTL lets a node expire that had none.
async fn registering_again_with_a_ttl_begins_it(registry: Backend) {
    let service = greeter("a", "127.0.0.1:1");
    register(&registry, &service).await;
    appears(&registry, "greeter").await;
    register_for(&registry, &service, Duration::from_secs(1)).await;
    gone(&registry, "greeter").await;
}

/// TTLs count by the clock of the [`Env`], unless a server outside of this process counts them.
async fn ttl_goes_by_the_clock_it_was_opened_with(site: Arc<Site>) {
    let clock = Arc::new(HandClock::new());
    let registry = site
        .open_with(Env::new().with_clock(Arc::clone(&clock) as _))
        .await;
    let ttl = Duration::from_secs(1);
    let service = greeter("a", "127.0.0.1:1");
    register_for(&registry, &service, ttl).await;
    appears(&registry, "greeter").await;
    sleep(3 * ttl).await;
    if get(&registry, "greeter").await.is_empty() {
        // Somebody else counts. Who shares a directory may do so: others' clocks are not ours.
        assert!(
            registry.capabilities().shared,
            "the clock of the Env stands still, and the registration expired: the backend asks another clock"
        );
        return;
    }
    clock.advance(2 * ttl);
    gone(&registry, "greeter").await;
}

/// What is registered in one namespace is neither found, listed, watched nor removed in another.
async fn namespaces_do_not_see_each_other(site: Arc<Site>) {
    let namespaces = ["", "staging", "staging-2"];
    let address = |i: usize| format!("127.0.0.1:{}", 1 + i);
    let (mut handles, mut watches) = (Vec::new(), Vec::new());
    for namespace in namespaces {
        let handle = site.open_in(namespace).await;
        let opts = WatchOptions::default();
        watches.push(handle.watch(opts).await.expect("a watch of everything"));
        handles.push(handle);
    }
    // The same ids everywhere; addresses tell whose they are.
    for (i, handle) in handles.iter().enumerate() {
        register(handle, &greeter("a", &address(i))).await;
        let own = Service::new(format!("only-{i}"), "v1").with_node(Node::new("b", address(i)));
        register(handle, &own).await;
    }
    for (i, handle) in handles.iter().enumerate() {
        let namespace = namespaces[i];
        let all = appears(handle, "greeter").await;
        assert_eq!(
            all,
            [greeter("a", &address(i))],
            "in namespace {namespace:?}"
        );
        listed(handle, &["greeter", &format!("only-{i}")]).await;
        for other in (0..handles.len()).filter(|other| *other != i) {
            let found = get(handle, &format!("only-{other}")).await;
            assert!(
                found.is_empty(),
                "registered in namespace {:?}, found in {namespace:?}: {found:?}",
                namespaces[other]
            );
        }
    }
    deregister(&handles[1], &greeter("a", &address(1))).await;
    gone(&handles[1], "greeter").await;
    sleep(BEHIND).await;
    for i in [0, 2] {
        let found = get(&handles[i], "greeter").await;
        assert_eq!(
            found,
            [greeter("a", &address(i))],
            "deregistered in namespace \"staging\", looked for in {:?}",
            namespaces[i]
        );
    }
    for (i, handle) in handles.iter().enumerate() {
        let last = Service::new("last", "v1").with_node(Node::new("c", address(i)));
        register(handle, &last).await;
        loop {
            let event = next(&mut watches[i]).await;
            let nodes = &event.service.nodes;
            assert!(
                nodes.iter().all(|node| node.address == address(i)),
                "a watch in namespace {:?} reports what happened in another: {event:?}",
                namespaces[i]
            );
            if event.service.name == "last" {
                break;
            }
        }
    }
}

/// However a backend joins namespace and name into a key, no two pairs become the same.
async fn namespaces_and_names_do_not_run_together(site: Arc<Site>) {
    let services = [
        ("", &["a.b.c", "a-b-c", "a_b_c"][..]),
        ("a", &["b.c", "b-c", "b_c", "b.c.d"]),
        ("a.b", &["c", "c.d"]),
        ("a-b", &["c"]),
        ("a_b", &["c"]),
    ];
    let mut handles = Vec::new();
    for (namespace, names) in services {
        let handle = site.open_in(namespace).await;
        for name in names {
            let service = Service::new(*name, "v1")
                .with_node(Node::new(format!("{namespace}+{name}"), "127.0.0.1:1"));
            register(&handle, &service).await;
        }
        handles.push(handle);
    }
    for (handle, (namespace, names)) in handles.iter().zip(services) {
        for name in names {
            let found = appears(handle, name).await;
            let own = format!("{namespace}+{name}");
            assert_eq!(
                node_ids(&found),
                BTreeSet::from([&*own]),
                "{name} in namespace {namespace:?}"
            );
        }
        listed(handle, names).await;
    }
}

/// Two handles of one place are two processes: each finds, lists and watches what the other did.
async fn handles_of_one_place_see_each_other(site: Arc<Site>) {
    let (one, two) = (site.open().await, site.open().await);
    let mut events = watch(&two, "greeter").await;
    let service = greeter("a", "127.0.0.1:1").with_metadata("build", "1");
    register(&one, &service).await;
    let found = appears(&two, "greeter").await;
    assert_eq!(found, std::slice::from_ref(&service));
    listed(&two, &["greeter"]).await;
    let event = next(&mut events).await;
    assert_eq!(event, Event::new(EventKind::Create, service));

    let moved = greeter("a", "127.0.0.1:2").with_metadata("build", "2");
    register(&one, &moved).await;
    becomes(&two, &moved).await;
    let event = next(&mut events).await;
    assert_eq!(event, Event::new(EventKind::Update, moved));

    // Both ways, and as one entry.
    register(&two, &greeter("b", "127.0.0.1:3")).await;
    for handle in [&one, &two] {
        let found = counted(handle, "greeter", 2).await;
        assert_eq!(found.len(), 1, "one entry per version: {found:?}");
    }
    assert_eq!(next(&mut events).await.kind, EventKind::Create);

    deregister(&one, &greeter("a", "127.0.0.1:2")).await;
    let left = counted(&two, "greeter", 1).await;
    assert_eq!(node_ids(&left), BTreeSet::from(["b"]));
    let event = next(&mut events).await;
    assert_eq!(event.kind, EventKind::Delete, "{event:?}");
    assert_eq!(node_ids(&[event.service]), BTreeSet::from(["a"]));
}

/// Whether one process can remove another's node is the backend's affair, but it is so for all.
///
/// Multicast DNS cannot: each speaks for itself.
async fn deregistering_another_s_node_counts_for_all_or_for_none(site: Arc<Site>) {
    let (one, two) = (site.open().await, site.open().await);
    let service = greeter("a", "127.0.0.1:1");
    register(&one, &service).await;
    appears(&two, "greeter").await;
    deregister(&two, &service).await;
    sleep(BEHIND).await;
    let until = Instant::now() + PATIENCE;
    loop {
        let (here, there) = (get(&one, "greeter").await, get(&two, "greeter").await);
        if here == there {
            break;
        }
        assert!(
            Instant::now() < until,
            "two handles of one place are to agree; the one that registered finds {here:?}, the one that deregistered {there:?}"
        );
        sleep(Duration::from_millis(50)).await;
    }
    deregister(&one, &service).await;
    gone(&two, "greeter").await;
}

/// A registration that expires does so for those, too, who did not make it.
async fn expiry_shows_on_every_handle(site: Arc<Site>) {
    let (one, two) = (site.open().await, site.open().await);
    let mut events = watch(&two, "greeter").await;
    register_for(&one, &greeter("a", "127.0.0.1:1"), Duration::from_secs(1)).await;
    register(&one, &greeter("b", "127.0.0.1:2")).await;
    let mut created = BTreeSet::new();
    while created.len() < 2 {
        let event = next(&mut events).await;
        assert_eq!(event.kind, EventKind::Create, "{event:?}");
        created.extend(event.service.nodes.into_iter().map(|node| node.id));
    }
    let event = next(&mut events).await;
    assert_eq!(event.kind, EventKind::Delete, "{event:?}");
    assert_eq!(node_ids(&[event.service]), BTreeSet::from(["a"]));
    let left = counted(&two, "greeter", 1).await;
    assert_eq!(node_ids(&left), BTreeSet::from(["b"]));
}

/// A clock that goes when it is told to.
struct HandClock {
    start: (std::time::Instant, SystemTime),
    /// In milliseconds.
    gone: AtomicU64,
}

impl HandClock {
    fn new() -> Self {
        Self {
            start: (SystemClock.now(), SystemClock.wall()),
            gone: AtomicU64::new(0),
        }
    }

    fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.gone.fetch_add(by, Ordering::SeqCst);
    }

    fn gone(&self) -> Duration {
        Duration::from_millis(self.gone.load(Ordering::SeqCst))
    }
}

impl fmt::Debug for HandClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HandClock").field(&self.gone()).finish()
    }
}

impl Clock for HandClock {
    fn now(&self) -> std::time::Instant {
        self.start.0 + self.gone()
    }

    fn wall(&self) -> SystemTime {
        self.start.1 + self.gone()
    }
}

fn greeter(id: &str, address: &str) -> Service {
    Service::new("greeter", "v1").with_node(Node::new(id, address))
}

// The helpers are no `async fn`: these cannot say where they were called.

#[track_caller]
fn register(registry: &Backend, service: &Service) -> impl Future<Output = ()> + Send {
    let at = Location::caller();
    async move {
        let opts = RegisterOptions::default();
        if let Err(err) = registry.register(service, opts).await {
            panic!("{at}: registering is to succeed, and failed: {err:?}\n  {service:?}");
        }
    }
}

#[track_caller]
fn register_for(
    registry: &Backend,
    service: &Service,
    ttl: Duration,
) -> impl Future<Output = ()> + Send {
    let at = Location::caller();
    async move {
        let opts = RegisterOptions::default().with_ttl(ttl);
        if let Err(err) = registry.register(service, opts).await {
            panic!(
                "{at}: registering for {ttl:?} is to succeed, and failed: {err:?}\n  {service:?}"
            );
        }
    }
}

#[track_caller]
fn deregister(registry: &Backend, service: &Service) -> impl Future<Output = ()> + Send {
    let at = Location::caller();
    async move {
        let opts = DeregisterOptions::default();
        if let Err(err) = registry.deregister(service, opts).await {
            panic!("{at}: deregistering is to succeed, and failed: {err:?}\n  {service:?}");
        }
    }
}

#[track_caller]
fn watch(registry: &Backend, name: &str) -> impl Future<Output = EventStream> + Send {
    let at = Location::caller();
    async move {
        let opts = WatchOptions::default().with_service(name);
        match registry.watch(opts).await {
            Ok(events) => events,
            Err(err) => panic!("{at}: watching {name} is to succeed, and failed: {err:?}"),
        }
    }
}

#[track_caller]
fn next(events: &mut EventStream) -> impl Future<Output = Event> + Send {
    let at = Location::caller();
    async move {
        match timeout(PATIENCE, events.next()).await {
            Ok(Some(Ok(event))) => event,
            Ok(Some(Err(err))) => {
                panic!("{at}: an event is to come, and the watch failed: {err:?}")
            }
            Ok(None) => panic!("{at}: an event is to come, and the watch ended"),
            Err(_) => panic!("{at}: an event is to come, and none came within {PATIENCE:?}"),
        }
    }
}

/// What is found right now; nothing found is an empty list.
#[track_caller]
fn get(registry: &Backend, name: &str) -> impl Future<Output = Vec<Service>> + Send {
    let at = Location::caller();
    async move {
        match registry.get(name).await {
            Ok(found) => {
                assert!(
                    !found.is_empty(),
                    "{at}: without a node, {name} is to be NotFound, and is an empty list"
                );
                assert!(
                    found.iter().all(|entry| !entry.nodes.is_empty()),
                    "{at}: every entry is to have a node: {found:?}"
                );
                found
            }
            Err(err) if err.kind() == ErrorKind::NotFound => Vec::new(),
            Err(err) => panic!("{at}: {name} is to be found or NotFound: {err:?}"),
        }
    }
}

/// Waits until what is found is as it should be.
#[track_caller]
fn found(
    registry: &Backend,
    name: &str,
    expected: &str,
    good: impl Fn(&[Service]) -> bool + Send,
) -> impl Future<Output = Vec<Service>> + Send {
    let at = Location::caller();
    async move {
        let until = Instant::now() + PATIENCE;
        loop {
            let found = get(registry, name).await;
            if good(&found) {
                return found;
            }
            assert!(
                Instant::now() < until,
                "{at}: {name} was looked up for {PATIENCE:?}\n  expected: {expected}\n  found: {found:?}"
            );
            sleep(Duration::from_millis(50)).await;
        }
    }
}

#[track_caller]
fn appears(registry: &Backend, name: &str) -> impl Future<Output = Vec<Service>> + Send {
    found(registry, name, "a node, at least", |found| {
        !found.is_empty()
    })
}

#[track_caller]
fn becomes(registry: &Backend, service: &Service) -> impl Future<Output = Vec<Service>> + Send {
    let (at, registry, service) = (Location::caller(), Arc::clone(registry), service.clone());
    async move {
        let expected = format!("{service:?} (looked for at {at})");
        found(&registry, &service.name, &expected, |found| {
            found == std::slice::from_ref(&service)
        })
        .await
    }
}

/// Waits until there are so many nodes, in all versions.
#[track_caller]
fn counted(
    registry: &Backend,
    name: &str,
    count: usize,
) -> impl Future<Output = Vec<Service>> + Send {
    let at = Location::caller();
    async move {
        let expected = format!("{count} nodes (looked for at {at})");
        found(registry, name, &expected, |found| {
            node_ids(found).len() == count
        })
        .await
    }
}

#[track_caller]
fn gone(registry: &Backend, name: &str) -> impl Future<Output = ()> + Send {
    found(registry, name, "no node", <[Service]>::is_empty).map(drop)
}

/// Waits until the list has these names, each of them once.
#[track_caller]
fn listed(registry: &Backend, names: &[&str]) -> impl Future<Output = ()> + Send {
    let at = Location::caller();
    async move {
        let expected: Vec<&str> = BTreeSet::from_iter(names.iter().copied())
            .into_iter()
            .collect();
        let until = Instant::now() + PATIENCE;
        loop {
            let listed = match registry.list().await {
                Ok(listed) => listed,
                Err(err) => panic!("{at}: listing is to succeed, and failed: {err:?}"),
            };
            let mut names: Vec<_> = listed.iter().map(|service| &*service.name).collect();
            names.sort_unstable();
            if names == expected {
                return;
            }
            assert!(
                Instant::now() < until,
                "{at}: the list was looked at for {PATIENCE:?}\n  expected: {expected:?}\n  found: {names:?}"
            );
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Polls so often, with time for others in between, and drops.
async fn poll_and_drop(future: impl Future<Output = Result<()>> + Send, polls: usize) {
    let mut future = pin!(future);
    for poll in 0..polls {
        if poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_ready())).await {
            return;
        }
        // The last time without a pause: work that was just begun is the likeliest to be late.
        if poll + 1 < polls {
            sleep(Duration::from_micros(100)).await;
        }
    }
}

#[track_caller]
fn refused<T>(result: Result<T>, kind: ErrorKind, what: &str) -> Error {
    match result {
        Ok(_) => panic!("{what} is to fail with {kind:?}, and succeeded"),
        Err(err) => {
            assert_eq!(
                err.kind(),
                kind,
                "{what} fails with the wrong kind: {err:?}"
            );
            err
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_docs_list_every_case() {
        let docs: Vec<&str> = include_str!("registry.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("//! - `")?.split('`').next())
            .collect();
        let cases: Vec<&str> = all_cases().iter().map(|case| case.name).collect();
        assert_eq!(docs, cases);
    }

    #[test]
    fn a_place_is_named_once_and_plainly() {
        let (one, other) = (Place::new(), Place::new());
        assert_ne!(one.id(), other.id());
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        assert!(one.id().bytes().all(plain), "{}", one.id());
        assert!(one.id().len() < 20, "{}", one.id());
    }
}
