//! What anybody may send to a subscriber's port.

mod common;

use std::time::Duration;

use common::{
    counts, env, member, next, no, nodes, open, post, publish, send, subscribe, topic, yes,
};
use micro_broker_core::{Broker as _, ErrorKind};
use micro_broker_http::{HttpBrokerConfig, Post};
use tokio::time::{sleep, timeout};

const GOOD: &str = r#"{"Header":{"Micro-Topic":"orders","Micro-Id":"1"},"Body":"dGVh"}"#;

#[tokio::test]
async fn s65_what_is_no_message_for_this_subscriber_is_refused() {
    let env = env().await;
    let config = HttpBrokerConfig::default().with_max_body(1000);
    let broker = open(config, &env);
    let (_subscription, mut arrived) = subscribe(&broker, member("g"), yes).await;
    let node = nodes(&env).await.remove(0);
    let (id, address) = (&*node.id, &*node.address);
    let long = format!(
        r#"{{"Header":{{"Micro-Topic":"orders"}},"Body":"{}"}}"#,
        "QUJD".repeat(400)
    );
    let huge = "x".repeat(200_000);
    let deep = "[".repeat(50_000);
    let many: Vec<_> = (0..2000).map(|i| format!(r#""h{i}":"""#)).collect();
    let many = format!(
        r#"{{"Header":{{"Micro-Topic":"orders",{}}}}}"#,
        many.join(",")
    );
    let without_length = format!(
        "POST /?id={id} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n30d40\r\n{huge}"
    );
    let gibibyte =
        format!("POST /?id={id} HTTP/1.1\r\nhost: x\r\ncontent-length: 1073741824\r\n\r\n");
    let zeros = id.replace(|c: char| c.is_ascii_digit(), "0");
    for (expected, what, bytes) in [
        (400, "null", post(id, "", "null")),
        (400, "nothing", post(id, "", "")),
        (
            400,
            "no topic",
            post(id, "", r#"{"Header":{},"Body":"dGVh"}"#),
        ),
        (
            400,
            "another topic",
            post(id, "", &GOOD.replace("orders", "bills")),
        ),
        (
            400,
            "a wildcard",
            post(id, "", &GOOD.replace("orders", "*")),
        ),
        (
            400,
            "a topic in another case",
            post(id, "", &GOOD.replace("orders", "Orders")),
        ),
        (
            400,
            "no base64",
            post(id, "", &GOOD.replace("dGVh", "%%%%")),
        ),
        (
            400,
            "an id that is none",
            post(id, "", &GOOD.replace(r#":"1""#, r#":"a b""#)),
        ),
        (400, "a deep document", post(id, "", &deep)),
        (400, "many headers", post(id, "", &many)),
        (
            400,
            "a delivery that is none",
            post(id, "micro-delivery: -1\r\n", GOOD),
        ),
        (404, "no id", post("", "", GOOD)),
        (
            404,
            "a guessed id",
            post("orders-go.micro.http.broker-1", "", GOOD),
        ),
        (404, "a forged id", post(&zeros, "", GOOD)),
        (
            405,
            "another method",
            format!("GET /?id={id} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").into_bytes(),
        ),
        (413, "a body beyond the limit", post(id, "", &long)),
        (413, "a document beyond the limit", post(id, "", &huge)),
        (
            413,
            "as much without saying so",
            without_length.into_bytes(),
        ),
        (413, "a gibibyte that is announced", gibibyte.into_bytes()),
    ] {
        let (status, answer) = send(address, &bytes).await;
        assert_eq!(status, expected, "{what}: {answer}");
        assert!(
            answer.len() < 500 && !answer.contains("panic"),
            "{what}: {answer}"
        );
    }
    let elsewhere = format!(
        "POST /other?id={id} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    );
    assert_eq!(send(address, elsewhere.as_bytes()).await.0, 404);
    let silent = timeout(Duration::from_millis(200), arrived.recv()).await;
    assert!(silent.is_err(), "nothing is delivered: {silent:?}");
    // And it lives on.
    assert_eq!(send(address, &post(id, "", GOOD)).await.0, 200);
    assert_eq!(next(&mut arrived).await.id(), "1");
}

/// A frame with these pairs.
fn frame(pairs: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = Vec::new();
    for part in pairs.iter().flat_map(|(name, value)| [name, value]) {
        head.extend(u16::try_from(part.len()).unwrap().to_be_bytes());
        head.extend(part.as_bytes());
    }
    let length = u32::try_from(head.len()).unwrap().to_be_bytes();
    [&length[..], &head, body].concat()
}

#[tokio::test]
async fn s65_what_is_no_frame_for_this_subscriber_is_refused() {
    let env = env().await;
    let config = HttpBrokerConfig::default().with_max_body(1000);
    let broker = open(config, &env);
    let (_subscription, mut arrived) = subscribe(&broker, member("g"), yes).await;
    let node = nodes(&env).await.remove(0);
    let inlet = broker.inlet();
    let good = frame(&[("micro-topic", "orders"), ("Micro-Id", "1")], b"tea");
    let mut cut = good.clone();
    cut.truncate(20);
    for (expected, what, bytes) in [
        (400, "a frame that is cut off", cut),
        (400, "no topic", frame(&[("micro-id", "1")], b"tea")),
        (
            400,
            "another topic",
            frame(&[("micro-topic", "bills")], b""),
        ),
        (
            400,
            "an id that is none",
            frame(&[("micro-topic", "orders"), ("micro-id", "a b")], b""),
        ),
        (
            400,
            "NUL in a key",
            frame(&[("micro-topic", "orders"), ("micro-key", "\0")], b""),
        ),
        (
            413,
            "a body beyond the limit",
            frame(&[("micro-topic", "orders")], &[0; 1001]),
        ),
    ] {
        let reply = inlet.receive(Post::new(&*node.id, Some(1), bytes)).await;
        assert_eq!(reply.status, expected, "{what}: {reply:?}");
    }
    let silent = timeout(Duration::from_millis(100), arrived.recv()).await;
    assert!(silent.is_err(), "nothing is delivered: {silent:?}");
    let reply = inlet.receive(Post::new(&*node.id, Some(1), good)).await;
    assert_eq!(reply.status, 200);
    let delivery = next(&mut arrived).await;
    assert_eq!(
        (delivery.id(), &delivery.message().body[..]),
        ("1", &b"tea"[..])
    );
}

#[tokio::test]
async fn s65_garbage_and_silence_hold_nobody_up() {
    let env = env().await;
    let broker = open(HttpBrokerConfig::default(), &env);
    let (_subscription, mut arrived) = subscribe(&broker, member("g"), yes).await;
    let node = nodes(&env).await.remove(0);
    let mut held = Vec::new();
    for _ in 0..50 {
        held.push(tokio::net::TcpStream::connect(&node.address).await.unwrap());
    }
    for garbage in [
        &b"\0\0\0\0\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &[255; 5000],
    ] {
        let mut stream = tokio::net::TcpStream::connect(&node.address).await.unwrap();
        let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, garbage).await;
        held.push(stream);
    }
    assert_eq!(counts(&publish(&broker, "tea").await), (1, 0, 0));
    next(&mut arrived).await;
}

#[tokio::test]
async fn s67_headers_of_a_stranger_are_not_the_broker_s() {
    let env = env().await;
    let broker = open(HttpBrokerConfig::default(), &env);
    let (_subscription, mut arrived) = subscribe(&broker, member("g"), yes).await;
    let node = nodes(&env).await.remove(0);
    let body = r#"{"Header":{"Micro-Topic":"orders","Micro-Delivery-No":"7","Micro-From-Service":"admin","Authorization":"Bearer x","Grpc-Status":"0"},"Body":""}"#;
    assert_eq!(send(&node.address, &post(&node.id, "", body)).await.0, 200);
    let delivery = next(&mut arrived).await;
    let names: Vec<_> = delivery
        .message()
        .metadata
        .iter()
        .map(|(name, _)| name)
        .collect();
    // What a stranger sends is data; nobody takes an identity from it.
    assert_eq!((names, delivery.deliveries()), (vec!["authorization"], 1));
}

#[tokio::test]
async fn s69_a_subscriber_answers_for_its_own_messages_only() {
    let env = env().await;
    let broker = open(HttpBrokerConfig::default(), &env);
    let (_first, mut at_first) = subscribe(&broker, member("a"), yes).await;
    let first = nodes(&env).await.remove(0);
    let (_second, mut at_second) = subscribe(&broker, member("b"), no).await;
    let second = nodes(&env)
        .await
        .into_iter()
        .find(|node| node.id != first.id)
        .unwrap();
    let ours = "micro-delivery: 1\r\n";
    // The acknowledgement of one group's member is none of another's.
    assert_eq!(
        send(&first.address, &post(&first.id, ours, GOOD)).await.0,
        200
    );
    let (status, answer) = send(&second.address, &post(&second.id, ours, GOOD)).await;
    assert!(
        status == 503 && answer.contains("micro-retry-in: "),
        "{answer}"
    );
    next(&mut at_first).await;
    next(&mut at_second).await;
    // Who missed the answer asks again, and the handler is not called again.
    let again = post(&first.id, "micro-delivery: 2\r\n", GOOD);
    assert_eq!(send(&first.address, &again).await.0, 200);
    sleep(Duration::from_millis(100)).await;
    assert!(at_first.try_recv().is_err());
}

#[tokio::test]
async fn what_waits_for_a_subscriber_is_bounded() {
    let env = env().await;
    let config = HttpBrokerConfig::default().with_max_waiting(3);
    let broker = open(config, &env);
    let stuck = micro_broker_core::handler(|_, _| std::future::pending());
    let opts = member("g").with_concurrency(2);
    let _subscription = broker
        .subscribe(&topic("orders"), opts, stuck)
        .await
        .unwrap();
    let node = nodes(&env).await.remove(0);
    let inlet = broker.inlet();
    let mut waiting = Vec::new();
    for _ in 0..5 {
        let (inlet, id) = (std::sync::Arc::clone(&inlet), node.id.clone());
        waiting.push(tokio::spawn(async move {
            inlet.receive(Post::new(id, Some(1), GOOD)).await
        }));
    }
    sleep(Duration::from_millis(100)).await;
    assert_eq!(send(&node.address, &post(&node.id, "", GOOD)).await.0, 429);
    // One that gives up makes room.
    waiting.remove(0).abort();
    sleep(Duration::from_millis(50)).await;
    let more = post(&node.id, "", GOOD);
    let waits = timeout(Duration::from_millis(100), send(&node.address, &more));
    assert!(waits.await.is_err(), "it has no room");
    for one in waiting {
        one.abort();
    }
}

#[tokio::test]
async fn somebody_else_s_port_will_do() {
    let env = env().await;
    let broker = open(HttpBrokerConfig::default(), &env);
    broker.served_at("10.0.0.7:80").unwrap();
    let (_subscription, mut arrived) = subscribe(&broker, member("g"), yes).await;
    let node = nodes(&env).await.remove(0);
    assert_eq!(node.address, "10.0.0.7:80");
    let reply = broker
        .inlet()
        .receive(Post::new(&*node.id, None, GOOD))
        .await;
    assert_eq!(reply.status, 200);
    next(&mut arrived).await;
    let err = broker.served_at("10.0.0.8:80").unwrap_err();
    assert_eq!(err.kind(), ErrorKind::FailedPrecondition);
}
