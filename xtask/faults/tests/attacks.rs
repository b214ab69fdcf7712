//! Attacks that need the whole of `micro`: discovery, transport and TLS.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use micro::codec::shape;
use micro::{Client, Context, Routes, Running, Service, TlsIdentity};
use micro_tls::dev::Authority;

/// A greeter that counts its calls, announced by multicast DNS.
async fn greeter(
    registry: &str,
    id: &str,
    identity: TlsIdentity,
    calls: &Arc<AtomicU32>,
) -> Running {
    let calls = Arc::clone(calls);
    let routes = Routes::dynamic("Greeter").unary(
        "Hello",
        shape!(String),
        shape!(String),
        move |_cx, name: String| {
            calls.fetch_add(1, Ordering::SeqCst);
            async move { Ok(name) }
        },
    );
    let service = Service::new("greeter").id(id).routes(routes);
    let service = service.registry_url(registry).address("127.0.0.1:0");
    let service = service.stop_timeout(Duration::from_millis(500));
    service.identity(identity).start().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn s46_a_false_answer_leads_to_a_node_that_is_not_called() {
    let free = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let registry = format!("mdns:?interface=lo&port={port}");
    let (ours, theirs) = (
        Authority::new("ours").unwrap(),
        Authority::new("theirs").unwrap(),
    );
    let (true_calls, false_calls) = (Arc::default(), Arc::default());
    let identity = ours.issue(&["127.0.0.1"]).unwrap();
    let real = greeter(&registry, "real", identity, &true_calls).await;
    // Whoever is on the network can answer for the name; nobody else has our authority's key.
    let forged = theirs.issue(&["127.0.0.1"]).unwrap();
    let forged = forged.with_roots(vec![ours.root(), theirs.root()]);
    let spoof = greeter(&registry, "spoof", forged, &false_calls).await;

    let client = Client::builder()
        .registry_url(&registry)
        .identity(ours.issue(&["127.0.0.1"]).unwrap())
        .build()
        .await
        .unwrap();
    // A client that has heard of the false node only cannot but fail.
    for _ in 0..500 {
        let call = client.call("greeter", "Greeter.Hello", &"Ada");
        let reply: micro::Result<String> = call.send(&Context::new()).await;
        if reply.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let before = true_calls.load(Ordering::SeqCst);
    let mut seen = 0;
    for _ in 0..300 {
        let call = client.call("greeter", "Greeter.Hello", &"Ada");
        let reply: String = call.send(&Context::new()).await.unwrap();
        assert_eq!(reply, "Ada");
        seen = client
            .registry()
            .get_service("greeter", Default::default())
            .await
            .unwrap()[0]
            .nodes
            .len();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(seen, 2, "the false node was announced");
    assert_eq!(true_calls.load(Ordering::SeqCst), before + 300);
    assert_eq!(false_calls.load(Ordering::SeqCst), 0);
    real.stop().await.unwrap();
    spoof.stop().await.unwrap();
}
