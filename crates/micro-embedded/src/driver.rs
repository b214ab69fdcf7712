//! Opening a store in a directory by URL.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use micro_core::Clock;
use micro_store_core::{Driver, Env, Error, Result, Store, Url, async_trait};

use crate::engine::{Engine, EngineConfig};
use crate::store::{Closed, FileStore, Weak, panicked};

/// A store that was just dropped lets go of its file within this time, or its successor is `Locked`.
const CLOSING: Duration = Duration::from_secs(10);

/// Opens stores by the URLs of an engine. Who opens a directory twice with the same driver gets the
/// same store; anybody else gets `Locked`.
pub struct FileDriver<E: Engine> {
    stores: Arc<Mutex<HashMap<PathBuf, Opened<E>>>>,
}

/// A store that was opened, and with what.
struct Opened<E: Engine> {
    store: Weak<E>,
    closed: Closed,
    config: E::Config,
}

impl<E: Engine> FileDriver<E> {
    /// A driver that has opened nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn open_now(&self, config: &E::Config, clock: Arc<dyn Clock>) -> Result<FileStore<E>> {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = stores.get(&real(config.directory())) {
            if let Some(store) = opened.store.upgrade() {
                if opened.config == *config {
                    return Ok(store);
                }
                return Err(Error::invalid_argument(
                    "the store is open already, with other options; all who share it give the same",
                )
                .with_operation("store.open"));
            }
            opened.closed.wait(CLOSING);
        }
        stores.retain(|_, opened| opened.store.upgrade().is_some());
        let (store, closed) = FileStore::open_now(config, clock)?;
        let opened = Opened {
            store: store.downgrade(),
            closed,
            config: config.clone(),
        };
        stores.insert(real(config.directory()), opened);
        Ok(store)
    }
}

impl<E: Engine> Clone for FileDriver<E> {
    fn clone(&self) -> Self {
        Self {
            stores: Arc::clone(&self.stores),
        }
    }
}

impl<E: Engine> Default for FileDriver<E> {
    fn default() -> Self {
        Self {
            stores: Arc::default(),
        }
    }
}

impl<E: Engine> fmt::Debug for FileDriver<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileDriver")
            .field("engine", &E::NAME)
            .finish_non_exhaustive()
    }
}

/// The same for all paths to a directory.
fn real(directory: &Path) -> PathBuf {
    std::fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned())
}

#[async_trait]
impl<E: Engine> Driver<dyn Store> for FileDriver<E> {
    fn schemes(&self) -> &'static [&'static str] {
        E::SCHEMES
    }

    async fn open(&self, url: &Url, env: &Env) -> Result<Arc<dyn Store>> {
        let config = E::Config::from_url(url)?;
        let (driver, clock) = (self.clone(), Arc::clone(env.clock()));
        let opened = tokio::task::spawn_blocking(move || driver.open_now(&config, clock)).await;
        let store = opened.unwrap_or_else(|_| Err(panicked::<E>().with_operation("store.open")))?;
        Ok(Arc::new(store))
    }
}
