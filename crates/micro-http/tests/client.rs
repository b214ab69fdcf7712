//! The client against small servers that are scripted byte by byte.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use micro_core::ErrorKind;
use micro_http::{Credentials, HttpClient, HttpConfig, Request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What a server does with the n-th request on the m-th connection.
type Script = fn(u32, u32) -> Step;

enum Step {
    Say(&'static str),
    /// Say it, and close.
    Last(&'static str),
    Close,
    Silence,
}

struct Server {
    endpoint: String,
    connections: Arc<AtomicU32>,
    requests: Arc<AtomicU32>,
}

async fn server(script: Script) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    let (connections, requests) = (Arc::default(), Arc::default());
    let (connected, requested) = (Arc::clone(&connections), Arc::clone(&requests));
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let connection = AtomicU32::fetch_add(&connected, 1, Ordering::SeqCst);
            tokio::spawn(serve(tcp, connection, Arc::clone(&requested), script));
        }
    });
    Server {
        endpoint,
        connections,
        requests,
    }
}

async fn serve(mut tcp: TcpStream, connection: u32, requests: Arc<AtomicU32>, script: Script) {
    for request in 0.. {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match tcp.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        requests.fetch_add(1, Ordering::SeqCst);
        match script(connection, request) {
            Step::Say(text) => tcp.write_all(text.as_bytes()).await.unwrap(),
            Step::Last(text) => {
                tcp.write_all(text.as_bytes()).await.unwrap();
                return;
            }
            Step::Close => return,
            Step::Silence => std::future::pending().await,
        }
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn client(server: &Server) -> HttpClient {
    let config = HttpConfig::new(vec![server.endpoint.clone()]);
    HttpClient::new(config.with_timeout(Duration::from_secs(2))).unwrap()
}

fn get() -> Request {
    Request::get("/")
}

#[tokio::test]
async fn connections_are_used_again() {
    let server = server(|_, _| Step::Say(OK)).await;
    let client = client(&server);
    for _ in 0..10 {
        assert_eq!(&client.send(&get()).await.unwrap().body()[..], b"ok");
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
    // Old ones are not.
    let config = client.config().clone().with_idle(Duration::ZERO);
    let client = HttpClient::new(config).unwrap();
    for _ in 0..3 {
        client.send(&get()).await.unwrap();
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn so_many_requests_are_made_at_once_and_no_more() {
    let server = server(|_, _| Step::Say(OK)).await;
    let config = client(&server).config().clone().with_concurrency(3);
    let client = HttpClient::new(config).unwrap();
    let all = (0..50).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { client.send(&get()).await.unwrap() })
    });
    for one in all.collect::<Vec<_>>() {
        one.await.unwrap();
    }
    assert!(server.connections.load(Ordering::SeqCst) <= 3);
    assert_eq!(server.requests.load(Ordering::SeqCst), 50);
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_is_replaced() {
    // Closed right behind the first answer, or only when the second request is there.
    for script in [(|_, _| Step::Last(OK)) as Script, |_, request| {
        if request == 0 {
            Step::Say(OK)
        } else {
            Step::Close
        }
    }] {
        let server = server(script).await;
        let client = client(&server);
        for _ in 0..3 {
            client.send(&get()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_may_have_arrived_is_not_repeated_if_that_could_do_it_twice() {
    let server = server(|_, request| {
        if request == 0 {
            Step::Say(OK)
        } else {
            Step::Close
        }
    })
    .await;
    let client = client(&server);
    client.send(&get()).await.unwrap();
    let err = client.send(&Request::post("/")).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unavailable);
    assert!(!err.is_unprocessed(), "{err}");
    assert_eq!(server.requests.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_new_connection_that_breaks_is_an_error_at_once() {
    let server = server(|_, _| Step::Close).await;
    let err = client(&server).send(&get()).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unavailable);
    assert_eq!(server.requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn another_server_is_used_if_one_cannot_be_reached() {
    let server = server(|_, _| Step::Say(OK)).await;
    let endpoints = vec!["127.0.0.1:1".to_owned(), server.endpoint.clone()];
    let client = HttpClient::new(HttpConfig::new(endpoints)).unwrap();
    for _ in 0..3 {
        client.send(&get()).await.unwrap();
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
    let nobody = HttpConfig::new(vec!["127.0.0.1:1".to_owned()]);
    let err = HttpClient::new(nobody)
        .unwrap()
        .send(&get())
        .await
        .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unavailable);
    assert!(err.is_unprocessed());
}

#[tokio::test]
async fn another_server_is_used_if_one_hangs_or_breaks_off() {
    for script in [(|_, _| Step::Silence) as Script, |_, _| Step::Close] {
        let (broken, good) = (server(script).await, server(|_, _| Step::Say(OK)).await);
        let endpoints = vec![broken.endpoint.clone(), good.endpoint.clone()];
        let config = HttpConfig::new(endpoints).with_timeout(Duration::from_millis(200));
        let client = HttpClient::new(config).unwrap();
        client.send(&get()).await.unwrap_err();
        for _ in 0..3 {
            client.send(&get()).await.unwrap();
        }
        assert_eq!(broken.requests.load(Ordering::SeqCst), 1);
    }
}

#[test]
fn an_endpoint_is_a_host_and_a_port_and_no_secret() {
    for endpoints in [
        &[][..],
        &["host"],
        &["host:port"],
        &["host:1/path"],
        &["host:1\r\n"],
        &["me:hunter2@host:1"],
        &["host:1", ""],
    ] {
        let endpoints = endpoints.iter().map(|text| (*text).to_owned()).collect();
        let err = HttpClient::new(HttpConfig::new(endpoints)).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidArgument);
        assert!(!format!("{err:?}").contains("hunter2"), "{err:?}");
    }
    for (endpoint, private) in [("[::1]:1", true), ("localhost:1", true), ("host:1", false)] {
        let config = HttpConfig::new(vec![endpoint.to_owned()]);
        assert_eq!(config.is_private(), private, "{endpoint}");
        HttpClient::new(config).unwrap();
    }
}

#[tokio::test]
async fn a_server_that_is_silent_is_not_waited_for() {
    let server = server(|_, _| Step::Silence).await;
    let config = client(&server).config().clone();
    let client = HttpClient::new(config.with_timeout(Duration::from_millis(100))).unwrap();
    let err = client.send(&get()).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::DeadlineExceeded);
    let err = client.lines(&get()).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::DeadlineExceeded);
}

#[tokio::test]
async fn bodies_have_a_limit() {
    for script in [
        (|_, _| Step::Say("HTTP/1.1 200 OK\r\ncontent-length: 9999999999\r\n\r\n")) as Script,
        |_, _| {
            Step::Say(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n",
            )
        },
    ] {
        let server = server(script).await;
        let config = client(&server).config().clone().with_max_body(5);
        let err = HttpClient::new(config)
            .unwrap()
            .send(&get())
            .await
            .unwrap_err();
        assert_eq!(err.kind(), ErrorKind::ResourceExhausted, "{err}");
    }
}

#[tokio::test]
async fn what_is_no_http_is_an_error() {
    for script in [
        (|_, _| Step::Last("SSH-2.0-OpenSSH_9.2\r\n")) as Script,
        |_, _| Step::Last("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc"),
        |_, _| Step::Last("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"),
    ] {
        let server = server(script).await;
        let err = client(&server).send(&get()).await.unwrap_err();
        let kinds = [ErrorKind::Unknown, ErrorKind::Unavailable];
        assert!(kinds.contains(&err.kind()), "{err}");
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let server = server(|_, _| {
        Step::Say(
            "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
        )
    })
    .await;
    let response = client(&server).send(&get()).await.unwrap();
    assert_eq!(response.status(), 302);
    let err = response.success().unwrap_err();
    assert!(err.to_string().contains("redirects"), "{err}");
    assert_eq!(server.requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn lines_come_one_by_one_and_have_a_limit() {
    let server = server(|_, _| {
        Step::Last(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\none\n\r\n2\r\ntw\r\n4\r\no\r\n\n\r\n3\r\ncut\r\n0\r\n\r\n",
        )
    })
    .await;
    let mut lines = client(&server).lines(&get()).await.unwrap();
    for line in ["one", "two", ""] {
        assert_eq!(lines.next().await.unwrap().unwrap(), line);
    }
    // What has no end was cut off.
    assert_eq!(lines.next().await.unwrap(), None);
    let config = client(&server).config().clone().with_max_line(2);
    let mut lines = HttpClient::new(config)
        .unwrap()
        .lines(&get())
        .await
        .unwrap();
    let err = lines.next().await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::ResourceExhausted);
    assert_eq!(lines.next().await.unwrap(), None);
}

#[tokio::test]
async fn lines_of_a_refusal_are_an_error_and_a_broken_stream_too() {
    let refusing = server(|_, _| Step::Say("HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n")).await;
    let err = client(&refusing).lines(&get()).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::OutOfRange);
    let breaking = server(|_, _| {
        Step::Last("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\none\n\r\n")
    })
    .await;
    let mut lines = client(&breaking).lines(&get()).await.unwrap();
    assert_eq!(lines.next().await.unwrap().unwrap(), "one");
    let err = lines.next().await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unavailable);
    let stuck = server(|_, _| Step::Say("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\none\n")).await;
    let config = client(&stuck).config().clone();
    let client = HttpClient::new(config.with_timeout(Duration::from_millis(200))).unwrap();
    let mut lines = client
        .lines(&get().long(Duration::from_millis(1)))
        .await
        .unwrap();
    assert_eq!(lines.next().await.unwrap().unwrap(), "one");
    let err = lines.next().await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::DeadlineExceeded);
}

#[tokio::test]
async fn long_requests_do_not_take_the_turn_of_others() {
    let server = server(|connection, _| {
        if connection == 0 {
            Step::Silence
        } else {
            Step::Say(OK)
        }
    })
    .await;
    let config = client(&server).config().clone();
    let client = HttpClient::new(config.with_concurrency(1).with_long_requests(1)).unwrap();
    let long = client.clone();
    let waiting = tokio::spawn(async move {
        let request = get().long(Duration::from_secs(60));
        long.send(&request).await
    });
    while server.requests.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    client.send(&get()).await.unwrap();
    let err = client
        .send(&get().long(Duration::from_secs(60)))
        .await
        .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::ResourceExhausted);
    waiting.abort();
}

#[tokio::test]
async fn secrets_are_not_in_what_is_printed() {
    let config = HttpConfig::new(vec!["127.0.0.1:1".to_owned()])
        .with_credentials(Credentials::Bearer("hunter2".into()));
    let client = HttpClient::new(config).unwrap();
    let err = client.send(&get()).await.unwrap_err();
    assert!(!format!("{client:?} {err:?}").contains("hunter2"));
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn tls_is_for_one_name_and_one_authority() {
    use micro_tls::dev::Authority;

    let authority = Authority::new("test").unwrap();
    let identity = authority.issue(&["server.example"]).unwrap();
    let identity = identity.with_require_client(true);
    let acceptor = tokio_rustls::TlsAcceptor::from(micro_tls::server_config(&identity).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut tls) = acceptor.accept(tcp).await else {
                    return;
                };
                let mut buffer = [0; 1024];
                let _ = tls.read(&mut buffer).await;
                let _ = tls.write_all(OK.as_bytes()).await;
                let _ = tls.shutdown().await;
            });
        }
    });
    let send = async |config: HttpConfig| {
        let client = HttpClient::new(config.with_timeout(Duration::from_secs(5))).unwrap();
        client.send(&get()).await
    };
    let own = authority.issue(&["client"]).unwrap();
    let plain = HttpConfig::new(vec![endpoint]);
    let named = plain.clone().with_server_name("server.example");
    let response = send(named.clone().with_tls(own.clone())).await.unwrap();
    assert_eq!(&response.body()[..], b"ok");
    let stranger = Authority::new("other").unwrap().issue(&["client"]).unwrap();
    for (what, config) in [
        ("another name", plain.clone().with_tls(own.clone())),
        ("another authority", named.clone().with_tls(stranger)),
        ("no certificate", named.with_ca(authority.pem()).unwrap()),
        ("no TLS", plain),
    ] {
        let err = send(config).await.unwrap_err();
        let kinds = [ErrorKind::Unavailable, ErrorKind::Unknown];
        assert!(kinds.contains(&err.kind()), "{what}: {err:?}");
    }
}
