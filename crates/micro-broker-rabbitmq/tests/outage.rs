//! Bad days: a RabbitMQ that is killed, cut off, silent, full, or used by others.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{PATIENCE, Proxy, Rabbit, namespace, open, server, with_option};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use micro_broker_core::{
    Backoff, Broker, Context, Delivery, Error, ErrorKind, Group, Handler, Message, Receipt,
    RemoveOptions, Result, SubscribeOptions, Subscription, Topic, handler,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

const RABBITMQ: (&str, &str) = ("MICRO_TEST_RABBITMQ_URL", "rabbitmq");

fn topic() -> Topic {
    Topic::new("orders").unwrap()
}

fn member(group: &str) -> SubscribeOptions {
    SubscribeOptions::default().with_group(Group::new(group).unwrap())
}

async fn say(broker: &dyn Broker, text: &str) -> Result<Receipt> {
    let message = Message::new(topic(), text.to_owned());
    let cx = Context::new();
    let said = broker.publish(&cx, message, Default::default());
    timeout(PATIENCE, said).await.expect("it has its end")
}

fn text(delivery: &Delivery) -> String {
    String::from_utf8_lossy(&delivery.message().body).into_owned()
}

/// A handler that tells of everything.
fn telling() -> (Arc<dyn Handler>, mpsc::UnboundedReceiver<Delivery>) {
    let (tell, told) = mpsc::unbounded_channel();
    let handle = handler(move |_, delivery| {
        let _ = tell.send(delivery);
        std::future::ready(Ok(()))
    });
    (handle, told)
}

async fn subscribe(
    broker: &dyn Broker,
    opts: SubscribeOptions,
) -> (Subscription, mpsc::UnboundedReceiver<Delivery>) {
    let (handle, told) = telling();
    let subscription = broker.subscribe(&topic(), opts, handle).await.unwrap();
    (subscription, told)
}

async fn next(told: &mut mpsc::UnboundedReceiver<Delivery>) -> Delivery {
    let delivery = timeout(PATIENCE, told.recv()).await;
    delivery.expect("something arrives").unwrap()
}

async fn silent(told: &mut mpsc::UnboundedReceiver<Delivery>) {
    let delivery = timeout(Duration::from_millis(300), told.recv()).await;
    assert!(delivery.is_err(), "{delivery:?}");
}

async fn eventually(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !so().await {
        assert!(Instant::now() < until, "{what}: not within {PATIENCE:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// RabbitMQ as a stranger sees it.
async fn stranger(url: &str) -> Connection {
    let url = url.replace("rabbitmq://", "amqp://guest:guest@");
    Connection::connect(&url, ConnectionProperties::default())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_a_rabbitmq_that_is_killed() {
    let Some(mut rabbit) = Rabbit::start("rabbitmq killed under load") else {
        return;
    };
    let broker = open(&with_option(&rabbit.url(), "timeout=60s"), "").await;
    let seen = Arc::new(Mutex::new(BTreeMap::<usize, usize>::new()));
    let ledger = Arc::clone(&seen);
    let handle = handler(move |_, delivery| {
        let number = text(&delivery).parse().unwrap();
        *ledger.lock().unwrap().entry(number).or_default() += 1;
        std::future::ready(Ok(()))
    });
    let mut members = Vec::new();
    for _ in 0..2 {
        let handle = Arc::clone(&handle);
        let opts = member("g").with_concurrency(4);
        members.push(broker.subscribe(&topic(), opts, handle).await.unwrap());
    }
    let over = Arc::new(AtomicBool::new(false));
    let count = Arc::new(AtomicUsize::new(0));
    let publishers: Vec<_> = (0..4)
        .map(|_| {
            let (broker, over) = (Arc::clone(&broker), Arc::clone(&over));
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let (mut acknowledged, mut unknown) = (BTreeSet::new(), BTreeSet::new());
                while !over.load(Ordering::SeqCst) {
                    let number = count.fetch_add(1, Ordering::SeqCst);
                    let message = Message::new(topic(), number.to_string());
                    let cx = Context::new();
                    match broker.publish(&cx, message, Default::default()).await {
                        Ok(_) => drop(acknowledged.insert(number)),
                        Err(err) if err.kind() == ErrorKind::OutcomeUnknown => {
                            unknown.insert(number);
                        }
                        Err(err) => assert_eq!(err.kind(), ErrorKind::Unavailable, "{err:?}"),
                    }
                }
                (acknowledged, unknown)
            })
        })
        .collect();
    for round in 0..3 {
        sleep(Duration::from_secs(1)).await;
        match round {
            0 => rabbit.stop(),
            _ => rabbit.kill(),
        }
        sleep(Duration::from_millis(200)).await;
        rabbit.run();
        // Until somebody has published again.
        let before = seen.lock().unwrap().len();
        let began = Instant::now();
        while seen.lock().unwrap().len() <= before + 10 {
            assert!(began.elapsed() < PATIENCE * 2, "it does not come back");
            sleep(Duration::from_millis(20)).await;
        }
    }
    over.store(true, Ordering::SeqCst);
    let (mut acknowledged, mut unknown) = (BTreeSet::new(), BTreeSet::new());
    for publisher in publishers {
        let (ours, perhaps) = timeout(PATIENCE * 2, publisher).await.unwrap().unwrap();
        acknowledged.extend(ours);
        unknown.extend(perhaps);
    }
    let arrived = || {
        seen.lock()
            .unwrap()
            .keys()
            .copied()
            .collect::<BTreeSet<_>>()
    };
    eventually("all of it", async || acknowledged.is_subset(&arrived())).await;
    let twice: usize = seen.lock().unwrap().values().map(|times| times - 1).sum();
    let phantoms = arrived()
        .difference(&acknowledged)
        .filter(|number| !unknown.contains(number))
        .count();
    common::figure(&format!(
        "1 restart and 2 kills: {} acknowledged, {} unknown, {twice} duplicates",
        acknowledged.len(),
        unknown.len()
    ));
    assert_eq!(phantoms, 0);
    assert!(acknowledged.len() > 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribers_come_back_and_one_without_a_group_misses_nothing() {
    let Some(url) = server("rabbitmq behind a cut", RABBITMQ.0, RABBITMQ.1) else {
        return;
    };
    let (namespace, mut proxy) = (namespace(), Proxy::start(&url).await);
    let direct = open(&url, &namespace).await;
    let broker = open(&proxy.url(), &namespace).await;
    let (_grouped, mut grouped) = subscribe(&*broker, member("g")).await;
    let (_alone, mut alone) = subscribe(&*broker, SubscribeOptions::default()).await;
    for round in 0..3 {
        proxy.cut();
        let said = round.to_string();
        say(&*direct, &said).await.unwrap();
        sleep(Duration::from_millis(100)).await;
        proxy.open().await;
        // Some of what is said below may arrive twice.
        while text(&next(&mut grouped).await) != said {}
        while text(&next(&mut alone).await) != said {}
        // Its own publisher is back, too.
        let again = format!("{round} again");
        eventually("it publishes", async || say(&*broker, &again).await.is_ok()).await;
        while text(&next(&mut grouped).await) != again {}
        while text(&next(&mut alone).await) != again {}
    }
    let group = Group::new("g").unwrap();
    direct
        .remove_group(&topic(), &group, RemoveOptions::default())
        .await
        .unwrap();
}

/// An acknowledgement of a delivery that is over settles nothing.
#[tokio::test(flavor = "multi_thread")]
async fn s69_a_late_acknowledgement_settles_no_other_delivery() {
    let Some(url) = server("rabbitmq and a late ack", RABBITMQ.0, RABBITMQ.1) else {
        return;
    };
    let (namespace, mut proxy) = (namespace(), Proxy::start(&url).await);
    let direct = open(&url, &namespace).await;
    let broker = open(&proxy.url(), &namespace).await;
    let (tell, mut told) = mpsc::unbounded_channel();
    let release = Arc::new(tokio::sync::Notify::new());
    let released = Arc::clone(&release);
    let handle = handler(move |_, delivery: Delivery| {
        let released = Arc::clone(&released);
        let _ = tell.send(text(&delivery));
        async move {
            released.notified().await;
            Ok(())
        }
    });
    let opts = member("g").with_concurrency(1);
    let subscription = broker.subscribe(&topic(), opts, handle).await.unwrap();
    say(&*direct, "one").await.unwrap();
    say(&*direct, "two").await.unwrap();
    assert_eq!(told.recv().await.unwrap(), "one");
    proxy.cut();
    sleep(Duration::from_millis(200)).await;
    proxy.open().await;
    sleep(Duration::from_secs(1)).await;
    // The handler of the first delivery returns only now.
    let mut handled = Vec::new();
    release.notify_one();
    for _ in 0..2 {
        handled.push(timeout(PATIENCE, told.recv()).await.unwrap().unwrap());
        release.notify_one();
    }
    handled.sort();
    assert_eq!(handled, ["one", "two"], "both come again");
    let stopped = subscription.stop(PATIENCE).await.unwrap();
    assert_eq!(stopped.unfinished, 0);
    let (_next, mut left) = subscribe(&*direct, member("g")).await;
    silent(&mut left).await;
    let group = Group::new("g").unwrap();
    direct
        .remove_group(&topic(), &group, RemoveOptions::default())
        .await
        .unwrap();
}

/// How many threads lapin has.
fn threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names
        .filter(|name| name.starts_with("lapin-io-loop"))
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_says_nothing_is_unavailable_and_leaves_no_threads() {
    let mut proxy = Proxy::start("rabbitmq://127.0.0.1:1").await;
    proxy.swallow().await;
    let url = format!("{}?timeout=500ms&connect_timeout=200ms", proxy.url());
    let broker = open(&url, "").await;
    let begin = Instant::now();
    let err = say(&*broker, "x").await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unavailable, "{err:?}");
    let (handle, _told) = telling();
    let subscribed = broker.subscribe(&topic(), member("g"), handle).await;
    assert_eq!(subscribed.unwrap_err().kind(), ErrorKind::Unavailable);
    let group = Group::new("g").unwrap();
    let removed = broker
        .remove_group(&topic(), &group, RemoveOptions::default())
        .await;
    assert_eq!(removed.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(
        begin.elapsed() < Duration::from_secs(4),
        "{:?}",
        begin.elapsed()
    );
    // Attempts do not pile up. (Other tests of this process have threads of their own.)
    let before = threads();
    sleep(Duration::from_secs(3)).await;
    assert!(threads() <= before + 20, "{} after {before}", threads());
    drop(broker);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_s_own_deadline_ends_it() {
    let mut proxy = Proxy::start("rabbitmq://127.0.0.1:1").await;
    proxy.swallow().await;
    let broker = open(&proxy.url(), "").await;
    let begin = Instant::now();
    let cx = Context::new().with_timeout(Duration::from_millis(200));
    let late = broker.publish(&cx, Message::new(topic(), "x"), Default::default());
    assert_eq!(late.await.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    let (cx, canceller) = Context::new().with_cancel();
    let cancelled = broker.publish(&cx, Message::new(topic(), "x"), Default::default());
    let (cancelled, ()) = tokio::join!(cancelled, async {
        sleep(Duration::from_millis(200)).await;
        canceller.cancel();
    });
    assert_eq!(cancelled.unwrap_err().kind(), ErrorKind::Cancelled);
    assert!(
        begin.elapsed() < Duration::from_secs(3),
        "{:?}",
        begin.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_is_told_so_at_once() {
    let Some(url) = server("rabbitmq refuses", RABBITMQ.0, RABBITMQ.1) else {
        return;
    };
    let host = url.split("://").nth(1).unwrap();
    for (url, kind) in [
        (
            format!("rabbitmq://guest:hunter2@{host}"),
            ErrorKind::Unauthenticated,
        ),
        (
            format!("rabbitmq://{host}/nowhere"),
            ErrorKind::PermissionDenied,
        ),
    ] {
        let broker = open(&url, "").await;
        let begin = Instant::now();
        let err = say(&*broker, "x").await.unwrap_err();
        assert_eq!(err.kind(), kind, "{err:?}");
        assert!(!format!("{err:?}").contains("hunter2"), "{err:?}");
        assert!(
            begin.elapsed() < Duration::from_secs(9),
            "{:?}",
            begin.elapsed()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_another_authority_is_not_spoken_to() {
    let Some(url) = server(
        "rabbitmq of a stranger",
        "MICRO_TEST_RABBITMQ_TLS_URL",
        "rabbitmq_tls",
    ) else {
        return;
    };
    // Without `ca` the platform's authorities are asked, and none of them knows it.
    let (host, options) = url.split_once('?').expect("it has options");
    let options: Vec<_> = options
        .split('&')
        .filter(|option| !option.starts_with("ca="))
        .collect();
    let broker = open(&format!("{host}?{}&timeout=2s", options.join("&")), "").await;
    let err = say(&*broker, "x").await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unavailable, "{err:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_group_refuses_and_takes_again() {
    let Some(url) = server("a full group in rabbitmq", RABBITMQ.0, RABBITMQ.1) else {
        return;
    };
    let broker = open(&with_option(&url, "max_length=10"), &namespace()).await;
    let (subscription, _told) = subscribe(&*broker, member("g")).await;
    subscription.stop(PATIENCE).await.unwrap();
    let mut taken = 0;
    let refusal = loop {
        match say(&*broker, &taken.to_string()).await {
            Ok(_) => taken += 1,
            Err(err) => break err,
        }
        assert!(taken < 100, "there is no end");
    };
    // RabbitMQ does not say whether another group has it.
    assert_eq!(refusal.kind(), ErrorKind::OutcomeUnknown, "{refusal:?}");
    assert!(taken >= 10, "{taken}");
    let (_subscription, mut told) = subscribe(&*broker, member("g")).await;
    for _ in 0..taken {
        next(&mut told).await;
    }
    silent(&mut told).await;
    eventually("there is room", async || {
        say(&*broker, "more").await.is_ok()
    })
    .await;
    let group = Group::new("g").unwrap();
    broker
        .remove_group(&topic(), &group, RemoveOptions::default())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s65_what_strangers_send_is_read_as_far_as_it_goes() {
    let Some(url) = server("strangers in rabbitmq", RABBITMQ.0, RABBITMQ.1) else {
        return;
    };
    let namespace = namespace();
    let broker = open(&url, &namespace).await;
    let (_subscription, mut told) = subscribe(&*broker, member("g")).await;
    let dead = Topic::new("orders.g.dead").unwrap();
    let (handle, mut buried) = telling();
    let opts = SubscribeOptions::default();
    let _undertaker = broker.subscribe(&dead, opts, handle).await.unwrap();
    let channel = stranger(&url).await.create_channel().await.unwrap();
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .unwrap();
    let publish = async |properties: BasicProperties, body: &[u8]| {
        let exchange = format!("micro:{namespace}");
        let opts = BasicPublishOptions::default();
        let sent = channel.basic_publish(exchange.into(), "orders".into(), opts, body, properties);
        assert!(sent.await.unwrap().await.unwrap().is_ack());
    };
    publish(BasicProperties::default(), b"bare").await;
    let delivery = next(&mut told).await;
    assert_eq!(
        (text(&delivery), delivery.deliveries()),
        ("bare".to_owned(), 1)
    );
    assert!(!delivery.id().is_empty());
    let mut table = FieldTable::default();
    table.insert("micro-hops".into(), AMQPValue::LongString("300".into()));
    for bad in [
        BasicProperties::default().with_message_id("a b".into()),
        BasicProperties::default().with_content_type("a\nb".into()),
        BasicProperties::default().with_headers(table),
    ] {
        publish(bad, b"bad").await;
        let delivery = next(&mut buried).await;
        let why = delivery.message().dead_letter.clone().expect("it says why");
        assert!(why.reason.starts_with("INVALID_ARGUMENT"), "{why:?}");
        assert_eq!(text(&delivery), "bad");
    }
    silent(&mut told).await;
    let group = Group::new("g").unwrap();
    broker
        .remove_group(&topic(), &group, RemoveOptions::default())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_a_removed_group_are_told() {
    let Some(url) = server("a removed group in rabbitmq", RABBITMQ.0, RABBITMQ.1) else {
        return;
    };
    let namespace = namespace();
    let (broker, other) = (open(&url, &namespace).await, open(&url, &namespace).await);
    let (subscription, mut told) = subscribe(&*broker, member("g")).await;
    let group = Group::new("g").unwrap();
    let removed = other
        .remove_group(&topic(), &group, RemoveOptions::default())
        .await;
    assert!(removed.unwrap());
    let why = timeout(PATIENCE, subscription.ended()).await.unwrap();
    assert_eq!(why.kind(), ErrorKind::FailedPrecondition, "{why:?}");
    say(&*broker, "x").await.unwrap();
    let delivery = timeout(Duration::from_millis(300), told.recv()).await;
    assert!(!matches!(delivery, Ok(Some(_))), "{delivery:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_somebody_else_made_is_used_as_it_is() {
    let Some(url) = server("a foreign queue in rabbitmq", RABBITMQ.0, RABBITMQ.1) else {
        return;
    };
    let namespace = namespace();
    let channel = stranger(&url).await.create_channel().await.unwrap();
    let name = format!("micro:{namespace}/orders/g");
    let opts = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let declared = channel.queue_declare(name.into(), opts, FieldTable::default());
    declared.await.unwrap();
    let broker = open(&url, &namespace).await;
    let (_subscription, mut told) = subscribe(&*broker, member("g")).await;
    say(&*broker, "x").await.unwrap();
    assert_eq!(text(&next(&mut told).await), "x");
    let group = Group::new("g").unwrap();
    broker
        .remove_group(&topic(), &group, RemoveOptions::default())
        .await
        .unwrap();
}

/// Whatever pause it waits for: who takes over should not have to wait for a member that is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_stops_hands_on_what_it_failed_and_how_often() {
    let Some(url) = server("handing on in rabbitmq", RABBITMQ.0, RABBITMQ.1) else {
        return;
    };
    let broker = open(&url, &namespace()).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let called = Arc::clone(&calls);
    let failing = handler(move |_, _| {
        called.fetch_add(1, Ordering::SeqCst);
        std::future::ready(Err(Error::internal("no")))
    });
    let hour = Duration::from_secs(3600);
    let opts = member("g").with_backoff(Backoff::new(hour, hour));
    let first = broker.subscribe(&topic(), opts, failing).await.unwrap();
    say(&*broker, "x").await.unwrap();
    eventually("it fails", async || calls.load(Ordering::SeqCst) == 1).await;
    first.stop(Duration::from_secs(5)).await.unwrap();
    let (_second, mut told) = subscribe(&*broker, member("g")).await;
    let delivery = next(&mut told).await;
    assert_eq!(
        (text(&delivery), delivery.deliveries()),
        ("x".to_owned(), 2)
    );
    silent(&mut told).await;
    let group = Group::new("g").unwrap();
    broker
        .remove_group(&topic(), &group, RemoveOptions::default())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_subscriber_has_few_messages_at_hand() {
    let Some(url) = server("a slow subscriber of rabbitmq", RABBITMQ.0, RABBITMQ.1) else {
        return;
    };
    let namespace = namespace();
    let broker = open(&url, &namespace).await;
    let stuck = handler(|_, _| std::future::pending());
    let opts = member("g").with_concurrency(1);
    let _subscription = broker.subscribe(&topic(), opts, stuck).await.unwrap();
    for i in 0..200 {
        say(&*broker, &i.to_string()).await.unwrap();
    }
    let channel = stranger(&url).await.create_channel().await.unwrap();
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let name = format!("micro:{namespace}/orders/g");
    let waiting = async || {
        let queue = channel.queue_declare(name.as_str().into(), passive, FieldTable::default());
        queue.await.unwrap().message_count()
    };
    eventually("the rest waits in RabbitMQ", async || {
        waiting().await == 200 - 65
    })
    .await;
    let group = Group::new("g").unwrap();
    broker
        .remove_group(&topic(), &group, RemoveOptions::default())
        .await
        .unwrap();
}
