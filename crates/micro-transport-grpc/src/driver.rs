//! Opening the transport by URL.

use std::sync::Arc;

use micro_core::{Driver, Env, Result, Url};
use micro_transport_core::{Transport, async_trait};

use crate::{GrpcConfig, GrpcTransport, SCHEME};

/// Opens a [`GrpcTransport`] by URL: `grpc` or `grpc:?http1=off&lane=off`.
#[derive(Clone, Copy, Debug, Default)]
pub struct GrpcDriver;

#[async_trait]
impl Driver<dyn Transport> for GrpcDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &[SCHEME]
    }

    async fn open(&self, url: &Url, _env: &Env) -> Result<Arc<dyn Transport>> {
        let config = GrpcConfig::from_url(url)?;
        Ok(Arc::new(GrpcTransport::with_config(config)))
    }
}

#[cfg(test)]
mod tests {
    use micro_core::{Drivers, ErrorKind};

    use super::*;

    #[tokio::test]
    async fn urls_choose_options_and_unknown_ones_are_refused() {
        let drivers: Drivers<dyn Transport> = Drivers::new().with(GrpcDriver);
        let env = Env::new();
        for url in [
            "grpc",
            "grpc:?http1=off",
            "grpc:?http1=on",
            "grpc:?lane=off",
        ] {
            assert_eq!(drivers.open(url, &env).await.unwrap().backend(), "grpc");
        }
        for url in ["grpc:?http1=maybe", "grpc:?http2=off", "grpc:?lane=fast"] {
            let err = drivers.open(url, &env).await.unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{url}");
        }
    }
}
