//! Messages on the publisher's disk, until they are handled.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use micro_broker_core::{Durability, Env, Error, ErrorKind, Result, Topic};
use micro_broker_delivery::envelope;
use micro_store_core::{
    Condition, DeleteOptions, ListOptions, Record, Scope, Store, Table, WriteOptions,
};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::courier::{Courier, Parcel};
use crate::peers::{Target, TargetName};

/// So long an outbox tries to reach a group.
pub(crate) const RETRY_FOR: Duration = Duration::from_secs(86400);

/// A store that fails is asked again after so long.
const AGAIN: Duration = Duration::from_secs(1);

/// A table of messages that are not handled by everybody yet.
#[derive(Clone, Debug)]
pub(crate) struct Outbox {
    table: Table,
    mark: String,
    pub(crate) durability: Durability,
}

/// What is kept of a message.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// Which process keeps it, and hands it on while it lives.
    by: String,
    /// The topic, and its name on the wire.
    topic: String,
    wire_topic: String,
    targets: Vec<TargetName>,
    /// The message, as go-micro writes it: a person can read it.
    document: String,
}

impl Outbox {
    /// The outbox in this table of the opened store.
    pub(crate) fn open(table: &str, mark: String, env: &Env) -> Result<Self> {
        let invalid = |message: &'static str| {
            Error::failed_precondition(message).with_operation("broker.open")
        };
        let store = env
            .get::<dyn Store>()
            .ok_or_else(|| invalid("an outbox is kept in a store, and none is open"))?;
        use micro_store_core::Durability as Kept;
        let durability = match store.capabilities().durability {
            Kept::Memory => Durability::Memory,
            Kept::Process => Durability::Process,
            Kept::Power => Durability::Power,
            Kept::Quorum => Durability::Quorum,
            // Whatever it is, nothing is promised that is not known.
            _ => Durability::Memory,
        };
        let table = Table::new(store, Scope::of_service(env.namespace(), table)?);
        Ok(Self {
            table,
            mark,
            durability,
        })
    }

    /// Keeps a message; the name of its record, and `None` if it is there already.
    pub(crate) async fn keep(
        &self,
        id: &str,
        parcel: &Parcel,
        targets: &[Target],
    ) -> Result<Option<String>> {
        let name = format!("{}/{id}", parcel.topic);
        let kept = Kept {
            by: self.mark.clone(),
            topic: parcel.message.topic.as_str().to_owned(),
            wire_topic: parcel.topic.clone(),
            targets: targets.iter().map(|target| target.name.clone()).collect(),
            document: String::from_utf8_lossy(&envelope::encode(&parcel.message, &parcel.topic))
                .into_owned(),
        };
        let opts = WriteOptions::default().with_condition(Condition::Absent);
        match self.table.put_with(&name, &kept, opts).await {
            Ok(_) => Ok(Some(name)),
            Err(err) if err.kind() == ErrorKind::AlreadyExists => Ok(None),
            Err(err) => Err(err),
        }
    }

    /// Everybody has the message. If the store cannot be told, it is delivered again after a restart.
    pub(crate) async fn settled(self, name: String) {
        for _ in 0..3 {
            match self
                .table
                .delete_with(&name, DeleteOptions::default())
                .await
            {
                Ok(_) => return,
                Err(error) => {
                    tracing::warn!(record = name, %error, "the outbox cannot be told that a message was handled");
                    sleep(AGAIN).await;
                }
            }
        }
    }

    /// Hands on what an earlier process left.
    pub(crate) async fn resume(self, courier: Arc<Courier>) {
        let mut left = self.table.scan(ListOptions::default().with_limit(100));
        while let Some(record) = left.next().await {
            let resumed = match record {
                Ok(record) => self.resume_one(&record, &courier).await,
                Err(error) => Err(error),
            };
            if let Err(error) = resumed {
                tracing::error!(%error, "what an earlier process left in the outbox cannot be read");
                sleep(AGAIN).await;
            }
        }
    }

    async fn resume_one(&self, record: &Record, courier: &Arc<Courier>) -> Result<()> {
        let kept: Kept = record.json()?;
        if kept.by == self.mark {
            return Ok(());
        }
        let topic: Topic = kept.topic.parse()?;
        let message = envelope::decode(kept.document.as_bytes())?.into_message(topic)?;
        let parcel = Parcel::new(message, kept.wire_topic);
        let mut targets = Vec::new();
        for name in kept.targets {
            let peers = courier.now(&parcel.topic, &name).await;
            targets.push(Target { name, peers });
        }
        let room = loop {
            match courier.room(&parcel) {
                Ok(room) => break room,
                // Those before it make room, sooner or later.
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        };
        let (outbox, name) = (self.clone(), record.key.clone());
        let settled = || outbox.settled(name);
        drop(courier.send(parcel, room, Arc::new(targets), RETRY_FOR, settled));
        Ok(())
    }
}
