#![doc = include_str!("../README.md")]

mod config;
mod directory;
mod driver;
mod lookup;
mod registry;
mod tasks;
mod wire;

pub use self::config::NatsRegistryConfig;
pub use self::driver::NatsDriver;
pub use self::registry::NatsRegistry;

/// The URL scheme of this backend.
pub const SCHEME: &str = "nats";
