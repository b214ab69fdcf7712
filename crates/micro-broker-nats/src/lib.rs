#![doc = include_str!("../README.md")]

mod broker;
mod call;
mod config;
mod driver;
mod jetstream;
mod names;
mod plain;

pub use self::broker::NatsBroker;
pub use self::config::{Mode, NatsBrokerConfig, Storage};
pub use self::driver::NatsDriver;
pub use micro_nats::NatsConfig;

/// The URL scheme of this backend.
pub const SCHEME: &str = "nats";
