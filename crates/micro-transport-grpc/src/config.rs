//! What can be chosen when the transport is opened.

use micro_core::url::Options;
use micro_core::{Error, Result, Url};

/// The options of a [`GrpcTransport`](crate::GrpcTransport).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GrpcConfig {
    /// Whether listeners answer HTTP/1.1 too; `http1=off` in a URL. Default yes.
    ///
    /// Both this and `ListenOptions::http1` must say yes.
    pub http1: bool,
}

impl Default for GrpcConfig {
    fn default() -> Self {
        Self { http1: true }
    }
}

impl GrpcConfig {
    /// Sets [`http1`](Self::http1).
    #[must_use]
    pub fn with_http1(mut self, http1: bool) -> Self {
        self.http1 = http1;
        self
    }

    /// Reads a URL: `grpc:` or `grpc:?http1=off`.
    pub(crate) fn from_url(url: &Url) -> Result<Self> {
        let mut config = Self::default();
        let mut options = Options::new(url);
        if let Some(http1) = options.take::<String>("http1")? {
            config.http1 = match http1.as_str() {
                "on" | "true" | "1" => true,
                "off" | "false" | "0" => false,
                _ => {
                    return Err(Error::invalid_argument("http1 is 'on' or 'off'")
                        .with_operation("transport.open"));
                }
            };
        }
        options.finish()?;
        Ok(config)
    }
}
