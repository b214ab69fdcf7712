#![doc = include_str!("../README.md")]

mod builder;
mod config;
mod expand;
mod keeper;
mod layer;
pub mod path;
mod read;
mod runtime;
pub mod secret;
mod snapshot;
mod source;
mod status;
mod unseal;
mod value;
mod view;
mod write;

pub use micro_core::{Driver, Drivers, Env, Error, ErrorKind, Live, Result, Secret, async_trait};

pub use self::builder::ConfigBuilder;
pub use self::config::{Config, Explanation, Found};
pub use self::layer::{Layer, Limits};
pub use self::runtime::Runtime;
pub use self::source::{LayerStream, Rank, Source, constant};
pub use self::status::{Refusal, SourceState, SourceStatus, Status};
pub use self::unseal::{Unseal, is_sealed};
pub use self::value::{Map, Value};
pub use self::view::ViewOptions;
