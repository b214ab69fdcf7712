#![doc = include_str!("../README.md")]

mod config;
mod driver;
mod registry;
mod watch;

pub use self::config::MemoryConfig;
pub use self::driver::MemoryDriver;
pub use self::registry::MemoryRegistry;

/// The URL scheme of this backend.
pub const SCHEME: &str = "memory";
