//! JSON by a plain POST, as curl does it, over HTTP/1.1 and HTTP/2.

use std::time::Duration;

use micro::{Context, Error, Result, Running};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::common::Fleet;
use crate::tools::{find, grpcurl, run, skip};

/// As in the README.
#[derive(Clone, Debug, Default, Serialize, Deserialize, micro::Message)]
pub(crate) struct HelloRequest {
    pub(crate) name: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, micro::Message)]
pub(crate) struct HelloReply {
    pub(crate) message: String,
}

#[micro::service]
pub(crate) trait Greeter {
    async fn hello(&self, cx: &Context, req: HelloRequest) -> Result<HelloReply>;
}

struct English;

impl Greeter for English {
    async fn hello(&self, cx: &Context, req: HelloRequest) -> Result<HelloReply> {
        if req.name.is_empty() {
            return Err(Error::invalid_argument("say who you are"));
        }
        if let Some(tenant) = cx.metadata().get("x-tenant") {
            cx.reply().insert("x-tenant-seen", tenant)?;
        }
        Ok(HelloReply {
            message: format!("Hello, {}!", req.name),
        })
    }
}

async fn greeter() -> Running {
    let service = Fleet::new().service("greeter");
    let service = service.handle(GreeterServer::new(English));
    service.start().await.unwrap()
}

/// A command in the README, and what it is said to print.
#[derive(Debug)]
struct Shown {
    words: Vec<String>,
    answer: String,
}

/// The commands of the README that call the service, in order.
fn readme(program: &str) -> Vec<Shown> {
    let readme = include_str!("../../../../README.md");
    let mut shown = Vec::new();
    let mut lines = readme.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(command) = line.strip_prefix("$ ") else {
            continue;
        };
        let words = words(command);
        if words[0] == program {
            let answer = lines.next_if(|line| !line.starts_with(['$', '`']));
            shown.push(Shown {
                words,
                answer: answer.unwrap_or_default().to_owned(),
            });
        }
    }
    shown
}

/// Splits as a shell does, as far as single quotes go.
fn words(command: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in command.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => words.last_mut().unwrap().push(c),
        }
    }
    words
}

#[derive(Debug)]
struct Answer {
    status: u16,
    /// Its first line and its headers, in lower case.
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|err| panic!("{err}: {self:?}"))
    }
}

/// An HTTP/1.1 connection, by hand.
struct Http1(TcpStream);

impl Http1 {
    async fn connect(address: &str) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }

    async fn send(&mut self, head: &str, body: &[u8]) -> Answer {
        self.0.write_all(head.as_bytes()).await.unwrap();
        self.0.write_all(body).await.unwrap();
        self.answer().await
    }

    /// Reads one answer, whose length is said in its head.
    async fn answer(&mut self) -> Answer {
        let mut all = Vec::new();
        let end = loop {
            if let Some(end) = all.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            self.more(&mut all).await;
        };
        let head = String::from_utf8_lossy(&all[..end]).to_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |length| length.parse().unwrap());
        while all.len() < end + length {
            self.more(&mut all).await;
        }
        Answer {
            status: head[9..12].parse().unwrap(),
            body: String::from_utf8(all.split_off(end)).unwrap(),
            head,
        }
    }

    async fn more(&mut self, all: &mut Vec<u8>) {
        let read = self.0.read_buf(all);
        let read = tokio::time::timeout(Duration::from_secs(10), read).await;
        assert_ne!(read.expect("an answer in time").unwrap(), 0, "it closed");
    }
}

/// What curl 7.88 sends for `curl -d '{"name":"Ada"}' -H 'content-type: application/json'`.
fn as_curl(address: &str, path: &str, headers: &[&str], body: &str) -> String {
    let mut head = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n"
    );
    for header in headers {
        head += header;
        head += "\r\n";
    }
    head + &format!("Content-Length: {}\r\n\r\n", body.len())
}

async fn http2(address: &str, path: &str, headers: &[&str], body: &str) -> Answer {
    let tcp = TcpStream::connect(address).await.unwrap();
    let (h2, connection) = h2::client::handshake(tcp).await.unwrap();
    tokio::spawn(connection);
    let mut request = http::Request::post(format!("http://{address}{path}"));
    for header in headers {
        let (name, value) = header.split_once(": ").unwrap();
        request = request.header(name, value);
    }
    let mut h2 = h2.ready().await.unwrap();
    let (response, mut send) = h2.send_request(request.body(()).unwrap(), false).unwrap();
    send.send_data(body.to_owned().into(), true).unwrap();
    let (head, mut receive) = response.await.unwrap().into_parts();
    let mut body = Vec::new();
    while let Some(chunk) = receive.data().await {
        let chunk = chunk.unwrap();
        receive
            .flow_control()
            .release_capacity(chunk.len())
            .unwrap();
        body.extend_from_slice(&chunk);
    }
    Answer {
        status: head.status.as_u16(),
        head: format!("{:?}", head.headers).to_lowercase(),
        body: String::from_utf8(body).unwrap(),
    }
}

/// The README's line, byte by byte and then by curl itself.
#[tokio::test]
async fn the_readme_s_curl_line_works() {
    let [shown] = <[_; 1]>::try_from(readme("curl")).expect("one line with curl");
    let (mut body, mut headers, mut url) = (None, Vec::new(), None);
    let mut words = shown.words.iter().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "-d" => body = words.next(),
            "-H" => headers.push(words.next().unwrap().as_str()),
            word => url = word.strip_prefix("http://127.0.0.1:8080"),
        }
    }
    let (body, path) = (body.expect("a body"), url.expect("a URL on port 8080"));

    let running = greeter().await;
    let address = running.address();
    let head = as_curl(address, path, &headers, body);
    let answer = Http1::connect(address)
        .await
        .send(&head, body.as_bytes())
        .await;
    assert_eq!((answer.status, &answer.body), (200, &shown.answer));
    assert!(
        answer.head.contains("content-type: application/json\r\n"),
        "{answer:?}"
    );
    let answer = http2(address, path, &headers, body).await;
    assert_eq!((answer.status, &answer.body), (200, &shown.answer));
    assert!(answer.head.contains("application/json"), "{answer:?}");
}

/// The lines themselves, with the port of the test.
#[tokio::test]
async fn the_readme_s_lines_work_as_typed() {
    let test = "the_readme_s_lines_work_as_typed";
    let curl = find("curl");
    if curl.is_none() {
        skip(test, "curl is not installed", "apt-get install curl");
    }
    let curl_says = [&["--http1.1"][..], &["--http2-prior-knowledge"]];
    let programs = [
        ("curl", curl, &curl_says[..]),
        ("grpcurl", grpcurl(test).await, &[&[]]),
    ];
    let running = greeter().await;
    let address = running.address();
    for (program, file, variants) in programs {
        let shown = readme(program);
        assert_eq!(shown.len(), 1, "{shown:?}");
        let words = shown[0].words[1..].iter();
        let words: Vec<_> = words
            .map(|word| word.replace("127.0.0.1:8080", address))
            .collect();
        let Some(file) = file else {
            continue;
        };
        for more in variants {
            let mut args = more.to_vec();
            args.extend(words.iter().map(String::as_str));
            let said = run(&file, &args).await.said();
            if !shown[0].answer.is_empty() {
                assert_eq!(said.trim_end(), shown[0].answer, "{args:?}");
            }
            let said: Value = serde_json::from_str(&said).unwrap();
            assert_eq!(said, json!({"message": "Hello, Ada!"}), "{args:?}");
        }
    }
}

#[tokio::test]
async fn a_connection_carries_many_posts_and_metadata() {
    let running = greeter().await;
    let address = running.address();
    let mut http = Http1::connect(address).await;
    let headers = ["Content-Type: application/json", "X-Tenant: acme"];
    for name in ["Ada", "Grace"] {
        let body = json!({"name": name}).to_string();
        let head = as_curl(address, "/greeter.Greeter/Hello", &headers, &body);
        let answer = http.send(&head, body.as_bytes()).await;
        assert_eq!(answer.status, 200);
        assert!(
            answer.head.contains("x-tenant-seen: acme\r\n"),
            "{answer:?}"
        );
        let message = format!("Hello, {name}!");
        assert_eq!(answer.json(), json!({"message": message}));
    }
    // In pieces, as from a pipe; and a large one, for which curl asks first.
    let chunked = "POST /greeter.Greeter/Hello HTTP/1.1\r\nHost: x\r\n\
                   Content-Type: application/json; charset=utf-8\r\n\
                   Transfer-Encoding: chunked\r\n\r\n";
    let answer = http
        .send(chunked, b"8\r\n{\"name\":\r\n6\r\n\"Ada\"}\r\n0\r\n\r\n")
        .await;
    assert_eq!(answer.json(), json!({"message": "Hello, Ada!"}));
    let name = "x".repeat(2 << 20);
    let body = json!({"name": name}).to_string();
    let headers = ["Content-Type: application/json", "Expect: 100-continue"];
    let head = as_curl(address, "/greeter.Greeter/Hello", &headers, &body);
    let go_on = http.send(&head, b"").await;
    assert_eq!(go_on.status, 100, "{go_on:?}");
    let answer = http.send("", body.as_bytes()).await;
    assert_eq!(answer.json(), json!({"message": format!("Hello, {name}!")}));
}

/// Typed: a status that a web client understands, and gRPC's code by number and name.
#[tokio::test]
async fn what_is_refused_says_why() {
    let running = greeter().await;
    let address = running.address();
    let hello = "/greeter.Greeter/Hello";
    let json = "Content-Type: application/json";
    let cases = [
        (hello, json, "{}", 400, "INVALID_ARGUMENT"),
        (hello, json, "not json", 400, "INVALID_ARGUMENT"),
        (hello, json, "", 400, "INVALID_ARGUMENT"),
        (hello, json, r#"{"name":7}"#, 400, "INVALID_ARGUMENT"),
        // curl's own choice if it is told none.
        (
            hello,
            "Content-Type: application/x-www-form-urlencoded",
            r#"{"name":"Ada"}"#,
            415,
            "INVALID_ARGUMENT",
        ),
        ("/greeter.Greeter/Nothing", json, "{}", 501, "UNIMPLEMENTED"),
        ("/greeter.Nobody/Hello", json, "{}", 501, "UNIMPLEMENTED"),
        ("/", json, "{}", 404, "INVALID_ARGUMENT"),
    ];
    for (path, header, body, status, name) in cases {
        let head = as_curl(address, path, &[header], body);
        // A new connection each time: one whose body was not wanted may be closed.
        let mut http = Http1::connect(address).await;
        let one = http.send(&head, body.as_bytes()).await;
        let two = http2(address, path, &[&header.to_lowercase()], body).await;
        for answer in [one, two] {
            assert_eq!(answer.status, status, "{path} {body}: {answer:?}");
            let err = answer.json();
            assert_eq!(err["status"], name, "{path} {body}: {answer:?}");
            assert!(err["code"].is_u64() && err["message"].is_string(), "{err}");
        }
    }
    // A stream is no single answer.
    let fleet = Fleet::new();
    let (running, _) = fleet.start("probe", "probe-1").await;
    let body = r#"{"text":"","number":3}"#;
    let head = as_curl(running.address(), "/probe.Probe/Count", &[json], body);
    let mut http = Http1::connect(running.address()).await;
    let answer = http.send(&head, body.as_bytes()).await;
    assert!(answer.status >= 400, "{answer:?}");
    assert!(answer.json()["message"].is_string(), "{answer:?}");
}
