#![doc = include_str!("../README.md")]

mod config;
mod engine;
mod error;
mod files;
mod split;

pub use self::config::SledConfig;
pub use self::engine::{Sled, SledView};

/// The URL scheme of this backend.
pub const SCHEME: &str = "sled";

/// A store in a directory; clones see the same records.
pub type SledStore = micro_embedded::FileStore<Sled>;

/// Opens `sled:` URLs. Who opens a directory twice with the same driver gets the same store; anybody
/// else gets `Locked`.
pub type SledDriver = micro_embedded::FileDriver<Sled>;
