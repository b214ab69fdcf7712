//! Messages per second through the broker in memory, one topic and one group, beside those of a tokio
//! channel, on one thread and on two.
//!
//! `cargo run --release -p micro-broker-memory --example broker-memory-figures`

#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use micro_broker_core::{
    Broker as _, Context, ErrorKind, Group, Message, PublishOptions, SubscribeOptions, Topic,
    handler,
};
use micro_broker_memory::MemoryBroker;
use micro_core::{Clock as _, SystemClock};
use tokio::sync::{Notify, mpsc};

const MESSAGES: usize = 500_000;
const ROUNDS: usize = 5;
static BODY: &[u8] = &[7; 64];

fn main() {
    for threads in [1, 2] {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_time()
            .build()
            .expect("a runtime");
        let (mut channel, mut broker) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            channel.push(
                runtime
                    .block_on(async { tokio::spawn(through_channel()).await })
                    .expect("it ends"),
            );
            broker.push(
                runtime
                    .block_on(async { tokio::spawn(through_broker()).await })
                    .expect("it ends"),
            );
        }
        println!(
            "{threads} threads: channel {:.2} M/s, broker {:.2} M/s",
            median(&mut channel),
            median(&mut broker)
        );
    }
}

/// Millions of messages per second.
async fn through_channel() -> f64 {
    let (sender, mut receiver) = mpsc::channel::<Bytes>(10_000);
    let begin = SystemClock.now();
    let received = tokio::spawn(async move {
        let mut count = 0;
        while receiver.recv().await.is_some() {
            count += 1;
        }
        count
    });
    for _ in 0..MESSAGES {
        sender
            .send(Bytes::from_static(BODY))
            .await
            .expect("it is open");
    }
    drop(sender);
    assert_eq!(received.await.expect("it ends"), MESSAGES);
    rate(SystemClock.now() - begin)
}

async fn through_broker() -> f64 {
    let broker = MemoryBroker::new();
    let topic = Topic::new("orders").expect("the name is good");
    let (count, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let (counted, told) = (Arc::clone(&count), Arc::clone(&done));
    let handle = handler(move |_, _| {
        if counted.fetch_add(1, Ordering::Relaxed) + 1 == MESSAGES {
            told.notify_one();
        }
        std::future::ready(Ok(()))
    });
    let group = Group::new("g").expect("the name is good");
    let opts = SubscribeOptions::default().with_group(group);
    let subscription = broker
        .subscribe(&topic, opts, handle)
        .await
        .expect("it subscribes");
    let cx = Context::new();
    let begin = SystemClock.now();
    for i in 0..MESSAGES {
        loop {
            let message = Message::new(topic.clone(), Bytes::from_static(BODY));
            match broker
                .publish(&cx, message, PublishOptions::default())
                .await
            {
                Ok(_) => break,
                Err(err) if err.kind() == ErrorKind::ResourceExhausted => {
                    tokio::task::yield_now().await;
                }
                Err(err) => panic!("publishing failed: {err}"),
            }
        }
        // A publisher that never waits would have one thread for itself.
        if i % 64 == 63 {
            tokio::task::yield_now().await;
        }
    }
    done.notified().await;
    let rate = rate(SystemClock.now() - begin);
    drop(subscription);
    rate
}

fn rate(taken: std::time::Duration) -> f64 {
    MESSAGES as f64 / taken.as_secs_f64() / 1e6
}

fn median(all: &mut [f64]) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}
