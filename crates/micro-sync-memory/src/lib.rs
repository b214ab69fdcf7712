#![doc = include_str!("../README.md")]

mod coordinator;
mod driver;
mod seats;

pub use self::coordinator::MemoryCoordinator;
pub use self::driver::MemoryDriver;

/// The URL scheme of this backend.
pub const SCHEME: &str = "memory";
