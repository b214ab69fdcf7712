//! The session of one who holds a lock or waits for it, with its key.

use std::fmt;
use std::sync::OnceLock;

use micro_consul::{Client, Read};
use micro_lease::Lease;
use micro_sync_core::{Result, async_trait};

/// A session of its own for each attempt. When it is destroyed its key goes with it, and a request to
/// write the key that is still on its way fails: nothing can be left behind.
pub(crate) struct ConsulLease {
    client: Client,
    session: String,
    key: String,
    /// The index at which the key was created, once it is the first of its name.
    held: OnceLock<u64>,
}

impl ConsulLease {
    pub(crate) fn new(client: Client, session: String, keys: &str) -> Self {
        Self {
            client,
            key: format!("{keys}{session}"),
            session,
            held: OnceLock::new(),
        }
    }

    pub(crate) fn session(&self) -> &str {
        &self.session
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// From now on the key is a lock, and its loss is the lock's.
    pub(crate) fn hold(&self, created: u64) {
        self.held.get_or_init(|| created);
    }

    async fn has_key(&self) -> Result<bool> {
        let Some(created) = self.held.get() else {
            return Ok(true);
        };
        let read = Read::default().with_consistent(true);
        let found = self.client.get(&self.key, read).await?.value;
        Ok(found.is_some_and(|found| {
            found.create_index == *created && found.session.as_ref() == Some(&self.session)
        }))
    }
}

impl fmt::Debug for ConsulLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsulLease")
            .field("key", &self.key)
            .field("held", &self.held.get())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Lease for ConsulLease {
    async fn renew(&self) -> Result<bool> {
        // An operator who deletes or unlocks the key leaves the session alive.
        let (alive, has_key) =
            tokio::try_join!(self.client.renew_session(&self.session), self.has_key())?;
        Ok(alive && has_key)
    }

    async fn verify(&self) -> Result<bool> {
        self.has_key().await
    }

    async fn end(&self) -> Result<bool> {
        // Destroying does not say whether there was a key. If it cannot be known, it ends all the same.
        let had_key = self.has_key().await.unwrap_or(true);
        self.client.destroy_session(&self.session).await?;
        Ok(had_key)
    }
}
