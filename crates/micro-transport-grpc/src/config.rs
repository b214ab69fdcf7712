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
    /// Whether small unary calls between micro peers travel on the fast lane; `lane=off` in a URL.
    /// Default yes.
    ///
    /// Both peers must say yes; otherwise every call is plain gRPC.
    pub lane: bool,
}

impl Default for GrpcConfig {
    fn default() -> Self {
        Self {
            http1: true,
            lane: true,
        }
    }
}

impl GrpcConfig {
    /// Sets [`http1`](Self::http1).
    #[must_use]
    pub fn with_http1(mut self, http1: bool) -> Self {
        self.http1 = http1;
        self
    }

    /// Sets [`lane`](Self::lane).
    #[must_use]
    pub fn with_lane(mut self, lane: bool) -> Self {
        self.lane = lane;
        self
    }

    /// Reads a URL: `grpc:` or `grpc:?http1=off&lane=off`.
    pub(crate) fn from_url(url: &Url) -> Result<Self> {
        let mut config = Self::default();
        let mut options = Options::new(url);
        for (name, field) in [("http1", &mut config.http1), ("lane", &mut config.lane)] {
            if let Some(value) = options.take::<String>(name)? {
                *field = match value.as_str() {
                    "on" | "true" | "1" => true,
                    "off" | "false" | "0" => false,
                    _ => {
                        return Err(Error::invalid_argument(format!("{name} is 'on' or 'off'"))
                            .with_operation("transport.open"));
                    }
                };
            }
        }
        options.finish()?;
        Ok(config)
    }
}

/// How many calls took which way, since a transport was made. Clones of a transport count together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LaneStats {
    /// Sessions that were opened, on either side.
    pub sessions: u64,
    /// Peers that announced the fast lane and did not speak it.
    pub refused: u64,
    /// Calls made on the fast lane.
    pub calls: u64,
    /// Calls made as plain gRPC.
    pub plain_calls: u64,
    /// Calls served on the fast lane.
    pub served: u64,
    /// Calls served otherwise, over HTTP/2.
    pub served_plain: u64,
}
