//! Opening a registry in memory by URL.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use micro_registry_core::{Driver, Env, Error, Registry, Result, Url, async_trait};

use crate::{MemoryConfig, MemoryRegistry, SCHEME};

/// Opens `memory:` URLs: one directory per namespace, shared by all who open with this driver.
#[derive(Clone, Debug, Default)]
pub struct MemoryDriver {
    directories: Arc<Mutex<BTreeMap<String, MemoryRegistry>>>,
}

impl MemoryDriver {
    /// A driver that has opened nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl Driver<dyn Registry> for MemoryDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &[SCHEME]
    }

    async fn open(&self, url: &Url, env: &Env) -> Result<Arc<dyn Registry>> {
        let config = MemoryConfig::from_url(url)?;
        // `memory:other` or `memory://host` would look like a second directory and be none.
        if url.has_host() || !matches!(url.path(), "" | "/") {
            return Err(Error::invalid_argument(
                "a registry in memory has neither host nor path; write 'memory'",
            )
            .with_operation("registry.open"));
        }
        let mut directories = self
            .directories
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let registry = directories
            .entry(env.namespace().to_owned())
            .or_insert_with(|| MemoryRegistry::with_config(config, Arc::clone(env.clock())));
        Ok(Arc::new(registry.clone()))
    }
}

#[cfg(test)]
mod tests {
    use micro_registry_core::{
        Drivers, ErrorKind, Node, RegisterOptions, RegistryExt as _, Service,
    };

    use super::*;

    #[tokio::test]
    async fn namespaces_do_not_meet_and_one_namespace_is_one_directory() {
        let drivers = Drivers::<dyn Registry>::new().with(MemoryDriver::new());
        let env = Env::new();
        let staging = Env::new().with_namespace("staging");
        let one = drivers.open("memory", &env).await.unwrap();
        let same = drivers.open("memory:", &env).await.unwrap();
        let other = drivers.open("memory", &staging).await.unwrap();
        let service = Service::new("greeter", "v1").with_node(Node::new("a", "127.0.0.1:1"));
        one.register(&service, RegisterOptions::default())
            .await
            .unwrap();
        assert_eq!(same.get("greeter").await.unwrap(), [service]);
        assert_eq!(
            other.get("greeter").await.unwrap_err().kind(),
            ErrorKind::NotFound
        );
    }

    #[tokio::test]
    async fn what_is_misspelt_is_refused() {
        let drivers = Drivers::<dyn Registry>::new().with(MemoryDriver::new());
        for url in [
            "memory:?ttl=3s",
            "memory:other",
            "memory://host",
            "memory:?watch_buffer=0",
            "memory:?watch_buffer=many",
        ] {
            let err = drivers.open(url, &Env::new()).await.unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{url}: {err}");
        }
        let url = "memory:?watch_buffer=7";
        assert!(drivers.open(url, &Env::new()).await.is_ok());
    }
}
