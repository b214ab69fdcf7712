//! What answers need not be etcd, nor mean well: errors, and nothing worse.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response};
use micro_core::{ErrorKind, SystemRandom};
use micro_etcd::{Client, EtcdConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};

/// A client of a server of ours, which gets half a second.
fn client(port: u16) -> Client {
    let mut config = EtcdConfig::default();
    config.endpoints = vec![format!("127.0.0.1:{port}")];
    config.timeout = Duration::from_millis(500);
    config.connect_timeout = Duration::from_millis(200);
    Client::new(config, Arc::new(SystemRandom)).unwrap()
}

async fn refused(port: u16, kind: ErrorKind, what: &str) {
    let client = client(port);
    let began = Instant::now();
    let answer = timeout(Duration::from_secs(5), client.get("a")).await;
    let err = answer.expect("it has a deadline").expect_err(what);
    assert_eq!(err.kind(), kind, "{what}: {err:?}");
    assert!(began.elapsed() < Duration::from_secs(2), "{what}");
}

/// A gRPC server that sends a body and a status to whatever is asked.
async fn grpc(body: &'static [u8], content_type: &'static str, trailers: Status) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(tcp).await?;
                while let Some(request) = connection.accept().await {
                    let (_request, mut respond) = request?;
                    let head = Response::builder().header("content-type", content_type);
                    let mut send = respond.send_response(head.body(()).unwrap(), false)?;
                    send.send_data(Bytes::from_static(body), false)?;
                    let mut end = HeaderMap::new();
                    for (name, value) in trailers {
                        end.insert(*name, value.parse().unwrap());
                    }
                    send.send_trailers(end)?;
                }
                Ok::<_, h2::Error>(())
            });
        }
    });
    port
}

const GRPC: &str = "application/grpc";
const OK: Status = &[("grpc-status", "0")];

/// What it is, its body, its content type, its status, and what we make of it.
type Row = (&'static str, &'static [u8], &'static str, Status, ErrorKind);
type Status = &'static [(&'static str, &'static str)];

#[tokio::test]
async fn answers_that_are_none_of_etcd_s_are_errors() {
    use ErrorKind::{NotFound, ResourceExhausted, Unavailable, Unknown};
    let empty: &[u8] = &[0, 0, 0, 0, 0];
    let table: [Row; 11] = [
        ("no message", b"", GRPC, OK, Unavailable),
        ("half a message", &[0, 0, 0, 0, 9, 1], GRPC, OK, Unavailable),
        ("half a prefix", &[0, 0], GRPC, OK, Unavailable),
        (
            "two messages",
            &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            GRPC,
            OK,
            Unavailable,
        ),
        ("compressed", &[1, 0, 0, 0, 0], GRPC, OK, Unavailable),
        (
            "4 GiB",
            &[0, 255, 255, 255, 255],
            GRPC,
            OK,
            ResourceExhausted,
        ),
        (
            "no protobuf",
            &[0, 0, 0, 0, 2, 0xff, 0xff],
            GRPC,
            OK,
            Unavailable,
        ),
        ("no status", empty, GRPC, &[], Unavailable),
        (
            "a status that is no number",
            empty,
            GRPC,
            &[("grpc-status", "x")],
            Unavailable,
        ),
        (
            "a status that nobody knows",
            empty,
            GRPC,
            &[("grpc-status", "77")],
            Unknown,
        ),
        ("a web page", b"<html>", "text/html", &[], Unavailable),
    ];
    for (what, body, content_type, trailers, kind) in table {
        refused(grpc(body, content_type, trailers).await, kind, what).await;
    }
    // Details that are no base64 make a panic in other clients.
    let status = &[
        ("grpc-status", "5"),
        ("grpc-message", "%zz"),
        ("grpc-status-details-bin", "!"),
    ];
    refused(grpc(b"", GRPC, status).await, NotFound, "bad details").await;
}

#[tokio::test]
async fn servers_of_another_kind_are_unavailable() {
    for say in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"SSH-2.0-x\r\n",
        b"",
        &[0xff; 64],
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            while let Ok((mut tcp, _)) = listener.accept().await {
                let _ = tcp.read(&mut [0; 16]).await;
                let _ = tcp.write_all(say).await;
            }
        });
        let what = String::from_utf8_lossy(say);
        refused(port, ErrorKind::Unavailable, &what).await;
        server.abort();
    }
}

#[tokio::test]
async fn silence_and_nobody_are_unavailable_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    refused(port, ErrorKind::Unavailable, "a server that never accepts").await;
    drop(listener);
    refused(port, ErrorKind::Unavailable, "nobody").await;
    let err = client(port).put("a", "b", 0).await.unwrap_err();
    assert!(err.is_unprocessed(), "nothing was sent: {err:?}");
    assert_eq!(err.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_change_that_got_no_answer_has_an_unknown_outcome() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(tcp).await?;
                let mut held = Vec::new();
                while let Some(request) = connection.accept().await {
                    held.push(request?);
                }
                Ok::<_, h2::Error>(())
            });
        }
    });
    let err = client(port).put("a", "b", 0).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::OutcomeUnknown, "{err:?}");
    assert!(!err.is_unprocessed());
    refused(port, ErrorKind::Unavailable, "a read").await;
}
