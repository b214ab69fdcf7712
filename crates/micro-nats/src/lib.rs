#![doc = include_str!("../README.md")]

mod config;
mod connection;
mod error;

pub use self::config::NatsConfig;
pub use self::connection::{Connection, Status};
pub use self::error::publish_failed;
pub use async_nats;
