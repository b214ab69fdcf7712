#![doc = include_str!("../README.md")]

mod broker;
mod config;
mod error;
mod link;
mod member;
mod publisher;
mod settling;
mod stream;
mod subscribed;
mod topology;
mod wire;

use std::sync::Arc;

use micro_broker_core::{Broker, Driver, Env, Result, Url, async_trait};

pub use self::broker::RabbitBroker;
pub use self::config::{Queues, RabbitConfig};

/// The URL scheme of this backend; `amqp` and `amqps` (which is TLS) are understood, too.
pub const SCHEME: &str = "rabbitmq";

/// Opens `rabbitmq`, `amqp` and `amqps` URLs: give it to `Drivers::with`.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct RabbitDriver {}

#[async_trait]
impl Driver<dyn Broker> for RabbitDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &[SCHEME, "amqp", "amqps"]
    }

    async fn open(&self, url: &Url, env: &Env) -> Result<Arc<dyn Broker>> {
        let config = RabbitConfig::from_url(url)?;
        Ok(Arc::new(RabbitBroker::open(config, env)?))
    }
}
