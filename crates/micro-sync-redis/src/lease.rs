//! A lock that is ours for a time.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use micro_lease::Lease;
use micro_sync_core::{Result, async_trait};

use crate::table::Table;

/// A lock, and the owner that we are in it: another one for each attempt.
pub(crate) struct RedisLease {
    pub(crate) table: Arc<Table>,
    pub(crate) name: String,
    pub(crate) owner: String,
    pub(crate) token: u64,
    pub(crate) ttl: Duration,
}

impl fmt::Debug for RedisLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisLease")
            .field("name", &self.name)
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Lease for RedisLease {
    async fn renew(&self) -> Result<bool> {
        self.table.renew(&self.name, &self.owner, self.ttl).await
    }

    async fn verify(&self) -> Result<bool> {
        self.table.verify(&self.name, &self.owner).await
    }

    async fn end(&self) -> Result<bool> {
        self.table
            .leave(&self.name, &self.owner, Some(self.token))
            .await
    }
}
