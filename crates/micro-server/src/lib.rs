#![doc = include_str!("../README.md")]
//!
//! # For users
//!
//! [`Server`] with its [`ServerOptions`], and [`Routes`] for handlers without a contract.
//!
//! # For implementors
//!
//! Generated code implements [`Contract`]. A transport gets a [`ServerHandler`] and pushes calls
//! to it. Handlers run in whatever task the transport polls them; nothing here spawns per call.
//! Without middleware a unary call costs one boxed future, and each middleware one more.

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
    pub(crate) use ::serde;
    pub(crate) use micro_codec_proto as proto;
}

pub use self::handler::{HandlerOptions, ServerHandler};
pub use self::health::Health;
pub use self::options::{Reflection, ServerOptions};
pub use self::routes::{Contract, Method, Routes};
pub use self::server::{RunningServer, Server, StopReport};
pub use self::stats::{MethodStats, Stats};
