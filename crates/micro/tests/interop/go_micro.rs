//! What go-micro's gRPC client puts on the wire, byte by byte: JSON in gRPC frames, paths by the
//! registry name, and the time left in a header of its own. (grpc-go says the same in `go_peer`.)

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::common::{Fleet, until};

/// How a gRPC call ended.
#[derive(Debug)]
struct Ended {
    status: String,
    content_type: String,
    messages: Vec<Value>,
}

async fn call(address: &str, path: &str, timeout: Duration, message: &Value) -> Ended {
    let tcp = TcpStream::connect(address).await.unwrap();
    let (h2, connection) = h2::client::handshake(tcp).await.unwrap();
    tokio::spawn(connection);
    // No `grpc-timeout`, so that only go-micro's header can be what is honoured.
    let request = http::Request::post(format!("http://{address}{path}"))
        .header("content-type", "application/grpc+json")
        .header("x-content-type", "application/grpc+json")
        .header("te", "trailers")
        .header("timeout", timeout.as_nanos().to_string())
        .header("micro-from-service", "go.micro.srv.caller")
        .body(())
        .unwrap();
    let mut h2 = h2.ready().await.unwrap();
    let (response, mut send) = h2.send_request(request, false).unwrap();
    send.send_data(framed(message), true).unwrap();
    let (head, mut body) = response.await.unwrap().into_parts();
    assert_eq!(head.status, 200);
    let mut all = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.unwrap();
        body.flow_control().release_capacity(chunk.len()).unwrap();
        all.extend_from_slice(&chunk);
    }
    let trailers = body.trailers().await.unwrap();
    // An error before any message has its status in the headers.
    let status = trailers.as_ref().unwrap_or(&head.headers);
    Ended {
        status: status["grpc-status"].to_str().unwrap().to_owned(),
        content_type: head.headers["content-type"].to_str().unwrap().to_owned(),
        messages: unframed(&all),
    }
}

fn framed(message: &Value) -> Bytes {
    let message = message.to_string();
    let length = u32::try_from(message.len()).unwrap();
    let mut frame = vec![0];
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(message.as_bytes());
    frame.into()
}

fn unframed(mut frames: &[u8]) -> Vec<Value> {
    let mut messages = Vec::new();
    while let Some((head, rest)) = frames.split_first_chunk::<5>() {
        let [0, length @ ..] = *head else {
            panic!("a compressed frame: {head:?}");
        };
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap();
        messages.push(serde_json::from_slice(&rest[..length]).unwrap());
        frames = &rest[length..];
    }
    messages
}

#[tokio::test]
async fn json_in_grpc_goes_to_the_last_part_of_the_name() {
    let fleet = Fleet::new();
    let (running, _) = fleet.start("probe", "probe-1").await;
    let patience = Duration::from_secs(10);
    let message = json!({"text": "föö", "number": 7});
    for path in ["/probe.Probe/Echo", "/any.pkg.Probe/Echo", "/Probe/Echo"] {
        let ended = call(running.address(), path, patience, &message).await;
        assert_eq!(ended.status, "0", "{path}: {ended:?}");
        assert_eq!(ended.content_type, "application/grpc+json", "{path}");
        assert_eq!(ended.messages, std::slice::from_ref(&message), "{path}");
    }
    for (path, status) in [
        ("/any.pkg.Probe/Nothing", "12"),
        ("/any.pkg.Nobody/Echo", "12"),
        ("/any.pkg.Probe/Echo/More", "3"),
    ] {
        let ended = call(running.address(), path, patience, &message).await;
        assert_eq!(ended.status, status, "{path}: {ended:?}");
    }
    let message = json!({"text": "n", "number": 2});
    let ended = call(
        running.address(),
        "/any.pkg.Probe/Count",
        patience,
        &message,
    )
    .await;
    let counted = [
        json!({"text": "n", "number": 0}),
        json!({"text": "n", "number": 1}),
    ];
    assert_eq!((&*ended.status, &*ended.messages), ("0", &counted[..]));
}

#[tokio::test]
async fn the_time_left_in_nanoseconds_is_honoured() {
    let fleet = Fleet::new();
    let (running, seen) = fleet.start("probe", "probe-1").await;
    let message = json!({"text": "", "number": 0});
    let patience = Duration::from_secs(5);
    let ended = call(running.address(), "/any.pkg.Probe/Left", patience, &message).await;
    let left: u64 = ended.messages[0]["text"].as_str().unwrap().parse().unwrap();
    assert!((3000..=5000).contains(&left), "{left}");

    let message = json!({"text": "", "number": 60_000});
    let patience = Duration::from_millis(100);
    let slept = call(
        running.address(),
        "/any.pkg.Probe/Sleep",
        patience,
        &message,
    );
    let slept = tokio::time::timeout(Duration::from_secs(10), slept).await;
    // DEADLINE_EXCEEDED, and nobody but the server could say so.
    assert_eq!(slept.unwrap().status, "4");
    until("the handler is dropped", || {
        seen.under_way.load(Ordering::SeqCst) == 0
    })
    .await;
}
