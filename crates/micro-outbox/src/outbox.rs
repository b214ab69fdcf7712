//! Writing messages along with records.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use micro_broker_core::{Broker, MAX_BODY, Message, PublishOptions, prepare};
use micro_core::{Context, Env, Error, ErrorKind, Result};
use micro_store_core::{
    BatchOptions, Condition, Operation, Record, StoreErrorExt as _, Table, WriteOptions, Written,
};
use tokio::sync::Notify;

use crate::entry::{Entry, HEADS, MESSAGES};
use crate::{Relay, RelayOptions};

/// How long the last place of a key is known. After that the clocks of processes decide, which are not as
/// far apart.
const HEAD_TTL: Duration = Duration::from_secs(24 * 3600);

/// How often others may be faster.
const ATTEMPTS: usize = 64;

/// Where messages wait until they are published. Cheap to clone.
#[derive(Clone)]
pub struct Outbox(pub(crate) Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) table: Table,
    pub(crate) env: Env,
    max_body: usize,
    /// The last place that this process gave away.
    place: AtomicU64,
    /// Told when something was committed.
    pub(crate) committed: Notify,
}

/// The last message of a key.
struct Head {
    /// The version of its record, if there is one.
    version: Option<u64>,
    /// The key of the message's record.
    last: Option<String>,
}

impl Outbox {
    /// An outbox in a table of its own, beside those with the records: [`Table::sibling`].
    #[must_use]
    pub fn new(table: Table) -> Self {
        Self::with_env(table, &Env::new())
    }

    /// [`new`](Self::new), with another clock and another source of chance.
    #[must_use]
    pub fn with_env(table: Table, env: &Env) -> Self {
        Self(Arc::new(Shared {
            table,
            env: env.clone(),
            max_body: MAX_BODY,
            place: AtomicU64::new(0),
            committed: Notify::new(),
        }))
    }

    /// Makes changes and has messages published about them: all of it or nothing. The operations are in
    /// the outbox's database, in any of its tables; the answers are theirs, in their order.
    ///
    /// Messages are checked as [`Broker::publish`] does, and take along what the context has. One without
    /// an id gets the key of its record.
    ///
    /// A dropped call has done all of it or nothing.
    ///
    /// # Errors
    ///
    /// Those of [`prepare`] for a message that cannot be published; those of
    /// [`Store::batch`](micro_store_core::Store::batch); `Aborted` if the messages' keys are committed to
    /// so often elsewhere that this call never has its turn.
    pub async fn commit(
        &self,
        cx: &Context,
        operations: Vec<Operation>,
        messages: Vec<Message>,
    ) -> Result<Vec<Written>> {
        let named = |err: Error| err.with_operation("outbox.commit");
        let count = operations.len();
        let mut heads = self.heads(&messages).await.map_err(named)?;
        for _ in 0..ATTEMPTS {
            let mut all = operations.clone();
            self.add(cx, &messages, &heads, &mut all).map_err(named)?;
            match self.0.table.batch(all, BatchOptions::default()).await {
                Ok(mut written) => {
                    written.truncate(count);
                    self.0.committed.notify_one();
                    return Ok(written);
                }
                // A condition did not hold: one of ours, if a head has changed.
                Err(err) if err.is_conflict() && !heads.is_empty() => {
                    let now = self.heads(&messages).await.map_err(named)?;
                    let same = |(key, head): (&String, &Head)| {
                        now.get(key).is_some_and(|now| now.version == head.version)
                    };
                    if heads.iter().all(same) {
                        return Err(err);
                    }
                    heads = now;
                }
                Err(err) => return Err(err),
            }
        }
        Err(named(Error::new(
            ErrorKind::Aborted,
            "others commit messages of the same key all the time: nothing has happened",
        )))
    }

    /// Hands what waits to a broker.
    pub fn relay(&self, broker: Arc<dyn Broker>, opts: RelayOptions) -> Relay {
        Relay::new(self.clone(), broker, opts)
    }

    /// The last messages of these messages' keys.
    async fn heads(&self, messages: &[Message]) -> Result<HashMap<String, Head>> {
        let mut heads = HashMap::new();
        for key in messages.iter().filter_map(|message| message.key.as_deref()) {
            if heads.contains_key(key) {
                continue;
            }
            let found = self.0.table.find(&format!("{HEADS}{key}")).await?;
            let head = Head {
                version: found.as_ref().map(|record| record.version),
                last: found.and_then(|record| String::from_utf8(record.value.to_vec()).ok()),
            };
            heads.insert(key.to_owned(), head);
        }
        Ok(heads)
    }

    /// Adds the operations that keep the messages, behind the last ones of their keys.
    fn add(
        &self,
        cx: &Context,
        messages: &[Message],
        heads: &HashMap<String, Head>,
        all: &mut Vec<Operation>,
    ) -> Result<()> {
        let (clock, random) = (&**self.0.env.clock(), &**self.0.env.random());
        let scope = self.0.table.scope();
        let mut last: HashMap<&str, String> = HashMap::new();
        for message in messages {
            let before = message.key.as_deref().and_then(|key| {
                let head = || heads.get(key)?.last.clone();
                last.get(key).cloned().or_else(head)
            });
            let place = self.place(before.as_deref());
            let id = format!("{place:016x}-{:016x}", random.next_u64());
            let key = format!("{MESSAGES}{id}");
            let mut message = message.clone();
            message.id = message.id.or_else(|| Some(Arc::from(id)));
            let opts = PublishOptions::default();
            let message = prepare(cx, message, &opts, self.0.max_body, clock, random)?;
            let entry = Entry {
                key,
                before,
                message,
            };
            all.push(Operation::write(scope, entry.write()));
            let Entry { key, message, .. } = entry;
            if let Some((of, _)) = message
                .key
                .as_deref()
                .and_then(|of| heads.get_key_value(of))
            {
                last.insert(of, key);
            }
        }
        for (of, key) in last {
            let head = heads.get(of).and_then(|head| head.version);
            let opts = WriteOptions::default()
                .with_ttl(HEAD_TTL)
                .with_condition(head.map_or(Condition::Absent, Condition::Version));
            let record = Record::new(format!("{HEADS}{of}"), key);
            all.push(Operation::write_with(scope, record, opts));
        }
        Ok(())
    }

    /// A place behind all that this process gave away, and behind the message before: the time, in
    /// microseconds, if nothing speaks against it.
    fn place(&self, before: Option<&str>) -> u64 {
        let wall = self.0.env.clock().wall();
        let since = wall
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let now = u64::try_from(since.as_micros()).unwrap_or(u64::MAX / 2);
        let before = before.and_then(|key| {
            let place = key.strip_prefix(MESSAGES)?.get(..16)?;
            u64::from_str_radix(place, 16).ok()
        });
        let least = now.max(before.map_or(0, |place| place.saturating_add(1)));
        let next = |last: u64| Some(least.max(last.saturating_add(1)));
        let last = self
            .0
            .place
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        least.max(last.unwrap_or_default().saturating_add(1))
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox")
            .field("table", &self.0.table)
            .finish_non_exhaustive()
    }
}
