//! Servers that are killed, and members that die.

#[path = "../../micro-nats/tests/common/mod.rs"]
mod common;
mod support;

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use common::{PATIENCE, Server, figure};
use micro_broker_core::{
    Broker as _, Durability, Error, ErrorKind, Message, Reach, RemoveOptions, Start, handler,
};
use micro_core::{Random as _, SeededRandom, SystemRandom};
use support::{Inbox, admin, member, open, publish, quick, topic, try_publish};
use tokio::time::{Instant, sleep, timeout};

const KILLS: usize = 6;

/// The server of the cases, with JetStream and what the test says.
fn start(test: &str) -> Option<Server> {
    Server::start(test, &["-js"])
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Publishers and members go on while the server is killed again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f18_what_was_acknowledged_survives_kills_of_the_server() {
    let Some(mut server) = start("kills of the server") else {
        return;
    };
    let seed = SystemRandom.next_u64();
    let random = SeededRandom::new(seed);
    let handled = Arc::new(Mutex::new(BTreeMap::<String, u32>::new()));
    let mut members = Vec::new();
    for _ in 0..2 {
        let broker = open(&server, "");
        let noted = Arc::clone(&handled);
        let handle = handler(move |_, delivery| {
            let body = String::from_utf8_lossy(&delivery.message().body).into_owned();
            *lock(&noted).entry(body).or_default() += 1;
            std::future::ready(Ok(()))
        });
        let opts = member("g").with_max_deliveries(1000);
        let subscription = broker
            .subscribe(&topic("orders"), opts, handle)
            .await
            .unwrap();
        members.push((broker, subscription));
    }
    let over = Arc::new(AtomicBool::new(false));
    let (told, unknown) = (
        Arc::new(Mutex::new(Vec::new())),
        Arc::new(AtomicUsize::new(0)),
    );
    let mut publishers = Vec::new();
    for publisher in 0..4 {
        let broker = open(&server, "timeout=2s");
        let (over, told, unknown) = (Arc::clone(&over), Arc::clone(&told), Arc::clone(&unknown));
        publishers.push(tokio::spawn(async move {
            for number in 0.. {
                if over.load(Ordering::SeqCst) {
                    return number;
                }
                let body = format!("{publisher}-{number}");
                match try_publish(&broker, Message::new(topic("orders"), body.clone())).await {
                    Ok(_) => lock(&told).push(body),
                    Err(err) => {
                        assert!(
                            err.is_retryable() || err.kind() == ErrorKind::OutcomeUnknown,
                            "{err:?}"
                        );
                        unknown.fetch_add(1, Ordering::SeqCst);
                    }
                }
            }
            unreachable!()
        }));
    }
    for _ in 0..KILLS {
        sleep(Duration::from_millis(150 + random.next_u64() % 250)).await;
        server.kill();
        sleep(Duration::from_millis(random.next_u64() % 100)).await;
        server.restart();
        // Until they are back.
        let before = lock(&told).len();
        let back = async {
            while lock(&told).len() < before + 20 {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, back).await.expect("publishers come back");
    }
    over.store(true, Ordering::SeqCst);
    let mut most = Vec::new();
    for publisher in publishers {
        most.push(publisher.await.unwrap());
    }
    let told = std::mem::take(&mut *lock(&told));
    let missing = || {
        let handled = lock(&handled);
        told.iter()
            .filter(|body| !handled.contains_key(*body))
            .count()
    };
    let begin = Instant::now();
    while missing() > 0 {
        // What a member had when the server was killed comes again after the lease.
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "seed {seed}: {} of {} are lost",
            missing(),
            told.len()
        );
        sleep(Duration::from_millis(50)).await;
    }
    let handled = lock(&handled);
    for body in handled.keys() {
        let (publisher, number) = body.split_once('-').unwrap();
        let (publisher, number): (usize, usize) =
            (publisher.parse().unwrap(), number.parse().unwrap());
        assert!(number < most[publisher], "{body} was never published");
    }
    let twice: u32 = handled.values().map(|count| count - 1).sum();
    figure(&format!(
        "broker.nats_kills kills={KILLS} acked={} unknown={} handled={} lost=0 twice={twice} seed={seed}",
        told.len(),
        unknown.load(Ordering::SeqCst),
        handled.len()
    ));
}

/// A call that the server's death surprises is answered when it is back, and is stored once.
#[tokio::test]
async fn f19_a_publication_outlives_the_connection() {
    let Some(mut server) = start("a lost connection") else {
        return;
    };
    let broker = open(&server, "timeout=20s");
    publish(&broker, Message::new(topic("orders"), "0")).await;
    for round in 1..=5 {
        let publishing = tokio::spawn({
            let broker = broker.clone();
            async move {
                for i in 0..20 {
                    let message = Message::new(topic("orders"), format!("{round}-{i}"));
                    try_publish(&broker, message).await.unwrap();
                }
            }
        });
        sleep(Duration::from_millis(3)).await;
        server.kill();
        server.restart();
        publishing.await.unwrap();
    }
    let mut inbox = Inbox::at(&broker, "orders", quick().with_start(Start::Oldest)).await;
    let mut bodies = Vec::new();
    for _ in 0..101 {
        bodies.push(inbox.next().await.message().body.clone());
    }
    inbox.silent().await;
    bodies.sort();
    bodies.dedup();
    assert_eq!(bodies.len(), 101);
}

#[tokio::test]
async fn f4_what_a_dead_member_had_comes_again_within_its_lease() {
    let Some(server) = start("a dead member") else {
        return;
    };
    let broker = open(&server, "");
    let begun = Arc::new(AtomicUsize::new(0));
    let opts = || member("g").with_ack_deadline(Duration::from_secs(2));
    let dying = std::thread::spawn({
        let begun = Arc::clone(&begun);
        let url = server.url();
        move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let subscription = runtime.block_on(async {
                let broker = support::open_url(&url, "");
                let count = Arc::clone(&begun);
                let stuck = handler(move |_, _| {
                    count.fetch_add(1, Ordering::SeqCst);
                    std::future::pending()
                });
                let subscription = broker
                    .subscribe(&topic("orders"), opts(), stuck)
                    .await
                    .unwrap();
                while begun.load(Ordering::SeqCst) == 0 {
                    sleep(Duration::from_millis(5)).await;
                }
                subscription
            });
            // As a process that is killed: nothing is said to the server.
            std::mem::forget(subscription);
            runtime.shutdown_background();
        }
    });
    // Its group is there before the message.
    let group = async {
        while !admin(&server).await.has_group("orders", "g").await {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, group).await.unwrap();
    publish(&broker, Message::new(topic("orders"), "x")).await;
    tokio::task::spawn_blocking(move || dying.join().unwrap())
        .await
        .unwrap();
    let begin = Instant::now();
    let other = open(&server, "");
    let mut inbox = Inbox::at(&other, "orders", opts()).await;
    let delivery = inbox.next().await;
    assert_eq!(
        (&delivery.message().body[..], delivery.deliveries()),
        (&b"x"[..], 2)
    );
    assert!(
        begin.elapsed() < Duration::from_secs(3),
        "{:?}",
        begin.elapsed()
    );
    inbox.silent().await;
}

/// A handler may take as long as its own member says, whatever another one of the group said first.
#[tokio::test]
async fn f6_a_long_handler_keeps_its_message_among_members_who_are_quick() {
    let Some(server) = start("members that differ") else {
        return;
    };
    let broker = open(&server, "");
    let quick = member("g").with_ack_deadline(Duration::from_secs(1));
    let first = Inbox::at(&broker, "orders", quick).await;
    first.subscription.stop(PATIENCE).await.unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let (done, ended) = tokio::sync::oneshot::channel();
    let (count, done) = (Arc::clone(&calls), Mutex::new(Some(done)));
    let slow = handler(move |_, _| {
        count.fetch_add(1, Ordering::SeqCst);
        let done = lock(&done).take();
        async move {
            sleep(Duration::from_secs(5)).await;
            let _ = done.map(|done| done.send(()));
            Ok(())
        }
    });
    let opts = member("g").with_ack_deadline(Duration::from_secs(20));
    let _subscription = broker
        .subscribe(&topic("orders"), opts, slow)
        .await
        .unwrap();
    publish(&broker, Message::new(topic("orders"), "x")).await;
    timeout(PATIENCE, ended).await.unwrap().unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_full_topic_refuses_until_its_slowest_group_has_handled_something() {
    let Some(server) = start("a full topic") else {
        return;
    };
    let broker = support::open_url(&server.url(), "max_bytes=65536");
    let open_gate = Arc::new(AtomicBool::new(false));
    let gate = Arc::clone(&open_gate);
    let handled = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&handled);
    let slow = handler(move |_, delivery| {
        let (gate, noted) = (Arc::clone(&gate), Arc::clone(&noted));
        async move {
            while !gate.load(Ordering::SeqCst) {
                sleep(Duration::from_millis(10)).await;
            }
            lock(&noted).push(
                delivery
                    .message()
                    .key
                    .clone()
                    .unwrap()
                    .parse::<usize>()
                    .unwrap(),
            );
            Ok(())
        }
    });
    let _slow = broker
        .subscribe(&topic("orders"), member("slow"), slow)
        .await
        .unwrap();
    let mut quick = Inbox::at(&broker, "orders", member("quick")).await;
    let message =
        |number: usize| Message::new(topic("orders"), vec![7; 1000]).with_key(number.to_string());
    let mut count = 0;
    let err = loop {
        match try_publish(&broker, message(count)).await {
            Ok(_) => count += 1,
            Err(err) => break err,
        }
        assert!(count < 100, "it is never full");
    };
    assert_eq!(err.kind(), ErrorKind::ResourceExhausted, "{err:?}");
    assert!(count > 30, "{count} filled it");
    open_gate.store(true, Ordering::SeqCst);
    // Now what is handled makes room, again and again.
    for number in count..count + 300 {
        while let Err(err) = try_publish(&broker, message(number)).await {
            assert_eq!(err.kind(), ErrorKind::ResourceExhausted, "{err:?}");
            sleep(Duration::from_millis(5)).await;
        }
    }
    let all: Vec<usize> = (0..count + 300).collect();
    let begin = Instant::now();
    while lock(&handled).len() < all.len() {
        assert!(
            begin.elapsed() < PATIENCE,
            "{} of {}",
            lock(&handled).len(),
            all.len()
        );
        sleep(Duration::from_millis(10)).await;
    }
    let mut handled = std::mem::take(&mut *lock(&handled));
    handled.sort_unstable();
    assert_eq!(handled, all);
    for _ in 0..all.len() {
        quick.next().await;
    }
    quick.silent().await;
}

#[tokio::test]
async fn a_removed_group_s_members_end_and_say_so() {
    let Some(server) = start("a removed group") else {
        return;
    };
    let broker = open(&server, "");
    let opts = member("g");
    let group = opts.group.clone().unwrap();
    let mut inbox = Inbox::at(&broker, "orders", opts).await;
    publish(&broker, Message::new(topic("orders"), "x")).await;
    inbox.next().await;
    let orders = topic("orders");
    let removed = broker
        .remove_group(&orders, &group, RemoveOptions::default())
        .await;
    assert!(removed.unwrap());
    let ended = timeout(PATIENCE, inbox.subscription.ended()).await.unwrap();
    assert_eq!(ended.kind(), ErrorKind::NotFound, "{ended:?}");
    publish(&broker, Message::new(topic("orders"), "y")).await;
    inbox.silent().await;
}

/// Where the server forgot a subscriber without a group, it goes on behind what it has handled.
#[tokio::test]
async fn a_subscriber_without_a_group_outlives_its_consumer() {
    let Some(server) = start("a lost consumer") else {
        return;
    };
    let broker = open(&server, "");
    let first = AtomicBool::new(true);
    let mut inbox = Inbox::answering(&broker, "orders", quick(), move |delivery| {
        // One of them waits to be delivered again when the consumer goes.
        let again = delivery.message().body == "1" && first.swap(false, Ordering::SeqCst);
        match again {
            true => Err(Error::internal("no")),
            false => Ok(()),
        }
    })
    .await;
    for body in ["0", "1", "2"] {
        publish(&broker, Message::new(topic("orders"), body)).await;
    }
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(inbox.next().await.message().body.clone());
    }
    admin(&server).await.forget_consumers("orders").await;
    for body in ["3", "4"] {
        publish(&broker, Message::new(topic("orders"), body)).await;
    }
    for _ in 0..3 {
        seen.push(inbox.next().await.message().body.clone());
    }
    seen.sort();
    assert_eq!(seen, ["0", "1", "1", "2", "3", "4"]);
    inbox.silent().await;
}

/// A server that kept its streams in memory comes back without them.
#[tokio::test]
async fn a_server_that_lost_everything_is_used_again() {
    let Some(mut server) = start("a server that lost everything") else {
        return;
    };
    let broker = open(&server, "storage=memory");
    assert_eq!(broker.capabilities().durability, Durability::Memory);
    let mut group = Inbox::at(&broker, "orders", member("g")).await;
    let mut alone = Inbox::at(&broker, "orders", quick()).await;
    publish(&broker, Message::new(topic("orders"), "before")).await;
    for inbox in [&mut group, &mut alone] {
        inbox.next().await;
    }
    server.kill();
    server.restart();
    let receipt = publish(&broker, Message::new(topic("orders"), "after")).await;
    assert!(matches!(receipt.reach, Reach::Stored { .. }));
    for inbox in [&mut group, &mut alone] {
        assert_eq!(inbox.next().await.message().body, "after");
        inbox.silent().await;
    }
}

/// Wherever `subscribe` is dropped, nothing of it stays, and the broker is good for the next one.
#[tokio::test]
async fn a_dropped_subscribe_leaves_nothing_behind() {
    let Some(server) = start("a dropped subscribe") else {
        return;
    };
    for mode in ["core", "jetstream"] {
        let broker = open(&server, &format!("mode={mode}"));
        publish(&broker, Message::new(topic("orders"), "before")).await;
        let orders = topic("orders");
        let (tell, mut arrived) = tokio::sync::mpsc::unbounded_channel();
        for polls in 0..40 {
            let tell = tell.clone();
            let handle = handler(move |_, _| {
                let _ = tell.send(());
                std::future::ready(Ok(()))
            });
            let mut subscribing = pin!(broker.subscribe(&orders, quick(), handle));
            for _ in 0..polls / 2 {
                let step = poll_fn(|task| Poll::Ready(subscribing.as_mut().poll(task).is_ready()));
                if step.await {
                    break;
                }
                sleep(Duration::from_micros(300)).await;
            }
        }
        sleep(Duration::from_millis(500)).await;
        let mut inbox = Inbox::at(&broker, "orders", quick()).await;
        publish(&broker, Message::new(orders, "after")).await;
        assert_eq!(inbox.next().await.message().body, "after");
        assert!(arrived.try_recv().is_err(), "a dropped one was called");
        if mode == "jetstream" {
            assert_eq!(admin(&server).await.consumers("orders").await, 1);
        }
    }
}

/// Whoever wants messages kept is not given less.
#[tokio::test]
async fn a_server_without_jetstream_is_refused_and_told_why() {
    let Some(server) = Server::start("a server without JetStream", &[]) else {
        return;
    };
    let broker = open(&server, "");
    let connected = async {
        loop {
            match try_publish(&broker, Message::new(topic("orders"), "x")).await {
                Err(err) if err.kind() == ErrorKind::Unavailable => {}
                done => return done,
            }
        }
    };
    let err = timeout(PATIENCE, connected).await.unwrap().unwrap_err();
    assert_eq!(err.kind(), ErrorKind::FailedPrecondition, "{err:?}");
    assert!(err.message().contains("mode=core"), "{err:?}");
    let handle = handler(|_, _| std::future::ready(Ok(())));
    let err = broker
        .subscribe(&topic("orders"), member("g"), handle)
        .await;
    assert_eq!(err.unwrap_err().kind(), ErrorKind::FailedPrecondition);
    // What it has is enough for core NATS.
    let core = open(&server, "mode=core");
    let mut inbox = Inbox::at(&core, "orders", quick()).await;
    publish(&core, Message::new(topic("orders"), "x")).await;
    assert_eq!(inbox.next().await.message().body, "x");
}
