#![doc = include_str!("../README.md")]

mod broker;
mod config;
mod courier;
mod driver;
mod inlet;
mod listener;
mod outbox;
mod peers;
mod presence;

pub use self::broker::HttpBroker;
pub use self::config::HttpBrokerConfig;
pub use self::driver::HttpDriver;
pub use self::inlet::{Inlet, Post, Reply};

/// The URL scheme of this backend.
pub const SCHEME: &str = "http";
