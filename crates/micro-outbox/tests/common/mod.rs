//! What the tests share: brokers that fail as they are told, and a shop's tables.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use micro_broker_core::{
    Broker, Capabilities, Class, Context, Durability, Error, Group, Handler, Message,
    PublishOptions, Reach, Receipt, RemoveOptions, Result, SubscribeOptions, Subscription, Topic,
    async_trait,
};
use micro_store_core::{Scope, Store, Table};

pub(crate) type Said = dyn Fn(&Message) -> Result<Reach> + Send + Sync;

/// A broker that keeps what is published, and answers as it is told.
pub(crate) struct Scripted {
    pub(crate) published: Mutex<Vec<Message>>,
    said: Box<Said>,
}

pub(crate) const STORED: Reach = Reach::Stored {
    durability: Durability::Process,
    groups: None,
};

impl Scripted {
    pub(crate) fn new(
        said: impl Fn(&Message) -> Result<Reach> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            published: Mutex::default(),
            said: Box::new(said),
        })
    }

    pub(crate) fn shared(self: &Arc<Self>) -> Arc<dyn Broker> {
        Arc::clone(self) as _
    }

    pub(crate) fn bodies(&self) -> Vec<String> {
        let published = self.published.lock().unwrap();
        let text = |message: &Message| String::from_utf8_lossy(&message.body).into_owned();
        published.iter().map(text).collect()
    }
}

impl std::fmt::Debug for Scripted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scripted")
    }
}

#[async_trait]
impl Broker for Scripted {
    fn backend(&self) -> &'static str {
        "scripted"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new(Class::AtLeastOnce, Durability::Process)
    }

    async fn publish(
        &self,
        _cx: &Context,
        message: Message,
        _opts: PublishOptions,
    ) -> Result<Receipt> {
        // Others have their turn in between.
        tokio::task::yield_now().await;
        let reach = (self.said)(&message)?;
        let id = message.id.clone().expect("what is committed has an id");
        self.published.lock().unwrap().push(message);
        Ok(Receipt::new(id, reach))
    }

    async fn subscribe(
        &self,
        _topic: &Topic,
        _opts: SubscribeOptions,
        _handler: Arc<dyn Handler>,
    ) -> Result<Subscription> {
        Err(Error::unimplemented("nobody subscribes"))
    }

    async fn remove_group(
        &self,
        _topic: &Topic,
        _group: &Group,
        _opts: RemoveOptions,
    ) -> Result<bool> {
        Ok(false)
    }

    async fn close(&self, _grace: Duration) -> Result<()> {
        Ok(())
    }
}

pub(crate) fn topic() -> Topic {
    Topic::new("shop.orders").unwrap()
}

/// Orders, and the outbox beside them.
pub(crate) fn tables(store: Arc<dyn Store>, database: &str) -> (Table, Table) {
    let orders = Table::new(store, Scope::new(database, "orders").unwrap());
    let outbox = orders.sibling("orders.outbox").unwrap();
    (orders, outbox)
}
