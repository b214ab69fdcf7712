//! Opening a broker over NATS by URL.

use std::sync::Arc;

use micro_broker_core::{Broker, Driver, Env, Result, Url, async_trait};

use crate::{NatsBroker, NatsBrokerConfig, SCHEME};

/// Opens `nats` URLs; each opening has a connection of its own.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct NatsDriver {}

#[async_trait]
impl Driver<dyn Broker> for NatsDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &[SCHEME]
    }

    async fn open(&self, url: &Url, env: &Env) -> Result<Arc<dyn Broker>> {
        let config = NatsBrokerConfig::from_url(url)?;
        Ok(Arc::new(NatsBroker::open(config, env)?))
    }
}
