//! How much a broker in memory takes, and what happens when it is full.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use micro_broker_core::{
    Backoff, Broker as _, Context, Error, ErrorKind, Group, Handler, Message, Reach, Receipt,
    Result, Start, SubscribeOptions, Subscription, Topic, handler,
};
use micro_broker_memory::{MemoryBroker, MemoryBrokerConfig};
use micro_core::Env;
use tokio::sync::Semaphore;
use tokio::time::sleep;

const MAX: usize = 100_000;

fn broker(config: MemoryBrokerConfig) -> MemoryBroker {
    MemoryBroker::with_config(config.with_max_bytes(MAX), &Env::new()).unwrap()
}

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

async fn say(broker: &MemoryBroker, name: &str, bytes: usize) -> Result<Receipt> {
    let message = Message::new(topic(name), vec![0; bytes]);
    broker
        .publish(&Context::new(), message, Default::default())
        .await
}

/// Publishes until it is refused; how many messages of 1,000 bytes found room.
async fn fill(broker: &MemoryBroker, name: &str) -> usize {
    for i in 0.. {
        if let Err(err) = say(broker, name, 1000).await {
            assert_eq!(err.kind(), ErrorKind::ResourceExhausted, "{err:?}");
            return i;
        }
    }
    unreachable!("it is never full")
}

async fn subscribe(
    broker: &MemoryBroker,
    name: &str,
    group: &str,
    handle: Arc<dyn Handler>,
) -> Subscription {
    let opts = SubscribeOptions::default()
        .with_group(Group::new(group).unwrap())
        .with_backoff(Backoff::new(
            Duration::from_millis(10),
            Duration::from_millis(10),
        ))
        .with_max_deliveries(2);
    broker.subscribe(&topic(name), opts, handle).await.unwrap()
}

/// A handler that lets so many messages through, and counts them.
fn gate() -> (Arc<dyn Handler>, Arc<Semaphore>, Arc<AtomicUsize>) {
    let (gate, count) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let (open, counted) = (Arc::clone(&gate), Arc::clone(&count));
    let handle = handler(move |_, _| {
        let (open, counted) = (Arc::clone(&open), Arc::clone(&counted));
        async move {
            open.acquire()
                .await
                .map_err(|_| Error::internal("the gate is gone"))?
                .forget();
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    });
    (handle, gate, count)
}

async fn handled(count: &AtomicUsize, expected: usize) {
    while count.load(Ordering::SeqCst) < expected {
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(count.load(Ordering::SeqCst), expected);
}

#[tokio::test]
async fn a_full_group_refuses_and_nobody_gets_a_part() {
    let broker = broker(MemoryBrokerConfig::default());
    let (slow, open, slow_count) = gate();
    let (quick, quick_open, quick_count) = gate();
    let _slow = subscribe(&broker, "t", "slow", slow).await;
    let _quick = subscribe(&broker, "t", "quick", quick).await;
    quick_open.add_permits(100_000);
    let room = fill(&broker, "t").await;
    assert!(
        (70..100).contains(&room),
        "{room} messages of 1,000 bytes in {MAX}"
    );
    handled(&quick_count, room).await;
    // The other topics go on.
    say(&broker, "other", 1000).await.unwrap();
    // Whoever was handled makes room, whatever it was, and nothing is charged twice or for ever.
    let mut total = room;
    for _ in 0..5 {
        open.add_permits(total);
        handled(&slow_count, total).await;
        open.forget_permits(usize::MAX);
        assert_eq!(fill(&broker, "t").await, room);
        total += room;
        handled(&quick_count, total).await;
    }
}

#[tokio::test]
async fn what_is_given_back_or_fails_is_charged_once() {
    let broker = broker(MemoryBrokerConfig::default());
    let (stuck, _gate, _) = gate();
    let subscription = subscribe(&broker, "t", "g", stuck).await;
    let room = fill(&broker, "t").await;
    drop(subscription);
    assert_eq!(fill(&broker, "t").await, 0);
    // Each is refused twice, and dies; nobody is there for the dead.
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let fail = handler(move |_, _| {
        counted.fetch_add(1, Ordering::SeqCst);
        std::future::ready(Err(Error::internal("no")))
    });
    let subscription = subscribe(&broker, "t", "g", fail).await;
    // How many the first member had out, and so were delivered once already, is a matter of chance.
    let mut before = 0;
    while before < room || count.load(Ordering::SeqCst) > before {
        before = count.load(Ordering::SeqCst);
        sleep(Duration::from_millis(200)).await;
    }
    assert!(
        (2 * room - 16..=2 * room).contains(&before),
        "{before} deliveries"
    );
    drop(subscription);
    let (stuck, _gate, _) = gate();
    let _subscription = subscribe(&broker, "t", "g", stuck).await;
    assert_eq!(fill(&broker, "t").await, room);
}

#[tokio::test]
async fn a_dead_letter_that_finds_no_room_waits() {
    let broker = broker(MemoryBrokerConfig::default());
    let (keep, open, count) = gate();
    let _undertaker = subscribe(&broker, "t.g.dead", "u", keep).await;
    let room = fill(&broker, "t.g.dead").await;
    let fail = handler(|_, _| std::future::ready(Err(Error::internal("no"))));
    let _subscription = subscribe(&broker, "t", "g", fail).await;
    say(&broker, "t", 1000).await.unwrap();
    sleep(Duration::from_millis(200)).await;
    open.add_permits(room + 1);
    handled(&count, room + 1).await;
}

#[tokio::test]
async fn what_is_retained_is_bounded_and_fits_a_group() {
    let broker = broker(MemoryBrokerConfig::default().with_retain(1000));
    for _ in 0..500 {
        let receipt = say(&broker, "t", 1000).await.unwrap();
        assert!(matches!(
            receipt.reach,
            Reach::Stored {
                groups: Some(0),
                ..
            }
        ));
    }
    let (handle, open, count) = gate();
    let opts = SubscribeOptions::default().with_start(Start::Oldest);
    let _subscription = broker.subscribe(&topic("t"), opts, handle).await.unwrap();
    open.add_permits(1000);
    sleep(Duration::from_millis(100)).await;
    let kept = count.load(Ordering::SeqCst);
    assert!(
        (70..100).contains(&kept),
        "{kept} messages of 1,000 bytes in {MAX}"
    );
    for i in 0..12_000 {
        let published = say(&broker, &format!("t{i}"), 0).await;
        if let Err(err) = published {
            assert_eq!((err.kind(), i), (ErrorKind::ResourceExhausted, 9999));
            return;
        }
    }
    panic!("there is no end of topics");
}
