#![doc = include_str!("../README.md")]
//!
//! # For users
//!
//! [`GrpcTransport`] is given to a client or a server; [`GrpcDriver`] opens it by URL.
//!
//! # On the wire
//!
//! - Calls are gRPC over HTTP/2: `application/grpc` with `+proto` (or nothing), `+json`, `+msgpack`,
//!   `+cbor`, `+bytes`, or any other codec's name. Messages are never compressed, and compressed
//!   ones are refused.
//! - A unary call may also be a POST of the bare message, over HTTP/2 or HTTP/1.1, with the codec's
//!   content type. The answer is the bare reply, or an error as the JSON of `google.rpc.Status`
//!   under the HTTP status of `google/rpc/code.proto`. Metadata are headers.
//! - `grpc-timeout` goes both ways; go-micro's `timeout` header (decimal nanoseconds) is
//!   understood, and so are its errors, as JSON in the message or as a detail.
//! - An error's kind beyond gRPC's codes travels as an `ErrorInfo` of the domain `micro`.
//!   A message is cut at 2 KiB and details are left out beyond 4 KiB, since trailers that exceed
//!   the peer's header limit would be lost as a whole.
//! - `grpc-retry-pushback-ms` in a failed answer becomes a `RetryInfo` detail, or forbids repeating.
//!
//! # How a listener runs
//!
//! A connection is one task, and its calls are polled by it: requests that arrive together are
//! answered in one write, without a task, a channel or a lock per call. The price is that a handler
//! which computes for long holds up its neighbours. So handlers' polls are timed: a path of which
//! at least one poll in twenty (and two in all) takes more than half a millisecond gets a task per
//! call from then on, up to 256 paths. A handler that knows better uses `spawn_blocking`.
//!
//! - Beyond `Limits::connections` the connection that has been without a call for the longest time
//!   is closed for the new one, first among those that never had a call; if all have calls, the new
//!   one is closed at once. Without a free descriptor it is the same.
//! - A message that waits for a slow reader is held once; a stream holds 64 KiB for it. A reader that
//!   takes nothing for `Limits::idle` (or until the call's deadline) loses its call.
//! - PING, SETTINGS, PRIORITY and unknown frames are work for nobody: a connection that sends some
//!   2,000 of them without a call in between is closed with `ENHANCE_YOUR_CALM`.
//! - A peer may give up 40 times `Limits::calls_per_connection` calls within 10 ms of sending them,
//!   and a tenth of that more each second, beside those it waits for. Beyond that its connection is
//!   closed with `ENHANCE_YOUR_CALM` (rapid reset).
//! - `Limits::call` ends a call that brings no deadline, unless its request or its answer is a
//!   stream. It is not in the handler's context, because nobody knows yet what the answer will be.
//! - An HTTP/1.1 connection without a request is closed after `Limits::header_timeout`.
//!
//! # For implementors
//!
//! HTTP/2 is the `h2` crate on both sides, HTTP/1.1 is hyper; neither appears in a signature.

mod address;
mod client;
mod config;
mod driver;
mod error;
mod frame;
mod headers;
mod io;
mod known;
mod lane;
mod outgoing;
mod server;
mod status;
mod time;
#[cfg(feature = "tls")]
mod tls;
mod transport;
mod turn;

pub use self::config::{GrpcConfig, LaneStats};
pub use self::driver::GrpcDriver;
pub use self::transport::GrpcTransport;

/// The URL scheme of this backend.
pub const SCHEME: &str = "grpc";

/// The name in a node's metadata that says: this is micro, of that version.
pub(crate) const MICRO: &str = "micro";

#[cfg(not(feature = "tls"))]
fn no_tls(operation: &'static str) -> micro_core::Error {
    micro_core::Error::unimplemented(
        "this program was built without TLS: add the cargo feature \"tls\" to micro",
    )
    .with_operation(operation)
    .with_context("feature", "tls")
}
