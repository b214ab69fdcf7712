//! What HTTP/2 and the network say, in the house's terms.

use std::io;

use h2::Reason;
use micro_core::{Error, ErrorKind};

/// An HTTP/2 failure while a call was under way.
///
/// gRPC's table (`PROTOCOL-HTTP2.md`, "Errors") for resets. Only two failures prove that the call
/// never ran: a refused stream, and a GOAWAY whose last stream is an earlier one. h2 reports the
/// latter to exactly those streams.
pub(crate) fn call(err: h2::Error) -> Error {
    if err.is_go_away() && err.is_remote() {
        return Error::unavailable("the peer is going away and did not take the call")
            .with_unprocessed(true)
            .with_source(err);
    }
    if err.is_reset() {
        let Some(reason) = err.reason() else {
            return Error::internal("the call was reset").with_source(err);
        };
        return reset(reason).with_source(err);
    }
    if err.is_io() || err.is_go_away() {
        return Error::unavailable("the connection broke while the call was under way")
            .with_source(err);
    }
    Error::internal("HTTP/2 could not carry the call").with_source(err)
}

/// A stream that was reset with `reason`.
pub(crate) fn reset(reason: Reason) -> Error {
    match reason {
        Reason::REFUSED_STREAM => {
            Error::unavailable("the peer refused the call before running it").with_unprocessed(true)
        }
        Reason::CANCEL => Error::cancelled("the peer cancelled the call"),
        Reason::ENHANCE_YOUR_CALM => {
            Error::resource_exhausted("the peer asks for fewer or smaller calls")
        }
        Reason::INADEQUATE_SECURITY => {
            Error::permission_denied("the peer asks for a better secured connection")
        }
        _ => Error::internal("the peer broke the call off"),
    }
}

/// A call that could not even begin, because its connection is closed or going away.
pub(crate) fn not_begun(err: h2::Error) -> Error {
    Error::unavailable("the connection is closed or going away")
        .with_unprocessed(true)
        .with_source(err)
}

/// A failure to reach a node: nothing was sent, whatever it was.
pub(crate) fn dial(err: io::Error, address: &str) -> Error {
    Error::new(ErrorKind::Unavailable, "the node cannot be reached")
        .with_operation("transport.dial")
        .with_unprocessed(true)
        .with_context("address", address)
        .with_context("why", &err)
        .with_source(err)
}
