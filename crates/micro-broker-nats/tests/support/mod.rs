//! What the tests over a server of their own share.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use micro_broker_core::{
    Backoff, Broker as _, Context, Delivery, Env, Group, Handler, Message, Receipt, Result,
    SubscribeOptions, Subscription, Topic, handler,
};
use micro_broker_nats::{NatsBroker, NatsBrokerConfig};
use micro_nats::async_nats::{self, jetstream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::common::{PATIENCE, Server};

pub(crate) fn open(server: &Server, options: &str) -> NatsBroker {
    open_url(&server.url(), &format!("max_bytes=4000000&{options}"))
}

pub(crate) fn open_url(url: &str, options: &str) -> NatsBroker {
    let url = format!("{url}?{}", options.trim_end_matches('&'));
    let config = NatsBrokerConfig::from_url(&micro_core::url::resolve(&url).unwrap()).unwrap();
    NatsBroker::open(config, &Env::new()).unwrap()
}

pub(crate) fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

pub(crate) fn quick() -> SubscribeOptions {
    let backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(100));
    SubscribeOptions::default().with_backoff(backoff)
}

pub(crate) fn member(group: &str) -> SubscribeOptions {
    quick().with_group(Group::new(group).unwrap())
}

pub(crate) async fn try_publish(broker: &NatsBroker, message: Message) -> Result<Receipt> {
    let cx = Context::new().with_timeout(PATIENCE);
    broker.publish(&cx, message, Default::default()).await
}

/// Tries until it is published.
pub(crate) async fn publish(broker: &NatsBroker, message: Message) -> Receipt {
    let trying = async {
        loop {
            match try_publish(broker, message.clone()).await {
                Ok(receipt) => return receipt,
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    };
    timeout(PATIENCE, trying).await.expect("it is published")
}

/// What arrives somewhere.
pub(crate) struct Inbox {
    arrived: mpsc::UnboundedReceiver<Delivery>,
    pub(crate) subscription: Subscription,
}

impl Inbox {
    pub(crate) async fn at(broker: &NatsBroker, name: &str, opts: SubscribeOptions) -> Self {
        Self::answering(broker, name, opts, |_| Ok(())).await
    }

    pub(crate) async fn answering(
        broker: &NatsBroker,
        name: &str,
        opts: SubscribeOptions,
        answer: impl Fn(&Delivery) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        let (tell, arrived) = mpsc::unbounded_channel();
        let handle: Arc<dyn Handler> = handler(move |_, delivery| {
            let answer = answer(&delivery);
            let _ = tell.send(delivery);
            std::future::ready(answer)
        });
        let subscription = broker.subscribe(&topic(name), opts, handle).await.unwrap();
        Self {
            arrived,
            subscription,
        }
    }

    #[track_caller]
    pub(crate) fn next(&mut self) -> impl Future<Output = Delivery> + '_ {
        let at = std::panic::Location::caller();
        async move {
            match timeout(PATIENCE, self.arrived.recv()).await {
                Ok(Some(delivery)) => delivery,
                _ => panic!("nothing arrived, at {at}"),
            }
        }
    }

    #[track_caller]
    pub(crate) fn silent(&mut self) -> impl Future<Output = ()> + '_ {
        let at = std::panic::Location::caller();
        async move {
            let time = Duration::from_millis(300);
            if let Ok(Some(delivery)) = timeout(time, self.arrived.recv()).await {
                panic!("nothing was to arrive, at {at}: {delivery:?}");
            }
        }
    }
}

/// The server as its administrator sees it.
pub(crate) struct Admin(jetstream::Context);

pub(crate) async fn admin(server: &Server) -> Admin {
    let connecting = async {
        loop {
            match async_nats::connect(server.url()).await {
                Ok(client) => return client,
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    };
    Admin(jetstream::new(timeout(PATIENCE, connecting).await.unwrap()))
}

impl Admin {
    pub(crate) async fn has_group(&self, topic: &str, group: &str) -> bool {
        let Ok(stream) = self.0.get_stream(format!("micro+_+{topic}")).await else {
            return false;
        };
        stream.consumer_info(group).await.is_ok()
    }

    pub(crate) async fn has_message(&self, topic: &str, seq: u64) -> bool {
        let stream = self.0.get_stream(format!("micro+_+{topic}")).await.unwrap();
        stream.get_raw_message(seq).await.is_ok()
    }

    async fn names(&self, topic: &str) -> Vec<String> {
        let stream = self.0.get_stream(format!("micro+_+{topic}")).await.unwrap();
        let names = stream.consumer_names();
        names.map(|name| name.unwrap()).collect().await
    }

    pub(crate) async fn consumers(&self, topic: &str) -> usize {
        self.names(topic).await.len()
    }

    pub(crate) async fn forget_consumers(&self, topic: &str) {
        let stream = self.0.get_stream(format!("micro+_+{topic}")).await.unwrap();
        for name in self.names(topic).await {
            // The server fails while its files are still being written.
            while stream.consumer_info(&name).await.is_ok() {
                let _ = stream.delete_consumer(&name).await;
            }
        }
    }
}

/// Says something to the server on a connection of its own, as it stands, and waits until it was read.
pub(crate) async fn raw(server: &Server, bytes: &[u8]) {
    let address = server.url().replace("nats://", "");
    let mut stream = TcpStream::connect(address).await.unwrap();
    let hello = b"CONNECT {\"verbose\":false,\"headers\":true,\"protocol\":1}\r\n";
    let said = [&hello[..], bytes, b"PING\r\n"].concat();
    stream.write_all(&said).await.unwrap();
    let mut heard = String::new();
    while !heard.contains("PONG") {
        let mut part = [0; 4096];
        let count = timeout(PATIENCE, stream.read(&mut part))
            .await
            .unwrap()
            .unwrap();
        assert!(count > 0, "the server hangs up: {heard}");
        heard += &String::from_utf8_lossy(&part[..count]);
    }
    assert!(!heard.contains("-ERR"), "{heard}");
}
