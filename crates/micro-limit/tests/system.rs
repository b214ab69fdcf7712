//! The limits around a real server and a real client, over the memory transport.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use micro_client::{Client, ClientOptions};
use micro_codec_core::shape;
use micro_codec_json::Json;
use micro_core::Clock;
use micro_limit::{
    Breaker, CircuitBreaker, Concurrency, ConcurrencyLimit, Context, Error, ErrorKind, Live,
    PolicyLimits, Rate, RateLimit, Result,
};
use micro_registry_memory::MemoryRegistry;
use micro_selector_p2c::P2cSelector;
use micro_server::{Routes, RunningServer, Server, ServerOptions};
use micro_transport_core::{ErrorExt as _, Policies, Policy};
use micro_transport_memory::MemoryTransport;

/// The time that tokio's tests pause.
#[derive(Debug)]
struct Paused;

impl Clock for Paused {
    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }
}

#[derive(Default)]
struct System {
    registry: Arc<MemoryRegistry>,
    transport: MemoryTransport,
    calls: Arc<AtomicUsize>,
}

impl System {
    async fn serve(&self, options: ServerOptions) -> RunningServer {
        let (calls, failed) = (Arc::clone(&self.calls), Arc::clone(&self.calls));
        let work = Routes::dynamic("Work")
            .unary("Sleep", shape!(u64), shape!(u64), move |_, ms: u64| {
                calls.fetch_add(1, Ordering::SeqCst);
                async move {
                    tokio::time::sleep(Duration::from_millis(ms)).await;
                    Ok(ms)
                }
            })
            .unary("Fail", shape!(u64), shape!(u64), move |_, _| {
                failed.fetch_add(1, Ordering::SeqCst);
                async { Err::<u64, _>(Error::unavailable("out of order")) }
            });
        Server::new("work")
            .options(options.with_codec(Json).with_clock(Arc::new(Paused)))
            .handle(work)
            .start(
                Arc::clone(&self.registry) as _,
                Arc::new(self.transport.clone()),
            )
            .await
            .unwrap()
    }

    fn client(&self, options: ClientOptions) -> Client {
        Client::new(
            Arc::clone(&self.registry) as _,
            Arc::new(self.transport.clone()),
            Arc::new(P2cSelector::new()),
            options.with_codec(Json),
        )
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

async fn sleep(client: &Client, ms: u64) -> Result<u64> {
    client
        .call("work", "Work.Sleep", &ms)
        .send(&Context::new())
        .await
}

async fn fail(client: &Client) -> Error {
    client
        .call::<_, u64>("work", "Work.Fail", &0_u64)
        .idempotent(true)
        .send(&Context::new())
        .await
        .unwrap_err()
}

#[tokio::test(start_paused = true)]
async fn a_full_server_refuses_and_still_says_how_it_is() {
    let system = System::default();
    let limit = ConcurrencyLimit::new(Concurrency::fixed(1).with_queue(0));
    let running = system
        .serve(ServerOptions::default().with_middleware(limit))
        .await;
    let client = system.client(ClientOptions::default());
    assert_eq!(sleep(&client, 1).await.unwrap(), 1);
    let held = {
        let client = client.clone();
        tokio::spawn(async move { sleep(&client, 10_000).await })
    };
    tokio::time::sleep(Duration::from_millis(10)).await;
    let start = tokio::time::Instant::now();
    let err = sleep(&client, 1).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::ResourceExhausted);
    assert!(
        start.elapsed() < Duration::from_millis(5),
        "and is not asked again"
    );
    let health = client
        .call_raw(
            "work",
            "/grpc.health.v1.Health/Check",
            "application/protobuf",
            Bytes::new(),
        )
        .send(&Context::new())
        .await
        .unwrap();
    assert_eq!(&*health, b"\x08\x01", "SERVING");
    let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let reflection = client
        .call_raw(
            "work",
            reflection,
            "application/protobuf",
            Bytes::from_static(b"\x3a\x00"),
        )
        .stream(&Context::new())
        .await;
    let mut replies = reflection.unwrap();
    let first = futures_util::StreamExt::next(&mut replies).await.unwrap();
    assert!(first.is_ok_and(|list| list.windows(9).any(|part| part == b"work.Work")));
    assert_eq!(held.await.unwrap().unwrap(), 10_000);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_waits_as_long_as_a_rate_tells_it_to() {
    let system = System::default();
    let limit = RateLimit::new(Rate::new(5.0, 1));
    let _running = system
        .serve(ServerOptions::default().with_middleware(limit))
        .await;
    let client = system.client(ClientOptions::default());
    sleep(&client, 0).await.unwrap();
    let err = sleep(&client, 0).await.unwrap_err();
    assert!(err.retry_after().is_some(), "it travels");
    // An idempotent call does as it is told.
    let reply = client
        .call::<_, u64>("work", "Work.Sleep", &0_u64)
        .idempotent(true)
        .send(&Context::new())
        .await;
    assert_eq!(reply.unwrap(), 0);
    assert_eq!(system.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_open_circuit_is_not_asked_again() {
    let system = System::default();
    let _running = system.serve(ServerOptions::default()).await;
    let breaker = CircuitBreaker::new(Breaker::default().with_failures(2));
    let options = ClientOptions::default().with_middleware(breaker);
    let client = system.client(options);
    for _ in 0..2 {
        assert_eq!(fail(&client).await.operation(), "");
    }
    let attempts = system.calls();
    assert_eq!(
        attempts,
        2 * 3,
        "a circuit counts calls, not their attempts"
    );
    let err = fail(&client).await;
    assert_eq!(
        (err.kind(), err.operation()),
        (ErrorKind::Unavailable, "limit.circuit")
    );
    assert!(err.is_unprocessed());
    assert_eq!(system.calls(), attempts);
}

#[tokio::test(start_paused = true)]
async fn one_value_of_policies_serves_client_and_server() {
    let system = System::default();
    let (writer, policies) = Live::channel(Policies::new());
    let server_side = PolicyLimits::of_service("work", policies.clone());
    let _running = system
        .serve(ServerOptions::default().with_middleware(server_side))
        .await;
    let plain = system.client(ClientOptions::default());
    let limited = system.client(
        ClientOptions::default()
            .with_policies(policies.clone())
            .with_middleware(PolicyLimits::new(policies)),
    );
    let two_at_once = async |client: &Client| {
        let (first, second) = tokio::join!(sleep(client, 50), sleep(client, 50));
        u32::from(first.is_ok()) + u32::from(second.is_ok())
    };
    // Connections first: a call that waits for one is not at the server yet.
    assert_eq!(two_at_once(&plain).await + two_at_once(&limited).await, 4);
    writer.set(Policies::new().with_service("work", Policy::new().with_concurrency(1, 0)));
    assert_eq!(two_at_once(&plain).await, 1, "the server refuses");
    let before = system.calls();
    assert_eq!(two_at_once(&limited).await, 1);
    assert_eq!(system.calls(), before + 1, "the client refuses by itself");
    writer.set(Policies::new().with_service(
        "work",
        Policy::new().with_timeout(Duration::from_millis(20)),
    ));
    let err = sleep(&limited, 50).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::DeadlineExceeded);
    writer.set(Policies::new());
    assert_eq!(two_at_once(&limited).await, 2);
}
