#![doc = include_str!("../README.md")]
//!
//! # For users
//!
//! [`Pem`] reads certificates; the `dev` module (feature `dev-certs`) makes some up.
//!
//! # For implementors
//!
//! This is engine glue: it shows rustls types to the backends that are built on it.

mod config;
#[cfg(feature = "dev-certs")]
pub mod dev;
mod pem;
mod verify;

pub use self::config::{client_config, server_config, server_name, uri_names};
pub use self::pem::Pem;
pub use rustls;
