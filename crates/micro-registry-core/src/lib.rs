#![doc = include_str!("../README.md")]
//!
//! # For users
//!
//! Clients resolve names by themselves; use a registry directly to look around, to register what
//! is not a `micro` service, or to watch.
//!
//! # For implementors
//!
//! Implement [`Registry`], a [`Driver`] that opens it by URL, and run the `registry` suite of
//! `micro-conformance`; `cargo xtask new registry <name> --out <dir>` writes such a crate.
//! Wrappers must forward every method: put `#[deny(clippy::missing_trait_methods)]` on the impl.

mod model;
mod name;
mod options;
mod registry;

pub use self::model::{Capabilities, Endpoint, Event, EventKind, Node, Service, Value};
pub use self::name::{check_deregistration, check_name, check_registration};
pub use self::options::{
    DeregisterOptions, GetOptions, ListOptions, RegisterOptions, WatchOptions,
};
pub use self::registry::{EventStream, Registry, RegistryExt};
pub use micro_core::{Driver, Drivers, Env, Error, ErrorKind, Result, Url, async_trait, url};
