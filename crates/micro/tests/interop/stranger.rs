//! What our clients expect of a server that is not ours, whoever wrote it.

use std::time::Duration;

use micro::registry::{Node, Service};
use micro::{CallOptions, Context, ErrorKind, Streaming};

use crate::common::{Fleet, Ping, Probe as _, ProbeClient, ping};
use crate::kinds::{DETAIL, Everything, Inner, Kinds as _, KindsClient};

pub(crate) fn within(limit: Duration) -> Context {
    Context::new().with_timeout(limit)
}

pub(crate) fn soon() -> Context {
    within(Duration::from_secs(20))
}

/// Calls a server at this address in every way: without discovery, and by a name that was put into
/// the registry by hand.
pub(crate) async fn is_called(address: &str) {
    let fleet = Fleet::new();
    let options = CallOptions::new().with_address(address);
    let client = fleet.client().await.with_options(options);
    // The name still stands in for the package.
    calls(&ProbeClient::new(client.clone(), "probe")).await;
    fails(&ProbeClient::new(client.clone(), "probe")).await;
    kinds(&KindsClient::new(client, "whatever")).await;

    let node = Node::new("stranger-1", address);
    let service = Service::new("probe", "latest").with_node(node);
    fleet
        .registry
        .register(&service, Default::default())
        .await
        .unwrap();
    calls(&fleet.probe("probe").await).await;
}

/// All four shapes, metadata both ways, and the deadline.
async fn calls(probe: &ProbeClient) {
    let (cx, received) = soon()
        .with_metadata("X-Tenant", "acme")
        .unwrap()
        .with_metadata("x-raw-bin", b"\x00\xff\x2c")
        .unwrap()
        .with_received();
    let sent = ping("föö", u64::MAX);
    assert_eq!(probe.echo(&cx, sent.clone()).await.unwrap(), sent);
    let metadata = received.metadata().unwrap();
    assert_eq!(metadata.get("x-node"), Some("stranger"));
    assert_eq!(metadata.get("x-tenant-seen"), Some("acme"));
    let raw = metadata.get_bytes("x-raw-bin").unwrap();
    assert_eq!(raw[..], *b"\x00\xff\x2c");

    let big = ping(&"x".repeat(1 << 20), 1);
    assert_eq!(probe.echo(&soon(), big.clone()).await.unwrap(), big);

    let counted = probe.count(&soon(), ping("n", 1000)).await.unwrap();
    let counted = counted.collect(2000).await.unwrap();
    assert!(counted.iter().map(|ping| ping.number).eq(0..1000));

    let pings: Streaming<Ping> = (1..=100).map(|number| ping("", number)).collect();
    assert_eq!(probe.sum(&soon(), pings).await.unwrap().number, 5050);

    let (sender, pings) = Streaming::channel(1);
    // grpc-go says nothing, not even headers, before its handler sends something: the call must
    // not wait for them before the first request is sent.
    let mut chat = probe.chat(&soon(), pings).await.unwrap();
    for number in 0..10 {
        // Each reply before the next request: nothing is held back on the way.
        sender.send(ping("chat", number)).await.unwrap();
        assert_eq!(chat.next().await.unwrap().unwrap().number, number);
    }
    drop(sender);
    assert!(chat.next().await.is_none());

    let left = probe
        .left(&within(Duration::from_secs(5)), ping("", 0))
        .await
        .unwrap();
    let left: u64 = left.text.parse().unwrap();
    assert!((3000..=5000).contains(&left), "{left}");
}

/// Codes and messages, before a stream, in its midst and at its end.
async fn fails(probe: &ProbeClient) {
    for code in 1..=16 {
        let err = probe
            .fail(&soon(), ping("föö % \n", code))
            .await
            .unwrap_err();
        assert_eq!(u64::from(err.kind().code()), code);
        assert_eq!(err.message(), "föö % \n");
    }

    let mut counted = probe.count(&soon(), ping("fail", 3)).await.unwrap();
    for number in 0..3 {
        assert_eq!(counted.next().await.unwrap().unwrap().number, number);
    }
    let err = counted.next().await.unwrap().unwrap_err();
    assert_eq!(
        (err.kind(), err.message()),
        (ErrorKind::DataLoss, "after the last one")
    );
    assert!(counted.next().await.is_none());

    // The caller's stream is still open when the server gives up, after an answer and before any.
    let (sender, pings) = Streaming::channel(1);
    sender.send(ping("chat", 0)).await.unwrap();
    let mut chat = probe.chat(&soon(), pings).await.unwrap();
    chat.next().await.unwrap().unwrap();
    sender.send(ping("stop", 0)).await.unwrap();
    let err = chat.next().await.unwrap().unwrap_err();
    assert_eq!((err.kind(), err.message()), (ErrorKind::Aborted, "stopped"));
    assert!(chat.next().await.is_none());
    let (sender, pings) = Streaming::channel(1);
    sender.send(ping("stop", 0)).await.unwrap();
    let err = match probe.chat(&soon(), pings).await {
        // Where it comes depends on whether the server had sent headers.
        Ok(mut chat) => chat.next().await.unwrap().unwrap_err(),
        Err(err) => err,
    };
    assert_eq!((err.kind(), err.message()), (ErrorKind::Aborted, "stopped"));

    let err = probe
        .sleep(&within(Duration::from_millis(100)), ping("", 10_000))
        .await
        .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::DeadlineExceeded, "{err}");
    // Strangers lack it.
    let err = probe.panic(&soon(), ping("", 0)).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unimplemented, "{err}");
}

/// Every kind of field, and a detail of an error.
async fn kinds(kinds: &KindsClient) {
    let (cx, received) = soon().with_received();
    let reply = kinds.echo(&cx, Everything::full()).await.unwrap();
    assert_eq!(reply, Everything::full());
    let metadata = received.metadata().unwrap();
    assert_eq!(metadata.get("x-is-full"), Some("true"));
    let empty = kinds.echo(&soon(), Everything::default()).await.unwrap();
    assert_eq!(empty, Everything::default());

    let inner = Inner {
        id: 0,
        name: "no such inner".to_owned(),
    };
    let err = kinds.refuse(&soon(), inner).await.unwrap_err();
    assert_eq!(
        (err.kind(), err.message()),
        (ErrorKind::NotFound, "no such inner")
    );
    let details: Vec<_> = err
        .details()
        .iter()
        .map(|detail| (&*detail.type_url, &detail.value[..]))
        .collect();
    assert_eq!(details, [DETAIL]);
}
