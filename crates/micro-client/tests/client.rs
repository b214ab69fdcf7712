//! Connections, balancing and retries, over the transport within this process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use micro_client::{CallOptions, Client, ClientOptions, Context, Error, ErrorKind, Result};
use micro_codec_json::Json;
use micro_registry_core::{Node, RegisterOptions, Registry as _, Service};
use micro_registry_memory::MemoryRegistry;
use micro_selector_p2c::P2cSelector as P2c;
use micro_selector_random::RandomSelector;
use micro_transport_core::{
    BoxFuture, Connection, DialOptions, Handler, ListenOptions, Listener, Live, Request, Response,
    Stop, Transport, async_trait,
};
use micro_transport_memory::MemoryTransport;

/// Counts what is dialled.
#[derive(Debug, Default)]
struct Counting {
    transport: MemoryTransport,
    dials: AtomicUsize,
}

#[async_trait]
impl Transport for Counting {
    fn backend(&self) -> &'static str {
        "counting"
    }

    async fn dial(&self, address: &str, opts: DialOptions) -> Result<Arc<dyn Connection>> {
        self.dials.fetch_add(1, Ordering::SeqCst);
        self.transport.dial(address, opts).await
    }

    async fn listen(&self, address: &str, opts: ListenOptions) -> Result<Box<dyn Listener>> {
        self.transport.listen(address, opts).await
    }
}

/// Answers with what it was sent, after a while, or fails.
#[derive(Debug, Default)]
struct Node1 {
    calls: AtomicUsize,
    pause: Duration,
    fail: bool,
}

impl Handler for Node1 {
    fn call(
        self: Arc<Self>,
        _cx: Context,
        request: Request,
    ) -> BoxFuture<'static, Result<Response>> {
        Box::pin(async move {
            self.calls.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(self.pause).await;
            if self.fail {
                return Err(Error::unavailable("out of order"));
            }
            Ok(Response::new(request.content_type, request.body))
        })
    }
}

struct Fleet {
    registry: Arc<MemoryRegistry>,
    transport: Arc<Counting>,
    running: Vec<tokio::task::JoinHandle<Result<()>>>,
}

impl Fleet {
    fn new() -> Self {
        Self {
            registry: Arc::new(MemoryRegistry::new()),
            transport: Arc::default(),
            running: Vec::new(),
        }
    }

    async fn start(&mut self, id: &str, handler: Arc<dyn Handler>) -> String {
        let listener = self
            .transport
            .listen("", ListenOptions::default())
            .await
            .unwrap();
        let address = listener.address();
        let node = Node::new(id, &address);
        let service = Service::new("echo", "v1").with_node(node);
        self.registry
            .register(&service, RegisterOptions::default())
            .await
            .unwrap();
        self.running.push(tokio::spawn(
            listener.serve(handler, Live::constant(Stop::Run)),
        ));
        address
    }

    fn client(&self, options: ClientOptions) -> Client {
        Client::new(
            Arc::clone(&self.registry) as _,
            Arc::clone(&self.transport) as _,
            Arc::new(P2c::new()),
            options.with_codec(Json),
        )
    }
}

async fn echo(client: &Client) -> Result<Bytes> {
    client
        .call_raw(
            "echo",
            "Echo.Say",
            "application/json",
            Bytes::from_static(b"1"),
        )
        .send(&Context::new().with_timeout(Duration::from_secs(10)))
        .await
}

#[tokio::test(start_paused = true)]
async fn connections_grow_with_the_calls_in_flight_and_are_reused() {
    let mut fleet = Fleet::new();
    let pause = Duration::from_millis(100);
    fleet
        .start(
            "a",
            Arc::new(Node1 {
                pause,
                ..Node1::default()
            }),
        )
        .await;
    let client = fleet.client(ClientOptions::default().with_calls_per_connection(4));
    for _ in 0..10 {
        echo(&client).await.unwrap();
    }
    assert_eq!(
        fleet.transport.dials.load(Ordering::SeqCst),
        1,
        "one at a time needs one"
    );
    for _ in 0..5 {
        let calls: Vec<_> = (0..64)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move { echo(&client).await })
            })
            .collect();
        for call in calls {
            call.await.unwrap().unwrap();
        }
    }
    let dials = fleet.transport.dials.load(Ordering::SeqCst);
    assert_eq!(dials, 4, "as many as allowed, and no more");
}

#[tokio::test(start_paused = true)]
async fn a_failing_node_does_not_attract_calls() {
    let mut fleet = Fleet::new();
    let good = Arc::new(Node1 {
        pause: Duration::from_millis(10),
        ..Node1::default()
    });
    let bad = Arc::new(Node1 {
        fail: true,
        ..Node1::default()
    });
    fleet.start("good", Arc::clone(&good) as _).await;
    fleet.start("bad", Arc::clone(&bad) as _).await;
    let client = fleet.client(ClientOptions::default());
    let mut failed = 0;
    for _ in 0..500 {
        failed += usize::from(echo(&client).await.is_err());
    }
    assert!(failed < 25, "{failed} of 500 failed");
    assert_eq!(
        failed,
        bad.calls.load(Ordering::SeqCst),
        "what may have run is not repeated"
    );
}

#[tokio::test(start_paused = true)]
async fn a_node_that_cannot_be_reached_costs_no_call() {
    let mut fleet = Fleet::new();
    let good = Arc::new(Node1::default());
    fleet.start("good", Arc::clone(&good) as _).await;
    let gone = Service::new("echo", "v1").with_node(Node::new("gone", "memory:60000"));
    fleet
        .registry
        .register(&gone, RegisterOptions::default())
        .await
        .unwrap();
    let client = fleet.client(ClientOptions::default().with_retries(0));
    for _ in 0..100 {
        echo(&client).await.unwrap();
    }
    assert_eq!(good.calls.load(Ordering::SeqCst), 100);
    let dials = fleet.transport.dials.load(Ordering::SeqCst);
    assert!(dials < 30, "{dials}: it is not dialled for each call");
}

#[tokio::test(start_paused = true)]
async fn a_node_alone_and_down_is_unavailable_quickly() {
    let fleet = Fleet::new();
    let gone = Service::new("echo", "v1").with_node(Node::new("gone", "memory:60000"));
    fleet
        .registry
        .register(&gone, RegisterOptions::default())
        .await
        .unwrap();
    let client = fleet.client(ClientOptions::default());
    let start = tokio::time::Instant::now();
    let err = echo(&client).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unavailable);
    assert!(err.to_string().contains("address: memory:60000"), "{err}");
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_server_that_comes_back_is_found_again() {
    let mut fleet = Fleet::new();
    let address = fleet.start("a", Arc::new(Node1::default())).await;
    let client = fleet.client(ClientOptions::default());
    echo(&client).await.unwrap();
    fleet.running.pop().unwrap().abort();
    tokio::time::sleep(Duration::from_millis(10)).await;
    echo(&client).await.unwrap_err();
    let listener = fleet
        .transport
        .listen(&address, ListenOptions::default())
        .await
        .unwrap();
    let serve = listener.serve(Arc::new(Node1::default()), Live::constant(Stop::Run));
    fleet.running.push(tokio::spawn(serve));
    tokio::time::sleep(Duration::from_secs(10)).await;
    echo(&client).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn tasks_end_with_the_client() {
    let mut fleet = Fleet::new();
    fleet.start("a", Arc::new(Node1::default())).await;
    let before = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    let client = fleet.client(ClientOptions::default());
    echo(&client).await.unwrap();
    let at = client.with_options(CallOptions::new().with_address("memory:60000"));
    echo(&at).await.unwrap_err();
    drop((client, at));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let after = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    assert_eq!(after, before);
}

#[tokio::test(start_paused = true)]
async fn dropping_a_call_at_any_point_leaves_the_client_well() {
    let mut fleet = Fleet::new();
    let pause = Duration::from_millis(5);
    fleet
        .start(
            "a",
            Arc::new(Node1 {
                pause,
                ..Node1::default()
            }),
        )
        .await;
    let client = fleet.client(ClientOptions::default());
    for polls in 0..40 {
        let mut call = Box::pin(echo(&client));
        for _ in 0..polls {
            let done = std::future::poll_fn(|cx| {
                std::task::Poll::Ready(call.as_mut().poll(cx).is_ready())
            });
            if done.await {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    echo(&client).await.unwrap();
}

#[tokio::test]
async fn metadata_of_a_node_reach_the_transport() {
    #[derive(Debug)]
    struct Expecting;
    #[async_trait]
    impl Transport for Expecting {
        fn backend(&self) -> &'static str {
            "expecting"
        }
        async fn dial(&self, _: &str, opts: DialOptions) -> Result<Arc<dyn Connection>> {
            assert_eq!(
                opts.metadata,
                BTreeMap::from([("lane".to_owned(), "1".to_owned())])
            );
            Err(Error::permission_denied("seen"))
        }
        async fn listen(&self, _: &str, _: ListenOptions) -> Result<Box<dyn Listener>> {
            Err(Error::unimplemented("not here"))
        }
    }
    let registry = Arc::new(MemoryRegistry::new());
    let node = Node::new("a", "x:1").with_metadata("lane", "1");
    let service = Service::new("echo", "v1").with_node(node);
    registry
        .register(&service, RegisterOptions::default())
        .await
        .unwrap();
    let client = Client::new(
        registry,
        Arc::new(Expecting),
        Arc::new(P2c::new()),
        ClientOptions::default().with_codec(Json),
    );
    let err = echo(&client).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::PermissionDenied);
}

#[tokio::test]
async fn streams_pass_through() {
    let mut fleet = Fleet::new();
    fleet.start("a", Arc::new(Node1::default())).await;
    let client = fleet.client(ClientOptions::default());
    let messages = micro_client::Streaming::from_iter((0..100).map(|i| Bytes::from(i.to_string())));
    let mut replies = client
        .call_raw("echo", "Echo.Chat", "application/json", Bytes::new())
        .messages(messages)
        .stream(&Context::new())
        .await
        .unwrap();
    for i in 0..100 {
        assert_eq!(replies.next().await.unwrap().unwrap(), i.to_string());
    }
    assert!(replies.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn nodes_that_went_idle_take_calls_again() {
    let mut fleet = Fleet::new();
    let nodes: Vec<_> = (0..3).map(|_| Arc::new(Node1::default())).collect();
    for (id, node) in ["a", "b", "c"].into_iter().zip(&nodes) {
        fleet.start(id, Arc::clone(node) as _).await;
    }
    // Not p2c: it stays with the quickest for a while, which is not what is asked here.
    let client = Client::new(
        Arc::clone(&fleet.registry) as _,
        Arc::clone(&fleet.transport) as _,
        Arc::new(RandomSelector::new()),
        ClientOptions::default().with_codec(Json),
    );
    echo(&client).await.unwrap();
    // Long beyond the idle time: every connection is closed.
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let before: Vec<_> = nodes
        .iter()
        .map(|node| node.calls.load(Ordering::SeqCst))
        .collect();
    for _ in 0..1000 {
        echo(&client).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for (node, before) in nodes.iter().zip(before) {
        let calls = node.calls.load(Ordering::SeqCst) - before;
        assert!(calls > 0, "a node that was idle took no call");
    }
}

#[tokio::test(start_paused = true)]
async fn any_idle_time_will_do() {
    for idle in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
        let mut fleet = Fleet::new();
        fleet.start("a", Arc::new(Node1::default())).await;
        let limits = micro_transport_core::Limits::default().with_idle(idle);
        let client = fleet.client(ClientOptions::default().with_limits(limits));
        for _ in 0..3 {
            echo(&client).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_service_can_be_cancelled() {
    let fleet = Fleet::new();
    let client = fleet.client(ClientOptions::default());
    let (cx, canceller) = Context::new().with_cancel();
    let call = tokio::spawn(async move {
        client
            .call_raw("echo", "Echo.Say", "application/json", Bytes::new())
            .discovery(micro_client::Discovery::WaitForReady)
            .timeout(Duration::from_secs(3600))
            .send(&cx)
            .await
    });
    tokio::time::sleep(Duration::from_secs(10)).await;
    let start = tokio::time::Instant::now();
    canceller.cancel();
    let err = call.await.unwrap().unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Cancelled);
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn a_transport_that_panics_fails_calls_and_no_more() {
    #[derive(Debug)]
    struct Panicking;
    #[async_trait]
    impl Transport for Panicking {
        fn backend(&self) -> &'static str {
            "panicking"
        }
        async fn dial(&self, _: &str, _: DialOptions) -> Result<Arc<dyn Connection>> {
            panic!("a stranger's mistake")
        }
        async fn listen(&self, _: &str, _: ListenOptions) -> Result<Box<dyn Listener>> {
            Err(Error::unimplemented("not here"))
        }
    }
    let registry = Arc::new(MemoryRegistry::new());
    let service = Service::new("echo", "v1").with_node(Node::new("a", "x:1"));
    registry
        .register(&service, RegisterOptions::default())
        .await
        .unwrap();
    let options = ClientOptions::default().with_codec(Json).with_retries(0);
    let client = Client::new(registry, Arc::new(Panicking), Arc::new(P2c::new()), options);
    let err = tokio::time::timeout(Duration::from_secs(5), echo(&client))
        .await
        .expect("nobody waits for ever")
        .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Internal);
}
