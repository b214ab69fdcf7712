#![doc = include_str!("../README.md")]

mod directory;
mod driver;
mod engine;
mod envelope;
mod read;
mod store;
mod writer;

pub use self::directory::Directory;
pub use self::driver::FileDriver;
pub use self::engine::{Changes, CommitError, Engine, EngineConfig, Space, View};
pub use self::store::{Closed, FileStore};
