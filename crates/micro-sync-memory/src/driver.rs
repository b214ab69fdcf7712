//! Opening a coordinator in memory by URL.

use std::sync::{Arc, Mutex, PoisonError};

use micro_sync_core::{Coordinator, Driver, Env, Error, Result, Url, async_trait};

use crate::{MemoryCoordinator, SCHEME};

/// Opens `memory:` URLs: one coordinator, shared by all who open with this driver or a clone of it.
///
/// The first to open it decides its clock.
#[derive(Clone, Debug, Default)]
pub struct MemoryDriver {
    coordinator: Arc<Mutex<Option<MemoryCoordinator>>>,
}

impl MemoryDriver {
    /// A driver that has opened nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The coordinator of a program, as what opens it by URL gets it.
    #[must_use]
    pub fn coordinator(&self, env: &Env) -> MemoryCoordinator {
        let mut coordinator = self
            .coordinator
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        coordinator
            .get_or_insert_with(|| MemoryCoordinator::with_clock(Arc::clone(env.clock())))
            .in_namespace(env.namespace())
    }
}

#[async_trait]
impl Driver<dyn Coordinator> for MemoryDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &[SCHEME]
    }

    async fn open(&self, url: &Url, env: &Env) -> Result<Arc<dyn Coordinator>> {
        micro_core::url::Options::new(url).finish()?;
        // `memory:other` or `memory://host` would look like a second coordinator and be none.
        if url.has_host() || !matches!(url.path(), "" | "/") {
            return Err(Error::invalid_argument(
                "a coordinator in memory has neither host nor path; write 'memory'",
            )
            .with_operation("sync.open"));
        }
        Ok(Arc::new(self.coordinator(env)))
    }
}

#[cfg(test)]
mod tests {
    use micro_sync_core::{Drivers, ErrorKind, LockOptions};

    use super::*;

    #[tokio::test]
    async fn one_driver_is_one_coordinator() {
        let drivers = Drivers::<dyn Coordinator>::new().with(MemoryDriver::new());
        let open = async |namespace: &str| {
            let env = Env::new().with_namespace(namespace);
            drivers.open("memory", &env).await.unwrap()
        };
        let taken = async |coordinator: Arc<dyn Coordinator>| {
            let lock = coordinator.try_lock("a", LockOptions::default()).await;
            lock.unwrap().is_none()
        };
        let one = open("").await;
        let _lock = one.lock("a", LockOptions::default()).await.unwrap();
        assert!(taken(open("").await).await);
        assert!(!taken(open("staging").await).await);
    }

    #[tokio::test]
    async fn what_is_misspelt_is_refused() {
        let drivers = Drivers::<dyn Coordinator>::new().with(MemoryDriver::new());
        for url in ["memory:?ttl=3s", "memory:other", "memory://host"] {
            let err = drivers.open(url, &Env::new()).await.unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{url}: {err}");
        }
    }
}
