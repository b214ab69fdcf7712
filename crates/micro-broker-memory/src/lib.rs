#![doc = include_str!("../README.md")]

mod broker;
mod config;
mod driver;
mod queue;
mod topics;

pub use self::broker::MemoryBroker;
pub use self::config::MemoryBrokerConfig;
pub use self::driver::MemoryDriver;

/// The URL scheme of this backend.
pub const SCHEME: &str = "memory";
