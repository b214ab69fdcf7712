#![doc = include_str!("../README.md")]

mod broker;
mod config;
mod courier;
mod driver;
mod frame;
mod inlet;
mod listener;
mod outbox;
mod peers;
mod presence;
#[cfg(feature = "tls")]
mod tls;

pub use self::broker::HttpBroker;
pub use self::config::HttpBrokerConfig;
pub use self::driver::HttpDriver;
pub use self::inlet::{Inlet, Post, Reply};

/// The URL scheme of this backend.
pub const SCHEME: &str = "http";
/// The URL scheme of this backend with TLS.
pub const SECURE_SCHEME: &str = "https";
