//! Who leads, by asking now and then.

use std::sync::Arc;

use micro_postgres::Pool;
use micro_sync_core::{Leader, Result};

use crate::coordinator::Pauses;
use crate::table::{self, Key};

#[derive(Debug)]
pub(crate) struct Observer {
    pub(crate) pool: Pool,
    pub(crate) key: Arc<Key>,
    pub(crate) epoch: u64,
    pub(crate) pauses: Pauses,
    /// What was read last, and whether it was told.
    pub(crate) leader: Option<Leader>,
    pub(crate) told: bool,
}

impl Observer {
    /// The next leader that was not told yet.
    pub(crate) async fn next(&mut self) -> Result<Option<Leader>> {
        while self.told {
            self.pauses.pause().await;
            match table::leader(&self.pool, &self.key, self.epoch).await {
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
}
