#![doc = include_str!("../README.md")]

mod config;
mod driver;
mod order;
mod place;
mod read;
mod schema;
mod statements;
mod step;
mod store;

pub use self::config::CockroachConfig;
pub use self::driver::CockroachDriver;
pub use self::store::CockroachStore;

/// The URL scheme of this backend. [`CockroachDriver`] knows three more: `cockroachdb`, `postgres` and
/// `postgresql`.
pub const SCHEME: &str = "cockroach";
