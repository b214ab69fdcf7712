//! Records and messages: both or neither, in order, and never lost.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use common::{STORED, Scripted, tables, topic};
use micro_broker_core::{
    Broker, Context, Error, ErrorKind, Message, Reach, SubscribeOptions, handler,
};
use micro_broker_memory::MemoryBroker;
use micro_outbox::{Outbox, RelayOptions};
use micro_store_core::{
    Condition, ListOptions, Operation, Record, Store, StoreErrorExt as _, Table, WriteOptions,
};
use micro_store_memory::MemoryStore;

fn memory() -> (Table, Outbox) {
    let (orders, outbox) = tables(Arc::new(MemoryStore::new()), "shop");
    (orders, Outbox::new(outbox))
}

async fn commit(outbox: &Outbox, messages: Vec<Message>) {
    outbox
        .commit(&Context::new(), Vec::new(), messages)
        .await
        .unwrap();
}

fn keyed(key: &str, body: &str) -> Message {
    Message::new(topic(), body.to_owned()).with_key(key)
}

async fn left(orders: &Table, prefix: &str) -> Vec<Record> {
    let outbox = orders.sibling("orders.outbox").unwrap();
    let opts = ListOptions::default().with_prefix(prefix);
    outbox.list(opts).await.unwrap().records
}

#[tokio::test]
async fn a_record_and_its_message_are_there_or_neither_is() {
    let (orders, outbox) = memory();
    let cx = Context::new();
    let absent = WriteOptions::default().with_condition(Condition::Absent);
    let order = || Operation::write_with(orders.scope(), Record::new("7", "tea"), absent.clone());
    let message = || keyed("customer-3", "7");
    let written = outbox.commit(&cx, vec![order()], vec![message()]).await;
    assert_eq!(written.unwrap().len(), 1);
    let again = outbox.commit(&cx, vec![order()], vec![message()]).await;
    assert!(again.unwrap_err().is_conflict());
    assert_eq!(left(&orders, "m/").await.len(), 1);
    // A message that could never be published keeps the record from being written.
    let bad = Message::new(topic(), vec![0; (1 << 20) + 1]);
    let other = Operation::write(orders.scope(), Record::new("8", "tea"));
    let err = outbox
        .commit(&cx, vec![other], vec![bad])
        .await
        .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::ResourceExhausted, "{err}");
    assert!(orders.find("8").await.unwrap().is_none());
}

#[tokio::test]
async fn what_is_published_is_whole_has_an_id_and_is_removed() {
    let (orders, outbox) = memory();
    let cx = Context::new().with_metadata("tenant", "acme").unwrap();
    let named = keyed("k", "named").with_id("order-7");
    let plain = Message::new(topic(), "plain").with_content_type("text/plain");
    outbox
        .commit(&cx, Vec::new(), vec![named, plain])
        .await
        .unwrap();
    let id = left(&orders, "m/").await[1].key["m/".len()..].to_owned();
    let broker = Scripted::new(|_| Ok(STORED));
    let mut relay = outbox.relay(broker.shared(), RelayOptions::default());
    assert_eq!(relay.drain().await.unwrap(), 2);
    assert_eq!(relay.drain().await.unwrap(), 0);
    assert!(left(&orders, "m/").await.is_empty());
    let mut published = broker.published.lock().unwrap();
    published.sort_by_key(|message| message.body.clone());
    assert_eq!(published[0].id.as_deref(), Some("order-7"));
    assert_eq!(published[0].metadata.get("tenant"), Some("acme"));
    assert_eq!(published[1].id.as_deref(), Some(&*id));
    assert_eq!(published[1].content_type, "text/plain");
}

/// Each commit reads what the one before wrote: whatever order the store decided, is that of the messages.
async fn counted(orders: &Table, outboxes: &[Outbox], steps: u64) {
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let (orders, outbox) = (orders.clone(), outboxes[writer % outboxes.len()].clone());
        writers.spawn(async move {
            for _ in 0..steps {
                loop {
                    let (count, only_if) = match orders.find("count").await.unwrap() {
                        Some(found) => {
                            let version = Condition::Version(found.version);
                            (found.json::<u64>().unwrap() + 1, version)
                        }
                        None => (1, Condition::Absent),
                    };
                    let opts = WriteOptions::default().with_condition(only_if);
                    let record = Record::new("count", count.to_string());
                    let operation = Operation::write_with(orders.scope(), record, opts);
                    let message = keyed("count", &count.to_string());
                    let done = outbox
                        .commit(&Context::new(), vec![operation], vec![message])
                        .await;
                    match done {
                        Ok(_) => break,
                        Err(err) if err.is_conflict() => {}
                        Err(err) => panic!("{err}"),
                    }
                }
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_a_key_are_published_in_the_order_of_their_commits() {
    let (orders, first) = memory();
    // As another process would have it.
    let second = Outbox::new(orders.sibling("orders.outbox").unwrap());
    let broker = Scripted::new(|_| Ok(STORED));
    let opts = RelayOptions::default().with_page(7);
    let relay = first.relay(broker.shared(), opts);
    let relay = tokio::spawn(relay.run());
    counted(&orders, &[first, second], 25).await;
    let all: Vec<String> = (1..=200).map(|n: u64| n.to_string()).collect();
    for _ in 0..500 {
        if broker.bodies().len() >= all.len() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    relay.abort();
    assert_eq!(broker.bodies(), all);
}

#[tokio::test]
async fn what_cannot_be_published_holds_up_its_key_and_no_other() {
    let (orders, outbox) = memory();
    let mut messages = vec![keyed("stuck", "0"), keyed("free", "a"), keyed("stuck", "1")];
    messages.extend((0..20).map(|n| keyed("stuck", &format!("more {n}"))));
    messages.push(keyed("free", "b"));
    messages.push(Message::new(topic(), "c"));
    commit(&outbox, messages).await;
    let stuck = Arc::new(AtomicBool::new(true));
    let told = Arc::clone(&stuck);
    let broker = Scripted::new(move |message| {
        if message.key.as_deref() == Some("stuck") && told.load(Ordering::SeqCst) {
            return Err(Error::resource_exhausted("full"));
        }
        Ok(STORED)
    });
    // A page of nothing but what is stuck is not the end.
    let opts = RelayOptions::default().with_page(2);
    let mut relay = outbox.relay(broker.shared(), opts);
    let err = relay.drain().await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::ResourceExhausted, "{err}");
    assert_eq!(broker.bodies(), ["a", "b", "c"]);
    stuck.store(false, Ordering::SeqCst);
    assert_eq!(relay.drain().await.unwrap(), 22);
    let bodies = broker.bodies();
    assert_eq!(bodies[3..5], ["0", "1"]);
    assert_eq!(bodies[24], "more 19");
    assert!(left(&orders, "m/").await.is_empty());
}

#[tokio::test]
async fn what_the_broker_never_takes_is_put_aside_and_the_next_goes_on() {
    let (orders, outbox) = memory();
    commit(&outbox, vec![keyed("k", "bad"), keyed("k", "good")]).await;
    let table = orders.sibling("orders.outbox").unwrap();
    table.put("m/0000-strange", &"no message").await.unwrap();
    let broker = Scripted::new(|message| match &*message.body {
        b"bad" => Err(Error::invalid_argument("never")),
        _ => Ok(STORED),
    });
    let mut relay = outbox.relay(broker.shared(), RelayOptions::default());
    assert_eq!(relay.drain().await.unwrap(), 1);
    assert_eq!(broker.bodies(), ["good"]);
    assert!(left(&orders, "m/").await.is_empty());
    let aside = left(&orders, "d/").await;
    assert_eq!(aside.len(), 2);
    assert_eq!(aside[1].value, "bad");
    assert!(aside[1].metadata["micro-outbox-reason"].contains("never"));
}

#[tokio::test]
async fn many_hopeless_messages_do_not_hide_the_ones_behind() {
    let (_, outbox) = memory();
    let mut messages: Vec<_> = (0..100).map(|n| keyed(&n.to_string(), "stuck")).collect();
    messages.push(keyed("free", "free"));
    commit(&outbox, messages).await;
    let tried = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&tried);
    let broker = Scripted::new(move |message| {
        counted.fetch_add(1, Ordering::SeqCst);
        match &*message.body {
            b"free" => Ok(STORED),
            _ => Err(Error::unavailable("away")),
        }
    });
    let opts = RelayOptions::default().with_page(10);
    let mut relay = outbox.relay(broker.shared(), opts);
    let mut rounds = 0;
    while broker.bodies().is_empty() {
        assert!(relay.drain().await.is_err());
        rounds += 1;
        assert!(rounds < 10);
    }
    // A broker that is away is not asked for every message there is.
    assert!(rounds > 1 && tried.load(Ordering::SeqCst) < 202);
}

#[tokio::test]
async fn a_message_that_handlers_have_not_had_stays() {
    let (_, outbox) = memory();
    commit(&outbox, vec![Message::new(topic(), "x")]).await;
    let pending = Arc::new(AtomicUsize::new(1));
    let told = Arc::clone(&pending);
    let broker = Scripted::new(move |_| {
        let pending = u32::try_from(told.swap(0, Ordering::SeqCst)).unwrap();
        Ok(Reach::Delivered {
            acknowledged: 1,
            pending,
            failed: 0,
        })
    });
    let mut relay = outbox.relay(broker.shared(), RelayOptions::default());
    let err = relay.drain().await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unavailable, "{err}");
    assert_eq!(relay.drain().await.unwrap(), 1);
    assert_eq!(broker.bodies(), ["x", "x"]);
}

#[tokio::test]
async fn a_broker_that_knows_ids_delivers_once_what_is_published_twice() {
    let (_, outbox) = memory();
    commit(&outbox, vec![keyed("k", "1"), keyed("k", "2")]).await;
    let broker = Arc::new(MemoryBroker::new());
    let heard = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&heard);
    let count = handler(move |_, _| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Ok(()) }
    });
    let _subscription = broker
        .subscribe(&topic(), SubscribeOptions::default(), count)
        .await
        .unwrap();
    // It dies before it has removed them: what it did is done, and the next does it again.
    let inner = Arc::clone(&broker);
    let dying = Scripted::new(move |message| {
        let (inner, message) = (Arc::clone(&inner), message.clone());
        tokio::spawn(async move {
            inner
                .publish(&Context::new(), message, Default::default())
                .await
        });
        Err(Error::outcome_unknown("the connection broke"))
    });
    let mut relay = outbox.relay(dying, RelayOptions::default());
    let err = relay.drain().await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::OutcomeUnknown, "{err}");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(heard.load(Ordering::SeqCst), 1);
    let mut relay = outbox.relay(broker, RelayOptions::default());
    assert_eq!(relay.drain().await.unwrap(), 2);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(heard.load(Ordering::SeqCst), 2);
}

/// Over a store that processes share: one relay works, another goes on when its lease has ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_relay_at_a_time_is_at_work() {
    const TEST: &str = "one_relay_at_a_time_is_at_work";
    let Ok(url) = std::env::var("MICRO_TEST_POSTGRES_URL") else {
        return skip(TEST);
    };
    let store = micro_store_core::Drivers::<dyn Store>::new()
        .with(micro_store_cockroach::CockroachDriver)
        .open(&url, &micro_core::Env::new())
        .await
        .unwrap();
    let database = format!("outbox-{}", std::process::id());
    let (orders, table) = tables(store, &database);
    let (first, second) = (Outbox::new(table.clone()), Outbox::new(table.clone()));
    let opts = RelayOptions::default()
        .with_lease(Duration::from_secs(1))
        .with_poll(Duration::from_millis(50));
    let broker = Scripted::new(|_| Ok(STORED));
    let at_work = tokio::spawn(first.relay(broker.shared(), opts.clone()).run());
    commit(&first, vec![keyed("k", "1")]).await;
    for _ in 0..200 {
        if !broker.bodies().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut other = second.relay(broker.shared(), opts.clone());
    let err = other.drain().await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unavailable, "{err}");
    // It dies without a word.
    at_work.abort();
    commit(&second, vec![keyed("k", "2")]).await;
    let mut done = 0;
    for _ in 0..50 {
        match other.drain().await {
            Ok(count) => {
                done = count;
                break;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    assert_eq!(done, 1);
    assert_eq!(broker.bodies(), ["1", "2"]);
    // In a database, too, the order is that of the commits.
    let relay = tokio::spawn(first.relay(broker.shared(), opts).run());
    counted(&orders, &[first.clone(), second], 5).await;
    let all: Vec<String> = (1..=40).map(|n: u64| n.to_string()).collect();
    for _ in 0..1000 {
        if broker.bodies().len() >= all.len() + 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    relay.abort();
    assert_eq!(broker.bodies()[2..], all);
    for table in [orders, table] {
        for record in table.list(ListOptions::default()).await.unwrap().records {
            table.delete(&record.key).await.unwrap();
        }
    }
}

/// Says honestly that a test did not run.
fn skip(test: &str) {
    use std::io::Write as _;
    let (reason, cure) = (
        "MICRO_TEST_POSTGRES_URL is not set",
        "cargo xtask services up postgres",
    );
    let _ = writeln!(std::io::stderr(), "skipped {test}: {reason}; {cure}");
    if let Some(log) = std::env::var_os("MICRO_SKIP_LOG") {
        let mut log = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(log)
            .unwrap();
        writeln!(log, "{test}\t{reason}\t{cure}").unwrap();
    }
}
