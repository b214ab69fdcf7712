//! A server's life, against a registry that remembers and fails on demand.

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{Ledger, codecs, dial, greeter, hello, one, request};
use micro_codec_core::shape;
use micro_core::{Clock, Context, ErrorKind, Result, Streaming, async_trait};
use micro_server::{Routes, RunningServer, Server, ServerOptions};
use micro_transport_core::{
    Connection, DialOptions, Handler, ListenOptions, Listener, Live, Stop, Transport,
};
use micro_transport_memory::MemoryTransport;
use tokio::time::{Instant, sleep};

/// Follows tokio's paused time.
#[derive(Debug)]
struct Paused;

impl Clock for Paused {
    fn now(&self) -> std::time::Instant {
        Instant::now().into_std()
    }

    fn wall(&self) -> std::time::SystemTime {
        std::time::SystemTime::UNIX_EPOCH
    }
}

fn options() -> ServerOptions {
    ServerOptions::default()
        .with_codecs(codecs())
        .with_clock(Arc::new(Paused))
}

/// A greeter, and a method that takes as many seconds as it is told to.
fn slow() -> Routes {
    Routes::dynamic("Slow")
        .unary(
            "Sleep",
            shape!(u64),
            shape!(u64),
            |_cx, secs: u64| async move {
                sleep(Duration::from_secs(secs)).await;
                Ok(secs)
            },
        )
        .server_streaming("Forever", shape!(u64), shape!(u64), |_cx, _: u64| async {
            Ok(Streaming::new(futures_util::stream::pending()))
        })
}

async fn start(registry: &Arc<Ledger>, network: &MemoryTransport) -> RunningServer {
    let server = Server::new("greeter").options(options());
    let server = server.handle(greeter()).handle(slow());
    let registry: Arc<Ledger> = Arc::clone(registry);
    server
        .start(registry, Arc::new(network.clone()))
        .await
        .unwrap()
}

async fn sleeps(connection: Arc<dyn Connection>, secs: u64) -> Result<()> {
    let request = request("/greeter.Slow/Sleep", one(&secs.to_string()));
    connection.call(&Context::new(), request).await.map(drop)
}

#[tokio::test(start_paused = true)]
async fn it_listens_registers_serves_and_leaves() {
    let (registry, network) = (Ledger::new(), MemoryTransport::new());
    let running = start(&registry, &network).await;
    assert!(running.is_registered());
    assert!(running.id().starts_with("greeter-"));
    let registered = registry.nodes()[0].clone();
    assert_eq!(registered.name, "greeter");
    assert_eq!(registered.version, "latest");
    assert_eq!(registered.nodes[0].address, running.address());
    assert_eq!(registered.nodes[0].metadata["transport"], "memory");
    let connection = dial(&network, running.address()).await;
    assert!(hello(&*connection).await.is_ok());
    let report = running.stop().await.unwrap();
    assert!(report.deregistered && !report.forced && report.unfinished == 0);
    assert_eq!(registry.entries(), ["register", "deregister"]);
    assert!(!running.is_registered());
    assert!(
        network
            .dial(running.address(), DialOptions::default())
            .await
            .is_err()
    );
    // Once more is the same end.
    assert_eq!(running.stop().await.unwrap(), report);
    assert_eq!(running.stop_now().await.unwrap(), report);
}

#[tokio::test(start_paused = true)]
async fn it_registers_again_and_again_and_brings_a_lost_registration_back() {
    let (registry, network) = (Ledger::new(), MemoryTransport::new());
    let running = start(&registry, &network).await;
    sleep(Duration::from_secs(60)).await;
    let count = registry.entries().len();
    assert!((6..=8).contains(&count), "{count}");
    registry.lose();
    sleep(Duration::from_secs(12)).await;
    assert_eq!(registry.registered(), 1);
    registry.down.store(true, Ordering::SeqCst);
    sleep(Duration::from_secs(15)).await;
    assert!(!running.is_registered());
    registry.down.store(false, Ordering::SeqCst);
    sleep(Duration::from_secs(11)).await;
    assert!(running.is_registered());
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_is_down_does_not_keep_it_from_running() {
    let (registry, network) = (Ledger::new(), MemoryTransport::new());
    registry.down.store(true, Ordering::SeqCst);
    let running = start(&registry, &network).await;
    assert!(!running.is_registered());
    assert_eq!(registry.attempts.load(Ordering::SeqCst), 3);
    let connection = dial(&network, running.address()).await;
    assert!(hello(&*connection).await.is_ok());
    registry.down.store(false, Ordering::SeqCst);
    sleep(Duration::from_secs(2)).await;
    assert!(running.is_registered());
    registry.down.store(true, Ordering::SeqCst);
    let report = running.stop().await.unwrap();
    assert!(!report.deregistered && !report.forced);
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_refuses_it_ends_the_start() {
    let (registry, network) = (Ledger::new(), MemoryTransport::new());
    registry.refuse.store(true, Ordering::SeqCst);
    let server = Server::new("greeter").options(options().with_address("here"));
    let err = server
        .handle(greeter())
        .start(registry, Arc::new(network.clone()))
        .await
        .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::PermissionDenied);
    assert!(network.dial("here", DialOptions::default()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn wrong_options_end_the_start() {
    for (name, options) in [
        ("a/b", options()),
        ("a", options().with_register_ttl(Duration::from_secs(5))),
        ("a", options().with_address("h:9-8")),
    ] {
        let server = Server::new(name).options(options).handle(greeter());
        let (registry, network) = (Ledger::new(), MemoryTransport::new());
        let err = server.start(registry, Arc::new(network)).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{name}: {err}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_heartbeat_never_revives_a_node() {
    let (registry, network) = (Ledger::new(), MemoryTransport::new());
    let running = start(&registry, &network).await;
    registry.slow.store(true, Ordering::SeqCst);
    // Into the middle of an attempt, which takes 300 ms.
    let attempts = registry.attempts.load(Ordering::SeqCst);
    while registry.attempts.load(Ordering::SeqCst) == attempts {
        sleep(Duration::from_millis(10)).await;
    }
    running.stop().await.unwrap();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(registry.entries().last().unwrap(), "deregister");
    assert_eq!(registry.registered(), 0);
}

#[tokio::test(start_paused = true)]
async fn calls_are_accepted_until_others_know_and_end_in_their_time() {
    let registry = Arc::new(Ledger {
        others_see_it: true,
        ..Ledger::default()
    });
    let network = MemoryTransport::new();
    let running = start(&registry, &network).await;
    let connection = dial(&network, running.address()).await;
    let long = tokio::spawn(sleeps(Arc::clone(&connection), 5));
    sleep(Duration::from_millis(10)).await;
    let began = Instant::now();
    let stop = async {
        let report = running.stop().await.unwrap();
        (report, began.elapsed())
    };
    let meanwhile = async {
        sleep(Duration::from_millis(500)).await;
        assert_eq!(registry.registered(), 0);
        assert_eq!(running.health().is_serving(""), Some(false));
        assert_eq!(running.health().is_serving("greeter.Greeter"), Some(false));
        assert!(hello(&*connection).await.is_ok());
        assert!(
            network
                .dial(running.address(), DialOptions::default())
                .await
                .is_ok()
        );
        sleep(Duration::from_secs(1)).await;
        assert!(
            network
                .dial(running.address(), DialOptions::default())
                .await
                .is_err()
        );
    };
    let ((report, took), ()) = tokio::join!(stop, meanwhile);
    assert!(long.await.unwrap().is_ok());
    assert!(report.unfinished == 0 && !report.forced, "{report:?}");
    assert!(
        took >= Duration::from_secs(4) && took < Duration::from_secs(6),
        "{took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_does_not_end_is_cut_off_at_the_deadline_or_at_the_second_signal() {
    for second_signal in [false, true] {
        let (registry, network) = (Ledger::new(), MemoryTransport::new());
        let running = start(&registry, &network).await;
        let connection = dial(&network, running.address()).await;
        let forever = request("/greeter.Slow/Forever", one("0"));
        let stream = connection.call(&Context::new(), forever).await.unwrap();
        let long = tokio::spawn(sleeps(Arc::clone(&connection), 3600));
        sleep(Duration::from_millis(10)).await;
        let began = Instant::now();
        let report = if second_signal {
            let force = async {
                sleep(Duration::from_secs(2)).await;
                running.stop_now().await.unwrap()
            };
            let (report, forced) = tokio::join!(running.stop(), force);
            assert_eq!(report.unwrap(), forced);
            forced
        } else {
            running.stop().await.unwrap()
        };
        let took = began.elapsed().as_secs();
        assert_eq!(took, if second_signal { 2 } else { 10 });
        assert_eq!(report.forced, second_signal);
        assert_eq!(report.unfinished, 2, "{report:?}");
        assert!(report.deregistered);
        assert!(long.await.unwrap().is_err());
        drop(stream);
    }
}

#[tokio::test(start_paused = true)]
async fn dropping_it_closes_everything_and_leaves_no_registration() {
    let (registry, network) = (Ledger::new(), MemoryTransport::new());
    let running = start(&registry, &network).await;
    let address = running.address().to_owned();
    drop(running);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(registry.registered(), 0);
    assert!(
        network
            .dial(&address, DialOptions::default())
            .await
            .is_err()
    );

    // The same for a start that nobody waits for.
    registry.slow.store(true, Ordering::SeqCst);
    let server = Server::new("greeter").options(options().with_address("here"));
    let start = server
        .handle(greeter())
        .start(Arc::clone(&registry) as _, Arc::new(network.clone()));
    assert!(
        tokio::time::timeout(Duration::from_millis(100), start)
            .await
            .is_err()
    );
    sleep(Duration::from_secs(2)).await;
    assert_eq!(registry.registered(), 0);
    assert!(network.dial("here", DialOptions::default()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_nobody_waits_for_goes_on() {
    let (registry, network) = (Ledger::new(), MemoryTransport::new());
    let running = start(&registry, &network).await;
    let stop = running.stop();
    assert!(
        tokio::time::timeout(Duration::from_millis(1), stop)
            .await
            .is_err()
    );
    let report = running.wait().await.unwrap();
    assert!(report.deregistered && !report.forced);
}

/// A transport whose listener breaks after a second.
#[derive(Debug)]
struct Breaks;

#[async_trait]
impl Transport for Breaks {
    fn backend(&self) -> &'static str {
        "breaks"
    }

    async fn dial(&self, _: &str, _: DialOptions) -> Result<Arc<dyn Connection>> {
        Err(micro_core::Error::unavailable("nobody"))
    }

    async fn listen(&self, _: &str, _: ListenOptions) -> Result<Box<dyn Listener>> {
        Ok(Box::new(Self))
    }
}

#[async_trait]
impl Listener for Breaks {
    fn address(&self) -> String {
        "127.0.0.1:1".to_owned()
    }

    fn advertise(&self) -> std::collections::BTreeMap<String, String> {
        std::collections::BTreeMap::new()
    }

    async fn serve(self: Box<Self>, _: Arc<dyn Handler>, _: Live<Stop>) -> Result<()> {
        sleep(Duration::from_secs(1)).await;
        Err(micro_core::Error::internal("the socket is on fire"))
    }
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_breaks_ends_the_server_and_its_registration() {
    let registry = Ledger::new();
    let server = Server::new("greeter").options(options()).handle(greeter());
    let running = server
        .start(Arc::clone(&registry) as _, Arc::new(Breaks))
        .await
        .unwrap();
    let err = running.wait().await.unwrap_err();
    assert_eq!(err.message(), "the socket is on fire");
    assert_eq!(registry.registered(), 0);
    assert_eq!(running.health().is_serving(""), Some(false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_under_load_loses_no_call_that_was_accepted() {
    let (registry, network) = (Ledger::new(), MemoryTransport::new());
    let options = ServerOptions::default()
        .with_codecs(codecs())
        .with_stop_timeout(Duration::from_secs(2));
    let running = Server::new("greeter")
        .options(options)
        .handle(greeter())
        .start(registry, Arc::new(network.clone()))
        .await
        .unwrap();
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let connection = dial(&network, running.address()).await;
        callers.spawn(async move {
            let mut answered = 0;
            loop {
                match hello(&*connection).await {
                    Ok(_) => answered += 1,
                    // Refused before it ran: a client calls another node.
                    Err(err) => {
                        assert!(err.is_unprocessed(), "{err}");
                        return answered;
                    }
                }
                if answered % 64 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        });
    }
    sleep(Duration::from_millis(50)).await;
    let report = running.stop().await.unwrap();
    assert_eq!(report.unfinished, 0);
    let answered: u64 = callers.join_all().await.into_iter().sum();
    assert!(answered > 100, "{answered}");
    assert_eq!(
        running.stats().methods.iter().map(|m| m.calls).sum::<u64>(),
        answered
    );
}
