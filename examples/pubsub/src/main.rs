//! A shop tells of its orders. Two mailers are one group, and share them; an auditor is another, and gets
//! all. An order that a mailer cannot handle is delivered to it again, and ends among the dead letters, where
//! an undertaker finds it.
//!
//! `cargo run -p pubsub` needs no server. `MICRO_BROKER=memory` is another broker, and so is an engine:
//! `MICRO_BROKER=nats://127.0.0.1:4222 cargo run -p pubsub`, or RabbitMQ's or Redis's with that backend's
//! feature.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use micro::broker::{Backoff, Delivery, Group, RemoveOptions, SubscribeOptions, Topic};
use micro::{Context, DriverSet, Error, Result, Service};
use serde::{Deserialize, Serialize};

const ORDERS: u32 = 24;
/// Fails when it is first delivered.
const SHAKY: u32 = 7;
/// Fails every time.
const POISON: u32 = 13;
const MAX_DELIVERIES: u32 = 3;

const TOPIC: &str = "shop.orders";
/// Where orders go that no mailer can handle: `<topic>.<group>.dead`.
const DEAD: &str = "shop.orders.mailer.dead";

#[derive(Debug, Serialize, Deserialize)]
struct Order {
    number: u32,
    item: String,
}

/// Who has handled which order, and how often it was delivered by then.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<BTreeMap<(String, u32), u32>>>);

impl Notes {
    fn handled(&self, who: &str, order: &Order, delivery: &Delivery) {
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        notes.insert((who.to_owned(), order.number), delivery.deliveries());
    }

    /// What this one has handled, in order.
    fn of(&self, who: &str) -> Vec<u32> {
        let notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = notes.keys().filter(|(name, _)| name == who);
        mine.map(|(_, order)| *order).collect()
    }

    fn deliveries(&self, order: u32) -> u32 {
        let notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all = notes
            .iter()
            .filter(|((who, number), _)| *number == order && who.starts_with("mailer"));
        all.map(|(_, deliveries)| *deliveries).max().unwrap_or(0)
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    // One registry for all services of this process; with mdns or another, they could be anywhere.
    let drivers = micro::drivers();
    let notes = Notes::default();
    let running = [
        mailer("mailer-1", &drivers, &notes).start().await?,
        mailer("mailer-2", &drivers, &notes).start().await?,
        auditor(&drivers, &notes).start().await?,
        undertaker(&drivers, &notes).start().await?,
    ];

    let till = service("till", &drivers);
    let broker = till.broker().await?;
    println!("{ORDERS} orders over the broker '{}':", broker.backend());
    let orders = till.publisher::<Order>(TOPIC).await?;
    for number in 0..ORDERS {
        let item = "tea".to_owned();
        let receipt = orders
            .publish(&Context::new(), &Order { number, item })
            .await?;
        if number == 0 {
            println!("  the first one is {:?}", receipt.reach);
        }
    }

    let checked = check(&notes).await;
    broker.close(Duration::from_secs(5)).await?;
    for service in running {
        service.stop().await?;
    }
    // An engine keeps groups until they are removed.
    for (topic, group) in [(TOPIC, "mailer"), (TOPIC, "auditor"), (DEAD, "undertaker")] {
        let broker = service("cleaner", &drivers).broker().await?;
        let (topic, group) = (Topic::new(topic)?, Group::new(group)?);
        broker
            .remove_group(&topic, &group, RemoveOptions::default())
            .await?;
    }
    checked
}

fn service(name: &str, drivers: &DriverSet) -> Service {
    Service::new(name)
        .drivers(drivers.clone())
        .registry_url("memory")
        // On an engine that others use as well, this run has topics of its own.
        .namespace(format!("example-{}", std::process::id()))
}

/// Sends mails. All nodes of a service are one group, unless it says otherwise.
fn mailer(id: &'static str, drivers: &DriverSet, notes: &Notes) -> Service {
    let notes = notes.clone();
    let opts = SubscribeOptions::default()
        .with_concurrency(1)
        .with_max_deliveries(MAX_DELIVERIES)
        .with_backoff(Backoff::new(
            Duration::from_millis(50),
            Duration::from_millis(200),
        ));
    service("mailer", drivers)
        .id(id)
        .subscribe(TOPIC, opts, move |_cx, order: Order, delivery| {
            let notes = notes.clone();
            async move {
                let (number, time) = (order.number, delivery.deliveries());
                // Mailing takes a while, so that the other one has its share.
                tokio::time::sleep(Duration::from_millis(5)).await;
                if number == POISON || (number == SHAKY && time == 1) {
                    println!("  {id} cannot mail order {number}, for the {time}. time");
                    return Err(Error::unavailable("the printer is on fire"));
                }
                println!("  {id} has mailed order {number}: {}", order.item);
                notes.handled(id, &order, &delivery);
                Ok(())
            }
        })
}

/// Sees every order, whatever becomes of it elsewhere.
fn auditor(drivers: &DriverSet, notes: &Notes) -> Service {
    let notes = notes.clone();
    service("auditor", drivers).subscribe(
        TOPIC,
        SubscribeOptions::default(),
        move |_cx, order: Order, delivery| {
            notes.handled("auditor", &order, &delivery);
            async { Ok(()) }
        },
    )
}

/// Looks after orders that no mailer could handle.
fn undertaker(drivers: &DriverSet, notes: &Notes) -> Service {
    let notes = notes.clone();
    service("undertaker", drivers).subscribe(
        DEAD,
        SubscribeOptions::default(),
        move |_cx, order: Order, delivery| {
            let notes = notes.clone();
            async move {
                if let Some(dead) = &delivery.message().dead_letter {
                    println!(
                        "  order {} is dead after {} deliveries: {}",
                        order.number, dead.deliveries, dead.reason
                    );
                    if dead.deliveries == MAX_DELIVERIES && dead.topic.as_str() == TOPIC {
                        notes.handled("undertaker", &order, &delivery);
                    }
                }
                Ok(())
            }
        },
    )
}

/// Waits until everything is as it was promised.
async fn check(notes: &Notes) -> Result<()> {
    let all: Vec<u32> = (0..ORDERS).collect();
    let mailed: Vec<u32> = (0..ORDERS).filter(|order| *order != POISON).collect();
    for _ in 0..200 {
        let (first, second) = (notes.of("mailer-1"), notes.of("mailer-2"));
        let mut both = [&first[..], &second].concat();
        both.sort_unstable();
        both.dedup();
        let kept = both == mailed
            && notes.of("auditor") == all
            && notes.of("undertaker") == [POISON]
            && notes.deliveries(SHAKY) > 1
            && !first.is_empty()
            && !second.is_empty();
        if kept {
            println!(
                "mailer-1 has mailed {}, mailer-2 {}",
                first.len(),
                second.len()
            );
            println!("the auditor has seen all {ORDERS}, and the undertaker has order {POISON}");
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(Error::data_loss(
        "not every order got to where it was to go",
    ))
}
