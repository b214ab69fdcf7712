//! Bad days: servers that are killed, programs that are, messages that are forged.

mod common;

use std::io::Write as _;
use std::time::Duration;

use futures_util::StreamExt as _;
use micro_nats::async_nats::{self, Client};
use micro_registry_core::{
    Env, ErrorKind, Event, EventKind, EventStream, Node, RegisterOptions, Registry as _,
    RegistryExt as _, Service, WatchOptions,
};
use micro_registry_nats::NatsRegistry;
use tokio::time::{Instant, sleep, timeout};

use common::*;

async fn watch(registry: &NatsRegistry) -> EventStream {
    let opts = WatchOptions::default().with_service("greeter");
    registry.watch(opts).await.unwrap()
}

async fn next(events: &mut EventStream) -> Event {
    let event = timeout(PATIENCE, events.next()).await;
    event.expect("an event comes").unwrap().unwrap()
}

async fn stranger(server: &Server) -> Client {
    let start = Instant::now();
    loop {
        match async_nats::connect(server.url()).await {
            Ok(client) => return client,
            Err(err) => assert!(start.elapsed() < PATIENCE, "{err:?}"),
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// A service as go-micro v6 announces it.
fn announcement(action: &str, id: &str) -> String {
    format!(
        r#"{{"Service":{{"name":"greeter","version":"v1","metadata":null,"endpoints":null,"nodes":[{{"id":"{id}","address":"10.0.0.9:80","metadata":null}}]}},"Action":"{action}"}}"#
    )
}

async fn say(client: &Client, subject: &str, payload: impl Into<Vec<u8>>) {
    let payload: Vec<u8> = payload.into();
    client
        .publish(subject.to_owned(), payload.into())
        .await
        .unwrap();
    client.flush().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn f_a_server_that_is_killed_and_restarted() {
    let Some(program) = program("f_a_server_that_is_killed_and_restarted") else {
        return;
    };
    let mut server = Server::start(&program, &[]);
    let config = config(&format!("{}?timeout=300ms", server.url()));
    let (one, two) = (open(config.clone()), open(config));
    until_up(&one).await;
    register(&one, &greeter("a", "10.0.0.1:80")).await;
    register(&one, &greeter("leaves", "10.0.0.1:81")).await;
    until_ids(&two, &["a", "leaves"]).await;
    for kill in 0..3 {
        let mut events = watch(&two).await;
        server.kill();
        // No silence: the watch says that it may have missed something.
        let ended = timeout(PATIENCE, events.next()).await.unwrap();
        assert_eq!(ended.unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
        assert!(events.next().await.is_none());

        let start = Instant::now();
        for err in [
            two.get("greeter").await.unwrap_err(),
            two.watch(WatchOptions::default())
                .await
                .map(drop)
                .unwrap_err(),
            one.register(&greeter("b", "10.0.0.2:80"), RegisterOptions::default())
                .await
                .unwrap_err(),
        ] {
            assert_eq!(err.kind(), ErrorKind::Unavailable, "{err:?}");
            assert!(err.is_retryable());
        }
        assert!(start.elapsed() < Duration::from_secs(5));
        if kill == 0 {
            // It counts though nobody can be told.
            let err = one
                .deregister(&greeter("leaves", ""), Default::default())
                .await
                .unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Unavailable, "{err:?}");
        }

        server.restart();
        let took = until_ids(&two, &["a"]).await;
        figure(&format!(
            "registry.nats restart={kill} answers_again={took:?}"
        ));
        // Watches work again, too.
        let mut events = watch(&two).await;
        register(&one, &greeter("c", "10.0.0.3:80")).await;
        loop {
            // The announcement of all that is registered may come in between; it is no change.
            let event = next(&mut events).await;
            assert_eq!(event.kind, EventKind::Create, "{event:?}");
            if event.service.nodes[0].id == "c" {
                break;
            }
        }
        one.deregister(&greeter("c", ""), Default::default())
            .await
            .unwrap();
    }
}

async fn until_up(registry: &NatsRegistry) {
    let start = Instant::now();
    while let Err(err) = registry.list().await {
        assert!(start.elapsed() < PATIENCE, "{err:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f_a_server_that_comes_late() {
    let Some(program) = program("f_a_server_that_comes_late") else {
        return;
    };
    let mut server = Server::start(&program, &[]);
    server.kill();
    let registry = open(config(&format!("{}?timeout=300ms", server.url())));
    let err = registry.get("greeter").await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unavailable, "{err:?}");
    let text = err.to_string();
    assert!(text.contains(&server.port.to_string()), "{text}");
    server.restart();
    until_up(&registry).await;
    register(&registry, &greeter("a", "10.0.0.1:80")).await;
    until_ids(&registry, &["a"]).await;
}

/// Who is killed says no goodbye: lookups do not find it, and watches are told.
#[tokio::test(flavor = "multi_thread")]
async fn f_a_program_that_is_killed() {
    let Some(program) = program("f_a_program_that_is_killed") else {
        return;
    };
    let server = Server::start(&program, &[]);
    let config = config(&format!("{}?refresh=300ms", server.url()));
    let two = open(config.clone());
    until_up(&two).await;
    let mut events = watch(&two).await;
    register(&two, &greeter("stays", "10.0.0.2:80")).await;
    assert_eq!(next(&mut events).await.kind, EventKind::Create);

    // A runtime that is torn down: nothing of it runs any more.
    let killed = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let one = runtime.block_on(async {
            let one = open(config);
            until_up(&one).await;
            register(&one, &greeter("killed", "10.0.0.1:80")).await;
            one
        });
        runtime.shutdown_background();
        one
    });
    drop(killed.await.unwrap());
    let start = Instant::now();
    let event = next(&mut events).await;
    assert_eq!(event.kind, EventKind::Create, "{event:?}");
    until_ids(&two, &["stays"]).await;
    let event = next(&mut events).await;
    assert_eq!(event.kind, EventKind::Delete, "{event:?}");
    assert_eq!(event.service.nodes[0].id, "killed");
    figure(&format!(
        "registry.nats refresh=300ms killed_seen_by_watch={:?}",
        start.elapsed()
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_registry_says_goodbye() {
    let Some(program) = program("a_dropped_registry_says_goodbye") else {
        return;
    };
    let server = Server::start(&program, &[]);
    let (one, two) = (open(config(&server.url())), open(config(&server.url())));
    until_up(&one).await;
    register(&one, &greeter("a", "10.0.0.1:80")).await;
    let mut events = watch(&two).await;
    let start = Instant::now();
    drop(one);
    assert_eq!(next(&mut events).await.kind, EventKind::Delete);
    assert!(start.elapsed() < Duration::from_secs(1));
}

/// What the server did not confirm may be lost, so it is said until it is.
#[tokio::test(flavor = "multi_thread")]
async fn f_a_goodbye_that_is_not_confirmed_is_said_again() {
    let Some(program) = program("f_a_goodbye_that_is_not_confirmed_is_said_again") else {
        return;
    };
    let server = Server::start(&program, &[]);
    let one = open(config(&format!("{}?timeout=300ms", server.url())));
    until_up(&one).await;
    register(&one, &greeter("a", "10.0.0.1:80")).await;
    let other = stranger(&server).await;
    let mut heard = other.subscribe("micro.nats.watch").await.unwrap();
    other.flush().await.unwrap();
    server.signal("STOP");
    let err = one
        .deregister(&greeter("a", ""), Default::default())
        .await
        .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unavailable, "{err:?}");
    server.signal("CONT");
    // The first was not lost here, for the server came back; who leaves cannot know.
    for _ in 0..2 {
        let message = timeout(PATIENCE, heard.next()).await.unwrap().unwrap();
        let text = String::from_utf8_lossy(&message.payload).into_owned();
        assert!(text.ends_with(r#""Action":"delete"}"#), "{text}");
    }
}

/// A server that carries less than we allow: who is too long is not registered, and disturbs nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_the_server_does_not_carry_is_refused() {
    let Some(program) = program("a_node_that_the_server_does_not_carry_is_refused") else {
        return;
    };
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"max_payload: 2000").unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    let server = Server::start(&program, &["-c", &path]);
    let (one, two) = (open(config(&server.url())), open(config(&server.url())));
    until_up(&one).await;
    register(&one, &greeter("a", "10.0.0.1:80")).await;
    let long = Node::new("long", "10.0.0.1:81").with_metadata("x", "y".repeat(4000));
    let long = Service::new("greeter", "v2").with_node(long);
    let err = one
        .register(&long, RegisterOptions::default())
        .await
        .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::ResourceExhausted, "{err:?}");
    register(&one, &greeter("b", "10.0.0.2:80")).await;
    until_ids(&two, &["a", "b"]).await;
    assert_eq!(ids(&one).await, ["a", "b"]);
}

/// go-micro's messages, by hand: both sides find each other.
#[tokio::test(flavor = "multi_thread")]
async fn go_micro_is_understood_and_understands() {
    let Some(program) = program("go_micro_is_understood_and_understands") else {
        return;
    };
    let server = Server::start(&program, &[]);
    let go = stranger(&server).await;
    let ours = open(config(&server.url()));
    until_up(&ours).await;
    let mut events = watch(&ours).await;

    // It registers, again and again, and answers.
    let mut queries = go.subscribe("micro.nats.query").await.unwrap();
    for _ in 0..3 {
        say(&go, "micro.nats.watch", announcement("create", "go")).await;
    }
    let event = next(&mut events).await;
    assert_eq!(event.kind, EventKind::Create);
    assert_eq!(
        event.service,
        Service::new("greeter", "v1").with_node(Node::new("go", "10.0.0.9:80"))
    );
    let answering = go.clone();
    let answers = tokio::spawn(async move {
        while let Some(query) = queries.next().await {
            let answer = r#"{"name":"greeter","version":"v1","metadata":null,"endpoints":null,"nodes":[{"id":"go","address":"10.0.0.9:80","metadata":null}]}"#;
            let reply = query.reply.unwrap();
            answering.publish(reply, answer.into()).await.unwrap();
        }
    });
    until_ids(&ours, &["go"]).await;

    // It asks, and is answered with all there is of a version, as it expects.
    let mut changes = go.subscribe("micro.nats.watch").await.unwrap();
    go.flush().await.unwrap();
    let both = greeter("a", "10.0.0.1:80").with_node(Node::new("b", "10.0.0.2:80"));
    register(&ours, &both).await;
    let change = timeout(PATIENCE, changes.next()).await.unwrap().unwrap();
    assert_eq!(
        change.payload,
        r#"{"Service":{"name":"greeter","version":"v1","metadata":{},"endpoints":[],"nodes":[{"id":"a","address":"10.0.0.1:80","metadata":{}},{"id":"b","address":"10.0.0.2:80","metadata":{}}]},"Action":"create"}"#
    );
    for query in [
        r#"{"Service":{"name":"greeter","version":"","metadata":null,"endpoints":null,"nodes":null},"Action":"get"}"#,
        r#"{"Service":null,"Action":"list"}"#,
    ] {
        let inbox = go.new_inbox();
        let mut answers = go.subscribe(inbox.clone()).await.unwrap();
        go.publish_with_reply("micro.nats.query", inbox, query.into())
            .await
            .unwrap();
        let ours = loop {
            let answer = timeout(PATIENCE, answers.next()).await.unwrap().unwrap();
            let service: Service = serde_json::from_slice(&answer.payload).unwrap();
            if service.nodes[0].id != "go" {
                break service;
            }
        };
        assert_eq!(ours, both);
    }
    until_ids(&ours, &["a", "b", "go"]).await;
    answers.abort();
    say(&go, "micro.nats.watch", announcement("delete", "go")).await;
    loop {
        let event = next(&mut events).await;
        if event.kind == EventKind::Delete {
            assert_eq!(event.service.nodes[0].id, "go");
            break;
        }
    }
}

/// A spoofed goodbye: the owner speaks up.
#[tokio::test(flavor = "multi_thread")]
async fn s47_a_spoofed_goodbye_is_put_right() {
    let Some(program) = program("s47_a_spoofed_goodbye_is_put_right") else {
        return;
    };
    let server = Server::start(&program, &[]);
    let (one, two) = (open(config(&server.url())), open(config(&server.url())));
    until_up(&one).await;
    let mut events = watch(&two).await;
    register(&one, &greeter("a", "10.0.0.1:80")).await;
    assert_eq!(next(&mut events).await.kind, EventKind::Create);
    let attacker = stranger(&server).await;
    for (action, kind) in [("delete", EventKind::Delete), ("create", EventKind::Update)] {
        say(&attacker, "micro.nats.watch", announcement(action, "a")).await;
        assert_eq!(next(&mut events).await.kind, kind);
        // A lookup asks the owner, who is there.
        until_ids(&two, &["a"]).await;
        let event = next(&mut events).await;
        assert_eq!(event.service, greeter("a", "10.0.0.1:80"), "{event:?}");
    }
    // However often it is said, the owner does not shout.
    let mut heard = stranger(&server)
        .await
        .subscribe("micro.nats.watch")
        .await
        .unwrap();
    for _ in 0..500 {
        say(&attacker, "micro.nats.watch", announcement("delete", "a")).await;
    }
    sleep(Duration::from_secs(1)).await;
    let mut put_right = 0;
    while let Ok(Some(message)) = timeout(Duration::from_millis(50), heard.next()).await {
        put_right += usize::from(
            message
                .payload
                .starts_with(br#"{"Service":{"name":"greeter","version":"v1","metadata":{}"#),
        );
    }
    assert!(put_right <= 3, "{put_right}");
}

/// Garbage on every subject: skipped, and the others kept.
#[tokio::test(flavor = "multi_thread")]
async fn s53_garbage_disturbs_nobody() {
    let Some(program) = program("s53_garbage_disturbs_nobody") else {
        return;
    };
    let server = Server::start(&program, &[]);
    let (one, two) = (open(config(&server.url())), open(config(&server.url())));
    until_up(&one).await;
    register(&one, &greeter("a", "10.0.0.1:80")).await;
    let mut events = watch(&two).await;
    let attacker = stranger(&server).await;
    // It answers every question: with nonsense, with another service, with nodes that are none.
    let mut queries = attacker.subscribe("micro.nats.query").await.unwrap();
    attacker.flush().await.unwrap();
    let answering = attacker.clone();
    tokio::spawn(async move {
        while let Some(query) = queries.next().await {
            // Only where somebody waits: what else is answered must not be its doing.
            let Some(reply) = query.reply.filter(|reply| reply.starts_with("_INBOX.")) else {
                continue;
            };
            for answer in [
                "",
                "null",
                "{}",
                r#"{"name":"billing","version":"v1","nodes":[{"id":"x","address":"10.6.6.6:80"}]}"#,
                r#"{"name":"greeter","version":"v1","nodes":[{"id":"","address":"10.6.6.6:80"}]}"#,
                r#"{"name":"greeter","version":"v1","nodes":[{"id":"x\r\ny","address":"10.6.6.6:80"}]}"#,
                r#"{"name":"greeter","version":"v1","nodes":{}}"#,
            ] {
                answering
                    .publish(reply.clone(), answer.into())
                    .await
                    .unwrap();
            }
        }
    });
    for payload in [
        &b""[..],
        b"\xff",
        b"{}",
        b"{\"Service\":null,\"Action\":\"create\"}",
        b"{\"Service\":null,\"Action\":\"get\"}",
        b"{\"Service\":{\"name\":\"../x\"},\"Action\":\"delete\"}",
        &vec![b'['; 1_000_000],
    ] {
        for subject in ["micro.nats.watch", "micro.nats.query"] {
            say(&attacker, subject, payload).await;
            // Also as a question, and one whose answer would go to ourselves or to the server.
            for reply in ["x", "micro.nats.watch", "$SYS.x", "$JS.API.INFO"] {
                attacker
                    .publish_with_reply(subject, reply, payload.to_vec().into())
                    .await
                    .unwrap();
            }
        }
    }
    let mut own = attacker.subscribe("micro.nats.watch").await.unwrap();
    attacker.flush().await.unwrap();
    let question = r#"{"Service":null,"Action":"list"}"#;
    attacker
        .publish_with_reply("micro.nats.query", "micro.nats.watch", question.into())
        .await
        .unwrap();
    attacker.flush().await.unwrap();
    assert_eq!(ids(&two).await, ["a"]);
    register(&one, &greeter("b", "10.0.0.2:80")).await;
    let event = next(&mut events).await;
    assert_eq!(event.service, greeter("b", "10.0.0.2:80"));
    // The first message there is the announcement of "b": the question was not answered there.
    let first = timeout(PATIENCE, own.next()).await.unwrap().unwrap();
    assert!(first.payload.starts_with(br#"{"Service""#));
}

/// A flood of forged answers ends at a bound, and in time.
#[tokio::test(flavor = "multi_thread")]
async fn s50_a_flood_of_answers_is_bounded() {
    let Some(program) = program("s50_a_flood_of_answers_is_bounded") else {
        return;
    };
    let server = Server::start(&program, &[]);
    let ours = open(config(&server.url()));
    until_up(&ours).await;
    register(&ours, &greeter("own", "10.0.0.1:80")).await;
    let attacker = stranger(&server).await;
    let mut queries = attacker.subscribe("micro.nats.query").await.unwrap();
    attacker.flush().await.unwrap();
    tokio::spawn(async move {
        while let Some(query) = queries.next().await {
            let reply = query.reply.unwrap();
            for i in 0..50_000 {
                let answer = format!(
                    r#"{{"name":"greeter","version":"v1","nodes":[{{"id":"{i}","address":"10.6.6.6:80"}}]}}"#
                );
                if attacker
                    .publish(reply.clone(), answer.into())
                    .await
                    .is_err()
                {
                    return;
                }
            }
        }
    });
    let start = Instant::now();
    let found = ours.get("greeter").await.unwrap();
    let took = start.elapsed();
    let nodes = &found[0].nodes;
    assert!(nodes.len() <= 4097, "{}", nodes.len());
    assert!(nodes.iter().any(|node| node.id == "own"), "ours is kept");
    assert!(took < Duration::from_secs(3), "{took:?}");
    figure(&format!(
        "registry.nats flood=50000 taken={} took={took:?}",
        nodes.len()
    ));
}

/// An old registration that is replayed: lookups ask the node, and watches drop who does not answer.
#[tokio::test(flavor = "multi_thread")]
async fn s54_a_replayed_registration_does_not_last() {
    let Some(program) = program("s54_a_replayed_registration_does_not_last") else {
        return;
    };
    let server = Server::start(&program, &[]);
    let ours = open(config(&format!("{}?refresh=200ms", server.url())));
    until_up(&ours).await;
    let mut events = watch(&ours).await;
    let attacker = stranger(&server).await;
    say(&attacker, "micro.nats.watch", announcement("create", "old")).await;
    assert_eq!(next(&mut events).await.kind, EventKind::Create);
    assert_eq!(ids(&ours).await, [""; 0]);
    let event = next(&mut events).await;
    assert_eq!(event.kind, EventKind::Delete);
    assert_eq!(event.service.nodes[0].id, "old");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_is_told() {
    let Some(program) = program("who_may_not_is_told") else {
        return;
    };
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(
        br#"authorization { users: [
            { user: all, password: pw }
            { user: looks, password: pw, permissions: { publish: ["micro.nats.query", "_INBOX.>"] } }
        ] }"#,
    )
    .unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    let server = Server::start(&program, &["-c", &path]);
    let at = format!("127.0.0.1:{}", server.port);
    let all = open(config(&format!("nats://all:pw@{at}")));
    until_up(&all).await;
    register(&all, &greeter("a", "10.0.0.1:80")).await;

    for url in [format!("nats://all:wrong@{at}"), format!("nats://{at}")] {
        let start = Instant::now();
        let nobody = open(config(&url));
        let err = nobody.get("greeter").await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unauthenticated, "{err:?}");
        assert!(!format!("{err:?}").contains("wrong"), "{err:?}");
        assert!(
            start.elapsed() < Duration::from_secs(2),
            "{:?}",
            start.elapsed()
        );
    }

    let looks = open(config(&format!("nats://looks:pw@{at}")));
    until_ids(&looks, &["a"]).await;
    let err = looks
        .register(&greeter("b", "10.0.0.2:80"), RegisterOptions::default())
        .await
        .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::PermissionDenied, "{err:?}");
    until_ids(&all, &["a"]).await;
}

/// A token and an NKey, which a server asks for instead of a user.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_keys_open_the_door() {
    let Some(program) = program("tokens_and_keys_open_the_door") else {
        return;
    };
    let server = Server::start(&program, &["--auth", "s3cret"]);
    let at = format!("127.0.0.1:{}", server.port);
    for (url, opens) in [
        (format!("nats://s3cret@{at}"), true),
        (format!("nats://{at}?token=s3cret"), true),
        (format!("nats://wrong@{at}"), false),
    ] {
        knock(&url, opens).await;
    }

    // A pair from the documentation of NATS.
    const SEED: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let conf = write(
        "nats.conf",
        "authorization { users: [ { nkey: UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4 } ] }",
    );
    let server = Server::start(&program, &["-c", &conf]);
    let at = format!("127.0.0.1:{}", server.port);
    let seed = write("seed.nk", &format!("{SEED}\n"));
    knock(&format!("nats://{at}?nkey={seed}"), true).await;
    knock(&format!("nats://{at}"), false).await;
}

async fn knock(url: &str, opens: bool) {
    let registry = open(config(url));
    let start = Instant::now();
    loop {
        match registry.list().await {
            Ok(_) => return assert!(opens, "{url}"),
            // The server is only about to start.
            Err(err) if err.kind() == ErrorKind::Unavailable => {
                assert!(start.elapsed() < PATIENCE, "{err:?}");
            }
            Err(err) => {
                assert_eq!(err.kind(), ErrorKind::Unauthenticated, "{err:?}");
                return assert!(!opens, "{url}: {err:?}");
            }
        }
    }
}

/// Over TLS: without a certificate of ours, or with an authority that did not sign the server's,
/// there is no connection.
#[tokio::test(flavor = "multi_thread")]
async fn tls_is_verified_both_ways() {
    const TEST: &str = "tls_is_verified_both_ways";
    let Some(url) = server(TEST, "MICRO_TEST_NATS_TLS_URL", "nats_tls") else {
        return;
    };
    let good = open(config(&format!(
        "{url}&subject=test.tls-{}",
        std::process::id()
    )));
    until_up(&good).await;
    let parsed = micro_core::url::resolve(&url).unwrap();
    let option = |name: &str| {
        let pair = parsed.query_pairs().find(|(known, _)| known == name);
        pair.unwrap().1.into_owned()
    };
    let base = url.split('?').next().unwrap();
    let (ca, cert, key) = (option("ca"), option("cert"), option("key"));
    for (what, url) in [
        ("no certificate", format!("{base}?ca={ca}&timeout=500ms")),
        (
            "no authority",
            format!("{base}?cert={cert}&key={key}&timeout=500ms"),
        ),
        (
            "another authority",
            format!("{base}?ca={cert}&cert={cert}&key={key}&timeout=500ms"),
        ),
        (
            "another name",
            format!("{base}?ca={ca}&cert={cert}&key={key}&timeout=500ms")
                .replace("127.0.0.1", "127.0.0.2"),
        ),
    ] {
        let registry = NatsRegistry::open(config(&url), &Env::new()).unwrap();
        let err = registry.list().await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unavailable, "{what}: {err:?}");
    }
}

/// async-nats 0.51 panics in the task of the connection if a header has a carriage return of its own.
#[tokio::test(flavor = "multi_thread")]
async fn s51_a_message_that_breaks_the_client_library_ends_no_registry() {
    let Some(program) = program("s51_a_message_that_breaks_the_client_library") else {
        return;
    };
    let server = Server::start(&program, &[]);
    let registry = open(config(&server.url()));
    register(&registry, &greeter("a", "10.0.0.1:80")).await;
    let asking = open(config(&server.url()));
    until_ids(&asking, &["a"]).await;
    // To both: who asks hears what is announced, too.
    let mut stranger = tokio::net::TcpStream::connect(("127.0.0.1", server.port))
        .await
        .unwrap();
    let mut said = b"CONNECT {\"verbose\":false,\"headers\":true,\"protocol\":1}\r\n".to_vec();
    for subject in ["micro.nats.query", "micro.nats.watch"] {
        let headers = "NATS/1.0\r\na: b\rc\r\n\r\n";
        let length = headers.len();
        let line = format!("HPUB {subject} {length} {length}\r\n{headers}\r\n");
        said.extend_from_slice(line.as_bytes());
    }
    tokio::io::AsyncWriteExt::write_all(&mut stranger, &said)
        .await
        .unwrap();
    sleep(Duration::from_millis(200)).await;
    until_ids(&asking, &["a"]).await;
    register(&registry, &greeter("b", "10.0.0.2:80")).await;
    until_ids(&asking, &["a", "b"]).await;
}
