#![doc = include_str!("../README.md")]

mod config;
mod connection;
mod dial;
mod error;
mod facts;
mod link;
mod script;
mod subscription;

pub use self::config::RedisConfig;
pub use self::connection::{Connection, Greeting};
pub use self::facts::{Facts, Survives};
pub use self::link::{Effect, Link};
pub use self::script::Script;
pub use self::subscription::Subscription;
pub use redis;
