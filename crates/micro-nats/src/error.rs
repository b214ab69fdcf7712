//! From the library's errors to ours.

use async_nats::client::{PublishError, PublishErrorKind};
use async_nats::{ConnectError, ConnectErrorKind};
use micro_core::{Error, ErrorKind};

/// Why there is no connection, in a form that every waiting call gets a copy of.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) kind: ErrorKind,
    pub(crate) message: &'static str,
    pub(crate) why: String,
}

impl Problem {
    pub(crate) fn new(kind: ErrorKind, message: &'static str, why: &dyn std::fmt::Display) -> Self {
        Self {
            kind,
            message,
            why: why.to_string(),
        }
    }

    /// Whether waiting longer would not help.
    pub(crate) fn is_final(&self) -> bool {
        self.kind != ErrorKind::Unavailable
    }

    pub(crate) fn error(&self) -> Error {
        let error = Error::new(self.kind, self.message).with_operation("nats.connect");
        if self.why.is_empty() {
            error
        } else {
            error.with_context("why", &self.why)
        }
    }
}

impl From<&ConnectError> for Problem {
    fn from(err: &ConnectError) -> Self {
        let (kind, message) = match err.kind() {
            ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => (
                ErrorKind::Unauthenticated,
                "NATS refuses these credentials; check user, token, creds or nkey",
            ),
            ConnectErrorKind::Tls => (
                ErrorKind::Unavailable,
                "TLS with NATS fails; check ca, cert and key, and the name of the server",
            ),
            ConnectErrorKind::TimedOut => (ErrorKind::Unavailable, "NATS does not answer in time"),
            _ => (ErrorKind::Unavailable, "NATS cannot be reached"),
        };
        // `err` says its kind and its source.
        Self::new(kind, message, err)
    }
}

/// What a failed publication means.
#[must_use]
pub fn publish_failed(err: PublishError) -> Error {
    let error = match err.kind() {
        PublishErrorKind::MaxPayloadExceeded => Error::resource_exhausted(
            "the message is longer than the server allows; raise its max_payload or send less",
        ),
        PublishErrorKind::InvalidSubject => Error::invalid_argument("this is no NATS subject"),
        PublishErrorKind::Send => Error::unavailable("the connection to NATS is gone"),
    };
    error.with_operation("nats.publish").with_source(err)
}
