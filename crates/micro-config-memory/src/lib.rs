#![doc = include_str!("../README.md")]

mod driver;
mod source;

pub use self::driver::MemoryDriver;
pub use self::source::MemorySource;

/// The URL scheme of this backend.
pub const SCHEME: &str = "memory";
