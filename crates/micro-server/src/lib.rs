#![doc = include_str!("../README.md")]

mod advertise;
mod barrier;
mod handler;
mod health;
mod models;
mod options;
mod proto_text;
mod reflection;
mod route;
mod router;
mod routes;
mod schema;
mod server;
mod stats;
mod streams;

#[path = "generated/grpc.health.v1.rs"]
mod health_v1;
#[path = "generated/grpc.reflection.v1.rs"]
mod reflection_v1;
#[path = "generated/grpc.reflection.v1alpha.rs"]
mod reflection_v1alpha;

/// What generated code names.
mod __v1 {
    pub(crate) use {micro_codec_proto as proto, serde};
}

pub use self::handler::{HandlerOptions, ServerHandler};
pub use self::health::Health;
pub use self::options::{Reflection, ServerOptions};
pub use self::routes::{Contract, Method, Routes};
pub use self::server::{RunningServer, Server, StopReport};
pub use self::stats::{MethodStats, Stats};
