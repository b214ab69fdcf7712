#![doc = include_str!("../README.md")]

mod config;
mod driver;
mod page;
mod shard;
mod store;
mod watch;

pub use self::config::MemoryConfig;
pub use self::driver::MemoryDriver;
pub use self::store::MemoryStore;

/// The URL scheme of this backend.
pub const SCHEME: &str = "memory";
