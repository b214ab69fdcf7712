#![doc = include_str!("../README.md")]
//!
//! # For users
//!
//! [`Middleware`], [`Limits`] and [`TlsIdentity`] are what most programs meet.
//!
//! # For implementors
//!
//! Implement [`Transport`], [`Connection`] and [`Listener`], a `Driver<dyn Transport>` that opens
//! yours by URL, and run the `transport` suite of `micro-conformance`.
//! The shape leaves room for speed: a unary call needs no stream object, no channel and no task
//! of its own, and a listener may poll a handler in place.

mod limits;
mod message;
mod method;
mod middleware;
mod policy;
mod posts;
mod pushback;
mod tls;
mod traits;

pub use self::limits::Limits;
pub use self::message::{
    Body, BoxFuture, Messages, Peer, Request, Response, Trailers, TrailersSender,
};
pub use self::method::{ContractSpec, MethodKind, MethodSpec};
pub use self::middleware::{Endpoint, Middleware, Next};
pub use self::policy::{
    BudgetPolicy, Effective, HedgeDelay, HedgePolicy, LimitPolicy, Policies, Policy, RetryPolicy,
};
pub use self::posts::{Post, PostHandler, PostReply, Posts};
pub use self::pushback::ErrorExt;
pub use self::tls::TlsIdentity;
pub use self::traits::{
    Connection, DialOptions, Handler, ListenOptions, Listener, Stop, Transport,
};
pub use micro_core::{
    Context, Driver, Drivers, Env, Error, ErrorKind, Live, Metadata, Result, Url, async_trait, url,
};
