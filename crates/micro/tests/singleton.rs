//! Locks of a service, and tasks that run on one node.

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Fleet, until};
use micro::registry::memory::MemoryRegistry;
use micro::registry::{
    Capabilities, DeregisterOptions, EventStream, GetOptions, ListOptions, RegisterOptions,
    Registry, Service as Described, WatchOptions,
};
use micro::sync::memory::MemoryCoordinator;
use micro::sync::{Coordinator as _, ElectOptions, LockOptions};
use micro::{ErrorKind, Result, Running, Service, Settings, SingletonOptions, async_trait};

/// Who has begun to work.
type Begun = Arc<Mutex<Vec<String>>>;

/// A service whose task tells who has begun it, and goes on for ever.
fn working(service: Service, begun: &Begun) -> Service {
    let begun = Arc::clone(begun);
    service.singleton(move |leadership| {
        begun.lock().unwrap().push(leadership.value().to_owned());
        std::future::pending()
    })
}

#[tokio::test]
async fn three_nodes_run_it_one_after_the_other() {
    let fleet = Fleet::new();
    let coordinator = MemoryCoordinator::new();
    let begun = Begun::default();
    let mut nodes: Vec<Running> = Vec::new();
    for id in ["books-1", "books-2", "books-3"] {
        let service = fleet.service("books").id(id);
        let service = service.with_coordinator(Arc::new(coordinator.clone()));
        nodes.push(working(service, &begun).start().await.unwrap());
    }
    for node in nodes {
        let id = node.id().to_owned();
        until("it works", || begun.lock().unwrap().last() == Some(&id)).await;
        node.stop().await.unwrap();
    }
    assert_eq!(begun.lock().unwrap().len(), 3);
    let free = coordinator
        .try_lock("books", LockOptions::default())
        .await
        .unwrap();
    assert!(free.is_some(), "and nobody holds it in the end");
}

#[tokio::test]
async fn a_service_that_is_dropped_lets_go() {
    let fleet = Fleet::new();
    let coordinator = MemoryCoordinator::new();
    let begun = Begun::default();
    let service = fleet.service("books");
    let service = service.with_coordinator(Arc::new(coordinator.clone()));
    let running = working(service, &begun).start().await.unwrap();
    until("it works", || !begun.lock().unwrap().is_empty()).await;
    drop(running);
    let opts = ElectOptions::default().with_wait(Duration::from_secs(5));
    drop(coordinator.elect("books", opts).await.unwrap());
}

#[tokio::test]
async fn a_bad_singleton_ends_the_start() {
    let fleet = Fleet::new();
    let begun = Begun::default();
    let twice = working(working(fleet.service("books"), &begun), &begun);
    let named = fleet
        .service("books")
        .singleton_with(SingletonOptions::default().with_name("a/b"), |_| async {
            Ok(())
        });
    for bad in [twice, named] {
        let err = bad.start().await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{err}");
    }
    assert!(begun.lock().unwrap().is_empty());
}

#[tokio::test]
async fn settings_choose_the_coordinator_and_namespaces_are_apart() {
    let drivers = micro::drivers();
    let open = async |pairs: &[(&'static str, &'static str)]| {
        let settings = Settings::from_pairs(pairs.iter().copied()).unwrap();
        let service = Service::new("books").settings(settings);
        service.drivers(drivers.clone()).coordinator().await
    };
    let one = open(&[]).await.unwrap();
    assert_eq!(one.backend(), "memory");
    let same = open(&[("MICRO_SYNC", "memory")]).await.unwrap();
    let other = open(&[("MICRO_NAMESPACE", "staging")]).await.unwrap();
    let _held = one.lock("books", LockOptions::default()).await.unwrap();
    let taken = async |coordinator: &Arc<dyn micro::sync::Coordinator>| {
        let lock = coordinator.try_lock("books", LockOptions::default()).await;
        lock.unwrap().is_none()
    };
    assert!(taken(&same).await && !taken(&other).await);
    let err = open(&[("MICRO_SYNC", "nowhere://host")]).await.unwrap_err();
    assert!(err.to_string().contains("micro.sync"), "{err}");
}

/// A registry in memory that others could see, too.
#[derive(Debug)]
struct Shared(MemoryRegistry);

#[async_trait]
impl Registry for Shared {
    fn backend(&self) -> &'static str {
        self.0.backend()
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities().with_shared(true).with_local(true)
    }

    async fn register(&self, service: &Described, opts: RegisterOptions) -> Result<()> {
        self.0.register(service, opts).await
    }

    async fn deregister(&self, service: &Described, opts: DeregisterOptions) -> Result<()> {
        self.0.deregister(service, opts).await
    }

    async fn get_service(&self, name: &str, opts: GetOptions) -> Result<Vec<Described>> {
        self.0.get_service(name, opts).await
    }

    async fn list_services(&self, opts: ListOptions) -> Result<Vec<Described>> {
        self.0.list_services(opts).await
    }

    async fn watch(&self, opts: WatchOptions) -> Result<EventStream> {
        self.0.watch(opts).await
    }
}

/// What is logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(feature = "log")]
#[tokio::test]
async fn a_fleet_whose_locks_are_of_one_process_is_warned_once() {
    let lines = Lines::default();
    let write = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || write.clone())
        .finish();
    let _logged = tracing::subscriber::set_default(subscriber);
    let warnings = || {
        let lines = lines.0.lock().unwrap();
        String::from_utf8_lossy(&lines)
            .matches("set MICRO_SYNC")
            .count()
    };
    let registry: Arc<dyn Registry> = Arc::new(Shared(MemoryRegistry::new()));
    let begun = Begun::default();
    // As processes have: locks of their own.
    let start = async || {
        let service = Service::new("books").settings(Settings::new());
        let service = service.with_registry(Arc::clone(&registry));
        let service = service.with_coordinator(Arc::new(MemoryCoordinator::new()));
        working(service, &begun).start().await.unwrap()
    };
    let alone = start().await;
    until("it works", || begun.lock().unwrap().len() == 1).await;
    assert_eq!(warnings(), 0);
    let second = start().await;
    until("it is said", || warnings() == 1).await;
    second.stop().await.unwrap();
    alone.stop().await.unwrap();
    assert_eq!(warnings(), 1);
}
