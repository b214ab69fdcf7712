#![doc = include_str!("../README.md")]
//!
//! # For users
//!
//! [`Error`] is what every call returns, [`Context`] what every call is made with.
//!
//! # For implementors
//!
//! A backend implements its interface's trait and a [`Driver`] that opens it from a URL.
//! It takes time from [`Env::clock`] and randomness from [`Env::random`], so that tests can steer both.

mod cancel;
mod clock;
mod context;
mod driver;
mod env;
mod error;
mod fence;
mod identity;
mod live;
mod metadata;
mod secret;
mod streaming;
mod trace;
pub mod url;

pub use self::cancel::{Cancelled, Canceller};
pub use self::clock::{Clock, Random, SeededRandom, SystemClock, SystemRandom};
pub use self::context::{Context, Received, Reply};
pub use self::driver::{Driver, Drivers};
pub use self::env::Env;
pub use self::error::{BoxError, Detail, Error, ErrorKind, Result};
pub use self::fence::{Fence, FencingToken};
pub use self::identity::Identity;
pub use self::live::{Live, LiveChanges, LiveGuard, LiveWriter};
pub use self::metadata::Metadata;
pub use self::secret::Secret;
pub use self::streaming::{StreamSender, Streaming};
pub use self::trace::TraceContext;
pub use ::url::Url;
pub use async_trait::async_trait;
