#![doc = include_str!("../README.md")]

pub mod harness;
pub mod mutation;

#[cfg(feature = "broker")]
pub mod broker;
#[cfg(feature = "codec")]
pub mod codec;
#[cfg(feature = "config")]
pub mod config;
#[cfg(feature = "registry")]
pub mod registry;
#[cfg(feature = "selector")]
pub mod selector;
#[cfg(feature = "store")]
pub mod store;
#[cfg(feature = "sync")]
pub mod sync;
#[cfg(feature = "transport")]
pub mod transport;
