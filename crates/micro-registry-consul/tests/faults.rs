//! What happens when Consul restarts, lies or is away: real servers of the tests' own, and, where
//! the test says so, a scripted peer.

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::Consul;
use futures_util::StreamExt as _;
use micro_http::{HttpClient, HttpConfig, Request};
use micro_registry_consul::ConsulDriver;
use micro_registry_core::{
    DeregisterOptions, Drivers, Env, ErrorKind, EventKind, Node, RegisterOptions, Registry,
    RegistryExt as _, Service, WatchOptions,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

async fn open(url: &str) -> Arc<dyn Registry> {
    let drivers = Drivers::new().with(ConsulDriver);
    drivers.open(url, &Env::new()).await.unwrap()
}

fn greeter() -> Service {
    Service::new("greeter", "v1").with_node(Node::new("a", "127.0.0.1:1"))
}

fn ttl() -> RegisterOptions {
    RegisterOptions::default().with_ttl(Duration::from_secs(30))
}

async fn found(registry: &Arc<dyn Registry>) {
    for _ in 0..100 {
        if registry.get("greeter").await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it is not found: {:?}", registry.get("greeter").await);
}

/// The next heartbeat brings back what a restarted agent forgot; a watch says that it is blind.
#[tokio::test]
async fn a_heartbeat_registers_again_after_a_restart() {
    let Some(program) = common::program() else {
        return common::skip("consul restart", "there is no program consul");
    };
    let port = common::free_port();
    let http = || HttpConfig::new(vec![format!("127.0.0.1:{port}")]);
    let mut consul = Consul::start(&program, port, false, "{}");
    consul.ready(http()).await;
    let registry = open(&format!("consul://127.0.0.1:{port}?timeout=2s")).await;
    registry.register(&greeter(), ttl()).await.unwrap();
    found(&registry).await;
    let mut events = registry
        .watch(WatchOptions::default().with_service("greeter"))
        .await
        .unwrap();

    drop(consul);
    let told = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            match events.next().await {
                Some(Ok(_)) => {}
                Some(Err(err)) => break err,
                None => panic!("the watch ended without saying why"),
            }
        }
    });
    assert_eq!(told.await.unwrap().kind(), ErrorKind::Unavailable);
    assert!(events.next().await.is_none());
    let err = registry.get("greeter").await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unavailable, "{err}");
    let err = registry.register(&greeter(), ttl()).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unavailable, "{err}");

    let mut consul = Consul::start(&program, port, false, "{}");
    consul.ready(http()).await;
    registry.register(&greeter(), ttl()).await.unwrap();
    found(&registry).await;
}

/// What go-micro and strangers register is found beside ours, and garbage is not.
#[tokio::test]
async fn s53_strangers_services_and_garbage_stand_beside_ours() {
    let Some(program) = common::program() else {
        return common::skip("consul strangers", "there is no program consul");
    };
    let port = common::free_port();
    let http = HttpConfig::new(vec![format!("127.0.0.1:{port}")]);
    let mut consul = Consul::start(&program, port, false, "{}");
    consul.ready(http.clone()).await;
    let client = HttpClient::new(http).unwrap();
    for body in [
        // As go-micro writes it: the version `latest`.
        r#"{"ID":"greeter-1","Name":"greeter","Tags":["v-789cca492c492d2e01040000ffff08cc028e","t={\"protocol\":\"grpc\"}"],"Address":"10.0.0.1","Port":80}"#,
        r#"{"ID":"garbage","Name":"greeter","Tags":["m-789c0000"],"Address":"10.0.0.2","Port":80}"#,
        r#"{"ID":"pg","Name":"postgres","Tags":["primary","v-15.2"],"Address":"10.0.0.3","Port":5432}"#,
    ] {
        let request = Request::put("/v1/agent/service/register").body("application/json", body);
        assert!(client.send(&request).await.unwrap().is_success(), "{body}");
    }
    // The catalog takes a port that is none.
    let body = r#"{"Node":"other","Address":"10.0.0.4","Service":{"ID":"port","Service":"greeter","Port":99999}}"#;
    let request = Request::put("/v1/catalog/register").body("application/json", body);
    assert!(client.send(&request).await.unwrap().is_success());
    let registry = open(&format!("consul://127.0.0.1:{port}")).await;
    registry.register(&greeter(), ttl()).await.unwrap();
    found(&registry).await;
    let mut services = Vec::new();
    for _ in 0..100 {
        services = registry.get("greeter").await.unwrap();
        if services.len() == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let nodes: Vec<_> = services
        .iter()
        .flat_map(|service| {
            service
                .nodes
                .iter()
                .map(|node| (&*service.version, &*node.address))
        })
        .collect();
    assert_eq!(nodes, [("latest", "10.0.0.1:80"), ("v1", "127.0.0.1:1")]);
    assert_eq!(services[0].nodes[0].metadata["protocol"], "grpc");
    let postgres = registry.get("postgres").await.unwrap();
    assert_eq!(postgres[0].nodes[0].address, "10.0.0.3:5432");
    let mut names: Vec<_> = registry.list().await.unwrap();
    names.retain(|service| service.name != "consul");
    let names: Vec<_> = names.iter().map(|s| (&*s.name, &*s.version)).collect();
    assert_eq!(
        names,
        [("greeter", "latest"), ("greeter", "v1"), ("postgres", "")]
    );
}

/// A heartbeat that is under way, and a deregistration behind it: the node stays away.
#[tokio::test]
async fn s54_a_late_heartbeat_does_not_revive_a_node() {
    let Some(program) = common::program() else {
        return common::skip("consul late heartbeat", "there is no program consul");
    };
    let port = common::free_port();
    let mut consul = Consul::start(&program, port, false, "{}");
    let http = HttpConfig::new(vec![format!("127.0.0.1:{port}")]);
    consul.ready(http).await;
    let registry = open(&format!("consul://127.0.0.1:{port}")).await;
    let service = greeter();
    for _ in 0..20 {
        let heartbeat = registry.register(&service, ttl());
        let goodbye = registry.deregister(&service, DeregisterOptions::default());
        let (heartbeat, goodbye) = tokio::join!(biased; heartbeat, goodbye);
        heartbeat.unwrap();
        goodbye.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let err = registry.get("greeter").await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::NotFound, "{err}");
}

/// A scripted peer, which is no Consul: it gives these answers in turn (index and body), then none,
/// and remembers what it was asked.
async fn scripted(answers: Vec<(u64, String)>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("consul://{}?wait=1s", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut answers = answers.into_iter();
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut buffer = vec![0; 8192];
            while let Ok(read) = tcp.read(&mut buffer).await {
                if read == 0 {
                    break;
                }
                let text = String::from_utf8_lossy(&buffer[..read]);
                let line = text.lines().next().unwrap_or_default().to_owned();
                log.lock().unwrap().push(line);
                let Some((index, body)) = answers.next() else {
                    std::future::pending::<()>().await;
                    return;
                };
                let head = format!(
                    "HTTP/1.1 200 OK\r\nx-consul-index: {index}\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                tcp.write_all((head + &body).as_bytes()).await.unwrap();
            }
        }
    });
    (url, asked)
}

fn node(id: &str) -> String {
    format!(
        r#"{{"Service":{{"ID":"{id}","Service":"greeter","Tags":["v=v1"],"Address":"10.0.0.1","Port":80}}}}"#
    )
}

/// Against the scripted peer.
#[tokio::test]
async fn an_index_that_goes_back_is_begun_again() {
    let answers = vec![
        (100, "[]".to_owned()),
        (101, format!("[{}]", node("a"))),
        // Restored from a snapshot.
        (7, format!("[{},{}]", node("a"), node("b"))),
        (8, format!("[{}]", node("b"))),
    ];
    let (url, asked) = scripted(answers).await;
    let registry = open(&url).await;
    let mut events = registry
        .watch(WatchOptions::default().with_service("greeter"))
        .await
        .unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        let event = events.next().await.unwrap().unwrap();
        seen.push((event.kind, event.service.nodes[0].id.clone()));
    }
    assert_eq!(
        seen,
        [
            (EventKind::Create, "a".to_owned()),
            (EventKind::Create, "b".to_owned()),
            (EventKind::Delete, "a".to_owned())
        ]
    );
    let asked = asked.lock().unwrap();
    let indexes: Vec<Option<&str>> = asked
        .iter()
        .map(|line| Some(line.split_once("index=")?.1.split_once('&')?.0))
        .collect();
    assert_eq!(indexes, [None, Some("100"), Some("101"), None]);
}

/// Against the scripted peer: foreign bytes are errors that say what they are.
#[tokio::test]
async fn s53_an_answer_that_is_not_consul_s_is_an_error() {
    for body in ["{}", "[{}]", "<html>", r#"[{"Service":{"ID":1}}]"#] {
        let (url, _) = scripted(vec![(1, body.to_owned())]).await;
        let err = open(&url).await.get("greeter").await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unknown, "{body}: {err}");
    }
}
