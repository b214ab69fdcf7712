//! From what went wrong between us and etcd to our own error.

use micro_core::{BoxError, Error, ErrorKind};

/// Why a call failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// There is no connection, or it broke.
    Link {
        what: &'static str,
        why: BoxError,
        /// Whether the call provably never ran.
        unprocessed: bool,
    },
    /// The answer did not come in time.
    Late,
    /// etcd's own answer: a gRPC status other than OK.
    Status { code: u32, message: String },
    /// What answers does not speak gRPC as etcd does.
    Foreign(&'static str),
    /// The answer is longer than we are willing to hold.
    TooLong,
}

/// What a failed call means for one that is made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cure {
    /// Nothing but another request would help.
    None,
    /// Another member, or the same one later.
    Again,
    /// A new token.
    Token,
}

/// gRPC's codes, by number.
mod code {
    pub(super) const UNKNOWN: u32 = 2;
    pub(super) const INVALID_ARGUMENT: u32 = 3;
    pub(super) const UNAVAILABLE: u32 = 14;
    pub(super) const UNAUTHENTICATED: u32 = 16;
}

impl Failure {
    pub(crate) fn link(what: &'static str, why: impl Into<BoxError>) -> Self {
        Self::Link {
            what,
            why: why.into(),
            unprocessed: true,
        }
    }

    /// What h2 says about a call that was under way.
    ///
    /// Two failures prove that it never ran: a refused stream, and a GOAWAY whose last stream is an
    /// earlier one, which h2 reports to exactly those streams (RFC 9113 §6.8, §8.7).
    pub(crate) fn under_way(err: h2::Error) -> Self {
        let refused = err.is_reset() && err.reason() == Some(h2::Reason::REFUSED_STREAM);
        let unprocessed = refused || (err.is_go_away() && err.is_remote());
        Self::Link {
            what: "the connection to etcd broke",
            why: err.into(),
            unprocessed,
        }
    }

    pub(crate) fn is_unprocessed(&self) -> bool {
        match self {
            Self::Link { unprocessed, .. } => *unprocessed,
            // Refused before it is proposed.
            Self::Status { .. } => self.cure() == Cure::Token,
            Self::Late | Self::Foreign(_) | Self::TooLong => false,
        }
    }

    /// The same failure, of something that was to be done before the call itself.
    pub(crate) fn before_the_call(self) -> Self {
        match self {
            Self::Late => Self::link("etcd does not authenticate us in time", "late"),
            Self::Link { what, why, .. } => Self::link(what, why),
            Self::Status { code, message } if status_cure(code, &message) == Cure::Again => {
                Self::link("etcd cannot authenticate us just now", message)
            }
            other => other,
        }
    }

    /// Whether the connection is to blame, so that another one should be used.
    pub(crate) fn blames_link(&self) -> bool {
        match self {
            Self::Link { .. } | Self::Late | Self::Foreign(_) => true,
            // A member without a leader: another one may have one.
            Self::Status { code, .. } => *code == code::UNAVAILABLE,
            Self::TooLong => false,
        }
    }

    pub(crate) fn cure(&self) -> Cure {
        match self {
            Self::Link { .. } | Self::Late => Cure::Again,
            Self::Foreign(_) | Self::TooLong => Cure::None,
            Self::Status { code, message } => status_cure(*code, message),
        }
    }

    /// The error for a caller. `changes` says whether the call changes something, so that not to
    /// know its outcome matters.
    pub(crate) fn into_error(self, operation: &'static str, changes: bool) -> Error {
        let unprocessed = self.is_unprocessed();
        let unsure = changes && !unprocessed;
        let error = match self {
            Self::Link { what, why, .. } if unsure => unknown_outcome(what)
                .with_context("why", &why)
                .with_source(why),
            Self::Link { what, why, .. } => Error::unavailable(what)
                .with_context("why", &why)
                .with_source(why),
            Self::Late if unsure => unknown_outcome("etcd does not answer in time"),
            Self::Late => Error::unavailable("etcd does not answer in time"),
            Self::Foreign(what) => Error::unavailable(
                "this is no etcd, or one that is too old: version 3.4 and its gRPC port are needed",
            )
            .with_context("why", what),
            Self::TooLong => Error::resource_exhausted(
                "etcd's answer is longer than is allowed; ask for fewer keys at once",
            ),
            Self::Status { code, message } => status(code, &message, unsure),
        };
        let unprocessed = unprocessed && error.kind() == ErrorKind::Unavailable;
        error
            .with_operation(operation)
            .with_unprocessed(unprocessed)
    }
}

fn unknown_outcome(message: &'static str) -> Error {
    Error::new(ErrorKind::OutcomeUnknown, message)
}

fn status_cure(code: u32, message: &str) -> Cure {
    let stale = match code {
        code::UNAUTHENTICATED => message.contains("invalid auth token"),
        // Rights were changed after the token was made, or authentication was turned on.
        code::INVALID_ARGUMENT => ["revision of auth store is old", "user name is empty"]
            .iter()
            .any(|known| message.contains(known)),
        _ => false,
    };
    if stale {
        Cure::Token
    } else if code == code::UNAVAILABLE || code == code::UNKNOWN && is_outage(message) {
        Cure::Again
    } else {
        Cure::None
    }
}

/// Errors of etcd that it gives no code of their own.
fn is_outage(message: &str) -> bool {
    [
        "raft: stopped",
        "raft: proposal dropped",
        "context canceled",
    ]
    .iter()
    .any(|known| message.contains(known))
}

/// The meaning of a status. Most codes are etcd's own choice and good; these are not.
fn status(code: u32, message: &str, unsure: bool) -> Error {
    let says = |text: &str| message.contains(text);
    let kind = ErrorKind::from_code(code).unwrap_or(ErrorKind::Unknown);
    let (kind, ours) = match kind {
        ErrorKind::InvalidArgument if says("user name is empty") => (
            ErrorKind::Unauthenticated,
            Some("etcd wants to know who we are: give a user and a password in the URL"),
        ),
        ErrorKind::InvalidArgument if says("authentication failed") => (
            ErrorKind::Unauthenticated,
            Some("etcd refuses these credentials; check user and password"),
        ),
        ErrorKind::PermissionDenied => (
            kind,
            Some("etcd does not let this user touch these keys: grant its role the prefix"),
        ),
        ErrorKind::ResourceExhausted if says("database space exceeded") => (
            kind,
            Some("etcd's disk quota is used up: compact, defragment and disarm its alarm"),
        ),
        ErrorKind::Unavailable if unsure => (
            ErrorKind::OutcomeUnknown,
            Some("etcd cannot say whether it is done"),
        ),
        ErrorKind::Unknown if is_outage(message) => {
            let kind = if unsure {
                ErrorKind::OutcomeUnknown
            } else {
                ErrorKind::Unavailable
            };
            (kind, None)
        }
        _ => (kind, None),
    };
    let shown: String = message
        .chars()
        .take(300)
        .flat_map(char::escape_debug)
        .collect();
    match ours {
        Some(ours) => Error::new(kind, ours).with_context("etcd", shown),
        None => Error::new(kind, shown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(code: u32, message: &str) -> Failure {
        Failure::Status {
            code,
            message: message.to_owned(),
        }
    }

    #[test]
    fn etcd_s_statuses_have_a_kind_and_a_cure() {
        use ErrorKind as Kind;
        for (code, message, kind, cure) in [
            (
                16,
                "etcdserver: invalid auth token",
                Kind::Unauthenticated,
                Cure::Token,
            ),
            (
                3,
                "etcdserver: revision of auth store is old",
                Kind::InvalidArgument,
                Cure::Token,
            ),
            (
                3,
                "etcdserver: user name is empty",
                Kind::Unauthenticated,
                Cure::Token,
            ),
            (
                3,
                "etcdserver: authentication failed, invalid user ID or password",
                Kind::Unauthenticated,
                Cure::None,
            ),
            (
                7,
                "etcdserver: permission denied",
                Kind::PermissionDenied,
                Cure::None,
            ),
            (
                5,
                "etcdserver: requested lease not found",
                Kind::NotFound,
                Cure::None,
            ),
            (
                8,
                "etcdserver: mvcc: database space exceeded",
                Kind::ResourceExhausted,
                Cure::None,
            ),
            (14, "etcdserver: no leader", Kind::Unavailable, Cure::Again),
            (2, "raft: stopped", Kind::Unavailable, Cure::Again),
            (99, "?", Kind::Unknown, Cure::None),
        ] {
            let failure = said(code, message);
            assert_eq!(failure.cure(), cure, "{message}");
            assert_eq!(
                failure.into_error("etcd.test", false).kind(),
                kind,
                "{message}"
            );
        }
    }

    #[test]
    fn a_change_without_an_answer_has_an_unknown_outcome() {
        for failure in [
            said(14, "etcdserver: request timed out"),
            Failure::Late,
            Failure::Link {
                what: "the connection to etcd broke",
                why: "reset".into(),
                unprocessed: false,
            },
        ] {
            let err = failure.into_error("etcd.put", true);
            assert_eq!(err.kind(), ErrorKind::OutcomeUnknown, "{err:?}");
            assert!(!err.is_unprocessed());
        }
        let err = Failure::link("etcd cannot be reached", "refused").into_error("etcd.put", true);
        assert_eq!(err.kind(), ErrorKind::Unavailable);
        assert!(err.is_unprocessed() && err.is_retryable());
    }
}
