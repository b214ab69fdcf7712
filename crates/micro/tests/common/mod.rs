//! A service to call, and fleets of it in one process.

#![allow(
    dead_code,
    unreachable_pub,
    missing_debug_implementations,
    missing_docs,
    reason = "each test binary uses its part"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use micro::registry::Registry;
use micro::registry::memory::MemoryRegistry;
use micro::{Context, Error, Result, Running, Service, Settings, Streaming};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, micro::Message)]
pub struct Ping {
    pub text: String,
    pub number: u64,
}

/// What the tests call.
#[micro::service]
pub trait Probe {
    /// Answers with the same text and the id of the node.
    async fn echo(&self, cx: &Context, ping: Ping) -> Result<Ping>;
    /// May be repeated.
    #[micro(idempotent)]
    async fn safe(&self, cx: &Context, ping: Ping) -> Result<Ping>;
    /// Sleeps `number` milliseconds.
    async fn sleep(&self, cx: &Context, ping: Ping) -> Result<Ping>;
    /// Fails with the kind of gRPC's code `number`.
    async fn fail(&self, cx: &Context, ping: Ping) -> Result<Ping>;
    /// Panics.
    async fn panic(&self, cx: &Context, ping: Ping) -> Result<Ping>;
    /// Counts to `number`.
    async fn count(&self, cx: &Context, ping: Ping) -> Result<Streaming<Ping>>;
    /// Adds up the numbers.
    async fn sum(&self, cx: &Context, pings: Streaming<Ping>) -> Result<Ping>;
    /// Echoes each one.
    async fn chat(&self, cx: &Context, pings: Streaming<Ping>) -> Result<Streaming<Ping>>;
    /// A call between nodes: passes on to the service `text`, and says how much time was left.
    async fn left(&self, cx: &Context, ping: Ping) -> Result<Ping>;
}

/// What happened on a node.
#[derive(Debug, Default)]
pub struct Seen {
    pub calls: AtomicUsize,
    pub under_way: AtomicUsize,
    pub fail: AtomicUsize,
}

pub struct UnderWay(Arc<Seen>);

impl UnderWay {
    fn new(seen: &Arc<Seen>) -> Self {
        seen.calls.fetch_add(1, Ordering::SeqCst);
        seen.under_way.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(seen))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Clone)]
pub struct Prober {
    pub node: String,
    pub seen: Arc<Seen>,
    pub client: micro::Client,
}

impl Probe for Prober {
    async fn echo(&self, cx: &Context, ping: Ping) -> Result<Ping> {
        let _under_way = UnderWay::new(&self.seen);
        if let Some(tenant) = cx.metadata().get("x-tenant") {
            cx.reply().insert("x-tenant-seen", tenant)?;
        }
        cx.reply().insert("x-node", &self.node)?;
        if self.seen.fail.load(Ordering::SeqCst) > 0 {
            return Err(Error::unavailable("told to fail"));
        }
        Ok(ping)
    }

    async fn safe(&self, cx: &Context, ping: Ping) -> Result<Ping> {
        self.echo(cx, ping).await
    }

    async fn sleep(&self, _cx: &Context, ping: Ping) -> Result<Ping> {
        let _under_way = UnderWay::new(&self.seen);
        tokio::time::sleep(Duration::from_millis(ping.number)).await;
        Ok(ping)
    }

    async fn fail(&self, _cx: &Context, ping: Ping) -> Result<Ping> {
        let kind = micro::ErrorKind::from_code(u32::try_from(ping.number).unwrap_or(2));
        Err(Error::new(
            kind.unwrap_or(micro::ErrorKind::Unknown),
            ping.text,
        ))
    }

    async fn panic(&self, _cx: &Context, ping: Ping) -> Result<Ping> {
        panic!("{}", ping.text)
    }

    async fn count(&self, _cx: &Context, ping: Ping) -> Result<Streaming<Ping>> {
        let under_way = UnderWay::new(&self.seen);
        let (sender, stream) = Streaming::channel(1);
        tokio::spawn(async move {
            let _under_way = under_way;
            for number in 0..ping.number {
                let ping = Ping {
                    number,
                    ..ping.clone()
                };
                if sender.send(ping).await.is_err() {
                    break;
                }
            }
        });
        Ok(stream)
    }

    async fn sum(&self, _cx: &Context, mut pings: Streaming<Ping>) -> Result<Ping> {
        let mut sum = Ping::default();
        while let Some(ping) = pings.next().await {
            sum.number += ping?.number;
        }
        Ok(sum)
    }

    async fn chat(&self, _cx: &Context, mut pings: Streaming<Ping>) -> Result<Streaming<Ping>> {
        let (sender, stream) = Streaming::channel(1);
        tokio::spawn(async move {
            while let Some(Ok(ping)) = pings.next().await {
                if sender.send(ping).await.is_err() {
                    break;
                }
            }
        });
        Ok(stream)
    }

    async fn left(&self, cx: &Context, ping: Ping) -> Result<Ping> {
        let left = cx.remaining().unwrap_or_default().as_millis();
        let mut told = format!("{left}");
        if let Some((next, rest)) = ping.text.split_once(' ') {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let next = ProbeClient::new(self.client.clone(), next);
            let ping = Ping {
                text: rest.to_owned(),
                number: ping.number,
            };
            let reply = next.left(cx, ping).await?;
            told = format!("{told} {}", reply.text);
        } else if ping.number > 0 {
            let _under_way = UnderWay::new(&self.seen);
            tokio::time::sleep(Duration::from_millis(ping.number)).await;
        }
        Ok(Ping {
            text: told,
            number: ping.number,
        })
    }
}

/// Nodes and clients that share one registry.
#[derive(Clone)]
pub struct Fleet {
    pub registry: Arc<dyn Registry>,
    pub transport: &'static str,
}

impl Fleet {
    pub fn new() -> Self {
        Self {
            registry: Arc::new(MemoryRegistry::new()),
            transport: "grpc",
        }
    }

    pub fn service(&self, name: &str) -> Service {
        Service::new(name)
            .settings(Settings::new())
            .with_registry(Arc::clone(&self.registry))
            .transport_url(self.transport)
            .stop_timeout(Duration::from_secs(5))
    }

    /// Starts a node of the service `name`.
    pub async fn start(&self, name: &str, id: &str) -> (Running, Arc<Seen>) {
        self.start_with(name, id, |service| service).await
    }

    pub async fn start_with(
        &self,
        name: &str,
        id: &str,
        change: impl FnOnce(Service) -> Service,
    ) -> (Running, Arc<Seen>) {
        let seen = Arc::<Seen>::default();
        let service = change(self.service(name).id(id));
        let prober = Prober {
            node: id.to_owned(),
            seen: Arc::clone(&seen),
            client: service.client().await.expect("the client opens"),
        };
        let running = service
            .handle(ProbeServer::new(prober))
            .start()
            .await
            .expect("the service starts");
        (running, seen)
    }

    pub async fn client(&self) -> micro::Client {
        self.service("tester")
            .client()
            .await
            .expect("the client opens")
    }

    pub async fn probe(&self, name: &str) -> ProbeClient {
        ProbeClient::new(self.client().await, name)
    }
}

pub fn ping(text: &str, number: u64) -> Ping {
    Ping {
        text: text.to_owned(),
        number,
    }
}

/// Waits until `done` says so, for five seconds at most.
pub async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..500 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited in vain: {what}");
}
