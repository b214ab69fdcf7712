#![doc = include_str!("../README.md")]

mod address;
mod config;
mod daemon;
mod directory;
mod driver;
mod names;
mod registry;
mod tasks;
mod txt;

pub use self::config::MdnsConfig;
pub use self::driver::MdnsDriver;
pub use self::registry::MdnsRegistry;

/// The URL scheme of this backend.
pub const SCHEME: &str = "mdns";
