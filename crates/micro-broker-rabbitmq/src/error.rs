//! What lapin's errors mean.

use micro_broker_core::{Error, ErrorKind};

/// Codes of AMQP 0-9-1 §1.3.
const ACCESS_REFUSED: u16 = 403;
const NOT_FOUND: u16 = 404;
const RESOURCE_LOCKED: u16 = 405;
const PRECONDITION_FAILED: u16 = 406;
const NOT_ALLOWED: u16 = 530;

/// What the server said, if it said something.
pub(crate) fn code(err: &lapin::Error) -> Option<u16> {
    match err.kind() {
        lapin::ErrorKind::ProtocolError(err) => Some(err.get_id()),
        _ => None,
    }
}

/// Whether what was asked for is there in another way, or not ours to make: what is there may do.
pub(crate) fn is_another(err: &lapin::Error) -> bool {
    matches!(code(err), Some(ACCESS_REFUSED | PRECONDITION_FAILED))
}

/// Whether what was asked for is not there.
pub(crate) fn is_missing(err: &lapin::Error) -> bool {
    code(err) == Some(NOT_FOUND)
}

/// The error of a call that changes nothing when it fails.
pub(crate) fn failed(err: lapin::Error) -> Error {
    let (kind, message) = match (code(&err), err.kind()) {
        (Some(ACCESS_REFUSED), _) => (
            ErrorKind::PermissionDenied,
            "RabbitMQ does not permit this to our user",
        ),
        (Some(NOT_FOUND), _) => (ErrorKind::NotFound, "RabbitMQ does not have this"),
        (Some(RESOURCE_LOCKED), _) => (
            ErrorKind::FailedPrecondition,
            "another connection has this for itself",
        ),
        (Some(PRECONDITION_FAILED), _) => (
            ErrorKind::FailedPrecondition,
            "RabbitMQ refuses this as things are",
        ),
        (_, lapin::ErrorKind::ChannelsLimitReached) => (
            ErrorKind::ResourceExhausted,
            "RabbitMQ grants this connection no more subscribers (channel_max)",
        ),
        _ => (ErrorKind::Unavailable, "the connection to RabbitMQ is lost"),
    };
    Error::new(kind, message).with_source(err)
}

/// The error of connecting.
pub(crate) fn refused(err: lapin::Error) -> Error {
    let (kind, message) = match code(&err) {
        Some(ACCESS_REFUSED) => (
            ErrorKind::Unauthenticated,
            "RabbitMQ refuses these credentials",
        ),
        Some(NOT_ALLOWED) => (
            ErrorKind::PermissionDenied,
            "there is no such virtual host, or our user may not use it",
        ),
        _ => (ErrorKind::Unavailable, "RabbitMQ cannot be reached"),
    };
    Error::new(kind, message).with_source(err)
}

/// An error once more, for another caller: kind and text, without its causes.
pub(crate) fn again(err: &Error) -> Error {
    Error::new(err.kind(), err.message().to_owned())
}
