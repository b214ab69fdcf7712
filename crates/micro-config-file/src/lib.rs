#![doc = include_str!("../README.md")]

mod config;
mod content;
mod driver;
mod events;
mod follow;
mod format;
#[cfg(feature = "seal")]
mod seal;
mod source;

pub use self::config::FileConfig;
pub use self::driver::FileDriver;
pub use self::format::Format;
#[cfg(feature = "seal")]
pub use self::seal::SealKey;
pub use self::source::FileSource;

/// The URL scheme of this backend.
pub const SCHEME: &str = "file";
