//! Order by key, and how much is done at once.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use micro_broker_core::{Handler, Message, Order, handler};
use tokio::time::{Instant, sleep};

use super::{
    Backend, Cases, Inbox, eventually, member, on_one_handle, publish, say, subscribe, text, topic,
};

pub(super) fn cases() -> Cases {
    on_one_handle![
        a_key_is_handled_in_order_and_one_at_a_time if ordered,
        a_key_waits_for_no_other,
        concurrency_is_used_and_kept,
        a_slow_group_holds_up_no_other,
        members_come_and_go_and_nothing_is_lost,
    ]
}

/// What was handled, key by key.
#[derive(Default)]
struct Ledger {
    handled: Mutex<BTreeMap<String, Vec<usize>>>,
    /// Keys whose message is being handled.
    busy: Mutex<HashSet<String>>,
    overlaps: AtomicUsize,
}

impl Ledger {
    fn handler(self: &Arc<Self>, pause: Duration) -> Arc<dyn Handler> {
        let ledger = Arc::clone(self);
        handler(move |_, delivery| {
            let ledger = Arc::clone(&ledger);
            async move {
                let key = delivery
                    .message()
                    .key
                    .as_deref()
                    .unwrap_or_default()
                    .to_owned();
                if !lock(&ledger.busy).insert(key.clone()) {
                    ledger.overlaps.fetch_add(1, Ordering::SeqCst);
                }
                sleep(pause).await;
                let number = text(&delivery).parse().expect("it is a number");
                lock(&ledger.handled)
                    .entry(key.clone())
                    .or_default()
                    .push(number);
                lock(&ledger.busy).remove(&key);
                Ok(())
            }
        })
    }

    fn count(&self) -> usize {
        lock(&self.handled).values().map(Vec::len).sum()
    }

    /// Different ones.
    fn distinct(&self) -> usize {
        let distinct = |numbers: &Vec<usize>| numbers.iter().collect::<HashSet<_>>().len();
        lock(&self.handled).values().map(distinct).sum()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn say_keyed(broker: &Backend, number: usize, keys: usize) {
    let key = format!("k{}", number % keys);
    publish(
        broker,
        Message::new(topic("orders"), number.to_string()).with_key(key),
    )
    .await;
}

async fn a_key_is_handled_in_order_and_one_at_a_time(broker: Backend) {
    const KEYS: usize = 8;
    const COUNT: usize = 200;
    let ledger = Arc::new(Ledger::default());
    // Two members, and each handles several at once.
    let mut members = Vec::new();
    for _ in 0..2 {
        let handle = ledger.handler(Duration::from_millis(2));
        members.push(subscribe(&broker, "orders", member("g"), handle).await);
    }
    for number in 0..COUNT {
        say_keyed(&broker, number, KEYS).await;
    }
    eventually("all of it", || ledger.count() >= COUNT).await;
    assert_eq!(ledger.count(), COUNT);
    assert_eq!(
        ledger.overlaps.load(Ordering::SeqCst),
        0,
        "messages of one key at once"
    );
    for (key, numbers) in &*lock(&ledger.handled) {
        assert!(numbers.is_sorted(), "{key}: {numbers:?}");
    }
}

async fn a_key_waits_for_no_other(broker: Backend) {
    let (tell, mut free) = tokio::sync::mpsc::unbounded_channel();
    let release = Arc::new(tokio::sync::Notify::new());
    let released = Arc::clone(&release);
    let handle = handler(move |_, delivery| {
        let (tell, released) = (tell.clone(), Arc::clone(&released));
        async move {
            if delivery.message().key.as_deref() == Some("slow") {
                released.notified().await;
            }
            let _ = tell.send(text(&delivery));
            Ok(())
        }
    });
    let subscription = subscribe(&broker, "orders", member("g").with_concurrency(4), handle).await;
    let keyed =
        |key: &str, text: &str| Message::new(topic("orders"), text.to_owned()).with_key(key);
    // It does not return before its handler does, with a broker that hands messages on itself.
    let slow = tokio::spawn({
        let (broker, message) = (Arc::clone(&broker), keyed("slow", "slow"));
        async move { publish(&broker, message).await }
    });
    sleep(Duration::from_millis(50)).await;
    for i in 0..10 {
        publish(&broker, keyed("quick", &i.to_string())).await;
    }
    for i in 0..10 {
        let next = tokio::time::timeout(super::PATIENCE, free.recv()).await;
        let next = next
            .expect("it does not wait for the slow one")
            .expect("the subscriber is there");
        assert!(next != "slow", "after {i}");
    }
    release.notify_one();
    let last = tokio::time::timeout(super::PATIENCE, free.recv()).await;
    assert_eq!(last.expect("it comes").as_deref(), Some("slow"));
    slow.await.expect("it was published");
    drop(subscription);
}

async fn concurrency_is_used_and_kept(broker: Backend) {
    const AT_ONCE: usize = 5;
    let (now, most, done) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicUsize::new(0)),
    );
    let (n, m, d) = (Arc::clone(&now), Arc::clone(&most), Arc::clone(&done));
    let handle = handler(move |_, _| {
        let (n, m, d) = (Arc::clone(&n), Arc::clone(&m), Arc::clone(&d));
        async move {
            let at_once = n.fetch_add(1, Ordering::SeqCst) + 1;
            m.fetch_max(at_once, Ordering::SeqCst);
            sleep(Duration::from_millis(100)).await;
            n.fetch_sub(1, Ordering::SeqCst);
            d.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    });
    let opts = member("g").with_concurrency(AT_ONCE);
    let _subscription = subscribe(&broker, "orders", opts, handle).await;
    let all: Vec<_> = (0..3 * AT_ONCE)
        .map(|_| {
            let broker = Arc::clone(&broker);
            tokio::spawn(async move { say(&broker, "orders", "x").await })
        })
        .collect();
    for one in all {
        one.await.expect("it was published");
    }
    eventually("all of it", || done.load(Ordering::SeqCst) >= 3 * AT_ONCE).await;
    assert_eq!(most.load(Ordering::SeqCst), AT_ONCE);
}

async fn a_slow_group_holds_up_no_other(broker: Backend) {
    let release = Arc::new(tokio::sync::Notify::new());
    let open = Arc::new(AtomicBool::new(false));
    let (released, opened) = (Arc::clone(&release), Arc::clone(&open));
    let handle = handler(move |_, _| {
        let (released, opened) = (Arc::clone(&released), Arc::clone(&opened));
        async move {
            while !opened.load(Ordering::SeqCst) {
                let _ = tokio::time::timeout(Duration::from_millis(20), released.notified()).await;
            }
            Ok(())
        }
    });
    let slow = subscribe(
        &broker,
        "orders",
        member("slow").with_concurrency(1),
        handle,
    )
    .await;
    let mut quick = Inbox::at(&broker, "orders", member("quick")).await;
    let begin = Instant::now();
    let all: Vec<_> = (0..20)
        .map(|i| {
            let broker = Arc::clone(&broker);
            tokio::spawn(async move { say(&broker, "orders", &i.to_string()).await })
        })
        .collect();
    quick.texts(20).await;
    assert!(
        begin.elapsed() < Duration::from_secs(5),
        "{:?}",
        begin.elapsed()
    );
    open.store(true, Ordering::SeqCst);
    release.notify_waiters();
    for one in all {
        one.await.expect("it was published");
    }
    drop(slow);
}

async fn members_come_and_go_and_nothing_is_lost(broker: Backend) {
    const COUNT: usize = 200;
    let ledger = Arc::new(Ledger::default());
    let stay = ledger.handler(Duration::from_millis(1));
    let _stays = subscribe(&broker, "orders", member("g"), stay).await;
    let over = Arc::new(AtomicBool::new(false));
    let coming = tokio::spawn({
        let (broker, ledger, over) = (Arc::clone(&broker), Arc::clone(&ledger), Arc::clone(&over));
        async move {
            let mut comings = 0;
            while !over.load(Ordering::SeqCst) {
                let handle = ledger.handler(Duration::from_millis(1));
                let subscription = subscribe(&broker, "orders", member("g"), handle).await;
                sleep(Duration::from_millis(30)).await;
                subscription
                    .stop(Duration::from_secs(5))
                    .await
                    .expect("it stops");
                comings += 1;
            }
            comings
        }
    });
    for number in 0..COUNT {
        say_keyed(&broker, number, 8).await;
        sleep(Duration::from_millis(2)).await;
    }
    eventually("all of it", || ledger.distinct() >= COUNT).await;
    over.store(true, Ordering::SeqCst);
    assert!(coming.await.expect("they come and go") > 3);
    assert_eq!(ledger.distinct(), COUNT);
    if broker.capabilities().order == Order::Always {
        assert_eq!(ledger.count(), COUNT);
        for (key, numbers) in &*lock(&ledger.handled) {
            assert!(numbers.is_sorted(), "{key}: {numbers:?}");
        }
    }
}
