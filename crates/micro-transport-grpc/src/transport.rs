//! The transport itself.

use std::sync::Arc;

use micro_core::Result;
use micro_transport_core::{
    Connection, DialOptions, ListenOptions, Listener, Transport, async_trait,
};

use crate::client::GrpcConnection;
use crate::lane::Counters;
use crate::server::GrpcListener;
use crate::{GrpcConfig, LaneStats, SCHEME};

/// gRPC over HTTP/2, and simple POSTs over HTTP/1.1 on the same port.
///
/// It must be used within a tokio runtime with time and input/output enabled.
#[derive(Clone, Debug, Default)]
pub struct GrpcTransport {
    config: GrpcConfig,
    counters: Arc<Counters>,
}

impl GrpcTransport {
    /// The transport with its defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The transport with options.
    #[must_use]
    pub fn with_config(config: GrpcConfig) -> Self {
        Self {
            config,
            counters: Arc::default(),
        }
    }

    /// How many calls took which way.
    #[must_use]
    pub fn lane_stats(&self) -> LaneStats {
        self.counters.stats()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Transport for GrpcTransport {
    fn backend(&self) -> &'static str {
        SCHEME
    }

    async fn dial(&self, address: &str, opts: DialOptions) -> Result<Arc<dyn Connection>> {
        let lane = self.config.lane;
        let counters = Arc::clone(&self.counters);
        Ok(Arc::new(
            GrpcConnection::dial(address, opts, lane, counters).await?,
        ))
    }

    async fn listen(&self, address: &str, opts: ListenOptions) -> Result<Box<dyn Listener>> {
        let http1 = opts.http1 && self.config.http1;
        let opts = opts.with_http1(http1);
        let counters = Arc::clone(&self.counters);
        Ok(Box::new(
            GrpcListener::bind(address, opts, self.config.lane, counters).await?,
        ))
    }
}
