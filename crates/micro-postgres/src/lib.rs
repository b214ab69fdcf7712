#![doc = include_str!("../README.md")]

mod config;
mod connection;
mod dial;
mod error;
mod frame;
mod pool;

pub use self::config::PostgresConfig;
pub use self::connection::{Connection, Query, Server};
pub use self::error::{Failure, Fate};
pub use self::pool::{Pool, Session};
pub use tokio_postgres;
