#![doc = include_str!("../README.md")]

mod config;
mod error;
mod follow;
mod gate;
mod kept;
mod store;

pub use self::config::CacheConfig;
pub use self::store::CacheStore;
