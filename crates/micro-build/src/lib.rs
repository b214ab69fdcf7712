#![doc = include_str!("../README.md")]
//!
//! # For users
//!
//! [`compile`] is enough for most; [`Builder`] has the options.
//!
//! What is generated for a package `greeter.v1`, in `greeter.v1.rs`:
//!
//! - for each message a struct that prost encodes, with proto3's canonical JSON through serde:
//!   `lowerCamelCase` names (proto names are read too), 64-bit numbers and bytes as text,
//!   enumerations by name, default values left out, unknown fields skipped;
//! - for each service a trait under `#[micro::service]`, its comments as docs; a method whose
//!   `idempotency_level` is `NO_SIDE_EFFECTS` or `IDEMPOTENT` may be repeated;
//! - `FILE_DESCRIPTOR_SET`, which reflection shows.
//!
//! A message of another package is found at `super::…`, as prost does it: a module per part of
//! the package's name, or [`Builder::include_file`], which writes them all.
//!
//! # For implementors
//!
//! Generated code names everything through `<crate>::__v1`, a hidden module of the facade.

mod builder;
mod descriptors;
mod docs;
mod error;
mod json;
mod messages;
mod services;

use std::path::Path;

pub use self::builder::Builder;
pub use self::error::Error;

/// Generates Rust code for `.proto` files, in a build script.
///
/// `includes` are the folders that imports are looked up in; each of `protos` lies in one of them.
///
/// # Errors
///
/// A file that cannot be read or is no protobuf; the error says the file, line and column.
pub fn compile(protos: &[impl AsRef<Path>], includes: &[impl AsRef<Path>]) -> Result<(), Error> {
    Builder::new().compile(protos, includes)
}
