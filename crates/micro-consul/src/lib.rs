#![doc = include_str!("../README.md")]

mod client;
mod config;
mod kv;
mod session;

pub use self::client::{Client, Indexed, Read, success};
pub use self::config::{ConsulConfig, DEFAULT_ENDPOINT};
pub use self::kv::{Entered, Pair};
