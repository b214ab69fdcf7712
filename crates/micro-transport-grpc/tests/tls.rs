//! Calls over TLS: who is let in, who is believed, and certificates that change.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use micro_core::{Error, ErrorKind};
use micro_tls::dev::Authority;
use micro_transport_core::{
    Body, BoxFuture, Connection, Context, DialOptions, Handler, Limits, ListenOptions, Live,
    Request, Response, Result, Stop, TlsIdentity, Transport as _,
};
use micro_transport_grpc::GrpcTransport;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Answers with what it sees of the peer.
struct Who;

impl Handler for Who {
    fn call(self: Arc<Self>, _: Context, request: Request) -> BoxFuture<'static, Result<Response>> {
        Box::pin(async move {
            let peer = request.peer.ok_or_else(|| Error::internal("no peer"))?;
            let names: Vec<_> = peer
                .certificates
                .first()
                .map(|leaf| micro_tls::uri_names(leaf))
                .unwrap_or_default();
            let text = format!("{} {}", peer.certificates.len(), names.join(" "));
            Ok(Response::new(
                request.content_type,
                Body::Message(text.into()),
            ))
        })
    }
}

async fn serve(opts: ListenOptions) -> String {
    let listener = GrpcTransport::new()
        .listen("127.0.0.1:0", opts)
        .await
        .unwrap();
    let address = listener.address();
    tokio::spawn(listener.serve(Arc::new(Who), Live::constant(Stop::Run)));
    address
}

async fn dial(
    address: &str,
    identity: TlsIdentity,
    expect: Option<&str>,
) -> Result<Arc<dyn Connection>> {
    let mut opts = DialOptions::default().with_tls(identity);
    if let Some(expect) = expect {
        opts = opts.with_expect(expect);
    }
    GrpcTransport::new().dial(address, opts).await
}

async fn who(node: &dyn Connection) -> Result<String> {
    let call = Request::new("/a.B/C", "application/json", Body::Message(Bytes::new()));
    match node.call(&Context::new(), call).await?.body {
        Body::Message(message) => Ok(String::from_utf8_lossy(&message).into_owned()),
        _ => Err(Error::internal("a stream")),
    }
}

#[tokio::test]
async fn the_server_is_believed_by_its_name() {
    let authority = Authority::new("a").unwrap();
    let server = authority
        .issue(&["127.0.0.1", "greeter.local", "spiffe://a/greeter"])
        .unwrap();
    let address = serve(ListenOptions::default().with_tls(server)).await;
    let client = TlsIdentity::new().with_roots(vec![authority.root()]);
    // The address's own host, without being told.
    for expect in [
        None,
        Some("127.0.0.1"),
        Some("greeter.local"),
        Some("spiffe://a/greeter"),
    ] {
        let node = dial(&address, client.clone(), expect).await.unwrap();
        assert_eq!(who(&*node).await.unwrap(), "0 ", "{expect:?}");
    }
    let refused = [
        "127.0.0.2",
        "other.local",
        "spiffe://a/other",
        "spiffe://a/greeter/",
        "spiffe://b/greeter",
    ];
    for expect in refused {
        let err = dial(&address, client.clone(), Some(expect))
            .await
            .unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unauthenticated, "{expect}: {err:?}");
        assert!(err.is_unprocessed());
    }
    let err = dial(&address, client, Some("not a name"))
        .await
        .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::InvalidArgument);
    let other = Authority::new("b").unwrap();
    let stranger = TlsIdentity::new().with_roots(vec![other.root()]);
    let err = dial(&address, stranger, None).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unauthenticated);
}

#[tokio::test]
async fn a_certificate_with_two_identities_has_none() {
    let authority = Authority::new("a").unwrap();
    let server = authority.issue(&["spiffe://a/x", "spiffe://a/y"]).unwrap();
    let address = serve(ListenOptions::default().with_tls(server)).await;
    let client = TlsIdentity::new().with_roots(vec![authority.root()]);
    let err = dial(&address, client, Some("spiffe://a/x"))
        .await
        .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unauthenticated);
}

#[tokio::test]
async fn clients_are_let_in_by_their_certificates() {
    let authority = Authority::new("a").unwrap();
    let server = authority
        .issue(&["127.0.0.1"])
        .unwrap()
        .with_require_client(true);
    let address = serve(ListenOptions::default().with_tls(server)).await;
    let client = authority.issue(&["spiffe://a/caller"]).unwrap();
    let node = dial(&address, client, None).await.unwrap();
    assert_eq!(who(&*node).await.unwrap(), "1 spiffe://a/caller");
    // None, and a stranger's.
    let none = TlsIdentity::new().with_roots(vec![authority.root()]);
    let stranger = Authority::new("b")
        .unwrap()
        .issue(&["spiffe://a/caller"])
        .unwrap();
    let stranger = stranger.with_roots(vec![authority.root()]);
    for identity in [none, stranger] {
        let err = dial(&address, identity, None).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unauthenticated, "{err:?}");
        assert!(err.is_unprocessed());
        assert!(err.message().contains("certificate"), "{err}");
    }
}

#[tokio::test]
async fn certificates_are_replaced_while_running() {
    let (old, new) = (Authority::new("a").unwrap(), Authority::new("b").unwrap());
    let (writer, identity) = Live::channel(old.issue(&["127.0.0.1"]).unwrap());
    let address = serve(ListenOptions::default().with_tls(identity)).await;
    let trusts = |authority: &Authority| TlsIdentity::new().with_roots(vec![authority.root()]);
    let before = dial(&address, trusts(&old), None).await.unwrap();
    assert!(dial(&address, trusts(&new), None).await.is_err());
    writer.set(new.issue(&["127.0.0.1"]).unwrap());
    dial(&address, trusts(&new), None).await.unwrap();
    assert!(dial(&address, trusts(&old), None).await.is_err());
    // The connection that was there goes on.
    assert_eq!(who(&*before).await.unwrap(), "0 ");
    // One that cannot be used changes nothing.
    writer.set(TlsIdentity::new());
    dial(&address, trusts(&new), None).await.unwrap();
}

#[tokio::test]
async fn an_identity_that_cannot_work_is_refused_at_once() {
    let opts = ListenOptions::default().with_tls(TlsIdentity::new());
    let err = GrpcTransport::new()
        .listen("127.0.0.1:0", opts)
        .await
        .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::InvalidArgument);
    let authority = Authority::new("a").unwrap();
    let address =
        serve(ListenOptions::default().with_tls(authority.issue(&["127.0.0.1"]).unwrap())).await;
    let err = dial(&address, TlsIdentity::new(), None).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn s32_plaintext_and_tls_on_the_wrong_ports() {
    let authority = Authority::new("a").unwrap();
    let secure =
        serve(ListenOptions::default().with_tls(authority.issue(&["127.0.0.1"]).unwrap())).await;
    let plain = serve(ListenOptions::default()).await;
    let client = TlsIdentity::new().with_roots(vec![authority.root()]);

    let err = GrpcTransport::new()
        .dial(&secure, DialOptions::default())
        .await
        .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unavailable);
    assert!(err.message().contains("TLS"), "{err}");

    let err = dial(&plain, client.clone(), None).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unavailable);
    assert!(err.is_unprocessed());

    // Old versions, cut handshakes and noise.
    for bytes in [
        &b"\x80\x2e\x01\x00\x02\x00\x15"[..],
        b"\x16\x03\x00\x00\x05\x01\x00\x00\x01\x00",
        b"\x16\x03\x01\xff\xff",
        b"GET / HTTP/1.1\r\n\r\n",
        b"",
    ] {
        let mut tcp = TcpStream::connect(&secure).await.unwrap();
        tcp.write_all(bytes).await.unwrap();
        tcp.shutdown().await.unwrap();
        let mut all = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(2), tcp.read_to_end(&mut all)).await;
        assert!(closed.is_ok(), "{bytes:?}");
    }
    let node = dial(&secure, client, None).await.unwrap();
    assert_eq!(who(&*node).await.unwrap(), "0 ");
}

/// Failure case 20: handshakes that are never finished, and an honest client meanwhile.
#[tokio::test]
async fn f20_unfinished_handshakes_are_closed() {
    let authority = Authority::new("a").unwrap();
    let limits = Limits::default().with_handshake(Duration::from_millis(500));
    let server = ListenOptions::default()
        .with_tls(authority.issue(&["127.0.0.1"]).unwrap())
        .with_limits(limits);
    let address = serve(server).await;
    let mut held = Vec::new();
    for _ in 0..200 {
        let mut tcp = TcpStream::connect(&address).await.unwrap();
        tcp.write_all(b"\x16\x03\x01\x02\x00").await.unwrap();
        held.push(tcp);
    }
    let client = TlsIdentity::new().with_roots(vec![authority.root()]);
    let honest = tokio::time::timeout(Duration::from_secs(1), dial(&address, client, None));
    let node = honest.await.unwrap().unwrap();
    assert_eq!(who(&*node).await.unwrap(), "0 ");
    for mut tcp in held {
        let mut all = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(2), tcp.read_to_end(&mut all)).await;
        assert!(closed.is_ok());
    }
}
