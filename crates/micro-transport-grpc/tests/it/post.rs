//! A unary call as a simple POST, over HTTP/1.1 and HTTP/2.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use micro_transport_core::{BoxFuture, Limits, ListenOptions, Post, PostHandler, PostReply, Posts};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::kit::{Server, eventually, serve};

/// Sends raw HTTP/1.1 and reads until the peer closes or is silent.
async fn http1(address: &str, text: &str) -> String {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let mut buf = [0; 4096];
    while let Ok(Ok(n)) = tokio::time::timeout(Duration::from_millis(200), tcp.read(&mut buf)).await
    {
        if n == 0 {
            break;
        }
        answer.extend_from_slice(&buf[..n]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn post(method: &str, headers: &str, body: &str) -> String {
    format!(
        "POST /test.T/{method} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n{headers}\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn a_post_over_http1_is_a_call() {
    let server = Server::start().await;
    let answer = http1(
        &server.address,
        &post("Echo", "x-tenant: acme\r\n", "{\"a\":1}"),
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(
        answer.contains("content-type: application/json\r\n"),
        "{answer}"
    );
    assert!(answer.contains("x-tenant: acme\r\n"), "{answer}");
    assert!(answer.contains("x-trailer: behind\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n{\"a\":1}"), "{answer}");
}

#[tokio::test]
async fn two_posts_share_a_connection() {
    let server = Server::start().await;
    let both = post("Echo", "", "1") + &post("Echo", "", "2");
    let answer = http1(&server.address, &both).await;
    assert_eq!(answer.matches("200 OK").count(), 2, "{answer}");
}

#[tokio::test]
async fn errors_have_a_status_and_json() {
    let server = Server::start().await;
    let cases = [
        (post("Fail", "", "4"), "404 Not Found", "\"code\":5"),
        (post("Fail", "", "16"), "409 Conflict", "\"reason\":\"LOCKED\""),
        (post("Nothing", "", ""), "501 Not Implemented", "\"status\":\"UNIMPLEMENTED\""),
        (post("Count", "", "3 1"), "501 Not Implemented", "streams"),
        (post("Panic", "", ""), "500 Internal Server Error", "\"status\":\"INTERNAL\""),
        (post("Sleep", "grpc-timeout: 50m\r\n", ""), "504 Gateway Timeout", "\"code\":4"),
        (post("Sleep", "timeout: 50000000\r\n", ""), "504 Gateway Timeout", "\"code\":4"),
        (post("Echo", "grpc-timeout: never\r\n", ""), "400 Bad Request", "\"code\":3"),
        (post("Echo", "x-raw-bin: !\r\n", ""), "400 Bad Request", "base64"),
        (
            "GET /test.T/Echo HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
            "405 Method Not Allowed",
            "allow: POST",
        ),
        (
            "POST / HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
             content-length: 0\r\n\r\n"
                .to_owned(),
            "404 Not Found",
            "/package.Service/Method",
        ),
        (
            "POST /a.B/C HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n".to_owned(),
            "415 Unsupported Media Type",
            "content-type",
        ),
        (
            "POST /a.B/C HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-www-form-urlencoded\r\n\
             content-length: 0\r\n\r\n"
                .to_owned(),
            "415 Unsupported Media Type",
            "content-type",
        ),
    ];
    for (request, status, within) in cases {
        let answer = http1(&server.address, &request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}\r\n")),
            "{request}\n{answer}"
        );
        assert!(answer.contains(within), "{request}\n{answer}");
        assert!(!answer.contains("secret"), "{answer}");
    }
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_413() {
    let limits = Limits::default().with_message_in(10);
    let server = serve(ListenOptions::default().with_limits(limits)).await;
    assert!(
        http1(&server.address, &post("Echo", "", "0123456789"))
            .await
            .contains("200 OK")
    );
    let answer = http1(&server.address, &post("Echo", "", "01234567890")).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let chunked = "POST /test.T/Echo HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
        transfer-encoding: chunked\r\n\r\n8\r\n01234567\r\n8\r\n01234567\r\n0\r\n\r\n";
    let answer = http1(&server.address, chunked).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn a_caller_that_hangs_up_cancels_its_handler() {
    let server = Server::start().await;
    let mut tcp = TcpStream::connect(&server.address).await.unwrap();
    tcp.write_all(post("Sleep", "", "").as_bytes())
        .await
        .unwrap();
    assert!(eventually(Duration::from_secs(1), || server.counts.running() == 1).await);
    drop(tcp);
    assert!(server.is_idle_within(Duration::from_millis(100)).await);
}

#[tokio::test]
async fn http1_can_be_switched_off() {
    let server = serve(ListenOptions::default().with_http1(false)).await;
    let answer = http1(&server.address, &post("Echo", "", "1")).await;
    assert!(answer.starts_with("HTTP/1.1 426 "), "{answer}");
    assert_eq!(server.counts.begun(), 0);
    let node = server.dial().await;
    assert!(node.is_open());
}

#[tokio::test]
async fn a_post_over_http2_is_a_call() {
    let server = Server::start().await;
    let tcp = TcpStream::connect(&server.address).await.unwrap();
    let (h2, connection) = h2::client::handshake(tcp).await.unwrap();
    tokio::spawn(connection);
    let call = async |method: &str, body: Bytes| {
        let request = http::Request::post(format!("http://x/test.T/{method}"))
            .header("content-type", "application/json")
            .header("x-tenant", "acme")
            .body(())
            .unwrap();
        let mut h2 = h2.clone().ready().await.unwrap();
        let (response, mut send) = h2.send_request(request, false).unwrap();
        send.send_data(body, true).unwrap();
        let (head, mut body) = response.await.unwrap().into_parts();
        let mut all = Vec::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk.unwrap();
            body.flow_control().release_capacity(chunk.len()).unwrap();
            all.extend_from_slice(&chunk);
        }
        (head, all)
    };
    for size in [0, 10, 100_000, 2_000_000] {
        let body = Bytes::from(vec![b' '; size]);
        let (head, answer) = call("Echo", body.clone()).await;
        assert_eq!(head.status, 200);
        assert_eq!(head.headers["content-type"], "application/json");
        assert_eq!(head.headers["x-tenant"], "acme");
        assert_eq!(answer, body);
    }
    let (head, answer) = call("Fail", "4".into()).await;
    assert_eq!(head.status, 404);
    assert!(String::from_utf8_lossy(&answer).contains("NOT_FOUND"));
}

/// Answers what is posted to `/hook` with what it got.
#[derive(Debug)]
struct Hook;

impl PostHandler for Hook {
    fn limit(&self, path: &str) -> Option<usize> {
        (path == "/hook").then_some(16)
    }

    fn answer(self: Arc<Self>, post: Post) -> BoxFuture<'static, PostReply> {
        Box::pin(async move {
            assert_ne!(&post.body[..], b"panic");
            let local = post.peer.is_some_and(|peer| peer.local);
            let told = format!("{} {:?} {local}", post.target, post.body);
            let mut reply = PostReply::text(202, "");
            reply.body = told.into();
            reply.with_headers(post.headers)
        })
    }
}

#[tokio::test]
async fn what_else_is_posted_goes_to_its_handler() {
    let posts = Posts::new(Arc::new(Hook));
    assert!(!posts.are_taken());
    let server = serve(ListenOptions::default().with_posts(posts.clone())).await;
    assert!(posts.are_taken());
    let to = |target: &str, headers: &str, body: &str| {
        format!(
            "POST {target} HTTP/1.1\r\nhost: x\r\n{headers}content-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let answer = http1(
        &server.address,
        &to("/hook?id=7", "x-tenant: acme\r\n", "body"),
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    assert!(answer.contains("x-tenant: acme\r\n"), "{answer}");
    assert!(answer.ends_with("/hook?id=7 b\"body\" true"), "{answer}");
    for (request, status) in [
        (to("/hook", "", "more than sixteen bytes"), "413"),
        (to("/hook", "", "panic"), "500"),
        (to("/hook", "host: y\r\n", ""), "400"),
        (to("/hook", "x-bin: !\r\n", ""), "400"),
        (to("/hooks", "", ""), "404"),
        ("GET /hook HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(), "405"),
    ] {
        let answer = http1(&server.address, &request).await;
        let expected = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&expected), "{request}\n{answer}");
    }
    // Calls go on.
    let answer = http1(&server.address, &post("Echo", "", "1")).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn nothing_is_posted_to_a_listener_without_http1() {
    let posts = Posts::new(Arc::new(Hook));
    let options = ListenOptions::default().with_http1(false);
    let _server = serve(options.with_posts(posts.clone())).await;
    assert!(!posts.are_taken());
}
