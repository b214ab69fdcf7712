//! Opening a broker in memory by URL.

use std::sync::{Arc, Mutex, PoisonError};

use micro_broker_core::{Broker, Driver, Env, Error, Result, Url, async_trait};

use crate::{MemoryBroker, MemoryBrokerConfig, SCHEME};

/// Opens `memory:` URLs: one set of topics, shared by all who open with this driver or a clone of it.
///
/// The first to open it decides its settings and its clock.
#[derive(Clone, Debug, Default)]
pub struct MemoryDriver {
    broker: Arc<Mutex<Option<MemoryBroker>>>,
}

impl MemoryDriver {
    /// A driver that has opened nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl Driver<dyn Broker> for MemoryDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &[SCHEME]
    }

    async fn open(&self, url: &Url, env: &Env) -> Result<Arc<dyn Broker>> {
        let config = MemoryBrokerConfig::from_url(url)?;
        let invalid =
            |message: &'static str| Error::invalid_argument(message).with_operation("broker.open");
        // `memory:other` or `memory://host` would look like a second broker and be none.
        if url.has_host() || !matches!(url.path(), "" | "/") {
            return Err(invalid(
                "a broker in memory has neither host nor path; write 'memory'",
            ));
        }
        let mut broker = self.broker.lock().unwrap_or_else(PoisonError::into_inner);
        let broker = match &*broker {
            Some(broker) => broker,
            None => broker.insert(MemoryBroker::with_config(config.clone(), env)?),
        };
        if *broker.config() != config {
            return Err(invalid(
                "the broker in memory is open already, with other options; all who share it give the same",
            ));
        }
        Ok(Arc::new(broker.in_namespace(env.namespace())?))
    }
}

#[cfg(test)]
mod tests {
    use micro_broker_core::{Drivers, ErrorKind};

    use super::*;

    #[tokio::test]
    async fn who_shares_it_gives_the_same_options() {
        let drivers = Drivers::<dyn Broker>::new().with(MemoryDriver::new());
        let env = Env::new();
        drivers.open("memory:?retain=7", &env).await.unwrap();
        drivers.open("memory:?retain=7", &env).await.unwrap();
        let err = drivers.open("memory", &env).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{err}");
    }

    #[tokio::test]
    async fn what_is_misspelt_is_refused() {
        let drivers = Drivers::<dyn Broker>::new().with(MemoryDriver::new());
        for url in [
            "memory:?ttl=3s",
            "memory:other",
            "memory://host",
            "memory:?max_bytes=0",
            "memory:?retain=-1",
            "memory:?dedup=much",
        ] {
            let err = drivers.open(url, &Env::new()).await.unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{url}: {err}");
        }
        let err = drivers
            .open("memory", &Env::new().with_namespace("a/b"))
            .await
            .unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{err}");
    }
}
