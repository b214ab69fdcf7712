//! The fast lane: what travels on it, and peers that do not keep its rules.
//!
//! The messages are written and read by prost here, from what `session.proto` says, so the tests
//! also hold the transport's own writing and reading to it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use micro_core::{Error, ErrorKind, Random as _, SeededRandom};
use micro_transport_core::{
    Body, Connection, Context, DialOptions, Limits, ListenOptions, Transport as _,
};
use micro_transport_grpc::{GrpcConfig, GrpcTransport};
use prost::Message as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::kit::{Server, Service, all, eventually, one, request, serve, unary};

const SOON: Duration = Duration::from_secs(5);

#[derive(Clone, PartialEq, prost::Message)]
struct Up {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(bool, tag = "2")]
    cancel: bool,
    #[prost(uint32, tag = "3")]
    path: u32,
    #[prost(uint32, tag = "4")]
    content_type: u32,
    #[prost(uint64, tag = "5")]
    timeout: u64,
    #[prost(uint32, tag = "6")]
    attempt: u32,
    #[prost(message, repeated, tag = "7")]
    define: Vec<Entry>,
    #[prost(uint32, repeated, tag = "8")]
    metadata: Vec<u32>,
    #[prost(message, repeated, tag = "9")]
    literals: Vec<Pair>,
    #[prost(message, optional, tag = "10")]
    greeting: Option<Greeting>,
    #[prost(uint64, tag = "11")]
    forget: u64,
    #[prost(bytes = "bytes", tag = "15")]
    message: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Down {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(uint32, tag = "2")]
    content_type: u32,
    #[prost(bytes = "bytes", tag = "3")]
    status: Bytes,
    #[prost(bool, tag = "4")]
    unprocessed: bool,
    #[prost(uint64, tag = "5")]
    take: u64,
    #[prost(bool, tag = "6")]
    stream: bool,
    #[prost(message, repeated, tag = "7")]
    define: Vec<Entry>,
    #[prost(uint32, repeated, tag = "8")]
    metadata: Vec<u32>,
    #[prost(message, repeated, tag = "9")]
    literals: Vec<Pair>,
    #[prost(message, optional, tag = "10")]
    greeting: Option<Greeting>,
    #[prost(bool, tag = "11")]
    going_away: bool,
    #[prost(uint32, repeated, tag = "12")]
    trailers: Vec<u32>,
    #[prost(bytes = "bytes", tag = "15")]
    message: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Greeting {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(uint32, tag = "2")]
    calls: u32,
    #[prost(uint32, tag = "3")]
    message: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Entry {
    #[prost(uint32, tag = "1")]
    index: u32,
    #[prost(bytes = "bytes", tag = "2")]
    name: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    value: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Pair {
    #[prost(bytes = "bytes", tag = "1")]
    name: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

fn entry(index: u32, name: &str, value: &str) -> Entry {
    Entry {
        index,
        name: Bytes::copy_from_slice(name.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
    }
}

fn pair(name: &str, value: &str) -> Pair {
    Pair {
        name: Bytes::copy_from_slice(name.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
    }
}

fn greet() -> Up {
    Up {
        greeting: Some(Greeting {
            version: 1,
            calls: 0,
            message: 16 << 10,
        }),
        ..Up::default()
    }
}

/// A call of `method` that brings its definitions along.
fn call(id: u32, method: &str, message: &str) -> Up {
    Up {
        id,
        path: 1,
        content_type: 2,
        define: vec![
            entry(1, "", &format!("/test.T/{method}")),
            entry(2, "", "application/json"),
        ],
        message: Bytes::copy_from_slice(message.as_bytes()),
        ..Up::default()
    }
}

fn framed(message: &impl prost::Message) -> Vec<u8> {
    let body = message.encode_to_vec();
    let mut out = vec![0];
    out.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
    out.extend(body);
    out
}

/// Messages as they come.
struct Reader {
    body: RecvStream,
    buf: BytesMut,
}

impl Reader {
    /// `None` at the end.
    async fn next<M: prost::Message + Default>(&mut self) -> Option<M> {
        loop {
            if self.buf.len() >= 5 {
                let len = u32::from_be_bytes(self.buf[1..5].try_into().unwrap()) as usize;
                if self.buf.len() >= 5 + len {
                    self.buf.advance(5);
                    return Some(M::decode(self.buf.split_to(len)).unwrap());
                }
            }
            let chunk = self.body.data().await?.ok()?;
            let _ = self.body.flow_control().release_capacity(chunk.len());
            self.buf.extend_from_slice(&chunk);
        }
    }

    /// Reads to the end, whatever comes, and returns the status.
    async fn status(mut self) -> Option<i32> {
        while let Some(chunk) = self.body.data().await {
            let len = chunk.ok()?.len();
            let _ = self.body.flow_control().release_capacity(len);
        }
        let trailers = self.body.trailers().await.ok()??;
        trailers.get("grpc-status")?.to_str().ok()?.parse().ok()
    }
}

/// A connection of plain HTTP/2 to our listener.
struct Raw(SendRequest<Bytes>);

impl Raw {
    async fn dial(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    async fn open(&self, path: &str) -> (SendStream<Bytes>, Reader) {
        let head = http::Request::post(format!("http://t{path}"))
            .header("te", "trailers")
            .header("content-type", "application/grpc")
            .body(())
            .unwrap();
        let mut sender = self.0.clone().ready().await.unwrap();
        let (response, send) = sender.send_request(head, false).unwrap();
        let body = timeout(SOON, response).await.unwrap().unwrap().into_body();
        let buf = BytesMut::new();
        (send, Reader { body, buf })
    }

    async fn session(&self) -> (SendStream<Bytes>, Reader) {
        let (send, mut reader) = self.open("/micro.session.v1.Session/Open").await;
        let greeting: Down = timeout(SOON, reader.next()).await.unwrap().unwrap();
        let greeting = greeting.greeting.unwrap();
        assert_eq!(greeting.version, 1);
        assert!(greeting.calls > 0 && greeting.message > 0);
        (send, reader)
    }
}

async fn send(stream: &mut SendStream<Bytes>, bytes: &[u8]) {
    let mut rest = Bytes::copy_from_slice(bytes);
    while !rest.is_empty() {
        stream.reserve_capacity(rest.len());
        let Some(Ok(room)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else {
            return;
        };
        let part = rest.split_to(room.min(rest.len()));
        if stream.send_data(part, false).is_err() {
            return;
        }
    }
}

/// A client of ours with a transport of its own, whose stats are then its own.
async fn dial(server: &Server) -> (GrpcTransport, Arc<dyn Connection>) {
    let transport = GrpcTransport::new();
    let mut opts = DialOptions::default();
    opts.metadata = advertised();
    let connection = transport.dial(&server.address, opts).await.unwrap();
    (transport, connection)
}

fn advertised() -> BTreeMap<String, String> {
    BTreeMap::from([
        ("micro".to_owned(), "0.1.0".to_owned()),
        ("lane".to_owned(), "1".to_owned()),
    ])
}

#[tokio::test]
async fn a_session_is_what_the_proto_says() {
    let server = Server::start().await;
    let raw = Raw::dial(&server.address).await;
    let (mut up, mut down) = raw.session().await;
    send(&mut up, &framed(&greet())).await;
    let mut first = call(1, "Echo", "hello");
    first.define.push(entry(3, "x-tenant", "acme"));
    first.metadata = vec![3, 0];
    first.literals = vec![pair("x-request-id", "r-1")];
    // Fields of a later version are passed over.
    let mut bytes = first.encode_to_vec();
    bytes.extend([0xa0, 0x06, 1]);
    let mut frame = vec![0];
    frame.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
    frame.extend(bytes);
    send(&mut up, &frame).await;
    let answer: Down = timeout(SOON, down.next()).await.unwrap().unwrap();
    assert_eq!((answer.id, &answer.message[..]), (1, &b"hello"[..]));
    assert!(answer.status.is_empty() && answer.content_type == 0);
    let mut table = BTreeMap::new();
    for entry in &answer.define {
        table.insert(entry.index, (entry.name.clone(), entry.value.clone()));
    }
    let mut literals = answer.literals.iter();
    let mut read = |refs: &[u32]| -> Vec<(String, String)> {
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        refs.iter()
            .map(|index| match index {
                0 => literals
                    .next()
                    .map(|p| (text(&p.name), text(&p.value)))
                    .unwrap(),
                index => table.get(index).map(|(n, v)| (text(n), text(v))).unwrap(),
            })
            .collect()
    };
    let mut metadata = read(&answer.metadata);
    metadata.sort();
    let trailers = read(&answer.trailers);
    let own = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        metadata,
        [own("x-request-id", "r-1"), own("x-tenant", "acme")]
    );
    assert_eq!(trailers, [own("x-trailer", "behind")]);
    // The definitions stand: the second call brings none.
    let again = Up {
        id: 1,
        define: Vec::new(),
        ..call(1, "", "again")
    };
    send(&mut up, &framed(&again)).await;
    let answer: Down = timeout(SOON, down.next()).await.unwrap().unwrap();
    assert_eq!(&answer.message[..], b"again");
    drop(up.send_data(Bytes::new(), true));
    assert_eq!(timeout(SOON, down.status()).await.unwrap(), Some(0));
}

/// What a caller may not do, and the status that its session ends with.
#[tokio::test]
async fn callers_that_break_the_rules_lose_their_session_and_nothing_else() {
    const INVALID: i32 = 3;
    const EXHAUSTED: i32 = 8;
    let server = Server::start().await;
    let join = |parts: &[Up]| parts.iter().flat_map(framed).collect::<Vec<u8>>();
    let with = |change: &dyn Fn(&mut Up)| {
        let mut up = call(1, "Echo", "x");
        change(&mut up);
        join(&[greet(), up])
    };
    let flood = |up: Up| {
        let mut all = framed(&greet());
        all.extend(framed(&up).repeat(2000));
        all
    };
    let cases: Vec<(&str, Vec<u8>, i32)> = vec![
        ("no greeting", join(&[call(1, "Echo", "x")]), INVALID),
        ("greeted twice", join(&[greet(), greet()]), INVALID),
        (
            "another version",
            framed(&Up {
                greeting: Some(Greeting {
                    version: 9,
                    ..Greeting::default()
                }),
                ..Up::default()
            }),
            INVALID,
        ),
        ("an unknown path", with(&|up| up.path = 9), INVALID),
        (
            "a pair as a path",
            with(&|up| {
                up.define.push(entry(3, "x-a", "b"));
                up.path = 3;
            }),
            INVALID,
        ),
        (
            "an unknown type",
            with(&|up| up.content_type = 200),
            INVALID,
        ),
        (
            "an unknown pair",
            with(&|up| up.metadata = vec![77]),
            INVALID,
        ),
        (
            "an index beyond the table",
            with(&|up| up.define.push(entry(256, "a", "b"))),
            INVALID,
        ),
        (
            "the index 0",
            with(&|up| up.define.push(entry(0, "a", "b"))),
            INVALID,
        ),
        (
            "a large entry",
            with(&|up| {
                up.define.push(entry(3, "x-a", &"y".repeat(600)));
            }),
            INVALID,
        ),
        (
            "a pair that cannot be one",
            with(&|up| up.define.push(entry(3, "x-a", "a\nb"))),
            INVALID,
        ),
        (
            "a reserved name",
            with(&|up| up.define.push(entry(3, "grpc-status", "0"))),
            INVALID,
        ),
        (
            "a literal that is missing",
            with(&|up| up.metadata = vec![0]),
            INVALID,
        ),
        (
            "more calls than allowed",
            with(&|up| up.id = 1_000_000),
            EXHAUSTED,
        ),
        (
            "a number in use",
            join(&[greet(), call(7, "Sleep", ""), call(7, "Sleep", "")]),
            INVALID,
        ),
        (
            "a message too large",
            with(&|up| up.message = Bytes::from(vec![0; 20 << 10])),
            INVALID,
        ),
        (
            "an endless flood of cancels",
            flood(Up {
                id: 9,
                cancel: true,
                ..Up::default()
            }),
            EXHAUSTED,
        ),
        (
            "a flood of answers forgotten",
            flood(Up {
                forget: 9,
                ..Up::default()
            }),
            EXHAUSTED,
        ),
        ("a flood of nothing", flood(Up::default()), EXHAUSTED),
        (
            "no protobuf",
            [framed(&greet()), vec![0, 0, 0, 0, 3, 0xff, 0xff, 0xff]].concat(),
            INVALID,
        ),
        (
            "a field beyond its message",
            [framed(&greet()), vec![0, 0, 0, 0, 2, 0x7a, 0x7f]].concat(),
            INVALID,
        ),
        (
            "a text that is no path",
            with(&|up| up.define[0] = entry(1, "", "/test.T/Ec ho")),
            INVALID,
        ),
        ("a content type as a path", with(&|up| up.path = 2), INVALID),
    ];
    for (what, bytes, expected) in cases {
        let raw = Raw::dial(&server.address).await;
        let (mut up, down) = raw.session().await;
        send(&mut up, &bytes).await;
        let status = timeout(SOON, down.status()).await;
        assert_eq!(status.expect(what), Some(expected), "{what}");
        // The connection lives, and plain calls with it.
        let (mut plain, reader) = raw.open("/test.T/Early").await;
        let _ = plain.send_data(Bytes::from_static(&[0, 0, 0, 0, 0]), true);
        assert_eq!(
            timeout(SOON, reader.status()).await.unwrap(),
            Some(0),
            "{what}"
        );
    }
    assert!(
        server.is_idle_within(SOON).await,
        "whatever they began is over"
    );
}

#[tokio::test]
async fn a_message_beyond_all_bounds_is_not_kept() {
    let server = Server::start().await;
    let raw = Raw::dial(&server.address).await;
    let (mut up, down) = raw.session().await;
    send(&mut up, &framed(&greet())).await;
    send(&mut up, &[0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]).await;
    let status = timeout(SOON, down.status()).await.unwrap();
    assert!(matches!(status, Some(3 | 8)), "{status:?}");
    // Nor is one that ends too soon taken for a whole one.
    let (mut up, down) = raw.session().await;
    let bytes = [framed(&greet()), framed(&call(1, "Echo", "cut off"))].concat();
    send(&mut up, &bytes[..bytes.len() - 3]).await;
    drop(up.send_data(Bytes::new(), true));
    assert_eq!(timeout(SOON, down.status()).await.unwrap(), Some(13));
    assert_eq!(server.counts.begun(), 0);
}

#[tokio::test]
async fn a_session_that_never_greets_is_ended_and_a_second_one_refused() {
    let limits = Limits::default().with_header_timeout(Duration::from_millis(200));
    let server = serve(ListenOptions::default().with_limits(limits)).await;
    let raw = Raw::dial(&server.address).await;
    let (_up, down) = raw.session().await;
    let (_second, refused) = raw.open("/micro.session.v1.Session/Open").await;
    let trailers_only = timeout(SOON, refused.status()).await.unwrap();
    assert!(trailers_only.is_none_or(|status| status == 8));
    assert_eq!(timeout(SOON, down.status()).await.unwrap(), Some(4));
}

#[tokio::test]
async fn too_many_metadata_are_one_call_s_error() {
    let server = Server::start().await;
    let raw = Raw::dial(&server.address).await;
    let (mut up, mut down) = raw.session().await;
    let mut many = call(1, "Echo", "x");
    many.literals = (0..1000).map(|i| pair(&format!("x-{i}"), "v")).collect();
    many.metadata = vec![0; 1000];
    send(&mut up, &[framed(&greet()), framed(&many)].concat()).await;
    let answer: Down = timeout(SOON, down.next()).await.unwrap().unwrap();
    assert!(!answer.status.is_empty() && answer.unprocessed);
    send(&mut up, &framed(&call(1, "Echo", "well"))).await;
    let answer: Down = timeout(SOON, down.next()).await.unwrap().unwrap();
    assert_eq!(&answer.message[..], b"well");
}

#[tokio::test]
async fn an_answer_that_was_never_kept_cannot_be_taken() {
    let server = Server::start().await;
    let raw = Raw::dial(&server.address).await;
    let (mut up, _down) = raw.session().await;
    send(&mut up, &framed(&greet())).await;
    let head = http::Request::post("http://t/micro.session.v1.Session/Take")
        .header("content-type", "application/grpc")
        .header("micro-session-take", "12345")
        .body(())
        .unwrap();
    let (response, _) = raw.0.clone().send_request(head, true).unwrap();
    let response = timeout(SOON, response).await.unwrap().unwrap();
    let status = response.headers().get("grpc-status").cloned();
    assert!(status.is_some_and(|status| status != "0"));
}

#[tokio::test]
async fn small_calls_take_the_lane_and_large_ones_and_streams_do_not() {
    let server = Server::start().await;
    let (transport, connection) = dial(&server).await;
    let cx = Context::new();
    for _ in 0..10 {
        assert_eq!(unary(&*connection, &cx, "Echo", "hi").await.unwrap(), "hi");
    }
    assert_eq!(
        (
            transport.lane_stats().calls,
            transport.lane_stats().plain_calls
        ),
        (10, 0)
    );
    let large = Bytes::from(vec![1; 100 << 10]);
    assert_eq!(
        unary(&*connection, &cx, "Echo", large.clone())
            .await
            .unwrap(),
        large
    );
    assert_eq!(transport.lane_stats().plain_calls, 1);
    // An answer that is a stream is fetched; from then on its method travels by itself.
    for expected in [11, 11] {
        let body = Body::Message(Bytes::from_static(b"3 2"));
        let response = connection.call(&cx, request("Count", body)).await.unwrap();
        let trailers = response.trailers.clone();
        assert_eq!(all(response.body).await.unwrap().len(), 3);
        assert_eq!(trailers.get().unwrap().get("x-count"), Some("3"));
        assert_eq!(transport.lane_stats().calls, expected);
    }
    // A large answer to a small call.
    let body = Body::Message(Bytes::from_static(b"1 100000"));
    let response = connection.call(&cx, request("Count", body)).await.unwrap();
    assert_eq!(one(response.body).await.unwrap().len(), 100_000);
}

#[tokio::test]
async fn a_peer_without_the_lane_is_called_plainly() {
    for (what, ours, theirs) in [("off here", false, true), ("off there", true, false)] {
        let config = |lane| GrpcTransport::with_config(GrpcConfig::default().with_lane(lane));
        let listener = config(theirs)
            .listen("127.0.0.1:0", ListenOptions::default())
            .await
            .unwrap();
        assert_eq!(listener.advertise().contains_key("lane"), theirs);
        let address = listener.address();
        let (_stop, live) = micro_transport_core::Live::channel(Default::default());
        let task = tokio::spawn(listener.serve(Arc::new(Service::default()), live));
        let transport = config(ours);
        let mut opts = DialOptions::default();
        // Discovery may be older than the node: it says so all the same.
        opts.metadata = advertised();
        let connection = transport.dial(&address, opts).await.unwrap();
        let cx = Context::new();
        assert_eq!(
            unary(&*connection, &cx, "Echo", "hi").await.unwrap(),
            "hi",
            "{what}"
        );
        let stats = transport.lane_stats();
        assert_eq!((stats.calls, stats.plain_calls), (0, 1), "{what}");
        task.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_calls_given_up_leave_nothing_behind() {
    let server = Server::start().await;
    let (transport, connection) = dial(&server).await;
    let cx = Context::new();
    for round in 0..100 {
        let calls: Vec<_> = (0..100)
            .map(|_| {
                let connection = Arc::clone(&connection);
                let cx = cx.clone();
                tokio::spawn(async move {
                    let call = unary(&*connection, &cx, "Sleep", "");
                    let _ = timeout(Duration::from_millis(2), call).await;
                })
            })
            .collect();
        for call in calls {
            call.await.unwrap();
        }
        if round % 20 == 0 {
            // Its number is free again, and the session is the same.
            assert_eq!(unary(&*connection, &cx, "Echo", "hi").await.unwrap(), "hi");
        }
    }
    assert!(server.is_idle_within(SOON).await);
    assert_eq!(unary(&*connection, &cx, "Echo", "hi").await.unwrap(), "hi");
    let stats = transport.lane_stats();
    assert!(stats.calls > 9_000, "{stats:?}");
    assert!(connection.is_open());
}

#[tokio::test]
async fn a_panic_and_an_error_are_those_of_their_call() {
    let server = Server::start().await;
    let (transport, connection) = dial(&server).await;
    let cx = Context::new();
    for method in ["Panic", "PanicLate"] {
        let err = unary(&*connection, &cx, method, "").await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Internal, "{method}");
        assert!(!err.to_string().contains("secret"), "{err}");
        assert!(!err.is_unprocessed());
    }
    for (index, kind) in ErrorKind::ALL.into_iter().enumerate() {
        let err = unary(&*connection, &cx, "Fail", index.to_string())
            .await
            .unwrap_err();
        assert_eq!((err.kind(), err.message()), (kind, "as you wish: ü\n100 %"));
    }
    let short = cx.clone().with_timeout(Duration::from_millis(50));
    let err = unary(&*connection, &short, "Sleep", "").await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::DeadlineExceeded);
    assert_eq!(transport.lane_stats().plain_calls, 0);
}

/// A listener that speaks HTTP/2 and answers the session with these bytes, once a call has come.
async fn hostile(answer: Vec<u8>, greets: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((mut request, mut respond))) = connection.accept().await {
                    let answer = answer.clone();
                    tokio::spawn(async move {
                        let head = http::Response::builder()
                            .header("content-type", "application/grpc")
                            .body(())
                            .unwrap();
                        let Ok(mut stream) = respond.send_response(head, false) else {
                            return;
                        };
                        if greets {
                            let greeting = Down {
                                greeting: Some(Greeting {
                                    version: 1,
                                    calls: 8,
                                    message: 16 << 10,
                                }),
                                ..Down::default()
                            };
                            send(&mut stream, &framed(&greeting)).await;
                        }
                        // The caller's greeting, and then its call.
                        for _ in 0..2 {
                            let Some(Ok(chunk)) = request.body_mut().data().await else {
                                return;
                            };
                            let len = chunk.len();
                            let _ = request.body_mut().flow_control().release_capacity(len);
                        }
                        send(&mut stream, &answer).await;
                        tokio::time::sleep(SOON).await;
                    });
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn listeners_that_break_the_rules_lose_the_connection_and_calls_end() {
    let down = |change: &dyn Fn(&mut Down)| {
        let mut down = Down {
            id: 1,
            ..Down::default()
        };
        change(&mut down);
        framed(&down)
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        (
            "an answer to a call that was never made",
            down(&|down| down.id = 5),
        ),
        (
            "an answer beyond the credit",
            down(&|down| down.id = 4_000_000),
        ),
        ("two answers", [down(&|_| {}), down(&|_| {})].concat()),
        (
            "a pair that was never defined",
            down(&|down| down.metadata = vec![9]),
        ),
        (
            "an entry out of bounds",
            down(&|down| down.define = vec![entry(999, "a", "b")]),
        ),
        (
            "a second greeting",
            down(&|down| {
                down.greeting = Some(Greeting {
                    version: 1,
                    ..Greeting::default()
                })
            }),
        ),
        ("no protobuf", vec![0, 0, 0, 0, 3, 0xff, 0xff, 0xff]),
        (
            "a message beyond all bounds",
            vec![0, 0x7f, 0xff, 0xff, 0xff, 0],
        ),
        (
            "an answer that cannot be taken",
            down(&|down| down.take = 7),
        ),
        (
            "a status that is none",
            down(&|down| down.status = Bytes::from_static(&[0xff; 9])),
        ),
    ];
    for (what, answer) in cases {
        let address = hostile(answer, true).await;
        let transport = GrpcTransport::new();
        let mut opts = DialOptions::default();
        opts.metadata = advertised();
        let connection = timeout(SOON, transport.dial(&address, opts))
            .await
            .unwrap()
            .unwrap();
        let cx = Context::new().with_timeout(Duration::from_secs(3));
        let outcome = timeout(SOON, unary(&*connection, &cx, "Echo", "hi")).await;
        let outcome: Result<Bytes, Error> = outcome.expect(what);
        // "Two answers": the first one may be taken for what it is.
        if let Err(err) = outcome {
            assert!(!err.is_unprocessed(), "{what}: it was sent: {err}");
        } else {
            assert_eq!(what, "two answers");
        }
    }
}

#[tokio::test]
async fn a_listener_that_never_greets_is_called_plainly() {
    let address = hostile(Vec::new(), false).await;
    let transport = GrpcTransport::new();
    let mut opts = DialOptions::default().with_timeout(Duration::from_secs(4));
    opts.metadata = advertised();
    let connection = timeout(SOON, transport.dial(&address, opts)).await.unwrap();
    let connection = connection.expect("it speaks HTTP/2");
    let cx = Context::new().with_timeout(Duration::from_millis(100));
    // It does not answer plain calls either; but they were tried.
    assert!(unary(&*connection, &cx, "Echo", "hi").await.is_err());
    let stats = transport.lane_stats();
    assert_eq!((stats.calls, stats.plain_calls, stats.refused), (0, 1, 1));
}

/// Whole sessions with bytes changed at random: the listener answers others all the while.
///
/// `MICRO_FUZZ_SECONDS` says for how long, `MICRO_FUZZ_SEED` from where.
#[tokio::test]
#[expect(clippy::print_stdout, reason = "a failure is replayed from its seed")]
async fn mutated_sessions_break_nothing() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seconds: u64 = number("MICRO_FUZZ_SECONDS").unwrap_or(2);
    let seed = number("MICRO_FUZZ_SEED").unwrap_or_else(|| micro_core::SystemRandom.next_u64());
    println!("MICRO_FUZZ_SEED={seed}");
    let random = SeededRandom::new(seed);
    let below = |n: usize| (random.next_u64() % n as u64) as usize;
    let server = Server::start().await;
    let mut whole = call(1, "Echo", "hello");
    whole.define.push(entry(3, "x-tenant", "acme"));
    whole.metadata = vec![3, 0, 3];
    whole.literals = vec![pair("x-request-id", "r-1")];
    whole.timeout = 1_000_000_000;
    let good: Vec<Vec<u8>> = [
        whole,
        call(2, "Nap", "x"),
        Up {
            id: 2,
            cancel: true,
            ..Up::default()
        },
        call(3, "Fail", "5"),
        call(4, "Count", "2 2"),
        Up {
            forget: 1,
            ..Up::default()
        },
    ]
    .iter()
    .map(framed)
    .collect();
    let end = tokio::time::Instant::now() + Duration::from_secs(seconds);
    let (mut sessions, mut ended) = (0_u64, 0_u64);
    while tokio::time::Instant::now() < end {
        sessions += 1;
        let mut bytes = framed(&greet());
        for _ in 0..1 + below(8) {
            bytes.extend(&good[below(good.len())]);
        }
        for _ in 0..1 + below(4) {
            let at = below(bytes.len());
            match below(4) {
                0 => bytes[at] ^= 1 << below(8),
                1 => bytes[at] = random.next_u64() as u8,
                2 => bytes.truncate(at.max(1)),
                _ => {
                    let part = bytes[at..].to_vec();
                    bytes.extend(&part[..part.len().min(64)]);
                }
            }
        }
        let raw = Raw::dial(&server.address).await;
        let (mut up, down) = raw.session().await;
        send(&mut up, &bytes).await;
        let _ = up.send_data(Bytes::new(), true);
        // One that waits for an answer to be taken is left as it is: the peer is gone then.
        if timeout(Duration::from_millis(20), down.status())
            .await
            .is_ok()
        {
            ended += 1;
        }
        if sessions % 16 == 0 {
            let connection = server.dial().await;
            let well = unary(&*connection, &Context::new(), "Echo", "well").await;
            assert_eq!(well.unwrap(), "well", "seed {seed}");
        }
    }
    println!("{sessions} sessions, {ended} of them ended by the listener");
    assert!(server.is_idle_within(SOON).await, "seed {seed}");
}

/// More pairs than the table holds: whatever is replaced is not used by the same message.
#[tokio::test]
async fn pairs_that_never_repeat_replace_each_other_and_nothing_in_use() {
    let server = Server::start().await;
    let (transport, connection) = dial(&server).await;
    let cx = Context::new();
    for i in 0..2000_u32 {
        let mut request = request(
            if i % 3 == 0 { "Echo" } else { "See" },
            Body::Message("x".into()),
        );
        request.path = format!(
            "/test.T{}/{}",
            i % 7,
            request.path.rsplit('/').next().unwrap()
        )
        .into();
        let echoes = i % 3 == 0;
        request.metadata.insert("x-tenant", "acme").unwrap();
        for k in 0..i % 5 {
            request
                .metadata
                .append(&format!("x-{k}"), format!("{i}-{k}"))
                .unwrap();
        }
        let sent = request.metadata.clone();
        let response = connection.call(&cx, request).await.unwrap();
        if echoes {
            for (name, value) in sent.iter() {
                let value = std::str::from_utf8(value).unwrap();
                assert_eq!(response.metadata.get(name), Some(value), "call {i}");
            }
        }
    }
    let stats = transport.lane_stats();
    assert_eq!(
        (stats.sessions, stats.calls, stats.plain_calls),
        (1, 2000, 0)
    );
}

/// A handler that computes is polled in a task of its own, and its answer is noticed when nothing
/// else happens on the connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_method_that_computes_is_answered_from_a_task_of_its_own() {
    let server = Server::start().await;
    let (transport, connection) = dial(&server).await;
    let cx = Context::new();
    let mut tasks = std::collections::BTreeSet::new();
    for _ in 0..10 {
        let call = timeout(SOON, unary(&*connection, &cx, "Busy", "")).await;
        tasks.insert(call.expect("it is answered").unwrap());
    }
    // At first in the connection's task, and then each in its own.
    assert!(tasks.len() >= 8, "{tasks:?}");
    assert_eq!(transport.lane_stats().calls, 10);
}

/// One direction's table, kept by the rules of the proto and nothing else.
#[derive(Default)]
struct Table(BTreeMap<u32, (Bytes, Bytes)>);

impl Table {
    fn define(&mut self, entries: &[Entry]) {
        for entry in entries {
            assert!((1..=255).contains(&entry.index), "{}", entry.index);
            assert!(entry.name.len() + entry.value.len() <= 512);
            self.0
                .insert(entry.index, (entry.name.clone(), entry.value.clone()));
        }
    }

    fn text(&self, index: u32) -> String {
        let (name, value) = &self.0[&index];
        assert!(name.is_empty(), "it is no pair");
        String::from_utf8(value.to_vec()).unwrap()
    }

    fn pairs<'a>(
        &self,
        refs: &[u32],
        literals: &mut impl Iterator<Item = &'a Pair>,
    ) -> Vec<(Bytes, Bytes)> {
        refs.iter()
            .map(|index| match index {
                0 => {
                    let pair = literals.next().expect("a literal");
                    (pair.name.clone(), pair.value.clone())
                }
                index => {
                    let pair = self.0[index].clone();
                    assert!(!pair.0.is_empty(), "it is no text");
                    pair
                }
            })
            .collect()
    }
}

/// Pairs of which some repeat, some do not, and some are too large for the table.
fn some_pairs(random: &SeededRandom) -> Vec<(String, String)> {
    let below = |n: u64| random.next_u64() % n;
    (0..below(12))
        .map(|_| {
            let name = match below(12) {
                0 => "x-request-id".to_owned(),
                1 => "traceparent".to_owned(),
                n => format!("x-{n}"),
            };
            let value = match below(20) {
                0 => "v".repeat(600),
                n => format!("{n}-{}", below(40)),
            };
            (name, value)
        })
        .collect()
}

fn sorted<T: Ord>(mut items: Vec<T>) -> Vec<T> {
    items.sort();
    items
}

/// What our side writes is read by prost and the proto's rules alone, for more pairs than a table
/// holds: calls as a listener gets them, and answers as a caller does.
#[tokio::test]
async fn what_is_written_is_what_the_proto_says_however_often_the_table_turns_over() {
    let seed = micro_core::SystemRandom.next_u64();
    let random = SeededRandom::new(seed);
    let about = format!("seed {seed}");
    // Answers: our listener echoes what prost wrote.
    let server = Server::start().await;
    let raw = Raw::dial(&server.address).await;
    let (mut up, mut down) = raw.session().await;
    send(&mut up, &framed(&greet())).await;
    let mut theirs = Table::default();
    let (mut ours, mut next): (BTreeMap<(String, String), u32>, u32) = Default::default();
    for _ in 0..600 {
        let sent = some_pairs(&random);
        let mut message = call(1, "Echo", "x");
        for (name, value) in &sent {
            let known = ours.get(&(name.clone(), value.clone())).copied();
            match known {
                Some(index) => message.metadata.push(index),
                None if value.len() < 500 && random.next_u64().is_multiple_of(2) => {
                    // From 3 on, and round again, as long as this message does not use it itself.
                    let index = 3 + next % 253;
                    next += 1;
                    if message.metadata.contains(&index) {
                        message.metadata.push(0);
                        message.literals.push(pair(name, value));
                        continue;
                    }
                    ours.retain(|_, known| *known != index);
                    ours.insert((name.clone(), value.clone()), index);
                    message.define.push(entry(index, name, value));
                    message.metadata.push(index);
                }
                None => {
                    message.metadata.push(0);
                    message.literals.push(pair(name, value));
                }
            }
        }
        send(&mut up, &framed(&message)).await;
        let answer: Down = timeout(SOON, down.next()).await.expect(&about).unwrap();
        theirs.define(&answer.define);
        assert!(answer.status.is_empty(), "{about}");
        let mut literals = answer.literals.iter();
        let read = theirs.pairs(&answer.metadata, &mut literals);
        let trailers = theirs.pairs(&answer.trailers, &mut literals);
        assert!(literals.next().is_none(), "{about}");
        assert_eq!(trailers.len(), 1);
        let sent = sent.into_iter().map(|(n, v)| (n.into(), v.into()));
        assert_eq!(sorted(read), sorted(sent.collect()), "{about}");
    }
    assert_eq!(theirs.0.len(), 255, "it turned over");

    // Calls: a listener that only knows prost sees what our caller sent.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (seen, mut calls) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let (mut down, mut up, _driver) = accept_session(&listener, 16).await;
        let mut table = Table::default();
        while let Some(message) = up.next::<Up>().await {
            table.define(&message.define);
            if message.id == 0 {
                continue;
            }
            let path = table.text(message.path);
            let content_type = table.text(message.content_type);
            let pairs = table.pairs(&message.metadata, &mut message.literals.iter());
            let _ = seen.send((path, content_type, pairs, message.timeout, message.message));
            let answer = Down {
                id: message.id,
                message: Bytes::from_static(b"well"),
                ..Down::default()
            };
            send(&mut down, &framed(&answer)).await;
        }
    });
    let (transport, connection) = dial_at(&address, DialOptions::default()).await;
    for i in 0..600 {
        let sent = some_pairs(&random);
        let path = format!("/test.T/M{}", random.next_u64() % 20);
        let mut request = request("", Body::Message("hi".into()));
        request.path = path.clone().into();
        for (name, value) in &sent {
            request.metadata.append(name, value.clone()).unwrap();
        }
        let cx = Context::new().with_timeout(Duration::from_secs(60));
        let answer = timeout(SOON, connection.call(&cx, request)).await;
        let answer = answer.expect(&about).unwrap();
        assert_eq!(one(answer.body).await.unwrap(), "well");
        let (got, content_type, mut pairs, time, message) = calls.recv().await.unwrap();
        assert_eq!((got, &*content_type), (path, "application/json"));
        assert_eq!(message, "hi");
        assert!((1..=60_000_000_000).contains(&time), "{time}");
        pairs.retain(|(name, _)| name != "user-agent");
        let sent = sent.into_iter().map(|(n, v)| (n.into(), v.into()));
        assert_eq!(sorted(pairs), sorted(sent.collect()), "{about}, call {i}");
    }
    assert_eq!(transport.lane_stats().calls, 600);
}

/// A client of ours at an address, which takes it for one that speaks the lane.
async fn dial_at(address: &str, mut opts: DialOptions) -> (GrpcTransport, Arc<dyn Connection>) {
    let transport = GrpcTransport::new();
    opts.metadata = advertised();
    let connection = timeout(SOON, transport.dial(address, opts)).await.unwrap();
    (transport, connection.unwrap())
}

/// Accepts a connection and its session, and greets. Windows are HTTP/2's smallest defaults.
async fn accept_session(
    listener: &TcpListener,
    calls: u32,
) -> (
    SendStream<Bytes>,
    Reader,
    tokio::task::JoinHandle<Result<(), h2::Error>>,
) {
    let (stream, _) = listener.accept().await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut connection = h2::server::handshake(stream).await.unwrap();
    let (request, mut respond) = connection.accept().await.unwrap().unwrap();
    assert_eq!(request.uri().path(), "/micro.session.v1.Session/Open");
    let driver = tokio::spawn(async move {
        while let Some(next) = connection.accept().await {
            // Whatever else is called is left without an answer.
            std::mem::forget(next?);
        }
        Ok(())
    });
    let head = http::Response::builder()
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    let mut down = respond.send_response(head, false).unwrap();
    let greeting = Down {
        greeting: Some(Greeting {
            version: 1,
            calls,
            message: 16 << 10,
        }),
        ..Down::default()
    };
    send(&mut down, &framed(&greeting)).await;
    let mut up = Reader {
        body: request.into_body(),
        buf: BytesMut::new(),
    };
    let theirs: Up = up.next().await.unwrap();
    assert!(
        theirs
            .greeting
            .is_some_and(|greeting| greeting.version == 1)
    );
    (down, up, driver)
}

#[tokio::test]
async fn a_broken_session_says_of_each_call_whether_it_was_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = tokio::spawn(async move {
        let (mut down, up, driver) = accept_session(&listener, 64).await;
        // Nothing is read: the window of 64 KiB fills up.
        tokio::time::sleep(Duration::from_millis(300)).await;
        down.send_reset(h2::Reason::INTERNAL_ERROR);
        drop(up);
        driver.await
    });
    let (transport, connection) = dial_at(&address, DialOptions::default()).await;
    let cx = Context::new();
    let mut calls = Vec::new();
    for _ in 0..20 {
        let connection = Arc::clone(&connection);
        let cx = cx.clone();
        calls.push(tokio::spawn(async move {
            unary(&*connection, &cx, "Echo", vec![0; 10 << 10]).await
        }));
        // Each in a turn of its own, so that the first ones are on their way.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let mut unprocessed = Vec::new();
    for call in calls {
        let err = timeout(SOON, call).await.unwrap().unwrap().unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unavailable, "{err}");
        unprocessed.push(err.is_unprocessed());
    }
    // 64 KiB are 6 calls; HTTP/2 buffers as much again, and one batch is being sent.
    let sent = unprocessed.iter().position(|is| *is).unwrap();
    assert!((6..=16).contains(&sent), "{unprocessed:?}");
    assert!(unprocessed[sent..].iter().all(|is| *is), "{unprocessed:?}");
    assert_eq!(transport.lane_stats().calls, 20);
    timeout(SOON, connection.closed()).await.unwrap();
    server.abort();
}

#[tokio::test]
async fn a_listener_that_reads_and_answers_nothing_holds_neither_calls_nor_the_connection() {
    for reads in [true, false] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = tokio::spawn(async move {
            let (down, mut up, driver) = accept_session(&listener, 8).await;
            let mut cancels = 0;
            if reads {
                while let Some(message) = up.next::<Up>().await {
                    cancels += usize::from(message.cancel);
                }
            }
            let _ = driver.await;
            drop(down);
            cancels
        });
        let limits = Limits::default().with_keepalive_timeout(Duration::from_millis(200));
        let opts = DialOptions::default().with_limits(limits);
        let (transport, connection) = dial_at(&address, opts).await;
        let cx = Context::new();
        for _ in 0..40 {
            let call = unary(&*connection, &cx, "Echo", vec![0; 10 << 10]);
            assert!(timeout(Duration::from_millis(5), call).await.is_err());
        }
        // Numbers are not used again before they are answered: the other calls were plain.
        let stats = transport.lane_stats();
        assert_eq!((stats.calls, stats.plain_calls), (8, 32), "reads: {reads}");
        // Nobody waits for what is owed once the handle is gone.
        drop(connection);
        let cancels = timeout(SOON, server).await.expect("it ends").unwrap();
        assert_eq!(cancels, if reads { 8 } else { 0 });
    }
}

/// A peer that reads no answers: its calls wait, in bounded memory, and others do not.
#[tokio::test]
async fn a_caller_that_never_reads_is_not_served_for_ever() {
    let server = Server::start().await;
    let raw = Raw::dial(&server.address).await;
    let (mut up, down) = raw.session().await;
    let writer = tokio::spawn(async move {
        send(&mut up, &framed(&greet())).await;
        let one = framed(&call(1, "Echo", &"x".repeat(8 << 10)));
        // 80 MB, if somebody took them.
        for _ in 0..10_000 {
            send(&mut up, &one).await;
        }
    });
    let begun = || server.counts.begun();
    let mut before = 0;
    // Until nothing moves any more.
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        if before >= 8 && begun() == before {
            break;
        }
        before = begun();
    }
    // 64 KiB of the peer's window, 64 of HTTP/2's buffer, 256 of the session's, and the last one.
    assert!((8..100).contains(&before), "{before} calls");
    assert!(!writer.is_finished());
    let connection = server.dial().await;
    let well = unary(&*connection, &Context::new(), "Echo", "well").await;
    assert_eq!(well.unwrap(), "well");
    writer.abort();
    drop((down, raw));
    assert!(server.is_idle_within(SOON).await);
}

/// A slow reader is no dead one: its session lives, though there is always something to send.
#[tokio::test]
async fn a_caller_that_reads_slowly_keeps_its_session() {
    let limits = Limits::default().with_idle(Duration::from_millis(800));
    let server = serve(ListenOptions::default().with_limits(limits)).await;
    let raw = Raw::dial(&server.address).await;
    let (mut up, mut down) = raw.session().await;
    let writer = tokio::spawn(async move {
        send(&mut up, &framed(&greet())).await;
        let one = framed(&call(1, "Echo", &"x".repeat(15 << 10)));
        for _ in 0..150 {
            send(&mut up, &one).await;
        }
        up
    });
    for i in 0..150 {
        let answer: Option<Down> = timeout(SOON, down.next()).await.unwrap();
        assert_eq!(answer.expect("it lives").message.len(), 15 << 10, "{i}");
        tokio::time::sleep(Duration::from_millis(12)).await;
    }
    writer.await.unwrap();
    // And one that takes nothing at all is given up.
    let (mut up, down) = Raw::dial(&server.address).await.session().await;
    let one = framed(&call(1, "Echo", &"x".repeat(15 << 10)));
    let writer = tokio::spawn(async move {
        send(&mut up, &framed(&greet())).await;
        for _ in 0..1000 {
            send(&mut up, &one).await;
        }
        std::future::poll_fn(|cx| up.poll_reset(cx)).await
    });
    let ended = timeout(SOON, writer)
        .await
        .expect("it is given up")
        .unwrap();
    assert!(ended.is_err() || ended.is_ok_and(|why| why == h2::Reason::CANCEL));
    drop(down);
}

/// A call under way is answered in full, however large its answer, before the listener goes.
#[tokio::test]
async fn a_drain_waits_for_answers_that_have_to_be_taken() {
    let server = Server::start().await;
    let (transport, connection) = dial(&server).await;
    let calls: Vec<_> = [
        ("Late", "100 100000"),
        ("Late", "100 10"),
        ("Late", "0 100000"),
    ]
    .into_iter()
    .map(|(method, message)| {
        let connection = Arc::clone(&connection);
        tokio::spawn(async move {
            let cx = Context::new().with_timeout(SOON);
            unary(&*connection, &cx, method, message).await
        })
    })
    .collect();
    assert!(eventually(SOON, || server.counts.begun() == 3).await);
    let until = tokio::time::Instant::now().into_std() + SOON;
    server.stop.set(micro_transport_core::Stop::Drain { until });
    timeout(SOON, connection.closed())
        .await
        .expect("it hears of it at once");
    let err = unary(&*connection, &Context::new(), "Echo", "late").await;
    assert!(err.unwrap_err().is_unprocessed());
    let mut sizes = Vec::new();
    for call in calls {
        sizes.push(call.await.unwrap().expect("it was under way").len());
    }
    assert_eq!(sizes, [100_000, 10, 100_000]);
    assert_eq!(transport.lane_stats().calls, 3);
    let mut server = server;
    let over = timeout(SOON, &mut server.task).await;
    over.expect("nothing is left").unwrap().unwrap();
}

/// An idle connection with a session is closed by agreement: a call that comes too late is refused,
/// provably before a handler.
#[tokio::test]
async fn an_idle_session_is_ended_by_agreement() {
    let limits = Limits::default()
        .with_idle(Duration::from_millis(200))
        .with_keepalive_timeout(Duration::from_secs(1));
    let server = serve(ListenOptions::default().with_limits(limits)).await;
    let raw = Raw::dial(&server.address).await;
    let (mut up, mut down) = raw.session().await;
    send(&mut up, &framed(&greet())).await;
    let leave: Down = timeout(SOON, down.next()).await.unwrap().unwrap();
    assert!(leave.going_away);
    send(&mut up, &framed(&call(1, "Echo", "late"))).await;
    let refused: Down = timeout(SOON, down.next()).await.unwrap().unwrap();
    assert!(refused.id == 1 && refused.unprocessed && !refused.status.is_empty());
    assert_eq!(server.counts.begun(), 0);
    // It does not go by itself, and is not waited for.
    assert_eq!(timeout(SOON, down.status()).await.unwrap(), None);
    // Ours goes at once.
    let (_, connection) = dial(&server).await;
    timeout(SOON, connection.closed()).await.unwrap();
}

#[tokio::test]
async fn a_large_answer_does_not_travel_on_the_lane_whatever_the_caller_says() {
    let server = Server::start().await;
    let raw = Raw::dial(&server.address).await;
    let (mut up, mut down) = raw.session().await;
    let mut all = greet();
    all.greeting.as_mut().unwrap().message = u32::MAX;
    send(&mut up, &framed(&all)).await;
    let mut numbers = Vec::new();
    for id in 1..=2 {
        send(&mut up, &framed(&call(id, "Late", "0 100000"))).await;
        let answer: Down = timeout(SOON, down.next()).await.unwrap().unwrap();
        assert!(answer.take > 0 && !answer.stream);
        assert!(answer.message.is_empty());
        numbers.push(answer.take);
    }
    // A connection can serve many callers, if a proxy makes it: nobody guesses another's number.
    assert!(numbers[0].abs_diff(numbers[1]) > 1 << 20, "{numbers:?}");
    let take = async |raw: &Raw, number: u64| {
        let head = http::Request::post("http://t/micro.session.v1.Session/Take")
            .header("content-type", "application/grpc")
            .header("micro-session-take", number)
            .body(())
            .unwrap();
        let (response, _) = raw.0.clone().send_request(head, true).unwrap();
        let response = timeout(SOON, response).await.unwrap().unwrap();
        response.headers().get("grpc-status").cloned()
    };
    // Nor can it be taken from another connection, or twice.
    let other = Raw::dial(&server.address).await;
    assert!(
        take(&other, numbers[0])
            .await
            .is_some_and(|status| status == "14")
    );
    assert!(take(&raw, numbers[0]).await.is_none());
    assert!(
        take(&raw, numbers[0])
            .await
            .is_some_and(|status| status == "14")
    );
}

#[tokio::test]
async fn a_connection_of_one_call_at_once_has_no_session() {
    let limits = Limits::default().with_calls_per_connection(1);
    let server = serve(ListenOptions::default().with_limits(limits)).await;
    let (transport, connection) = dial(&server).await;
    let cx = Context::new().with_timeout(SOON);
    let large = vec![1; 100 << 10];
    for message in [&b"small"[..], &large] {
        let message = Bytes::copy_from_slice(message);
        let answer = timeout(SOON, unary(&*connection, &cx, "Echo", message.clone())).await;
        assert_eq!(answer.expect("it is answered").unwrap(), message);
    }
    let stats = transport.lane_stats();
    assert_eq!(
        (stats.sessions, stats.refused, stats.plain_calls),
        (0, 0, 2)
    );
}

/// The same from the other side: whatever a listener answers, each call ends, and no caller panics.
#[tokio::test]
#[expect(clippy::print_stdout, reason = "a failure is replayed from its seed")]
async fn mutated_answers_end_their_calls_and_break_nothing() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seconds: u64 = number("MICRO_FUZZ_SECONDS").unwrap_or(1);
    let seed = number("MICRO_FUZZ_SEED").unwrap_or_else(|| micro_core::SystemRandom.next_u64());
    println!("MICRO_FUZZ_SEED={seed}");
    let random = SeededRandom::new(seed);
    let below = |n: usize| (random.next_u64() % n as u64) as usize;
    let answer = |id: u32| Down {
        id,
        define: vec![entry(1, "x-tenant", "acme"), entry(2, "", "application/x")],
        content_type: 2,
        metadata: vec![1, 0],
        trailers: vec![0],
        literals: vec![pair("x-a", "1"), pair("x-trailer", "behind")],
        message: Bytes::from_static(b"well"),
        ..Down::default()
    };
    let good = |id: u32| match id % 4 {
        0 => Down {
            id,
            status: Bytes::from_static(&[8, 5, 18, 2, b'n', b'o']),
            unprocessed: true,
            ..Down::default()
        },
        1 => Down {
            going_away: true,
            ..Down::default()
        },
        _ => answer(id),
    };
    let end = tokio::time::Instant::now() + Duration::from_secs(seconds);
    let (mut sessions, mut answered, mut failed) = (0_u64, 0_u64, 0_u64);
    while tokio::time::Instant::now() < end {
        sessions += 1;
        let mut bytes: Vec<u8> = (1..=4).flat_map(|id| framed(&good(id))).collect();
        bytes.extend(framed(&answer(1)));
        for _ in 0..below(4) {
            let at = below(bytes.len());
            match below(4) {
                0 => bytes[at] ^= 1 << below(8),
                1 => bytes[at] = random.next_u64() as u8,
                2 => bytes.truncate(at.max(1)),
                _ => {
                    let part = bytes[at..].to_vec();
                    bytes.extend(&part[..part.len().min(64)]);
                }
            }
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = tokio::spawn(async move {
            let (mut down, mut up, _driver) = accept_session(&listener, 4).await;
            for _ in 0..4 {
                up.next::<Up>().await;
            }
            send(&mut down, &bytes).await;
            let _ = down.send_data(Bytes::new(), true);
            while up.next::<Up>().await.is_some() {}
        });
        let (_, connection) = dial_at(&address, DialOptions::default()).await;
        let cx = Context::new();
        let calls = (0..4).map(|_| unary(&*connection, &cx, "Echo", "hi"));
        let calls = futures_util::future::join_all(calls);
        // A taken answer, and what is not answered in a session that lives, wait for the caller.
        match timeout(Duration::from_millis(200), calls).await {
            Ok(outcomes) => {
                answered += outcomes.iter().filter(|outcome| outcome.is_ok()).count() as u64;
                failed += outcomes.iter().filter(|outcome| outcome.is_err()).count() as u64;
            }
            Err(_) => failed += 1,
        }
        drop(connection);
        server.abort();
    }
    println!("{sessions} sessions, {answered} calls answered, {failed} failed");
    assert!(answered > 0 && failed > 0, "seed {seed}");
}
