//! The lease of one who holds a lock or waits for it, with its key.

use std::fmt;
use std::sync::OnceLock;

use micro_etcd::Client;
use micro_lease::Lease;
use micro_sync_core::{Result, async_trait};

/// A lease of its own for each attempt. When it is revoked its key goes with it, and a request to
/// write the key that is still on its way fails: nothing can be left behind.
pub(crate) struct EtcdLease {
    client: Client,
    id: i64,
    key: String,
    /// The revision at which the key was created, once it is the first of its name.
    held: OnceLock<i64>,
}

impl EtcdLease {
    pub(crate) fn new(client: Client, id: i64, keys: &str) -> Self {
        Self {
            client,
            id,
            // As etcd's own library names it, which go-micro uses.
            key: format!("{keys}{id:x}"),
            held: OnceLock::new(),
        }
    }

    pub(crate) fn id(&self) -> i64 {
        self.id
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// From now on the key is a lock, and its loss is the lock's.
    pub(crate) fn hold(&self, created: i64) {
        self.held.get_or_init(|| created);
    }

    async fn has_key(&self) -> Result<bool> {
        let Some(created) = self.held.get() else {
            return Ok(true);
        };
        let found = self.client.get(self.key.clone()).await?;
        Ok(found.is_some_and(|found| found.create_revision == *created && found.lease == self.id))
    }
}

impl fmt::Debug for EtcdLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdLease")
            .field("key", &self.key)
            .field("held", &self.held.get())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Lease for EtcdLease {
    async fn renew(&self) -> Result<bool> {
        // An operator who deletes the key leaves the lease alive.
        let (alive, has_key) =
            tokio::try_join!(self.client.lease_keep_alive(self.id), self.has_key())?;
        Ok(alive.is_some() && has_key)
    }

    async fn verify(&self) -> Result<bool> {
        self.has_key().await
    }

    async fn end(&self) -> Result<bool> {
        // Revoking does not say whether there was a key. If it cannot be known, it ends all the same.
        let had_key = self.has_key().await.unwrap_or(true);
        Ok(self.client.lease_revoke(self.id).await? && had_key)
    }
}
