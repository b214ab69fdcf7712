#![doc = include_str!("../README.md")]

mod config;
mod engine;
mod error;
#[cfg(test)]
mod faults;

pub use self::config::RedbConfig;
pub use self::engine::{Redb, RedbView};

/// The URL scheme of this backend.
pub const SCHEME: &str = "redb";

/// A store in a file; clones see the same records.
pub type RedbStore = micro_embedded::FileStore<Redb>;

/// Opens `redb:` URLs. Who opens a directory twice with the same driver gets the same store; anybody
/// else gets `Locked`.
pub type RedbDriver = micro_embedded::FileDriver<Redb>;
