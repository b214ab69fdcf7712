#![doc = include_str!("../README.md")]

mod address;
mod config;
mod directory;
mod driver;
mod file;
mod list;
mod registry;

pub use self::config::StaticConfig;
pub use self::driver::StaticDriver;
pub use self::registry::StaticRegistry;

/// The URL scheme of this backend.
pub const SCHEME: &str = "static";
