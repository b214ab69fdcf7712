#![doc = include_str!("../README.md")]
//!
//! # How it is built
//!
//! - Clients and servers are the real ones, over a registry and a transport in memory.
//!   Between them stands a network that can be told to slow down, fail, swallow and break.
//! - Time is tokio's paused clock: a sleep of an hour takes no time, and [`PausedClock`] makes
//!   deadlines, TTLs and latencies follow it.
//! - Everything runs on one thread, and all chance comes from one seed, so the same seed gives the
//!   same [`History`], byte for byte, as long as the code under test asks neither the machine's
//!   clock nor its chance nor another thread.

mod builder;
mod clock;
mod cluster;
mod history;
pub mod locks;
mod net;
mod node;
mod registry;
mod seed;
mod transport;
mod trouble;

pub use self::builder::Builder;
pub use self::clock::PausedClock;
pub use self::cluster::{Cluster, RegistryHandle};
pub use self::history::{Entry, History};
pub use self::node::{Host, NodeHandle};
pub use self::seed::SEED_VARIABLE;
pub use self::trouble::Trouble;
