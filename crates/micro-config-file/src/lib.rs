#![doc = include_str!("../README.md")]

mod config;
mod content;
mod driver;
mod events;
mod follow;
mod format;
mod source;

pub use self::config::FileConfig;
pub use self::driver::FileDriver;
pub use self::format::Format;
pub use self::source::FileSource;

/// The URL scheme of this backend.
pub const SCHEME: &str = "file";
