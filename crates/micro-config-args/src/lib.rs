#![doc = include_str!("../README.md")]

mod driver;
mod source;

pub use self::driver::ArgsDriver;
pub use self::source::ArgsSource;

/// The URL scheme of this backend.
pub const SCHEME: &str = "args";
