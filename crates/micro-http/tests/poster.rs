//! The poster against small servers that are scripted byte by byte.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use micro_core::ErrorKind;
use micro_http::{HttpConfig, Poster, Request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

enum Step {
    Say(&'static str),
    /// Say it, and close.
    Last(&'static str),
    Silence,
}

/// What a server does with the n-th request on the m-th connection.
type Script = fn(u32, u32) -> Step;

struct Server {
    endpoint: String,
    connections: Arc<AtomicU32>,
}

async fn server(script: Script) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    let connections = Arc::<AtomicU32>::default();
    let connected = Arc::clone(&connections);
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let connection = connected.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(serve(tcp, connection, script));
        }
    });
    Server {
        endpoint,
        connections,
    }
}

async fn serve(mut tcp: TcpStream, connection: u32, script: Script) {
    for request in 0.. {
        if !read(&mut tcp).await {
            return;
        }
        match script(connection, request) {
            Step::Say(text) => tcp.write_all(text.as_bytes()).await.unwrap(),
            Step::Last(text) => {
                tcp.write_all(text.as_bytes()).await.unwrap();
                return;
            }
            Step::Silence => std::future::pending().await,
        }
    }
}

/// Reads a request whole; it ends with `.`.
async fn read(tcp: &mut TcpStream) -> bool {
    let mut bytes = vec![0; 100_000];
    loop {
        match tcp.read(&mut bytes).await {
            Ok(0) | Err(_) => return false,
            Ok(length) if bytes[length - 1] == b'.' => return true,
            Ok(_) => {}
        }
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\nx-wait:  7 \r\ncontent-length: 2\r\n\r\nok";

fn poster(server: &Server) -> Poster {
    let config = HttpConfig::new(vec![server.endpoint.clone()]);
    Poster::new(
        config
            .with_timeout(Duration::from_millis(500))
            .with_max_body(100),
    )
    .unwrap()
}

async fn send(poster: &Poster) -> micro_core::Result<micro_http::Response> {
    let head = poster.head(&Request::post("/").query("id", "a b")).unwrap();
    let body = [Bytes::from_static(b"te"), Bytes::from_static(b"a.")];
    poster.send(&head, &[("x-no", 3)], &body).await
}

#[tokio::test]
async fn a_request_is_written_and_its_answer_read() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    let serving = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut bytes = vec![0; 1000];
        let length = tcp.read(&mut bytes).await.unwrap();
        tcp.write_all(OK.as_bytes()).await.unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    });
    let poster = Poster::new(HttpConfig::new(vec![endpoint.clone()])).unwrap();
    let response = send(&poster).await.unwrap();
    assert_eq!((response.status(), &response.body()[..]), (200, &b"ok"[..]));
    assert_eq!(
        (response.header("X-Wait"), response.header("x")),
        (Some("7"), None)
    );
    assert_eq!(
        serving.await.unwrap(),
        format!(
            "POST /?id=a%20b HTTP/1.1\r\nhost: {endpoint}\r\nx-no: 3\r\ncontent-length: 4\r\n\r\ntea."
        )
    );
}

#[tokio::test]
async fn a_connection_is_used_again_while_it_can_be() {
    let good = server(|_, _| Step::Say(OK)).await;
    let client = poster(&good);
    for _ in 0..5 {
        assert_eq!(send(&client).await.unwrap().status(), 200);
    }
    assert_eq!(good.connections.load(Ordering::SeqCst), 1);
    // A server that has closed it meanwhile, or has said more than its answer, or does not say where that
    // ends.
    for script in [
        (|_, _| Step::Last(OK)) as Script,
        |_, _| Step::Say("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nHTTP/1.1 200"),
        |_, _| Step::Say("HTTP/1.1 200 OK\r\n\r\n"),
        |_, _| Step::Say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
    ] {
        let server = server(script).await;
        let client = poster(&server);
        for _ in 0..3 {
            assert_eq!(send(&client).await.unwrap().status(), 200);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(server.connections.load(Ordering::SeqCst), 3);
    }
}

#[tokio::test]
async fn an_answer_that_came_for_nothing_is_not_taken_for_another_s() {
    let server = server(|connection, request| match (connection, request) {
        (0, 0) => Step::Say(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 No\r\ncontent-length: 3\r\n\r\nno!",
        ),
        _ => Step::Say(OK),
    })
    .await;
    let client = poster(&server);
    let first = send(&client).await.unwrap();
    assert_eq!((first.status(), &first.body()[..]), (503, &b"no!"[..]));
    assert_eq!(first.success().unwrap_err().kind(), ErrorKind::Unavailable);
    // Dropped in the middle: its connection goes with it.
    assert!(send(&client).now_or_never().is_none());
    assert_eq!(&send(&client).await.unwrap().body()[..], b"ok");
}

#[tokio::test]
async fn what_goes_wrong_says_whether_the_request_arrived() {
    let cases: [(Script, ErrorKind); 6] = [
        (|_, _| Step::Last(""), ErrorKind::Unavailable),
        (
            |_, _| Step::Last("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok"),
            ErrorKind::Unavailable,
        ),
        (|_, _| Step::Silence, ErrorKind::DeadlineExceeded),
        (|_, _| Step::Say("hello\r\n\r\n"), ErrorKind::Unknown),
        (
            |_, _| Step::Say("HTTP/1.1 101 Go\r\n\r\n"),
            ErrorKind::Unknown,
        ),
        (
            |_, _| Step::Say("HTTP/1.1 200 OK\r\ncontent-length: 101\r\n\r\n"),
            ErrorKind::ResourceExhausted,
        ),
    ];
    for (at, (script, kind)) in cases.into_iter().enumerate() {
        let server = server(script).await;
        let err = send(&poster(&server)).await.unwrap_err();
        assert_eq!(err.kind(), kind, "{at}: {err}");
        assert!(!err.is_unprocessed(), "{at}: {err}");
        assert_eq!(server.connections.load(Ordering::SeqCst), 1);
    }
    let gone = Server {
        endpoint: "127.0.0.1:1".to_owned(),
        connections: Arc::default(),
    };
    let err = send(&poster(&gone)).await.unwrap_err();
    assert!(err.kind() == ErrorKind::Unavailable && err.is_unprocessed());
}

#[tokio::test]
async fn a_refusal_is_heard_though_the_body_is_not_taken() {
    const REFUSAL: &str = "HTTP/1.1 413 Large\r\ncontent-length: 0\r\n\r\n";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        tcp.write_all(REFUSAL.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        tcp.shutdown().await.unwrap();
        let mut rest = Vec::new();
        let _ = tcp.read_to_end(&mut rest).await;
    });
    let poster = Poster::new(HttpConfig::new(vec![endpoint])).unwrap();
    let head = poster.head(&Request::post("/")).unwrap();
    let body = Bytes::from(vec![b'x'; 1 << 20]);
    let response = poster.send(&head, &[], &[body]).await.unwrap();
    assert_eq!(response.status(), 413);
}

#[tokio::test]
async fn only_so_many_are_under_way() {
    let server = server(|_, _| Step::Silence).await;
    let config = HttpConfig::new(vec![server.endpoint.clone()])
        .with_timeout(Duration::from_millis(300))
        .with_concurrency(2);
    let poster = Poster::new(config).unwrap();
    let all = (0..5).map(|_| {
        let poster = poster.clone();
        tokio::spawn(async move { send(&poster).await.unwrap_err().kind() })
    });
    for one in all.collect::<Vec<_>>() {
        assert_eq!(one.await.unwrap(), ErrorKind::DeadlineExceeded);
    }
    assert!(server.connections.load(Ordering::SeqCst) <= 4);
}
