//! What strangers send to our subjects: nothing of it ends a subscriber, and nothing is delivered wrongly.

#[path = "../../micro-nats/tests/common/mod.rs"]
mod common;
mod support;

use std::time::Duration;

use common::{PATIENCE, Server};
use micro_broker_core::Message;
use support::{Inbox, admin, member, open, publish, quick, raw, topic};
use tokio::time::{sleep, timeout};

/// Sends bytes as they are, on a connection of its own.
async fn send(server: &Server, subject: &str, headers: impl AsRef<[u8]>, body: &str) {
    let headers = [b"NATS/1.0\r\n", headers.as_ref(), b"\r\n\r\n"].concat();
    let (length, total) = (headers.len(), headers.len() + body.len());
    let line = format!("HPUB {subject} {length} {total}\r\n");
    raw(
        server,
        &[line.as_bytes(), &headers, body.as_bytes(), b"\r\n"].concat(),
    )
    .await;
}

/// Where a topic is published in each mode.
const SUBJECTS: [(&str, &str); 2] = [("core", "orders"), ("jetstream", "_micro.js._.orders")];

#[tokio::test]
async fn s67_what_is_no_message_is_a_dead_letter_at_once() {
    let Some(server) = Server::start("what is no message", &["-js"]) else {
        return;
    };
    for (mode, subject) in SUBJECTS {
        let broker = open(&server, &format!("mode={mode}"));
        let mut inbox = Inbox::at(&broker, "orders", member("g")).await;
        let mut dead = Inbox::at(&broker, "orders.g.dead", quick()).await;
        for (headers, body) in [
            ("micro-id: a b", "null"),
            ("micro-hops: 17", "{"),
            ("micro-key: \u{fc}", "[]"),
            (
                "micro-deadline: 1e99",
                "{\"Header\":{\"Micro-Hops\":\"99\"},\"Body\":\"\"}",
            ),
            ("micro-dead-topic: *", "{\"Body\":\"not base64\"}"),
            ("content-type: \u{fc}", "{\"Header\":[]}"),
        ] {
            send(&server, subject, headers, body).await;
            let delivery = dead.next().await;
            let letter = delivery.message();
            assert_eq!(letter.body, body, "{mode}");
            let why = letter.dead_letter.as_ref().unwrap();
            assert!(why.reason.starts_with("INVALID_ARGUMENT"), "{why:?}");
            assert_eq!(why.topic, topic("orders"));
        }
        inbox.silent().await;
        // The others are handled as ever.
        publish(&broker, Message::new(topic("orders"), "tea")).await;
        assert_eq!(inbox.next().await.message().body, "tea");
    }
}

/// Plain NATS clients publish to a topic's stream, too.
#[tokio::test]
async fn s67_what_a_stranger_calls_itself_is_no_header_of_ours() {
    let Some(server) = Server::start("a stranger's headers", &["-js"]) else {
        return;
    };
    let broker = open(&server, "");
    let mut inbox = Inbox::at(&broker, "orders", member("g")).await;
    let headers = "Micro-From-Service: admin\r\nMicro-Delivery-No: 9\r\nTenant: acme\r\nNats-X: 1";
    send(&server, "_micro.js._.orders", headers, "tea").await;
    let delivery = inbox.next().await;
    let names: Vec<_> = delivery
        .message()
        .metadata
        .iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!((names, delivery.deliveries()), (vec!["tenant"], 1));
}

/// async-nats 0.51 panics in the task of the connection if a header has a carriage return of its own, and
/// takes one that is not UTF-8 for the end of the connection.
#[tokio::test]
async fn s67_bytes_that_the_client_library_cannot_bear_do_not_end_us() {
    for (mode, subject) in SUBJECTS {
        for headers in [&b"a: b\rc"[..], b"a: \xff", b"no colon"] {
            let Some(server) = Server::start("headers that break the library", &["-js"]) else {
                return;
            };
            let broker = open(&server, &format!("mode={mode}"));
            let opts = member("g").with_ack_deadline(Duration::from_secs(1));
            let mut inbox = Inbox::at(&broker, "orders", opts).await;
            let mut dead = Inbox::at(&broker, "orders.g.dead", member("undertaker")).await;
            send(&server, subject, headers, "{}").await;
            // Core NATS has nobody to keep it for while we come back.
            let publishing = async {
                loop {
                    publish(&broker, Message::new(topic("orders"), "after")).await;
                    sleep(Duration::from_millis(100)).await;
                }
            };
            let arriving = async { while inbox.next().await.message().body != "after" {} };
            tokio::select! {
                () = publishing => {}
                () = arriving => {}
            }
            if mode == "jetstream" {
                // It is taken out of the stream, so that it does not come again and again.
                let delivery = dead.next().await;
                let why = delivery.message().dead_letter.as_ref().unwrap();
                assert_eq!(
                    (&delivery.message().body[..], why.deliveries),
                    (&b"{}"[..], 1)
                );
                let gone = async {
                    while admin(&server).await.has_message("orders", 1).await {
                        sleep(Duration::from_millis(20)).await;
                    }
                };
                timeout(PATIENCE, gone).await.unwrap();
            }
        }
    }
}
