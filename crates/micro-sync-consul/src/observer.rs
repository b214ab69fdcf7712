//! Who leads, and who comes next.

use std::time::Duration;

use micro_consul::{Client, Indexed, Pair, Read};
use micro_sync_core::{FencingToken, Leader, MAX_VALUE, Result};
use tokio::time::{Instant, sleep, sleep_until};

use crate::queue::{WAIT, first};

/// How long to wait before it is read anew, when it could not be read.
const REREAD: Duration = Duration::from_secs(1);
/// The least time between two questions.
const PAUSE: Duration = Duration::from_millis(20);

/// A stream's state: the queue of a name as it was last seen, and what was told of it.
#[derive(Debug)]
pub(crate) struct Observer {
    client: Client,
    keys: String,
    epoch: u64,
    index: Option<u64>,
    leader: Option<Leader>,
    told: bool,
    asked: Instant,
}

impl Observer {
    /// Reads the queue.
    pub(crate) async fn begin(client: Client, keys: String, epoch: u64) -> Result<Self> {
        let mut observer = Self {
            client,
            keys,
            epoch,
            index: None,
            leader: None,
            told: false,
            asked: Instant::now(),
        };
        let seen = observer.read(None).await?;
        observer.see(&seen);
        Ok(observer)
    }

    /// The next leader that was not told yet.
    pub(crate) async fn next(&mut self) -> Result<Option<Leader>> {
        while self.told {
            // A queue that changes all the time is not asked for all the time.
            sleep_until(self.asked + PAUSE).await;
            self.asked = Instant::now();
            match self.read(self.index).await {
                Ok(seen) => self.see(&seen),
                Err(err) if err.is_retryable() => {
                    tracing::debug!(%err, "a queue cannot be read");
                    self.index = None;
                    sleep(REREAD).await;
                }
                Err(err) => return Err(err),
            }
        }
        self.told = true;
        Ok(self.leader.clone())
    }

    async fn read(&self, index: Option<u64>) -> Result<Indexed<Vec<Pair>>> {
        let after = index.map(|index| (index, WAIT));
        // Not from a server that is behind: what was told once is not taken back.
        let read = Read::default().with_consistent(true).with_after(after);
        self.client.list(&self.keys, read).await
    }

    fn see(&mut self, seen: &Indexed<Vec<Pair>>) {
        self.index = seen.follow(self.index);
        let leader = first(&seen.value).map(|first| self.leader(first));
        self.told &= self.leader == leader;
        self.leader = leader;
    }

    fn leader(&self, first: &Pair) -> Leader {
        // Others may have written it, whatever it is.
        let value = &first.value[..first.value.len().min(MAX_VALUE)];
        Leader::new(
            String::from_utf8_lossy(value),
            token(self.epoch, first.create_index),
        )
    }
}

/// The token of a key: indexes only grow, and no two keys are created at the same one.
pub(crate) fn token(epoch: u64, created: u64) -> FencingToken {
    FencingToken::new(epoch, created)
}
