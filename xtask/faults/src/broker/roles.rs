//! The children: one that publishes, and one that consumes.
//!
//! A publisher says `try <id>` before it publishes and then `ack <id>`, `nobody <id>` or `err <id> <kind>`;
//! a consumer `got <id>` before it acknowledges. Each line is whole, or was never said.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use micro::broker::{
    Backoff, Broker, Context, Delivery, Error, Group, Message, PublishOptions, Reach,
    SubscribeOptions, Topic, handler,
};
use micro_core::{Env, Random as _, SystemRandom};
use tokio::io::AsyncReadExt as _;
use tokio::time::sleep;

use super::PATIENCE;
use crate::Result;

pub(super) async fn play(role: &str, arguments: &[&str]) -> Result<()> {
    match (role, arguments) {
        ("publish", [name, url, registry, store]) => {
            publish(name, &*open(url, registry, store).await).await
        }
        ("consume", [url, registry]) => consume(&*open(url, registry, "-").await).await,
        _ => Err(format!("there is no role '{role}' with {arguments:?}").into()),
    }
}

/// Opens a broker, as soon as it can be opened: what it needs may be down just now.
async fn open(url: &str, registry: &str, store: &str) -> Arc<dyn Broker> {
    loop {
        match open_once(url, registry, store).await {
            Ok(broker) => return broker,
            Err(error) => {
                eprintln!("  {url}: {error}");
                sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn open_once(url: &str, registry: &str, store: &str) -> Result<Arc<dyn Broker>, Error> {
    let drivers = micro::drivers();
    let mut env = Env::new();
    if registry != "-" {
        let registry = drivers.registry.open(registry, &env).await?;
        env = env.with(registry);
    }
    if store != "-" {
        let store = drivers.store.open(store, &env).await?;
        env = env.with(store);
    }
    drivers.broker.open(url, &env).await
}

fn topic() -> Result<Topic> {
    Ok(Topic::new("orders")?)
}

/// Says a line at once, whole.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Whoever does not listen any more has ended.
    let _ = out.write_all(format!("{line}\n").as_bytes());
    let _ = out.flush();
}

/// Ends with the parent's wish.
async fn told_to_end() {
    let mut byte = [0];
    let _ = tokio::io::stdin().read(&mut byte).await;
}

/// The body of a message: no two are the same.
fn body(id: &str) -> String {
    format!("{id};").repeat(1 + id.len() % 7)
}

async fn publish(name: &str, broker: &dyn Broker) -> Result<()> {
    let topic = topic()?;
    let publishing = async {
        for number in 0_u64.. {
            let id = format!("{name}-{number}");
            let message = Message::new(topic.clone(), body(&id)).with_id(id.as_str());
            say(&format!("try {id}"));
            let cx = Context::new().with_timeout(Duration::from_secs(5));
            let published = broker.publish(&cx, message, PublishOptions::default());
            match published.await.map(|receipt| receipt.reach) {
                Ok(Reach::Stored { .. } | Reach::Outbox { .. }) => say(&format!("ack {id}")),
                Ok(_) => say(&format!("nobody {id}")),
                Err(error) => {
                    say(&format!("err {id} {:?}", error.kind()));
                    sleep(Duration::from_millis(50)).await;
                }
            }
            sleep(Duration::from_millis(1 + SystemRandom.next_u64() % 4)).await;
        }
    };
    tokio::select! {
        () = publishing => {}
        () = told_to_end() => {}
    }
    Ok(broker.close(PATIENCE).await?)
}

async fn consume(broker: &dyn Broker) -> Result<()> {
    let topic = topic()?;
    let handle = || {
        handler(|_, delivery: Delivery| async move {
            // Now and then a kill comes in the middle, and now and then it does not go well.
            sleep(Duration::from_millis(SystemRandom.next_u64() % 5)).await;
            if delivery.deliveries() == 1 && SystemRandom.next_u64().is_multiple_of(20) {
                return Err(Error::unavailable("try again"));
            }
            let id = delivery.id();
            if delivery.message().body != body(id) {
                say(&format!("wrong {id}"));
            }
            say(&format!("got {id}"));
            Ok(())
        })
    };
    let opts = SubscribeOptions::default()
        .with_group(Group::new("workers")?)
        .with_concurrency(8)
        .with_ack_deadline(Duration::from_secs(3))
        .with_max_deliveries(1000)
        .with_backoff(Backoff::new(
            Duration::from_millis(50),
            Duration::from_millis(500),
        ));
    let subscription = loop {
        match broker.subscribe(&topic, opts.clone(), handle()).await {
            Ok(subscription) => break subscription,
            Err(error) => {
                eprintln!("  subscribing: {error}");
                sleep(Duration::from_millis(200)).await;
            }
        }
    };
    say("ready");
    tokio::select! {
        error = subscription.ended() => return Err(error.into()),
        () = told_to_end() => {}
    }
    subscription.stop(Duration::from_secs(10)).await?;
    Ok(())
}
