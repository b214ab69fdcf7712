//! Opening a store in a file by URL.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use micro_core::Clock;
use micro_store_core::{Driver, Env, Error, Result, Store, Url, async_trait};

use crate::error::panicked;
use crate::store::{Closed, Weak};
use crate::{RedbConfig, RedbStore, SCHEME};

/// A store that was just dropped lets go of its file within this time, or its successor is `Locked`.
const CLOSING: Duration = Duration::from_secs(10);

/// Opens `redb:` URLs. Who opens a directory twice with the same driver gets the same store; anybody
/// else gets `Locked`.
#[derive(Clone, Debug, Default)]
pub struct RedbDriver {
    stores: Arc<Mutex<HashMap<PathBuf, (Weak, Closed)>>>,
}

impl RedbDriver {
    /// A driver that has opened nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn open_now(&self, config: &RedbConfig, clock: Arc<dyn Clock>) -> Result<RedbStore> {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((weak, closed)) = stores.get(&real(&config.directory)) {
            if let Some(store) = weak.upgrade() {
                if store.config() == config {
                    return Ok(store);
                }
                return Err(Error::invalid_argument(
                    "the store is open already, with other options; all who share it give the same",
                )
                .with_operation("store.open"));
            }
            closed.wait(CLOSING);
        }
        stores.retain(|_, (weak, _)| weak.upgrade().is_some());
        let (store, closed) = RedbStore::open_now(config.clone(), clock)?;
        stores.insert(real(&config.directory), (store.downgrade(), closed));
        Ok(store)
    }
}

/// The same for all paths to a directory.
fn real(directory: &Path) -> PathBuf {
    std::fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned())
}

#[async_trait]
impl Driver<dyn Store> for RedbDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &[SCHEME]
    }

    async fn open(&self, url: &Url, env: &Env) -> Result<Arc<dyn Store>> {
        let config = RedbConfig::from_url(url)?;
        let (driver, clock) = (self.clone(), Arc::clone(env.clock()));
        let opened = tokio::task::spawn_blocking(move || driver.open_now(&config, clock)).await;
        let store = opened.unwrap_or_else(|_| Err(panicked().with_operation("store.open")))?;
        Ok(Arc::new(store))
    }
}
