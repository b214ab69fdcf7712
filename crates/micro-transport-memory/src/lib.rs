#![doc = include_str!("../README.md")]
//!
//! # For users
//!
//! `MICRO_TRANSPORT=memory`, or a [`MemoryTransport`] handed to client and server.
//!
//! # For implementors
//!
//! The reference for the `transport` suite of `micro-conformance`: what a caller can see of a
//! transport, without a wire in the way.

mod connection;
mod listener;
mod port;
mod queue;
mod transport;

use std::sync::Arc;

use micro_core::url::Options;
use micro_transport_core::{Driver, Env, Result, Transport, Url, async_trait};

pub use self::transport::MemoryTransport;

/// The URL scheme of this backend.
pub const SCHEME: &str = "memory";

/// Opens `memory` URLs; every transport it opens is the same network.
#[derive(Clone, Debug, Default)]
pub struct MemoryDriver {
    transport: MemoryTransport,
}

impl MemoryDriver {
    /// A driver that opens `transport`, so that others can share the network.
    #[must_use]
    pub fn new(transport: MemoryTransport) -> Self {
        Self { transport }
    }
}

#[async_trait]
impl Driver<dyn Transport> for MemoryDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &[SCHEME]
    }

    async fn open(&self, url: &Url, _env: &Env) -> Result<Arc<dyn Transport>> {
        Options::new(url).finish()?;
        Ok(Arc::new(self.transport.clone()))
    }
}

#[cfg(test)]
mod tests {
    use micro_transport_core::{DialOptions, Drivers, ErrorKind, ListenOptions};

    use super::*;

    #[tokio::test]
    async fn one_driver_is_one_network_and_unknown_options_are_refused() {
        let drivers = Drivers::<dyn Transport>::new().with(MemoryDriver::default());
        let env = Env::new();
        let (a, b) = (
            drivers.open("memory", &env).await.unwrap(),
            drivers.open("memory:", &env).await.unwrap(),
        );
        let _listener = a.listen("x", ListenOptions::default()).await.unwrap();
        let taken = b.listen("x", ListenOptions::default()).await.unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
        let other = MemoryTransport::new();
        let err = other.dial("x", DialOptions::default()).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unavailable);
        let err = drivers.open("memory:?colour=red", &env).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidArgument);
    }
}
