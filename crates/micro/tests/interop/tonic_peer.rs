//! tonic on either side.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_core::Stream;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::metadata::{BinaryMetadataValue, MetadataMap};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status};

use crate::common::{Fleet, Probe as _, ProbeClient, ping, until};
use crate::generated::kinds::{Color, Everything, Inner, kinds_client, kinds_server};
use crate::generated::probe::{Ping, probe_client, probe_server};
use crate::kinds::{DETAIL, KindsServer, Mirror};
use crate::stranger;

type Client = probe_client::ProbeClient<Channel>;

fn message(text: &str, number: u64) -> Ping {
    Ping {
        text: text.to_owned(),
        number,
    }
}

async fn connect(address: &str) -> Channel {
    Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .connect()
        .await
        .unwrap()
}

/// `google.rpc.Status`, as an error with details carries it.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

fn why() -> RpcStatus {
    let (type_url, value) = DETAIL;
    RpcStatus {
        code: Code::NotFound.into(),
        message: "no such inner".to_owned(),
        details: vec![prost_types::Any {
            type_url: type_url.to_owned(),
            value: value.to_owned(),
        }],
    }
}

/// As [`crate::kinds::Everything::full`].
fn full() -> Everything {
    let inner = |id, name: &str| Inner {
        id,
        name: name.to_owned(),
    };
    Everything {
        flag: true,
        int32: -32,
        int64: i64::MIN,
        uint32: u32::MAX,
        uint64: u64::MAX,
        float: 1.5,
        double: -2.25,
        text: "föö".to_owned(),
        raw: vec![0, 255, 7],
        maybe_number: Some(0),
        maybe_text: Some(String::new()),
        numbers: vec![0, -1, 1 << 40],
        texts: vec![String::new(), "b".to_owned()],
        raws: vec![vec![], vec![1]],
        inner: Some(inner(1, "one")),
        maybe_inner: Some(Inner::default()),
        inners: vec![inner(2, "two"), Inner::default()],
        color: Color::Red.into(),
        colors: vec![Color::DeepBlue.into(), Color::Unspecified.into()],
        by_name: [("a".to_owned(), 1), (String::new(), 0)].into(),
        by_number: [(-1, inner(3, "three"))].into(),
        took: Some(prost_types::Duration {
            seconds: 3,
            nanos: 500_000_000,
        }),
        at: Some(prost_types::Timestamp {
            seconds: 1_700_000_000,
            nanos: 25_000_000,
        }),
        next: Some(Box::new(Everything {
            text: "next".to_owned(),
            // What is a value in Rust, not an option, is always there.
            inner: Some(Inner::default()),
            took: Some(prost_types::Duration::default()),
            ..Everything::default()
        })),
        r#type: "keyword".to_owned(),
    }
}

// A client of tonic's.

#[tokio::test]
async fn a_tonic_client_calls_all_four_shapes() {
    let fleet = Fleet::new();
    let (running, _) = fleet.start("probe", "probe-1").await;
    let mut client = Client::new(connect(running.address()).await);

    let sent = message("föö", u64::MAX);
    let reply = client.echo(sent.clone()).await.unwrap();
    assert_eq!(reply.into_inner(), sent);
    let big = message(&"x".repeat(1 << 20), 1);
    assert_eq!(client.echo(big.clone()).await.unwrap().into_inner(), big);

    let counted = client.count(message("n", 1000)).await.unwrap().into_inner();
    let counted: Vec<_> = counted.map(|ping| ping.unwrap().number).collect().await;
    assert!(counted.into_iter().eq(0..1000));

    let pings = tokio_stream::iter((1..=100).map(|number| message("", number)));
    assert_eq!(client.sum(pings).await.unwrap().into_inner().number, 5050);

    let (sender, pings) = mpsc::channel(1);
    let chat = client.chat(ReceiverStream::new(pings)).await.unwrap();
    let mut chat = chat.into_inner();
    for number in 0..10 {
        // Each reply before the next request: nothing is held back on the way.
        sender.send(message("chat", number)).await.unwrap();
        assert_eq!(chat.message().await.unwrap().unwrap().number, number);
    }
    drop(sender);
    assert_eq!(chat.message().await.unwrap(), None);
}

#[tokio::test]
async fn a_tonic_client_s_metadata_travel_both_ways() {
    let fleet = Fleet::new();
    let with_kinds = |service: micro::Service| service.handle(KindsServer::new(Mirror));
    let (running, _) = fleet.start_with("probe", "probe-1", with_kinds).await;
    let channel = connect(running.address()).await;

    let mut request = Request::new(message("", 0));
    let metadata = request.metadata_mut();
    metadata.insert("x-tenant", "acme".parse().unwrap());
    let reply = Client::new(channel.clone()).echo(request).await.unwrap();
    assert_eq!(reply.metadata().get("x-tenant-seen").unwrap(), "acme");
    assert_eq!(reply.metadata().get("x-node").unwrap(), "probe-1");

    let mut request = Request::new(Everything::default());
    let raw = BinaryMetadataValue::from_bytes(b"\x00\xff");
    request.metadata_mut().insert_bin("x-raw-bin", raw.clone());
    let mut kinds = kinds_client::KindsClient::new(channel);
    let reply = kinds.echo(request).await.unwrap();
    assert_eq!(reply.metadata().get_bin("x-raw-bin"), Some(&raw));
}

#[tokio::test]
async fn a_tonic_client_s_deadline_reaches_the_handler() {
    let fleet = Fleet::new();
    let (running, seen) = fleet.start("probe", "probe-1").await;
    let mut client = Client::new(connect(running.address()).await);

    let mut request = Request::new(message("", 0));
    request.set_timeout(Duration::from_secs(5));
    let left = client.left(request).await.unwrap().into_inner();
    let left: u64 = left.text.parse().unwrap();
    assert!((3000..=5000).contains(&left), "{left}");

    let mut request = Request::new(message("", 10_000));
    request.set_timeout(Duration::from_millis(100));
    let err = client.sleep(request).await.unwrap_err();
    // tonic's own timer says `Cancelled`; which of the two is first is left to chance.
    assert!(
        matches!(err.code(), Code::DeadlineExceeded | Code::Cancelled),
        "{err}"
    );
    until("the handler is dropped", || {
        seen.under_way.load(Ordering::SeqCst) == 0
    })
    .await;
}

#[tokio::test]
async fn a_tonic_client_that_leaves_ends_the_stream() {
    let fleet = Fleet::new();
    let (running, seen) = fleet.start("probe", "probe-1").await;
    let mut client = Client::new(connect(running.address()).await);
    let mut counted = client
        .count(message("", 1 << 40))
        .await
        .unwrap()
        .into_inner();
    counted.message().await.unwrap().unwrap();
    drop(counted);
    until("the producer ends", || {
        seen.under_way.load(Ordering::SeqCst) == 0
    })
    .await;
}

#[tokio::test]
async fn a_tonic_client_sees_codes_messages_and_details() {
    let fleet = Fleet::new();
    let with_kinds = |service: micro::Service| service.handle(KindsServer::new(Mirror));
    let (running, _) = fleet.start_with("probe", "probe-1", with_kinds).await;
    let channel = connect(running.address()).await;
    let mut client = Client::new(channel.clone());
    for code in 1..=16 {
        let err = client.fail(message("föö % \n", code)).await.unwrap_err();
        assert_eq!(u64::try_from(i32::from(err.code())), Ok(code));
        assert_eq!(err.message(), "föö % \n");
        assert_eq!(err.details(), b"");
    }
    let err = client.panic(message("secret", 0)).await.unwrap_err();
    assert_eq!(err.code(), Code::Internal);
    assert!(!err.message().contains("secret"), "{err}");

    let mut kinds = kinds_client::KindsClient::new(channel.clone());
    let inner = Inner {
        id: 0,
        name: "no such inner".to_owned(),
    };
    let err = kinds.refuse(inner).await.unwrap_err();
    assert_eq!(
        (err.code(), err.message()),
        (Code::NotFound, "no such inner")
    );
    assert_eq!(RpcStatus::decode(err.details()).unwrap(), why());

    // More than a service takes by default.
    let err = client
        .echo(message(&"x".repeat(5 << 20), 0))
        .await
        .unwrap_err();
    assert_eq!(err.code(), Code::ResourceExhausted, "{err}");
}

#[tokio::test]
async fn a_tonic_client_sends_every_kind_of_field() {
    let fleet = Fleet::new();
    let service = fleet.service("any-name").handle(KindsServer::new(Mirror));
    let running = service.start().await.unwrap();
    let mut kinds = kinds_client::KindsClient::new(connect(running.address()).await);
    let reply = kinds.echo(full()).await.unwrap();
    assert_eq!(reply.metadata().get("x-is-full").unwrap(), "true");
    assert_eq!(reply.into_inner(), full());
}

// A server of tonic's.

struct Stranger {
    under_way: Arc<AtomicUsize>,
}

type Pings = Pin<Box<dyn Stream<Item = Result<Ping, Status>> + Send>>;

/// What tonic answers with and what a stream holds: boxes say nothing to a test.
type Reply<T> = Result<Response<T>, Status>;

fn metadata_back(from: &MetadataMap, to: &mut MetadataMap) {
    to.insert("x-node", "stranger".parse().unwrap());
    if let Some(tenant) = from.get("x-tenant") {
        to.insert("x-tenant-seen", tenant.clone());
    }
    if let Some(raw) = from.get_bin("x-raw-bin") {
        to.insert_bin("x-raw-bin", raw.clone());
    }
}

/// `5000000u` in milliseconds.
fn millis(timeout: &str) -> u64 {
    let (number, unit) = timeout.split_at(timeout.len() - 1);
    let number: u64 = number.parse().unwrap();
    match unit {
        "S" => number * 1000,
        "m" => number,
        "u" => number / 1000,
        "n" => number / 1_000_000,
        unit => panic!("the unit {unit}"),
    }
}

/// Counts down when a handler ends or is dropped.
struct UnderWay(Arc<AtomicUsize>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tonic::async_trait]
impl probe_server::Probe for Stranger {
    async fn echo(&self, request: Request<Ping>) -> Reply<Ping> {
        let (metadata, _, ping) = request.into_parts();
        let mut reply = Response::new(ping);
        metadata_back(&metadata, reply.metadata_mut());
        Ok(reply)
    }

    async fn safe(&self, request: Request<Ping>) -> Reply<Ping> {
        self.echo(request).await
    }

    async fn sleep(&self, request: Request<Ping>) -> Reply<Ping> {
        self.under_way.fetch_add(1, Ordering::SeqCst);
        let _under_way = UnderWay(Arc::clone(&self.under_way));
        let ping = request.into_inner();
        tokio::time::sleep(Duration::from_millis(ping.number)).await;
        Ok(Response::new(ping))
    }

    async fn fail(&self, request: Request<Ping>) -> Reply<Ping> {
        let ping = request.into_inner();
        let code = i32::try_from(ping.number).unwrap();
        Err(Status::new(Code::from_i32(code), ping.text))
    }

    async fn panic(&self, _: Request<Ping>) -> Reply<Ping> {
        Err(Status::unimplemented("not here"))
    }

    type CountStream = Pings;

    async fn count(&self, request: Request<Ping>) -> Reply<Pings> {
        let ping = request.into_inner();
        let end = (ping.text == "fail").then(|| Err(Status::data_loss("after the last one")));
        let pings = (0..ping.number).map(move |number| Ok(message(&ping.text, number)));
        Ok(Response::new(Box::pin(tokio_stream::iter(
            pings.chain(end),
        ))))
    }

    async fn sum(&self, request: Request<tonic::Streaming<Ping>>) -> Reply<Ping> {
        let mut pings = request.into_inner();
        let mut sum = Ping::default();
        while let Some(ping) = pings.message().await? {
            sum.number += ping.number;
        }
        Ok(Response::new(sum))
    }

    type ChatStream = Pings;

    async fn chat(&self, request: Request<tonic::Streaming<Ping>>) -> Reply<Pings> {
        let pings = request.into_inner().map(|ping| match ping {
            Ok(ping) if ping.text == "stop" => Err(Status::aborted("stopped")),
            ping => ping,
        });
        Ok(Response::new(Box::pin(pings)))
    }

    async fn left(&self, request: Request<Ping>) -> Reply<Ping> {
        let timeout = request.metadata().get("grpc-timeout");
        let timeout = timeout.ok_or_else(|| Status::failed_precondition("there is no deadline"))?;
        let left = millis(timeout.to_str().unwrap());
        Ok(Response::new(message(&left.to_string(), 0)))
    }
}

#[tonic::async_trait]
impl kinds_server::Kinds for Stranger {
    async fn echo(&self, request: Request<Everything>) -> Reply<Everything> {
        let everything = request.into_inner();
        let is_full = (everything == full()).to_string();
        let mut reply = Response::new(everything);
        let metadata = reply.metadata_mut();
        metadata.insert("x-is-full", is_full.parse().unwrap());
        Ok(reply)
    }

    async fn refuse(&self, _: Request<Inner>) -> Reply<Inner> {
        let why = why();
        let details = why.encode_to_vec().into();
        Err(Status::with_details(Code::NotFound, why.message, details))
    }
}

/// Starts a server that is tonic through and through; returns its address.
async fn serve() -> (String, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let under_way = Arc::<AtomicUsize>::default();
    let stranger = || Stranger {
        under_way: Arc::clone(&under_way),
    };
    let server = Server::builder()
        .add_service(probe_server::ProbeServer::new(stranger()))
        .add_service(kinds_server::KindsServer::new(stranger()));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    (address, under_way)
}

#[tokio::test]
async fn a_tonic_server_is_called() {
    let (address, _) = serve().await;
    stranger::is_called(&address).await;
}

#[tokio::test]
async fn a_tonic_server_learns_that_the_caller_is_gone() {
    let (address, under_way) = serve().await;
    let options = micro::CallOptions::new().with_address(address);
    let client = Fleet::new().client().await.with_options(options);
    let probe = ProbeClient::new(client, "probe");
    let call = tokio::spawn(async move { probe.sleep(&stranger::soon(), ping("", 60_000)).await });
    until("the call arrives", || under_way.load(Ordering::SeqCst) == 1).await;
    call.abort();
    until("the handler is dropped", || {
        under_way.load(Ordering::SeqCst) == 0
    })
    .await;
}
