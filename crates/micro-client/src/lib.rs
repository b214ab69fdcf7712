#![doc = include_str!("../README.md")]
//!
//! # The path of a call
//!
//! encode → middleware → [retry and hedge] → resolve (one atomic load) → pick → connection → the
//! wire.
//!
//! - [`Client`] holds the parts and is cheap to clone.
//! - [`Method`] is one method of one service, with its path worked out: what generated code calls.
//! - [`Call`] is a call without a generated type.
//! - [`CallOptions`] says how to call: timeout, content type, address, filters, retries, hedging, key.
//! - [`Policies`] say it per service and method, and may change while the program runs.
//!
//! [retry and hedge]: RetryPolicy

mod budget;
mod call;
mod client;
mod dispatch;
mod entry;
mod latency;
mod method;
mod options;
mod pool;
mod retry;
mod stream;
mod ticks;

pub use self::call::{Call, RawCall};
pub use self::client::Client;
pub use self::method::Method;
pub use self::options::{CallOptions, ClientOptions, Discovery};
pub use micro_core::{Context, Error, ErrorKind, Result, Streaming};
pub use micro_transport_core::{
    BudgetPolicy, HedgeDelay, HedgePolicy, LimitPolicy, Policies, Policy, RetryPolicy,
};
