//! Who leads, and who comes next.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use micro_etcd::{Client, KeyValue, Keys, Watch, WatchEvent};
use micro_sync_core::{FencingToken, Leader, MAX_VALUE, Result};
use tokio::time::sleep;

use crate::queue;

/// How long to wait before everything is read anew, when it could not be read.
const REREAD: Duration = Duration::from_secs(1);

/// A stream's state: the queue of a name, and what was told of it.
#[derive(Debug)]
pub(crate) struct Observer {
    client: Client,
    keys: Keys,
    epoch: u64,
    queue: BTreeMap<Bytes, KeyValue>,
    watch: Watch,
    told: Option<Option<Leader>>,
}

impl Observer {
    /// Reads the queue.
    pub(crate) async fn begin(client: Client, keys: &str, epoch: u64) -> Result<Self> {
        let keys = Keys::prefix(keys.to_owned());
        let (queue, watch) = read(&client, &keys).await?;
        Ok(Self {
            client,
            keys,
            epoch,
            queue,
            watch,
            told: None,
        })
    }

    /// The next leader that was not told yet.
    pub(crate) async fn next(&mut self) -> Result<Option<Leader>> {
        loop {
            let leader = queue::first(self.queue.values()).map(|first| self.leader(first));
            if self.told.as_ref() != Some(&leader) {
                self.told = Some(leader.clone());
                return Ok(leader);
            }
            match self.watch.next().await? {
                WatchEvent::Changes(changes) => {
                    for change in changes {
                        match change.now {
                            Some(now) => self.queue.insert(change.key, now),
                            None => self.queue.remove(&change.key),
                        };
                    }
                }
                WatchEvent::Compacted { .. } | WatchEvent::Rewound(_) => self.read_anew().await?,
                _ => {}
            }
        }
    }

    async fn read_anew(&mut self) -> Result<()> {
        loop {
            match read(&self.client, &self.keys).await {
                Ok(read) => {
                    (self.queue, self.watch) = read;
                    return Ok(());
                }
                Err(err) if err.is_retryable() => {
                    tracing::debug!(%err, "a queue cannot be read");
                    sleep(REREAD).await;
                }
                Err(err) => return Err(err),
            }
        }
    }

    fn leader(&self, first: &KeyValue) -> Leader {
        // Others may have written it, whatever it is.
        let value = &first.value[..first.value.len().min(MAX_VALUE)];
        let value = String::from_utf8_lossy(value);
        Leader::new(value, token(self.epoch, first.create_revision))
    }
}

async fn read(client: &Client, keys: &Keys) -> Result<(BTreeMap<Bytes, KeyValue>, Watch)> {
    let mut queue = BTreeMap::new();
    let position = client
        .scan(keys.clone(), |entry| {
            queue.insert(entry.key.clone(), entry);
            Ok(())
        })
        .await?;
    Ok((queue, client.watch(keys.clone(), position)))
}

/// The token of a key: revisions only grow, and no two keys are created at the same one.
pub(crate) fn token(epoch: u64, created: i64) -> FencingToken {
    FencingToken::new(epoch, u64::try_from(created).unwrap_or_default())
}
