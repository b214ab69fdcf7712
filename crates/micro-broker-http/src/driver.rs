//! Opening the HTTP broker by URL.

use std::sync::Arc;

use micro_broker_core::{Broker, Driver, Env, Result, Url, async_trait};

use crate::{HttpBroker, HttpBrokerConfig, SCHEME, SECURE_SCHEME};

/// Opens `http` and `https` URLs, over the registry that the program has open, and its store if there is to be an
/// outbox.
#[derive(Clone, Copy, Debug, Default)]
pub struct HttpDriver;

#[async_trait]
impl Driver<dyn Broker> for HttpDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &[SCHEME, SECURE_SCHEME]
    }

    async fn open(&self, url: &Url, env: &Env) -> Result<Arc<dyn Broker>> {
        let config = HttpBrokerConfig::from_url(url)?;
        Ok(Arc::new(HttpBroker::open(config, env)?))
    }
}
