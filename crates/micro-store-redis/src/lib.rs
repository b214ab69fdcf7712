#![doc = include_str!("../README.md")]

mod change;
mod config;
mod driver;
mod envelope;
mod facts;
mod list;
mod names;
mod store;
mod watch;

pub use self::config::RedisStoreConfig;
pub use self::driver::RedisDriver;
pub use self::store::RedisStore;

/// The URL scheme of this backend; `rediss` is the same with TLS.
pub const SCHEME: &str = "redis";
