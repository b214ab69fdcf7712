#![doc = include_str!("../README.md")]

mod broker;
mod care;
mod config;
mod driver;
mod entry;
mod fetch;
mod member;
mod queue;
mod scripts;
mod site;

pub use self::broker::RedisBroker;
pub use self::config::RedisBrokerConfig;
pub use self::driver::RedisDriver;
pub use micro_redis::RedisConfig;

/// The URL scheme of this backend; `rediss` is the same with TLS.
pub const SCHEME: &str = "redis";
