//! Opening a store in memory by URL.

use std::sync::{Arc, Mutex, PoisonError};

use micro_store_core::{Driver, Env, Error, Result, Store, Url, async_trait};

use crate::{MemoryConfig, MemoryStore, SCHEME};

/// Opens `memory:` URLs: one store, shared by all who open with this driver or a clone of it.
///
/// The first to open it decides its settings and its clock.
#[derive(Clone, Debug, Default)]
pub struct MemoryDriver {
    store: Arc<Mutex<Option<MemoryStore>>>,
}

impl MemoryDriver {
    /// A driver that has opened nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl Driver<dyn Store> for MemoryDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &[SCHEME]
    }

    async fn open(&self, url: &Url, env: &Env) -> Result<Arc<dyn Store>> {
        let config = MemoryConfig::from_url(url)?;
        // `memory:other` or `memory://host` would look like a second store and be none.
        if url.has_host() || !matches!(url.path(), "" | "/") {
            return Err(Error::invalid_argument(
                "a store in memory has neither host nor path; write 'memory'",
            )
            .with_operation("store.open"));
        }
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let store = store.get_or_insert_with(|| {
            MemoryStore::with_config(config.clone(), Arc::clone(env.clock()))
        });
        if *store.config() != config {
            return Err(Error::invalid_argument(
                "the store in memory is open already, with other options; all who share it give the same",
            )
            .with_operation("store.open"));
        }
        Ok(Arc::new(store.clone()))
    }
}

#[cfg(test)]
mod tests {
    use micro_store_core::{Drivers, ErrorKind, Scope, Table};

    use super::*;

    #[tokio::test]
    async fn one_driver_is_one_store() {
        let drivers = Drivers::<dyn Store>::new().with(MemoryDriver::new());
        let open = async |drivers: &Drivers<dyn Store>, namespace: &str| {
            let env = Env::new().with_namespace(namespace);
            let scope = Scope::of_service(namespace, "t").unwrap();
            Table::new(drivers.open("memory", &env).await.unwrap(), scope)
        };
        let one = open(&drivers, "").await;
        one.put("key", "value").await.unwrap();
        let same = open(&drivers, "").await;
        assert_eq!(same.get::<String>("key").await.unwrap().unwrap(), "value");
        // A namespace is a database of its own.
        let other = open(&drivers, "staging").await;
        assert_eq!(other.get::<String>("key").await.unwrap(), None);
        let stranger = Drivers::<dyn Store>::new().with(MemoryDriver::new());
        let stranger = open(&stranger, "").await;
        assert_eq!(stranger.get::<String>("key").await.unwrap(), None);
    }

    #[tokio::test]
    async fn who_shares_it_gives_the_same_options() {
        let drivers = Drivers::<dyn Store>::new().with(MemoryDriver::new());
        let env = Env::new();
        drivers.open("memory:?max_bytes=70000", &env).await.unwrap();
        drivers.open("memory:?max_bytes=70000", &env).await.unwrap();
        let err = drivers.open("memory", &env).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{err}");
    }

    #[tokio::test]
    async fn what_is_misspelt_is_refused() {
        let drivers = Drivers::<dyn Store>::new().with(MemoryDriver::new());
        for url in [
            "memory:?ttl=3s",
            "memory:other",
            "memory://host",
            "memory:?watch_buffer=0",
            "memory:?max_bytes=0",
            "memory:?max_bytes=much",
        ] {
            let err = drivers.open(url, &Env::new()).await.unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{url}: {err}");
        }
    }
}
