//! How far messages get, whatever becomes of their subscribers.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{
    PATIENCE, counts, env, member, next, no, nodes, open, publish, registry, subscribe, topic, yes,
};
use micro_broker_core::{Broker as _, Class, Context, ErrorKind, Message, Order, Reach, handler};
use micro_broker_http::HttpBrokerConfig;
use micro_registry_core::{Node, RegisterOptions, Service};
use micro_store_core::{ListOptions, Scope, Store, Table};
use micro_store_memory::MemoryStore;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};

/// A subscriber that somebody else registered.
async fn register(env: &micro_broker_core::Env, group: &str, id: &str, address: &str) {
    let node = Node::new(id, address)
        .with_metadata("broker", "http")
        .with_metadata("topic", "orders")
        .with_metadata("secure", "false");
    let service = Service::new("micro.http.broker", group).with_node(node);
    registry(env)
        .register(&service, RegisterOptions::default())
        .await
        .unwrap();
}

/// A server that answers every request so, and counts them.
async fn server(answer: &'static str) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let counted = Arc::clone(&counted);
            tokio::spawn(async move {
                let mut bytes = vec![0; 10_000];
                while stream.read(&mut bytes).await.is_ok_and(|read| read > 0) {
                    counted.fetch_add(1, Ordering::SeqCst);
                    if answer.is_empty() {
                        sleep(PATIENCE).await;
                    }
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            });
        }
    });
    (address, count)
}

#[tokio::test]
async fn a_receipt_counts_who_has_handled_it_who_has_not_and_who_cannot() {
    let env = env().await;
    let config = HttpBrokerConfig::default()
        .with_wait(Duration::from_millis(500))
        .with_timeout(Duration::from_secs(5))
        .with_retry_for(Duration::ZERO);
    let broker = open(config, &env);
    assert_eq!(counts(&publish(&broker, "nobody").await), (0, 0, 0));
    let (_good, _arrived) = subscribe(&broker, member("good"), yes).await;
    let (_fails, _arrived) = subscribe(&broker, member("fails").with_max_deliveries(100), no).await;
    let (silent, _) = server("").await;
    let (refuses, refusals) = server("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").await;
    let (breaks, _) = server("HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n").await;
    register(&env, "silent", "1", &silent).await;
    register(&env, "refuses", "2", &refuses).await;
    register(&env, "breaks", "3", &breaks).await;
    register(&env, "gone", "4", "127.0.0.1:1").await;
    sleep(Duration::from_millis(300)).await;
    let receipt = publish(&broker, "tea").await;
    // The failing and the silent are tried on.
    assert_eq!(counts(&receipt), (1, 2, 3), "{receipt:?}");
    assert_eq!(refusals.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn go_micro_s_subscribers_get_its_json_and_ours_get_frames() {
    let env = env().await;
    let broker = open(HttpBrokerConfig::default(), &env);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = vec![0; 10_000];
        let length = stream.read(&mut bytes).await.unwrap();
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    });
    register(&env, "theirs", "go", &address).await;
    let (_subscription, mut arrived) = subscribe(&broker, member("ours"), yes).await;
    let all = nodes(&env).await;
    let own = all.iter().find(|node| node.id != "go").unwrap();
    assert_eq!(own.metadata["accepts"], "application/vnd.micro.message");
    assert_eq!(counts(&publish(&broker, "tea").await), (2, 0, 0));
    assert_eq!(&next(&mut arrived).await.message().body[..], b"tea");
    let request = served.await.unwrap();
    assert!(
        request.contains("content-type: application/json\r\n")
            && request.contains(r#"{"Header":{"Micro-Topic":"orders""#)
            && request.ends_with(r#""Body":"dGVh"}"#),
        "{request}"
    );
}

#[tokio::test]
async fn another_program_at_a_subscriber_s_port_does_not_answer_for_it() {
    let env = env().await;
    let broker = open(HttpBrokerConfig::default(), &env);
    for (id, answer) in [
        ("a", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
        (
            "b",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 4\r\n\r\nwhat",
        ),
    ] {
        let (address, _) = server(answer).await;
        let node = Node::new(id, address)
            .with_metadata("broker", "http")
            .with_metadata("topic", "orders")
            .with_metadata("accepts", "application/vnd.micro.message");
        let service = Service::new("micro.http.broker", "g").with_node(node);
        registry(&env)
            .register(&service, RegisterOptions::default())
            .await
            .unwrap();
    }
    let (_subscription, mut arrived) = subscribe(&broker, member("g"), yes).await;
    for i in 0..10 {
        assert_eq!(counts(&publish(&broker, &i.to_string()).await), (1, 0, 0));
        next(&mut arrived).await;
    }
}

#[tokio::test]
async fn another_member_takes_what_one_cannot() {
    let env = env().await;
    let broker = open(HttpBrokerConfig::default(), &env);
    register(&env, "g", "gone", "127.0.0.1:1").await;
    let (full, _) = server("HTTP/1.1 429 Full\r\ncontent-length: 0\r\n\r\n").await;
    register(&env, "g", "full", &full).await;
    let (_subscription, mut arrived) = subscribe(&broker, member("g"), yes).await;
    for i in 0..10 {
        assert_eq!(counts(&publish(&broker, &i.to_string()).await), (1, 0, 0));
        assert_eq!(next(&mut arrived).await.deliveries(), 1);
    }
}

#[tokio::test]
async fn a_delivery_without_an_answer_is_one() {
    let env = env().await;
    let broker = open(HttpBrokerConfig::default(), &env);
    // It takes the message, and is gone before it answers, every time.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = vec![0; 10_000];
            let length = stream.read(&mut bytes).await.unwrap();
            let _ = tell.send(String::from_utf8_lossy(&bytes[..length]).into_owned());
        }
    });
    register(&env, "g", "dies", &address).await;
    let publisher = broker.clone();
    tokio::spawn(async move { publish(&publisher, "tea").await });
    for deliveries in 1..=3 {
        let request = timeout(PATIENCE, told.recv()).await.unwrap().unwrap();
        // Else a message that ends its handler's process would do so for ever.
        let header = format!("\r\nmicro-delivery: {deliveries}\r\n");
        assert!(request.contains(&header), "{request}");
    }
}

#[tokio::test]
async fn a_group_that_comes_back_gets_what_waits_for_it() {
    let env = env().await;
    let publisher = open(HttpBrokerConfig::default(), &env);
    let first = open(HttpBrokerConfig::default(), &env);
    let (subscription, mut arrived) = subscribe(&first, member("g"), no).await;
    let receipt = publish(&publisher, "tea").await;
    assert_eq!(counts(&receipt), (0, 1, 0));
    next(&mut arrived).await;
    // The whole program goes, and another comes.
    drop((subscription, first));
    let second = open(HttpBrokerConfig::default(), &env);
    let (_subscription, mut arrived) = subscribe(&second, member("g"), yes).await;
    let delivery = next(&mut arrived).await;
    assert_eq!(delivery.id(), &*receipt.id);
    assert!(delivery.deliveries() > 1);
    publisher.close(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn publishing_waits_no_longer_than_it_is_to() {
    let env = env().await;
    let broker = open(HttpBrokerConfig::default(), &env);
    let slow = handler(|_, _| async {
        sleep(Duration::from_millis(800)).await;
        Ok(())
    });
    let _subscription = broker
        .subscribe(&topic("orders"), member("g"), slow)
        .await
        .unwrap();
    let begin = Instant::now();
    let cx = Context::new().with_timeout(Duration::from_millis(100));
    let message = Message::new(topic("orders"), "tea");
    let receipt = broker
        .publish(&cx, message, Default::default())
        .await
        .unwrap();
    assert_eq!(counts(&receipt), (0, 1, 0));
    assert!(
        begin.elapsed() < Duration::from_millis(600),
        "{:?}",
        begin.elapsed()
    );
    let err = broker.close(Duration::from_millis(10)).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::DeadlineExceeded);
    broker.close(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn too_much_under_way_is_refused() {
    let env = env().await;
    let config = HttpBrokerConfig::default()
        .with_max_pending(10_000)
        .with_wait(Duration::from_millis(1));
    let broker = open(config, &env);
    let stuck = handler(|_, _| std::future::pending());
    let subscription = broker
        .subscribe(&topic("orders"), member("g"), stuck)
        .await
        .unwrap();
    let mut sent = 0;
    let err = loop {
        let message = Message::new(topic("orders"), vec![0; 1000]);
        match broker
            .publish(&Context::new(), message, Default::default())
            .await
        {
            Ok(_) => sent += 1,
            Err(err) => break err,
        }
    };
    assert_eq!(err.kind(), ErrorKind::ResourceExhausted);
    assert!((3..10).contains(&sent), "{sent}");
    drop(subscription);
    let (_subscription, mut arrived) = subscribe(&broker, member("g"), yes).await;
    for _ in 0..sent {
        next(&mut arrived).await;
    }
    broker.close(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn an_outbox_hands_on_what_an_earlier_process_left() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let env = env().await.with(Arc::clone(&store));
    let table = Table::new(Arc::clone(&store), Scope::of_service("", "events").unwrap());
    let kept = async || {
        table
            .list(ListOptions::default())
            .await
            .unwrap()
            .records
            .len()
    };
    let config = || HttpBrokerConfig::default().with_outbox("events");
    let consumer = open(HttpBrokerConfig::default(), &env);
    let (_good, mut good) = subscribe(&consumer, member("good"), yes).await;
    let (bad, mut arrived) = subscribe(&consumer, member("bad").with_max_deliveries(100), no).await;

    let publisher = open(config(), &env);
    let capabilities = publisher.capabilities();
    // The store is in memory, and promises nothing more.
    assert_eq!(
        (capabilities.class, capabilities.order),
        (Class::AtMostOnce, Order::Stable)
    );
    let receipt = publish(&publisher, "tea").await;
    assert!(matches!(receipt.reach, Reach::Outbox { .. }), "{receipt:?}");
    let message = Message::new(topic("orders"), "again").with_id(Arc::clone(&receipt.id));
    let again = publisher
        .publish(&Context::new(), message, Default::default())
        .await
        .unwrap();
    assert!(again.duplicate);
    next(&mut good).await;
    next(&mut arrived).await;
    assert_eq!(kept().await, 1);
    // The publisher's process ends, and with it what it had in mind.
    drop(publisher);
    drop((bad, arrived));
    sleep(Duration::from_millis(100)).await;
    assert_eq!(kept().await, 1);

    let (_bad, mut arrived) = subscribe(&consumer, member("bad"), yes).await;
    let quiet = timeout(Duration::from_millis(200), arrived.recv()).await;
    assert!(quiet.is_err(), "nobody hands it on: {quiet:?}");
    let publisher = open(config(), &env);
    let delivery = next(&mut arrived).await;
    assert_eq!(
        (delivery.id(), &delivery.message().body[..]),
        (&*receipt.id, &b"tea"[..])
    );
    publisher.close(PATIENCE).await.unwrap();
    assert_eq!(kept().await, 0);
    // The group that had it may get it twice, and no more.
    let mut twice = 0;
    while good.try_recv().is_ok() {
        twice += 1;
    }
    assert!(twice <= 1, "{twice}");
}

#[tokio::test]
async fn what_is_missing_or_misspelt_is_said_at_once() {
    use micro_broker_core::{Broker, Drivers, Env};
    use micro_broker_http::HttpDriver;
    let drivers = Drivers::<dyn Broker>::new().with(HttpDriver);
    let err = drivers
        .open("http://127.0.0.1", &Env::new())
        .await
        .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::FailedPrecondition, "{err}");
    let env = env().await;
    for (url, kind) in [
        (
            "http://127.0.0.1?outbox=events",
            ErrorKind::FailedPrecondition,
        ),
        ("http://127.0.0.1/path", ErrorKind::InvalidArgument),
        ("http://u:p@127.0.0.1", ErrorKind::InvalidArgument),
        ("http://127.0.0.1?wait=soon", ErrorKind::InvalidArgument),
        ("http://127.0.0.1?timeout=0s", ErrorKind::InvalidArgument),
        ("http://127.0.0.1?retries=1", ErrorKind::InvalidArgument),
    ] {
        let err = drivers.open(url, &env).await.unwrap_err();
        assert_eq!(err.kind(), kind, "{url}: {err}");
    }
    // Every address is none that others could call.
    let broker = drivers.open("http://0.0.0.0", &env).await.unwrap();
    let handle = handler(|_, _| std::future::ready(Ok(())));
    let err = broker
        .subscribe(&topic("orders"), member("g"), handle)
        .await
        .unwrap_err();
    assert!(
        err.kind() == ErrorKind::InvalidArgument && err.to_string().contains("advertise"),
        "{err}"
    );
}
