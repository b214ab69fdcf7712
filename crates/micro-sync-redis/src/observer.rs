//! Who leads, by asking now and then.

use std::sync::Arc;
use std::time::Duration;

use micro_core::Random;
use micro_sync_core::{Leader, Result};
use tokio::time::sleep;

use crate::table::Table;

#[derive(Debug)]
pub(crate) struct Observer {
    pub(crate) table: Arc<Table>,
    pub(crate) name: String,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) poll: Duration,
    /// What was read last, and whether it was told.
    pub(crate) leader: Option<Leader>,
    pub(crate) told: bool,
}

impl Observer {
    /// The next leader that was not told yet.
    pub(crate) async fn next(&mut self) -> Result<Option<Leader>> {
        while self.told {
            self.pause().await;
            match self.table.leader(&self.name).await {
                Ok(leader) if leader != self.leader => {
                    self.leader = leader;
                    self.told = false;
                }
                Ok(_) => {}
                Err(err) if err.is_retryable() => {
                    tracing::debug!(%err, "a lock cannot be observed");
                }
                Err(err) => return Err(err),
            }
        }
        self.told = true;
        Ok(self.leader.clone())
    }

    /// Jittered by half: those who observe one name do not ask together.
    async fn pause(&self) {
        let micros = u64::try_from(self.poll.as_micros()).unwrap_or(u64::MAX);
        let micros = micros / 2 + self.random.next_u64() % micros.max(1);
        sleep(Duration::from_micros(micros)).await;
    }
}
