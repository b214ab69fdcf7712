#![doc = include_str!("../README.md")]

mod driver;
mod folder;
mod registry;

pub use self::driver::{FileDirConfig, FileDirDriver};
pub use self::registry::FileDirRegistry;

/// The URL scheme of this backend.
pub const SCHEME: &str = "filedir";
