#![doc = include_str!("../README.md")]

mod config;
mod driver;
mod source;

pub use self::config::EnvConfig;
pub use self::driver::EnvDriver;
pub use self::source::EnvSource;

/// The URL scheme of this backend.
pub const SCHEME: &str = "env";
