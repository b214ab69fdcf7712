#![doc = include_str!("../README.md")]

mod config;
mod driver;
mod envelope;
mod error;
#[cfg(test)]
mod faults;
mod file;
mod read;
mod store;
mod writer;

pub use self::config::RedbConfig;
pub use self::driver::RedbDriver;
pub use self::store::RedbStore;

/// The URL scheme of this backend.
pub const SCHEME: &str = "redb";
