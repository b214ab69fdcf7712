//! A row that is ours for a time.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use micro_lease::Lease;
use micro_postgres::Pool;
use micro_sync_core::{Result, async_trait};

use crate::doors::Door;
use crate::table::{self, Key};

/// A row, and the owner that we are in it: another one for each attempt.
pub(crate) struct Row {
    pub(crate) pool: Pool,
    pub(crate) key: Arc<Key>,
    pub(crate) token: i64,
    pub(crate) owner: String,
    pub(crate) ttl: Duration,
    /// Whoever of this process waits for it is told when it is free.
    pub(crate) door: Arc<Door>,
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Row")
            .field("key", &self.key)
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Lease for Row {
    async fn renew(&self) -> Result<bool> {
        let ttl = self.ttl.as_secs_f64();
        table::renew(&self.pool, &self.key, self.token, &self.owner, ttl).await
    }

    async fn verify(&self) -> Result<bool> {
        table::verify(&self.pool, &self.key, self.token, &self.owner).await
    }

    async fn end(&self) -> Result<bool> {
        let ended = table::end(&self.pool, &self.key, self.token, &self.owner).await?;
        self.door.freed.notify_one();
        Ok(ended)
    }
}
