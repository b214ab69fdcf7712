#![doc = include_str!("../README.md")]
//!
//! # For implementors
//!
//! This is engine glue: no trait of ours is in it, and no type of hyper's shows.

mod client;
mod complaints;
mod config;
mod connect;
mod lanes;
mod message;
mod poster;
mod stream;

pub use self::client::HttpClient;
pub use self::complaints::Complaints;
pub use self::config::{Credentials, HttpConfig};
pub use self::lanes::Lanes;
pub use self::message::{Request, Response};
pub use self::poster::{Head, Poster};
pub use self::stream::Lines;
