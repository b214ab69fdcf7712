//! What the tests of this backend share.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::sync::Arc;
use std::time::Duration;

use micro_broker_core::{
    Backoff, Broker as _, Context, Delivery, Env, Error, Group, Message, Reach, Receipt, Result,
    SubscribeOptions, Subscription, Topic, handler,
};
use micro_broker_http::{HttpBroker, HttpBrokerConfig};
use micro_registry_core::{Node, Registry, RegistryExt as _};
use micro_registry_memory::MemoryDriver;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// A registry of the test's own, to open brokers with.
pub(crate) async fn env() -> Env {
    let registry: Arc<dyn Registry> = micro_registry_core::Drivers::new()
        .with(MemoryDriver::default())
        .open("memory", &Env::new())
        .await
        .unwrap();
    Env::new().with(registry)
}

pub(crate) fn registry(env: &Env) -> Arc<dyn Registry> {
    env.get::<dyn Registry>().unwrap()
}

pub(crate) fn open(config: HttpBrokerConfig, env: &Env) -> HttpBroker {
    HttpBroker::open(config, env).unwrap()
}

pub(crate) fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

pub(crate) fn member(group: &str) -> SubscribeOptions {
    let backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(50));
    SubscribeOptions::default()
        .with_group(Group::new(group).unwrap())
        .with_backoff(backoff)
}

pub(crate) type Arrived = mpsc::UnboundedReceiver<Delivery>;

/// Subscribes a handler that answers so, and tells what arrives.
pub(crate) async fn subscribe(
    broker: &HttpBroker,
    opts: SubscribeOptions,
    answer: impl Fn(&Delivery) -> Result<()> + Send + Sync + 'static,
) -> (Subscription, Arrived) {
    let (tell, arrived) = mpsc::unbounded_channel();
    let handle = handler(move |_, delivery| {
        let answer = answer(&delivery);
        let _ = tell.send(delivery);
        std::future::ready(answer)
    });
    let subscription = broker
        .subscribe(&topic("orders"), opts, handle)
        .await
        .unwrap();
    (subscription, arrived)
}

pub(crate) fn no(_: &Delivery) -> Result<()> {
    Err(Error::internal("no"))
}

pub(crate) fn yes(_: &Delivery) -> Result<()> {
    Ok(())
}

pub(crate) async fn next(arrived: &mut Arrived) -> Delivery {
    timeout(PATIENCE, arrived.recv())
        .await
        .expect("it arrives")
        .expect("the subscriber is there")
}

pub(crate) async fn publish(broker: &HttpBroker, text: &str) -> Receipt {
    let message = Message::new(topic("orders"), text.to_owned());
    broker
        .publish(&Context::new(), message, Default::default())
        .await
        .unwrap()
}

/// Acknowledged, pending, failed.
pub(crate) fn counts(receipt: &Receipt) -> (u32, u32, u32) {
    match receipt.reach {
        Reach::Delivered {
            acknowledged,
            pending,
            failed,
        } => (acknowledged, pending, failed),
        reach => panic!("it was not delivered: {reach:?}"),
    }
}

/// The nodes of all subscribers.
pub(crate) async fn nodes(env: &Env) -> Vec<Node> {
    let services = registry(env).get("micro.http.broker").await.unwrap();
    services
        .into_iter()
        .flat_map(|service| service.nodes)
        .collect()
}

/// Sends bytes; the answer's status, and all of it.
pub(crate) async fn send(address: &str, bytes: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A server that has refused reads no more.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    let _ = read.expect("it answers");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    (
        status.unwrap_or_else(|| panic!("no answer: {answer:?}")),
        answer,
    )
}

/// A request.
pub(crate) fn post(id: &str, headers: &str, body: &str) -> Vec<u8> {
    format!(
        "POST /?id={id} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n{body}",
        body.len()
    )
    .into_bytes()
}
