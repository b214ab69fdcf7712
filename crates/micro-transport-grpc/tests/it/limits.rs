//! The failure cases of the reliability reference that are about limits, silence and loss.

use std::time::Duration;

use bytes::Bytes;
use micro_core::{ErrorKind, Metadata};
use micro_transport_core::{Body, Context, DialOptions, Limits, ListenOptions, Transport as _};
use micro_transport_grpc::GrpcTransport;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::frames::{
    DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, frame, grpc,
    literal,
};
use crate::kit::{Server, request, serve, stream_of, unary};

/// A wire between client and server that can be cut without a word.
async fn wire(to: String) -> (String, tokio::sync::watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (cut, is_cut) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut far = TcpStream::connect(&to).await.unwrap();
            let mut is_cut = is_cut.clone();
            tokio::spawn(async move {
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => return,
                    _ = async { is_cut.wait_for(|cut| *cut).await.is_ok() } => {}
                }
                // Held open, and nothing passes any more.
                std::future::pending::<()>().await;
            });
        }
    });
    (address, cut)
}

/// Failure cases 12 and 13: silence is noticed by both sides.
#[tokio::test]
async fn f12_a_black_hole_is_noticed() {
    let limits = Limits::default()
        .with_keepalive(Duration::from_millis(200))
        .with_keepalive_timeout(Duration::from_millis(100));
    let server = serve(ListenOptions::default().with_limits(limits.clone())).await;
    let (address, cut) = wire(server.address.clone()).await;
    let opts = DialOptions::default().with_limits(limits);
    let node = GrpcTransport::new().dial(&address, opts).await.unwrap();
    // Silence alone is no reason while the peer answers.
    let cx = Context::new();
    let nap = tokio::time::timeout(Duration::from_millis(700), unary(&*node, &cx, "Sleep", ""));
    assert!(nap.await.is_err());
    assert!(node.is_open());
    let call = unary(&*node, &cx, "Sleep", "");
    let began = Instant::now();
    let later = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        cut.send(true).unwrap();
    };
    let (outcome, ()) = tokio::join!(call, later);
    let err = outcome.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unavailable);
    assert!(!err.is_unprocessed(), "it may have run");
    assert!(
        began.elapsed() < Duration::from_millis(450),
        "{:?}",
        began.elapsed()
    );
    assert!(!node.is_open());
    assert!(server.is_idle_within(Duration::from_millis(450)).await);
}

/// Failure case 14: a reader that does not read costs what the windows say, no more.
#[tokio::test]
async fn f14_a_slow_reader_stops_its_stream() {
    let server = Server::start().await;
    // The connection's window is for all streams together: those that nobody reads must fit.
    let limits = Limits::default()
        .with_stream_window(64 << 10)
        .with_connection_window(16 << 20);
    let node = server
        .dial_with(DialOptions::default().with_limits(limits))
        .await;
    let mut streams = Vec::new();
    for _ in 0..100 {
        let call = request("Count", Body::Message("100000 1000".into()));
        streams.push(node.call(&Context::new(), call).await.unwrap());
    }
    // The connection still carries what is read.
    let cx = Context::new();
    let got = unary(&*node, &cx, "Echo", "x");
    assert_eq!(
        tokio::time::timeout(Duration::from_secs(2), got)
            .await
            .unwrap()
            .unwrap(),
        "x"
    );
    drop(streams);
    assert!(server.is_idle_within(Duration::from_secs(2)).await);
    assert_eq!(
        unary(&*node, &Context::new(), "Echo", "x").await.unwrap(),
        "x"
    );
}

/// Failure case 15: messages of the limit, of one byte more, and of a promise that is never kept.
#[tokio::test]
async fn f15_messages_beyond_the_limit() {
    let small = Limits::default()
        .with_message_in(1000)
        .with_message_out(1000);
    let large = Limits::default();
    let server = serve(ListenOptions::default().with_limits(small.clone())).await;
    let node = server
        .dial_with(DialOptions::default().with_limits(large.clone()))
        .await;
    let cx = Context::new();
    let at = |size| Bytes::from(vec![1; size]);
    assert_eq!(
        unary(&*node, &cx, "Echo", at(1000)).await.unwrap().len(),
        1000
    );
    for size in [1001, 100_000] {
        let err = unary(&*node, &cx, "Echo", at(size)).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::ResourceExhausted, "{size}");
    }
    // The server's own answer.
    let call = request("Count", Body::Message("1 1001".into()));
    let err = node.call(&cx, call).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::ResourceExhausted);
    // What the client refuses to send, and to receive.
    let server = Server::start().await;
    let node = server
        .dial_with(DialOptions::default().with_limits(small))
        .await;
    let err = unary(&*node, &cx, "Echo", at(1001)).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::ResourceExhausted);
    assert!(err.is_unprocessed());
    assert_eq!(server.counts.begun(), 0);
    let call = request("Count", Body::Message("1 1001".into()));
    let err = match node.call(&cx, call).await {
        Ok(response) => stream_of(response.body).next().await.unwrap().unwrap_err(),
        Err(err) => err,
    };
    assert_eq!(err.kind(), ErrorKind::ResourceExhausted);
}

/// Failure case 16: metadata at the limit and beyond.
#[tokio::test]
async fn f16_metadata_beyond_the_limit() {
    let server = Server::start().await;
    let node = server.dial().await;
    let call = async |size: usize| {
        let mut metadata = Metadata::new();
        metadata.insert("x-large", vec![b'a'; size]).unwrap();
        let call = request("Early", Body::Message(Bytes::new())).with_metadata(metadata);
        node.call(&Context::new(), call).await
    };
    call(15_000).await.unwrap();
    // The metadata fit, but not with the other headers.
    let err = call(Metadata::MAX_BYTES - 50).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::ResourceExhausted);
    call(10).await.unwrap();
}

/// Failure case 19: no descriptors are left, and then there are again. In a process of its own.
#[test]
fn f19_the_listener_survives_a_lack_of_descriptors() {
    const INSIDE: &str = "MICRO_TEST_FEW_DESCRIPTORS";
    if std::env::var_os(INSIDE).is_none() {
        let status = std::process::Command::new("sh")
            .args(["-c", "ulimit -n 64 && exec \"$0\" \"$@\""])
            .arg(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "limits::f19_the_listener_survives_a_lack_of_descriptors",
            ])
            .env(INSIDE, "1")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let server = Server::start().await;
        let node = server.dial().await;
        let cx = Context::new();
        assert_eq!(unary(&*node, &cx, "Echo", "x").await.unwrap(), "x");
        // Both ends are in this process: the listener runs out while connections wait for it.
        let mut held = Vec::new();
        while let Ok(tcp) = TcpStream::connect(&server.address).await {
            held.push(tcp);
            tokio::task::yield_now().await;
        }
        assert!(held.len() < 64);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(unary(&*node, &cx, "Echo", "x").await.unwrap(), "x");
        drop(held);
        let began = Instant::now();
        let node = loop {
            let opts = DialOptions::default().with_timeout(Duration::from_millis(500));
            match GrpcTransport::new().dial(&server.address, opts).await {
                Ok(node) => break node,
                Err(err) => assert!(began.elapsed() < Duration::from_secs(3), "{err}"),
            }
        };
        assert_eq!(unary(&*node, &cx, "Echo", "x").await.unwrap(), "x");
    });
}

#[tokio::test]
async fn calls_beyond_the_limit_wait() {
    let limits = Limits::default().with_calls_per_connection(4);
    let server = serve(ListenOptions::default().with_limits(limits)).await;
    let node = server.dial().await;
    let naps = (0..40).map(|_| async {
        assert_eq!(
            unary(&*node, &Context::new(), "Nap", "").await.unwrap(),
            "awake"
        );
    });
    let began = Instant::now();
    futures_util::future::join_all(naps).await;
    // Ten rounds of four.
    assert!(
        began.elapsed() >= Duration::from_millis(200),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
    let limits = Limits::default().with_idle(Duration::from_millis(200));
    let server = serve(ListenOptions::default().with_limits(limits)).await;
    let idle = server.dial().await;
    let busy = server.dial().await;
    let cx = Context::new();
    let call = unary(&*busy, &cx, "Sleep", "");
    let closed = tokio::time::timeout(Duration::from_secs(1), idle.closed());
    let began = Instant::now();
    tokio::select! {
        _ = call => panic!("it sleeps"),
        closed = closed => closed.unwrap(),
    }
    assert!(began.elapsed() >= Duration::from_millis(150));
    assert!(busy.is_open());
}

/// A server that answers one call with the given frames.
async fn scripted(script: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let script = script.clone();
            tokio::spawn(async move {
                tcp.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
                let mut seen = Vec::new();
                let mut buf = [0; 4096];
                // Until the call's HEADERS and DATA are here.
                while !seen.windows(4).any(|w| w == b"ping") {
                    match tcp.read(&mut buf).await {
                        Ok(n) if n > 0 => seen.extend_from_slice(&buf[..n]),
                        _ => return,
                    }
                }
                tcp.write_all(&script).await.unwrap();
                tokio::time::sleep(Duration::from_millis(200)).await;
            });
        }
    });
    address
}

fn block(headers: &[(&str, &str)]) -> Vec<u8> {
    headers
        .iter()
        .flat_map(|(name, value)| literal(name, value.as_bytes()))
        .collect()
}

/// Failure case 21: answers that are not quite gRPC.
#[tokio::test]
async fn f21_strange_answers_have_a_kind() {
    let ok = &[
        (":status", "200"),
        ("content-type", "application/grpc+json"),
    ][..];
    let end = END_HEADERS | END_STREAM;
    let head = |headers: &[(&str, &str)], flags| frame(HEADERS, flags, 1, &block(headers));
    let data = |message: &[u8]| frame(DATA, 0, 1, &grpc(message));
    let trailers = |status: &str| head(&[("grpc-status", status)], end);
    let status = |code: &'static str| {
        head(
            &[(":status", code), ("content-type", "text/html")],
            END_HEADERS,
        )
    };
    let goaway = |last: u32, code: u32| {
        frame(
            GOAWAY,
            0,
            0,
            &[last.to_be_bytes(), code.to_be_bytes()].concat(),
        )
    };
    use ErrorKind as Kind;
    let html = frame(DATA, END_STREAM, 1, b"<html>Bad Gateway</html>");
    // (what, frames, kind, unprocessed)
    let table = [
        (
            "trailers only",
            head(&[ok, &[("grpc-status", "5")]].concat(), end),
            Kind::NotFound,
            false,
        ),
        (
            "no status",
            [
                head(ok, END_HEADERS),
                frame(DATA, END_STREAM, 1, &grpc(b"x")),
            ]
            .concat(),
            Kind::Unknown,
            false,
        ),
        (
            "502 HTML",
            [status("502"), html.clone()].concat(),
            Kind::Unavailable,
            false,
        ),
        (
            "503 HTML",
            [status("503"), html.clone()].concat(),
            Kind::Unavailable,
            false,
        ),
        (
            "404 HTML",
            [status("404"), html.clone()].concat(),
            Kind::Unimplemented,
            false,
        ),
        (
            "401",
            [status("401"), html.clone()].concat(),
            Kind::Unauthenticated,
            false,
        ),
        (
            "200 HTML",
            [status("200"), html].concat(),
            Kind::Unknown,
            false,
        ),
        (
            "refused",
            frame(RST_STREAM, 0, 1, &7_u32.to_be_bytes()),
            Kind::Unavailable,
            true,
        ),
        (
            "reset: cancel",
            frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes()),
            Kind::Cancelled,
            false,
        ),
        (
            "reset: internal",
            frame(RST_STREAM, 0, 1, &2_u32.to_be_bytes()),
            Kind::Internal,
            false,
        ),
        ("goaway before us", goaway(0, 0), Kind::Unavailable, true),
        (
            "goaway after us, then gone",
            goaway(1, 0),
            Kind::Unavailable,
            false,
        ),
        (
            "half a message",
            [
                head(ok, END_HEADERS),
                frame(DATA, 0, 1, &[0, 0, 0, 0, 9, 1]),
                trailers("0"),
            ]
            .concat(),
            Kind::Internal,
            false,
        ),
        (
            "compressed",
            [
                head(ok, END_HEADERS),
                frame(DATA, 0, 1, &[1, 0, 0, 0, 1, 1]),
                trailers("0"),
            ]
            .concat(),
            Kind::Internal,
            false,
        ),
        (
            "a failure after a message",
            [head(ok, END_HEADERS), data(b"x"), trailers("10")].concat(),
            Kind::Aborted,
            false,
        ),
        (
            "an interim answer first",
            [
                head(&[(":status", "103")], END_HEADERS),
                head(&[ok, &[("grpc-status", "5")]].concat(), end),
            ]
            .concat(),
            Kind::NotFound,
            false,
        ),
        (
            "a ping first",
            [
                frame(PING, 0, 0, &[0; 8]),
                head(&[ok, &[("grpc-status", "5")]].concat(), end),
            ]
            .concat(),
            Kind::NotFound,
            false,
        ),
        ("nothing, then gone", Vec::new(), Kind::Unavailable, false),
        ("nonsense", vec![0xff; 100], Kind::Unavailable, false),
    ];
    for (what, frames, kind, unprocessed) in table {
        let address = scripted(frames).await;
        let node = GrpcTransport::new()
            .dial(&address, DialOptions::default())
            .await
            .unwrap();
        let err = unary(&*node, &Context::new(), "Echo", "ping")
            .await
            .unwrap_err();
        assert_eq!(
            (err.kind(), err.is_unprocessed()),
            (kind, unprocessed),
            "{what}: {err:?}"
        );
    }
    // And two that are fine.
    for frames in [
        [head(ok, END_HEADERS), data(b"x"), trailers("0")].concat(),
        [
            head(
                &[(":status", "200"), ("content-type", "application/grpc")],
                END_HEADERS,
            ),
            data(b"x"),
            trailers("0"),
        ]
        .concat(),
    ] {
        let address = scripted(frames).await;
        let node = GrpcTransport::new()
            .dial(&address, DialOptions::default())
            .await
            .unwrap();
        assert_eq!(
            unary(&*node, &Context::new(), "Echo", "ping")
                .await
                .unwrap(),
            "x"
        );
    }
}

/// Failure case 13: a server of one byte a second, and one that resets in the middle.
#[tokio::test]
async fn f13_half_an_answer_ends_by_deadline_or_loss() {
    let ok = block(&[
        (":status", "200"),
        ("content-type", "application/grpc+json"),
    ]);
    let half = [
        frame(HEADERS, END_HEADERS, 1, &ok),
        frame(DATA, 0, 1, &[0, 0, 0, 0, 9, 1]),
    ]
    .concat();
    let address = scripted(half).await;
    let node = GrpcTransport::new()
        .dial(&address, DialOptions::default())
        .await
        .unwrap();
    let err = unary(&*node, &Context::new(), "Echo", "ping")
        .await
        .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unavailable);
    assert!(!err.is_unprocessed());
    assert!(!node.is_open());
}

/// A peer that speaks something else is told apart at once.
#[tokio::test]
async fn dialling_what_is_no_grpc_says_what_it_is() {
    let table = [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "HTTP/1.1"),
        (b"\x15\x03\x01\x00\x02\x02\x50", "TLS"),
        (b"SSH-2.0-OpenSSH_9.0\r\n", "HTTP/2"),
    ];
    for (greeting, within) in table {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut tcp, _) = listener.accept().await.unwrap();
            tcp.write_all(greeting).await.unwrap();
            let mut buf = [0; 1000];
            let _ = tcp.read(&mut buf).await;
            let _ = tcp.shutdown().await;
        });
        let err = GrpcTransport::new()
            .dial(&address, DialOptions::default())
            .await
            .unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unavailable);
        assert!(err.is_unprocessed());
        assert!(err.message().contains(within), "{err}");
    }
}
