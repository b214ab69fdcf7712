//! The shop. Each part is a process of its own.

use std::time::Duration;

use micro::broker::{Message, SubscribeOptions, Topic};
use micro::outbox::RelayOptions;
use micro::store::{ListOptions, Operation, Record};
use micro::{Context, Error, Result, Service};
use serde::{Deserialize, Serialize};

pub(crate) const ORDERS: u32 = 10;
const TOPIC: &str = "shop.orders";

#[derive(Debug, Serialize, Deserialize)]
struct Order {
    number: String,
}

fn service() -> Service {
    // One registry for this process; the store and the broker are what `MICRO_STORE` and `MICRO_BROKER` say.
    Service::new("shop").registry_url("memory")
}

/// Writes, and then publishes. It dies in between.
pub(crate) async fn by_hand() -> Result<()> {
    let shop = service();
    let orders = shop.store().await?;
    let events = shop.publisher::<Order>(TOPIC).await?;
    for number in 0..ORDERS {
        let order = Order {
            number: format!("hand-{number}"),
        };
        orders.put(&order.number, &order).await?;
        println!("{}", order.number);
        if number == ORDERS - 1 {
            die().await?;
        }
        events.publish(&Context::new(), &order).await?;
    }
    Ok(())
}

/// Writes both in one step. It dies before anything is published.
pub(crate) async fn by_outbox() -> Result<()> {
    let shop = service();
    let (orders, outbox) = (shop.store().await?, shop.outbox().await?);
    let events = shop.publisher::<Order>(TOPIC).await?;
    for number in 0..ORDERS {
        let order = Order {
            number: format!("outbox-{number}"),
        };
        let record = Operation::write(orders.scope(), Record::new(&order.number, "tea"));
        // Those of one key stay in order.
        let message: Message = events.message(&order)?.with_key("till-1");
        outbox
            .commit(&Context::new(), vec![record], vec![message])
            .await?;
        println!("{}", order.number);
    }
    die().await
}

/// Back again: hands on what was left, to a subscriber in this process, and says what arrives. Then it
/// tidies up.
pub(crate) async fn recover() -> Result<()> {
    let shop = service();
    let (orders, outbox) = (shop.store().await?, shop.outbox().await?);
    let broker = shop.broker().await?;
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let running = shop
        .subscribe(
            TOPIC,
            SubscribeOptions::default(),
            move |_cx, order: Order, _| {
                let told = told.send(order.number);
                async move { told.map_err(|_| Error::internal("nobody listens")) }
            },
        )
        .start()
        .await?;
    // While a service runs, `tokio::spawn(relay.run())` does this for whatever is committed.
    let mut relay = outbox.relay(broker, RelayOptions::default());
    let published = relay.drain().await?;
    for _ in 0..published {
        let order = tokio::time::timeout(Duration::from_secs(10), heard.recv());
        match order.await {
            Ok(Some(order)) => println!("{order}"),
            _ => return Err(Error::data_loss("a message does not arrive")),
        }
    }
    for record in orders.list(ListOptions::default()).await?.records {
        orders.delete(&record.key).await?;
    }
    running.stop().await?;
    let (topic, group) = (Topic::new(TOPIC)?, "shop".parse()?);
    let broker = service().broker().await?;
    broker
        .remove_group(&topic, &group, Default::default())
        .await?;
    Ok(())
}

/// `kill -9`, by its own hand.
async fn die() -> Result<()> {
    let own = std::process::id().to_string();
    tokio::process::Command::new("kill")
        .args(["-9", &own])
        .status()
        .await?;
    Err(Error::internal("it lives"))
}
