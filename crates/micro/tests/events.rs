//! Messages between services: over the memory broker, and over the HTTP broker on their own ports.

mod common;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Fleet, Ping, Probe as _, ping, until};
use micro::broker::memory::MemoryBroker;
use micro::broker::{
    Backoff, Broker, Capabilities, Delivery, Group, Handler, Message, NackExt as _, PublishOptions,
    Reach, Receipt, RemoveOptions, Stopped, SubscribeOptions, Subscription, SubscriptionControl,
    Topic, handler,
};
use micro::codec::shape;
use micro::registry::RegistryExt as _;
use micro::{
    Client, Context, Error, ErrorKind, Middleware, Next, Request, Response, Result, Running,
    Service, Settings, async_trait,
};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    number: u64,
}

/// A fleet, and how its services come by a broker.
#[derive(Clone)]
struct Shop {
    fleet: Fleet,
    memory: Option<Arc<dyn Broker>>,
}

impl Shop {
    fn memory() -> Self {
        Self {
            fleet: Fleet::new(),
            memory: Some(Arc::new(MemoryBroker::new())),
        }
    }

    fn http() -> Self {
        Self {
            fleet: Fleet::new(),
            memory: None,
        }
    }

    fn service(&self, name: &str) -> Service {
        let service = self.fleet.service(name);
        match &self.memory {
            Some(broker) => service.with_broker(Arc::clone(broker)),
            None => service,
        }
    }

    /// A node that subscribes, and what it has handled.
    async fn node(&self, name: &str, opts: SubscribeOptions) -> (Running, Seen) {
        let seen = Seen::default();
        let noted = seen.clone();
        let running = self
            .service(name)
            .subscribe("shop.orders", opts, move |_cx, order: Order, _| {
                let noted = noted.clone();
                async move {
                    noted.add(order.number);
                    Ok(())
                }
            })
            .start()
            .await
            .expect("the service starts");
        (running, seen)
    }

    async fn publish(&self, numbers: std::ops::Range<u64>) -> Vec<Receipt> {
        let service = self.service("till");
        let publisher = service.publisher("shop.orders").await.unwrap();
        let mut receipts = Vec::new();
        for number in numbers {
            let order = Order { number };
            receipts.push(publisher.publish(&Context::new(), &order).await.unwrap());
        }
        self.settle(&service).await;
        receipts
    }

    /// Waits until what a publisher has to hand on itself is handed on: it ends with its broker.
    async fn settle(&self, publisher: &Service) {
        if self.memory.is_none() {
            let broker = publisher.broker().await.unwrap();
            broker.close(Duration::from_secs(10)).await.unwrap();
        }
    }
}

/// How often each number was handled.
#[derive(Clone, Debug, Default)]
struct Seen(Arc<Mutex<BTreeMap<u64, usize>>>);

impl Seen {
    fn add(&self, number: u64) {
        *self.0.lock().unwrap().entry(number).or_default() += 1;
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().values().sum()
    }

    fn has(&self, number: u64) -> bool {
        self.0.lock().unwrap().contains_key(&number)
    }

    fn numbers(&self) -> Vec<u64> {
        self.0.lock().unwrap().keys().copied().collect()
    }
}

fn usual() -> SubscribeOptions {
    SubscribeOptions::default().with_backoff(Backoff::new(
        Duration::from_millis(20),
        Duration::from_millis(100),
    ))
}

#[tokio::test]
async fn http_messages_arrive_at_the_port_of_the_service() {
    let shop = Shop::http();
    let seen = Seen::default();
    let noted = seen.clone();
    let (running, _) = shop
        .fleet
        .start_with("probe", "probe-1", |service| {
            service.subscribe("shop.orders", usual(), move |_cx, order: Order, _| {
                noted.add(order.number);
                async { Ok(()) }
            })
        })
        .await;
    let found = shop.fleet.registry.get("micro.http.broker").await.unwrap();
    let nodes: Vec<_> = found.iter().flat_map(|service| &service.nodes).collect();
    assert_eq!(nodes.len(), 1);
    assert_eq!(nodes[0].address, running.address());
    assert_eq!(found[0].version, "probe");
    let receipts = shop.publish(0..3).await;
    assert!(matches!(
        receipts[0].reach,
        Reach::Delivered {
            acknowledged: 1,
            pending: 0,
            failed: 0
        }
    ));
    assert_eq!(seen.numbers(), [0, 1, 2]);
    // Calls are answered as ever, and what is posted for nobody is told so.
    let probe = shop.fleet.probe("probe").await;
    probe.echo(&Context::new(), ping("", 0)).await.unwrap();
    let answer = posted(running.address(), "/?id=nobody", "{}").await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    let answer = posted(running.address(), "/", "{}").await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    let broken = format!("/?id={}", nodes[0].id);
    let answer = posted(running.address(), &broken, "{}").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    running.stop().await.unwrap();
    assert!(shop.fleet.registry.get("micro.http.broker").await.is_err());
}

/// What go-micro's publishers send.
#[tokio::test]
async fn a_document_of_go_micro_is_a_message_at_the_port_of_the_service() {
    let shop = Shop::http();
    let (running, seen) = shop.node("mailer", usual()).await;
    let found = shop.fleet.registry.get("micro.http.broker").await.unwrap();
    let id = &found[0].nodes[0].id;
    let body = r#"{"Header":{"Content-Type":"application/json","Micro-Topic":"shop.orders"},"Body":"eyJudW1iZXIiOjd9"}"#;
    let answer = posted(running.address(), &format!("/?id={id}"), body).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(seen.has(7));
    let huge = "x".repeat(3 << 20);
    let answer = posted(running.address(), &format!("/?id={id}"), &huge).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    running.stop().await.unwrap();
}

async fn posted(address: &str, target: &str, body: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut tcp = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    tcp.write_all(head.as_bytes()).await.unwrap();
    // Whoever refuses by the length does not read it.
    let _ = tcp.write_all(body.as_bytes()).await;
    let mut answer = Vec::new();
    let mut buf = [0; 4096];
    while let Ok(n) = tcp.read(&mut buf).await {
        if n == 0 {
            break;
        }
        answer.extend_from_slice(&buf[..n]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn nodes_of_a_service_share_and_other_services_get_all() {
    for shop in [Shop::memory(), Shop::http()] {
        let mailers = [
            shop.node("mailer", usual()).await,
            shop.node("mailer", usual()).await,
        ];
        let auditor = shop.node("auditor", usual()).await;
        let everywhere = usual().with_broadcast(true);
        let caches = [
            shop.node("cache", everywhere.clone()).await,
            shop.node("cache", everywhere).await,
        ];
        shop.publish(0..40).await;
        let all: Vec<u64> = (0..40).collect();
        for (_, seen) in caches.iter().chain([&auditor]) {
            until("everything is handled", || seen.count() == 40).await;
            assert_eq!(seen.numbers(), all);
        }
        let shared = || mailers.iter().map(|(_, seen)| seen.count()).sum::<usize>();
        until("the group has handled all", || shared() >= 40).await;
        let mut of_both: Vec<u64> = mailers
            .iter()
            .flat_map(|(_, seen)| seen.numbers())
            .collect();
        of_both.sort_unstable();
        assert_eq!(of_both, all);
        for (running, _) in mailers.into_iter().chain(caches).chain([auditor]) {
            running.stop().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_under_load_loses_nothing() {
    for shop in [Shop::memory(), Shop::http()] {
        let seen = Seen::default();
        let start = || async {
            let noted = seen.clone();
            shop.service("mailer")
                .subscribe("shop.orders", usual(), move |_cx, order: Order, _| {
                    let noted = noted.clone();
                    async move {
                        tokio::time::sleep(Duration::from_millis(3)).await;
                        noted.add(order.number);
                        Ok(())
                    }
                })
                .start()
                .await
                .expect("the service starts")
        };
        let mut nodes = vec![start().await, start().await];
        let over = Arc::new(AtomicBool::new(false));
        let publishers: Vec<_> = (0..4)
            .map(|publisher| {
                let (shop, over) = (shop.clone(), Arc::clone(&over));
                tokio::spawn(async move {
                    let service = shop.service("till");
                    let orders = service.publisher("shop.orders").await.unwrap();
                    let mut published = 0;
                    while !over.load(Ordering::Relaxed) {
                        let number = publisher * 1_000_000 + published;
                        let order = Order { number };
                        let receipt = orders.publish(&Context::new(), &order).await.unwrap();
                        if let Reach::Delivered { failed, .. } = receipt.reach {
                            assert_eq!(failed, 0);
                        }
                        published += 1;
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    // What is not handled yet is this broker's to hand on.
                    shop.settle(&service).await;
                    published
                })
            })
            .collect();
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let fresh = start().await;
            std::mem::replace(&mut nodes[0], fresh)
                .stop()
                .await
                .unwrap();
            nodes.rotate_left(1);
        }
        over.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for (publisher, task) in (0_u64..).zip(publishers) {
            let published = task.await.unwrap();
            all.extend((0..published).map(|n| publisher * 1_000_000 + n));
        }
        assert!(all.len() > 100, "{} were published", all.len());
        until("everything is handled", || {
            all.iter().all(|number| seen.has(*number))
        })
        .await;
        for node in nodes {
            node.stop().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_stop_finishes_the_handlers_under_way() {
    for shop in [Shop::memory(), Shop::http()] {
        let (begun, ended) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let counts = (Arc::clone(&begun), Arc::clone(&ended));
        let running = shop
            .service("mailer")
            .subscribe("shop.orders", usual(), move |_cx, _: Order, _| {
                let (begun, ended) = counts.clone();
                async move {
                    begun.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    ended.fetch_add(1, Ordering::SeqCst);
                    Ok(())
                }
            })
            .start()
            .await
            .unwrap();
        let publishing = {
            let shop = shop.clone();
            tokio::spawn(async move { shop.publish(0..1).await })
        };
        until("it has begun", || begun.load(Ordering::SeqCst) == 1).await;
        running.stop().await.unwrap();
        assert_eq!(ended.load(Ordering::SeqCst), 1);
        let receipt = publishing.await.unwrap().remove(0);
        if let Reach::Delivered { acknowledged, .. } = receipt.reach {
            assert_eq!(acknowledged, 1);
        }
    }
}

#[tokio::test]
async fn a_stop_hands_on_what_the_service_has_published() {
    let shop = Shop::http();
    let seen = Seen::default();
    let noted = seen.clone();
    let mailer = shop
        .service("mailer")
        .subscribe(
            "shop.orders",
            usual(),
            move |_cx, order: Order, delivery| {
                let noted = noted.clone();
                async move {
                    if delivery.deliveries() < 3 {
                        return Err(Error::unavailable("not yet"));
                    }
                    noted.add(order.number);
                    Ok(())
                }
            },
        )
        .start()
        .await
        .unwrap();
    let till = shop.service("till").start().await.unwrap();
    let orders = till.publisher("shop.orders").await.unwrap();
    let order = Order { number: 1 };
    let receipt = orders.publish(&Context::new(), &order).await.unwrap();
    assert!(matches!(receipt.reach, Reach::Delivered { pending: 1, .. }));
    till.stop().await.unwrap();
    assert_eq!(seen.numbers(), [1]);
    // The publisher that is left does nothing more.
    let err = orders.publish(&Context::new(), &order).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::FailedPrecondition, "{err}");
    // What nobody can be given is told, and the stop has its end all the same.
    let till = shop
        .service("till")
        .stop_timeout(Duration::from_millis(300));
    let till = till.start().await.unwrap();
    let never = shop
        .service("never")
        .subscribe(
            "shop.never",
            usual().with_max_deliveries(100),
            |_cx, _: Order, _| async { Err(Error::unavailable("never")) },
        )
        .start()
        .await
        .unwrap();
    let orders = till.publisher("shop.never").await.unwrap();
    orders.publish(&Context::new(), &order).await.unwrap();
    let err = till.stop().await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::DeadlineExceeded, "{err}");
    mailer.stop().await.unwrap();
    never.stop().await.unwrap();
}

/// Notes what passes, and refuses a number once.
#[derive(Clone, Debug, Default)]
struct Guard {
    passed: Arc<Mutex<Vec<String>>>,
    refused: Arc<AtomicBool>,
}

#[async_trait]
impl Middleware for Guard {
    async fn call(&self, cx: &Context, request: Request, next: Next<'_>) -> Result<Response> {
        let tenant = request.metadata.get("x-tenant").unwrap_or("nobody");
        let service = request.service.as_deref().unwrap_or("?");
        let text = format!(
            "{service} {} {} {tenant}",
            request.path, request.content_type
        );
        self.passed.lock().unwrap().push(text);
        if !self.refused.swap(true, Ordering::SeqCst) {
            return Err(Error::unavailable("not yet"));
        }
        next.run(cx, request).await
    }
}

#[tokio::test]
async fn middleware_sees_a_message_as_a_call() {
    for shop in [Shop::memory(), Shop::http()] {
        let guard = Guard::default();
        let seen = Seen::default();
        let noted = seen.clone();
        let running = shop
            .service("mailer")
            .middleware(guard.clone())
            .subscribe("shop.orders", usual(), move |cx, order: Order, delivery| {
                noted.add(order.number);
                async move {
                    // What the middleware refused was delivered once already.
                    assert_eq!(delivery.deliveries(), 2);
                    assert_eq!(cx.metadata().get("x-tenant"), Some("acme"));
                    Ok(())
                }
            })
            .start()
            .await
            .unwrap();
        let till = shop.service("till");
        let orders = till.publisher::<Order>("shop.orders").await.unwrap();
        let message = orders.message(&Order { number: 7 }).unwrap();
        let message = message.with_metadata("x-tenant", "acme").unwrap();
        let cx = Context::new();
        orders.send(&cx, message, Default::default()).await.unwrap();
        until("it is handled", || seen.has(7)).await;
        let expected = "mailer /mailer/shop.orders application/json acme";
        assert_eq!(*guard.passed.lock().unwrap(), [expected, expected]);
        running.stop().await.unwrap();
    }
}

#[tokio::test]
async fn payloads_are_read_by_their_content_type() {
    let shop = Shop::memory();
    let (texts, all) = tokio::sync::mpsc::unbounded_channel();
    let mut all = all;
    let running = shop
        .service("mailer")
        .subscribe_as(
            "pings",
            usual(),
            shape!(Ping),
            move |_cx, ping: Ping, delivery: Delivery| {
                let content_type = delivery.message().content_type.to_string();
                let _ = texts.send((ping.text, content_type));
                async { Ok(()) }
            },
        )
        .start()
        .await
        .unwrap();
    let till = shop.service("till");
    let cx = Context::new();
    let proto = till.publisher_as("pings", shape!(Ping)).await.unwrap();
    proto.publish(&cx, &ping("proto", 1)).await.unwrap();
    let json = till.publisher::<Ping>("pings").await.unwrap();
    json.publish(&cx, &ping("json", 1)).await.unwrap();
    let mut both = [all.recv().await.unwrap(), all.recv().await.unwrap()];
    both.sort();
    let pair = |text: &str, content_type: &str| (text.to_owned(), content_type.to_owned());
    assert_eq!(
        both,
        [
            pair("json", "application/json"),
            pair("proto", "application/protobuf")
        ]
    );
    // The registry is told of the topic, and of what is in it, as go-micro tells.
    let found = shop.fleet.registry.get("mailer").await.unwrap();
    let endpoint = &found[0].endpoints[0];
    assert_eq!(
        (&*endpoint.name, &*endpoint.request.kind),
        ("pings", "Ping")
    );
    assert_eq!(endpoint.metadata["topic"], "pings");
    assert_eq!(endpoint.metadata["subscriber"], "true");
    running.stop().await.unwrap();
}

#[tokio::test]
async fn what_the_publisher_s_context_has_travels_and_chains_are_known() {
    for shop in [Shop::memory(), Shop::http()] {
        let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let chain = shop.service("chain");
        let second = chain.publisher::<Order>("second").await.unwrap();
        let running = chain
            .subscribe("first", usual(), move |cx, order: Order, _| {
                let second = second.clone();
                async move {
                    assert!(cx.remaining().is_none(), "an event outlives its cause");
                    let cx = cx.with_metadata("x-step", "2")?;
                    second.publish(&cx, &order).await.map(drop)
                }
            })
            .subscribe("second", usual(), move |cx, _: Order, delivery| {
                let step = cx.metadata().get("x-step").map(str::to_owned);
                let tenant = cx.metadata().contains("x-tenant");
                let _ = told.send((cx.trace(), step, tenant, delivery.message().hops));
                async { Ok(()) }
            })
            .start()
            .await
            .unwrap();
        let till = shop.service("till");
        let first = till.publisher::<Order>("first").await.unwrap();
        let trace: micro::broker::TraceContext =
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
                .parse()
                .unwrap();
        let cx = Context::new()
            .with_trace(trace)
            .with_timeout(Duration::from_secs(5))
            .with_metadata("x-tenant", "acme")
            .unwrap();
        first.publish(&cx, &Order { number: 1 }).await.unwrap();
        let (traced, step, tenant, hops) = heard.recv().await.unwrap();
        assert_eq!(traced.map(|trace| trace.trace_id), Some(trace.trace_id));
        assert_eq!((step.as_deref(), hops), (Some("2"), 1));
        assert!(!tenant, "what came in does not go on by itself");
        running.stop().await.unwrap();
    }
}

#[tokio::test]
async fn namespaces_are_apart() {
    // One broker in memory, and one registry for HTTP: only the namespace tells them apart.
    let drivers = micro::drivers();
    for url in ["memory", "http"] {
        let fleet = Fleet::new();
        let service = |name: &str, namespace: &str| {
            fleet
                .service(name)
                .drivers(drivers.clone())
                .broker_url(url)
                .namespace(namespace)
        };
        let mut nodes = Vec::new();
        for namespace in ["", "red", "blue"] {
            let seen = Seen::default();
            let noted = seen.clone();
            let running = service("mailer", namespace)
                .subscribe("shop.orders", usual(), move |_cx, order: Order, _| {
                    noted.add(order.number);
                    async { Ok(()) }
                })
                .start()
                .await
                .unwrap();
            nodes.push((running, seen));
        }
        for (number, namespace) in (0..).zip(["", "red", "blue"]) {
            let till = service("till", namespace);
            let orders = till.publisher("shop.orders").await.unwrap();
            let order = Order { number };
            orders.publish(&Context::new(), &order).await.unwrap();
        }
        for (number, (running, seen)) in (0..).zip(nodes) {
            until("its own arrives", || seen.has(number)).await;
            running.stop().await.unwrap();
            assert_eq!(seen.numbers(), [number], "{url}");
        }
    }
}

#[tokio::test]
async fn bad_urls_topics_and_groups_end_the_start() {
    let service = |url: &str| {
        Service::new("mailer")
            .settings(
                Settings::from_pairs([("MICRO_BROKER", url), ("MICRO_REGISTRY", "memory")])
                    .unwrap(),
            )
            .subscribe("shop.orders", usual(), |_cx, _: Order, _| async { Ok(()) })
    };
    for (url, part) in [
        ("nowhere://127.0.0.1", "no backend for 'nowhere'"),
        ("localhost:8080", "without a scheme"),
        ("http:?typo=1", "no such option"),
        ("http://127.0.0.1/path", "address and options"),
        ("memory:other", "neither host nor path"),
    ] {
        let err = service(url).start().await.unwrap_err();
        assert!(err.to_string().contains(part), "{url}: {err}");
        assert!(err.to_string().contains("broker"), "{url}: {err}");
    }
    let shop = Shop::memory();
    let grouped = usual()
        .with_group(Group::new("g").unwrap())
        .with_broadcast(true);
    for (name, topic, opts, part) in [
        ("mailer", "", usual(), "a topic has"),
        ("mailer", "shop.*", usual(), "a topic has"),
        ("mailer", "shop/orders", usual(), "a topic has"),
        ("mailer", "shop\0orders", usual(), "a topic has"),
        ("mailer", "bestellungen.für", usual(), "a topic has"),
        (
            "a-name-of-a-service-that-is-longer-than-a-group",
            "t",
            usual(),
            "with_group",
        ),
        ("mailer", "t", usual().with_concurrency(0), "1 to 4096"),
        ("mailer", "t", grouped, "leave one of them out"),
    ] {
        let err = shop
            .service(name)
            .subscribe(topic, opts, |_cx, _: Order, _| async { Ok(()) })
            .start()
            .await
            .unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{err}");
        assert!(err.to_string().contains(part), "{topic:?}: {err}");
        // Nothing is left of the start.
        assert!(shop.fleet.registry.get(name).await.is_err());
    }
    let service = shop.service("till");
    let err = service.publisher::<Order>("shop.*").await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{err}");
}

#[tokio::test]
async fn a_subscription_that_fails_ends_the_start_and_says_which() {
    let closed = MemoryBroker::new();
    closed.close(Duration::ZERO).await.unwrap();
    let fleet = Fleet::new();
    let err = fleet
        .service("mailer")
        .with_broker(Arc::new(closed))
        .subscribe("shop.orders", usual(), |_cx, _: Order, _| async { Ok(()) })
        .start()
        .await
        .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::FailedPrecondition);
    let text = err.to_string();
    assert!(
        text.contains("shop.orders") && text.contains("memory") && text.contains("MICRO_BROKER"),
        "{text}"
    );
    assert!(fleet.registry.get("mailer").await.is_err());
}

#[tokio::test]
async fn s68_a_poison_message_is_a_dead_letter_and_holds_up_no_other() {
    for shop in [Shop::memory(), Shop::http()] {
        let seen = Seen::default();
        let noted = seen.clone();
        let opts = usual().with_max_deliveries(3);
        let mailer = shop
            .service("mailer")
            .subscribe("shop.orders", opts, move |_cx, order: Order, _| {
                noted.add(order.number);
                async move {
                    match order.number {
                        0 => panic!("this one always"),
                        1 => Err(Error::invalid_argument("no such customer").reject()),
                        _ => Ok(()),
                    }
                }
            })
            .start()
            .await
            .unwrap();
        let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let undertaker = shop
            .service("undertaker")
            .subscribe(
                "shop.orders.mailer.dead",
                usual(),
                move |_cx, order: Order, delivery| {
                    let dead = delivery.message().dead_letter.clone().expect("it is dead");
                    let _ = told.send((order.number, dead.deliveries, dead.reason));
                    async { Ok(()) }
                },
            )
            .start()
            .await
            .unwrap();
        shop.publish(0..10).await;
        // What is no order is dead at once, too: a handler of orders never sees it.
        let till = shop.service("till");
        let strings = till.publisher::<String>("shop.orders").await.unwrap();
        let text = "no order".to_owned();
        strings.publish(&Context::new(), &text).await.unwrap();
        let (all, dead) = (
            (2..10).collect::<Vec<_>>(),
            [heard.recv().await, heard.recv().await],
        );
        until("the others are handled", || {
            all.iter().all(|number| seen.has(*number))
        })
        .await;
        let mut dead = dead.map(Option::unwrap);
        dead.sort();
        assert_eq!(
            dead.map(|(number, deliveries, _)| (number, deliveries)),
            [(0, 3), (1, 1)]
        );
        assert_eq!(seen.0.lock().unwrap()[&0], 3);
        mailer.stop().await.unwrap();
        undertaker.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_slow_service_holds_up_no_other_and_gets_its_message_again() {
    for shop in [Shop::memory(), Shop::http()] {
        let tries = Arc::<AtomicUsize>::default();
        let tried = Arc::clone(&tries);
        let done = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&done);
        let opts = usual().with_ack_deadline(Duration::from_millis(100));
        let slow = shop
            .service("slow")
            .subscribe("shop.orders", opts, move |_cx, _: Order, _| {
                let first = tried.fetch_add(1, Ordering::SeqCst) == 0;
                let counted = Arc::clone(&counted);
                async move {
                    if first {
                        std::future::pending::<()>().await;
                    }
                    counted.fetch_add(1, Ordering::SeqCst);
                    Ok(())
                }
            })
            .start()
            .await
            .unwrap();
        let (quick, seen) = shop.node("quick", usual()).await;
        shop.publish(0..1).await;
        until("the quick one has it", || seen.count() == 1).await;
        until("the slow one has it again", || {
            done.load(Ordering::SeqCst) == 1
        })
        .await;
        assert_eq!(tries.load(Ordering::SeqCst), 2);
        assert_eq!(seen.count(), 1);
        slow.stop().await.unwrap();
        quick.stop().await.unwrap();
    }
}

#[tokio::test]
async fn clients_publish_without_a_server_and_a_service_subscribes_while_it_runs() {
    let shop = Shop::http();
    let running = shop.service("mailer").start().await.unwrap();
    let seen = Seen::default();
    let noted = seen.clone();
    running
        .subscribe("shop.orders", usual(), move |_cx, order: Order, _| {
            noted.add(order.number);
            async { Ok(()) }
        })
        .await
        .unwrap();
    // Also then it is the service's own port.
    let found = shop.fleet.registry.get("micro.http.broker").await.unwrap();
    assert_eq!(found[0].nodes[0].address, running.address());
    let raw = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&raw);
    let everything = handler(move |_cx, _delivery| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Ok(()) }
    });
    let everywhere = usual().with_broadcast(true);
    running
        .subscribe_raw("shop.orders", everywhere, everything)
        .await
        .unwrap();
    let client = Client::builder()
        .settings(Settings::new())
        .with_registry(Arc::clone(&shop.fleet.registry))
        .build()
        .await
        .unwrap();
    let orders = client.publisher("shop.orders").await.unwrap();
    let order = Order { number: 5 };
    let receipt = orders.publish(&Context::new(), &order).await.unwrap();
    assert!(matches!(
        receipt.reach,
        Reach::Delivered {
            acknowledged: 2,
            ..
        }
    ));
    assert!(seen.has(5) && raw.load(Ordering::SeqCst) == 1);
    let bare = micro_client::Client::from(client);
    let err = Client::from(bare)
        .publisher::<Order>("shop.orders")
        .await
        .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::FailedPrecondition, "{err}");
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_broker_with_an_address_of_its_own_keeps_it() {
    let shop = Shop::http();
    let running = shop
        .service("mailer")
        .broker_url("http://127.0.0.1:0")
        .subscribe("shop.orders", usual(), |_cx, _: Order, _| async { Ok(()) })
        .start()
        .await
        .unwrap();
    let found = shop.fleet.registry.get("micro.http.broker").await.unwrap();
    assert_ne!(found[0].nodes[0].address, running.address());
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_transport_that_is_not_http_leaves_the_broker_a_port_of_its_own() {
    let mut shop = Shop::http();
    shop.fleet.transport = "memory";
    let drivers = micro::drivers();
    let seen = Seen::default();
    let noted = seen.clone();
    let running = shop
        .service("mailer")
        .drivers(drivers)
        .subscribe("shop.orders", usual(), move |_cx, order: Order, _| {
            noted.add(order.number);
            async { Ok(()) }
        })
        .start()
        .await
        .unwrap();
    shop.publish(0..1).await;
    assert!(seen.has(0));
    running.stop().await.unwrap();
}

/// A broker whose subscriptions come to an end.
#[derive(Debug)]
struct Ending(MemoryBroker);

#[async_trait]
impl Broker for Ending {
    fn backend(&self) -> &'static str {
        "ending"
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    async fn publish(
        &self,
        cx: &Context,
        message: Message,
        opts: PublishOptions,
    ) -> Result<Receipt> {
        self.0.publish(cx, message, opts).await
    }

    async fn subscribe(
        &self,
        topic: &Topic,
        opts: SubscribeOptions,
        _handler: Arc<dyn Handler>,
    ) -> Result<Subscription> {
        Ok(Subscription::new(
            topic.clone(),
            opts.group,
            Self(self.0.clone()),
        ))
    }

    async fn remove_group(
        &self,
        topic: &Topic,
        group: &Group,
        opts: RemoveOptions,
    ) -> Result<bool> {
        self.0.remove_group(topic, group, opts).await
    }

    async fn close(&self, grace: Duration) -> Result<()> {
        self.0.close(grace).await
    }
}

#[async_trait]
impl SubscriptionControl for Ending {
    async fn stop(&self, _grace: Duration) -> Result<Stopped> {
        Ok(Stopped::default())
    }

    async fn ended(&self) -> Error {
        Error::permission_denied("no longer yours")
    }
}

#[tokio::test]
async fn a_service_that_has_become_deaf_ends() {
    let fleet = Fleet::new();
    let err = fleet
        .service("mailer")
        .settings(Settings::from_pairs([("MICRO_LOG", "off")]).unwrap())
        .with_broker(Arc::new(Ending(MemoryBroker::new())))
        .subscribe("shop.orders", usual(), |_cx, _: Order, _| async { Ok(()) })
        .run()
        .await
        .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::PermissionDenied);
    assert!(err.to_string().contains("shop.orders"), "{err}");
    assert!(fleet.registry.get("mailer").await.is_err());
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn an_identity_is_also_that_of_messages() {
    let authority = micro_tls::dev::Authority::new("ours").unwrap();
    let ours = authority.issue(&["127.0.0.1"]).unwrap();
    let ours = ours.with_require_client(true);
    let shop = Shop::http();
    let seen = Seen::default();
    let noted = seen.clone();
    let running = shop
        .service("mailer")
        .identity(ours.clone())
        .address("127.0.0.1:0")
        .subscribe("shop.orders", usual(), move |_cx, order: Order, _| {
            noted.add(order.number);
            async { Ok(()) }
        })
        .start()
        .await
        .unwrap();
    let found = shop.fleet.registry.get("micro.http.broker").await.unwrap();
    let node = &found[0].nodes[0];
    assert_eq!(node.address, running.address());
    assert_eq!(node.metadata["secure"], "true");
    let publish = async |service: Service, number| {
        let orders = service.publisher("shop.orders").await.unwrap();
        let order = Order { number };
        orders.publish(&Context::new(), &order).await.unwrap().reach
    };
    let friend = shop.service("till").identity(ours);
    let reach = publish(friend, 1).await;
    assert!(matches!(
        reach,
        Reach::Delivered {
            acknowledged: 1,
            ..
        }
    ));
    // Who speaks in the clear reaches nobody, and is told so.
    let reach = publish(shop.service("stranger"), 2).await;
    assert!(matches!(
        reach,
        Reach::Delivered {
            acknowledged: 0,
            pending: 0,
            ..
        }
    ));
    assert_eq!(seen.numbers(), [1]);
    running.stop().await.unwrap();
}
