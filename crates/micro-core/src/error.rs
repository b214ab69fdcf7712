//! The one error of all interfaces.

use std::borrow::Cow;
use std::{error, fmt, io};

use bytes::Bytes;

/// A `Result` whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Any error, boxed: what a backend hands to [`Error::with_source`].
pub type BoxError = Box<dyn error::Error + Send + Sync + 'static>;

/// What went wrong, in the terms a caller can act on.
///
/// The first sixteen are gRPC's status codes under gRPC's names; see [`code`](Self::code).
/// The others are what the codes cannot tell apart: each travels as the nearest code with an
/// `ErrorInfo.reason` ([`reason`](Self::reason)) and comes back as itself.
///
/// Between the three that are easily confused: use `Unavailable` if the caller should repeat just
/// this call, `Aborted` if it should restart a larger step (a read-modify-write), and
/// `FailedPrecondition` if repeating is useless until somebody changes the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller gave up.
    Cancelled,
    /// Nothing is known about the cause: a foreign error without a better home.
    Unknown,
    /// The request can never succeed, whatever the state of the system.
    InvalidArgument,
    /// The time for the call ran out. It may have taken effect.
    DeadlineExceeded,
    /// What was asked for does not exist.
    NotFound,
    /// What should be created exists.
    AlreadyExists,
    /// The caller is known and may not do this.
    PermissionDenied,
    /// A quota, a limit or a queue is full.
    ResourceExhausted,
    /// The system is not in the state that the call needs.
    FailedPrecondition,
    /// A concurrent change got in the way; begin the larger step again.
    Aborted,
    /// A position beyond the valid range, such as reading past the end.
    OutOfRange,
    /// The method, option or scheme is not there.
    Unimplemented,
    /// An invariant is broken: a bug or a panic.
    Internal,
    /// The service cannot be reached just now; the same call may succeed soon.
    Unavailable,
    /// Data are lost for good.
    DataLoss,
    /// Who the caller is could not be established.
    Unauthenticated,
    /// Another process holds it. Travels as `Aborted`.
    Locked,
    /// Stored bytes are not what was written. Travels as `DataLoss`.
    Corrupt,
    /// A lock, lease or leadership is no longer ours. Travels as `Aborted`.
    Lost,
    /// It may or may not have happened; ask before repeating it. Travels as `Unknown`.
    OutcomeUnknown,
}

impl ErrorKind {
    /// Every kind, for tables and tests.
    pub const ALL: [Self; 20] = [
        Self::Cancelled,
        Self::Unknown,
        Self::InvalidArgument,
        Self::DeadlineExceeded,
        Self::NotFound,
        Self::AlreadyExists,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::FailedPrecondition,
        Self::Aborted,
        Self::OutOfRange,
        Self::Unimplemented,
        Self::Internal,
        Self::Unavailable,
        Self::DataLoss,
        Self::Unauthenticated,
        Self::Locked,
        Self::Corrupt,
        Self::Lost,
        Self::OutcomeUnknown,
    ];

    /// The gRPC status code, 1 to 16 (`google.rpc.Code`).
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            Self::Cancelled => 1,
            Self::Unknown | Self::OutcomeUnknown => 2,
            Self::InvalidArgument => 3,
            Self::DeadlineExceeded => 4,
            Self::NotFound => 5,
            Self::AlreadyExists => 6,
            Self::PermissionDenied => 7,
            Self::ResourceExhausted => 8,
            Self::FailedPrecondition => 9,
            Self::Aborted | Self::Locked | Self::Lost => 10,
            Self::OutOfRange => 11,
            Self::Unimplemented => 12,
            Self::Internal => 13,
            Self::Unavailable => 14,
            Self::DataLoss | Self::Corrupt => 15,
            Self::Unauthenticated => 16,
        }
    }

    /// The kind of a gRPC status code; a code that gRPC does not define is `Unknown`.
    ///
    /// `None` for 0, which is success.
    #[must_use]
    pub const fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            0 => return None,
            1 => Self::Cancelled,
            3 => Self::InvalidArgument,
            4 => Self::DeadlineExceeded,
            5 => Self::NotFound,
            6 => Self::AlreadyExists,
            7 => Self::PermissionDenied,
            8 => Self::ResourceExhausted,
            9 => Self::FailedPrecondition,
            10 => Self::Aborted,
            11 => Self::OutOfRange,
            12 => Self::Unimplemented,
            13 => Self::Internal,
            14 => Self::Unavailable,
            15 => Self::DataLoss,
            16 => Self::Unauthenticated,
            _ => Self::Unknown,
        })
    }

    /// The `ErrorInfo.reason` that tells a kind beyond gRPC's codes apart.
    ///
    /// The `ErrorInfo.domain` beside it is [`Error::DOMAIN`].
    #[must_use]
    pub const fn reason(self) -> Option<&'static str> {
        match self {
            Self::Locked => Some("LOCKED"),
            Self::Corrupt => Some("CORRUPT"),
            Self::Lost => Some("LOST"),
            Self::OutcomeUnknown => Some("OUTCOME_UNKNOWN"),
            _ => None,
        }
    }

    /// The kind that a [`reason`](Self::reason) stands for.
    #[must_use]
    pub fn from_reason(reason: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.reason() == Some(reason))
    }

    /// The HTTP status, by the table in `google/rpc/code.proto`.
    #[must_use]
    pub const fn http_status(self) -> u16 {
        match self {
            Self::Cancelled => 499,
            Self::InvalidArgument | Self::FailedPrecondition | Self::OutOfRange => 400,
            Self::DeadlineExceeded => 504,
            Self::NotFound => 404,
            Self::AlreadyExists | Self::Aborted | Self::Locked | Self::Lost => 409,
            Self::PermissionDenied => 403,
            Self::ResourceExhausted => 429,
            Self::Unimplemented => 501,
            Self::Unavailable => 503,
            Self::Unauthenticated => 401,
            Self::Unknown
            | Self::Internal
            | Self::DataLoss
            | Self::Corrupt
            | Self::OutcomeUnknown => 500,
        }
    }

    /// The kind of an HTTP answer that carries no gRPC status, by gRPC's
    /// `http-grpc-status-mapping.md`; `None` for 200.
    #[must_use]
    pub const fn from_http_status(status: u16) -> Option<Self> {
        Some(match status {
            200 => return None,
            400 => Self::Internal,
            401 => Self::Unauthenticated,
            403 => Self::PermissionDenied,
            404 => Self::Unimplemented,
            429 | 502 | 503 | 504 => Self::Unavailable,
            _ => Self::Unknown,
        })
    }

    /// The name as gRPC spells it: `NOT_FOUND`; a further kind gives its [`reason`](Self::reason).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cancelled => "CANCELLED",
            Self::Unknown => "UNKNOWN",
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::FailedPrecondition => "FAILED_PRECONDITION",
            Self::Aborted => "ABORTED",
            Self::OutOfRange => "OUT_OF_RANGE",
            Self::Unimplemented => "UNIMPLEMENTED",
            Self::Internal => "INTERNAL",
            Self::Unavailable => "UNAVAILABLE",
            Self::DataLoss => "DATA_LOSS",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::Locked => "LOCKED",
            Self::Corrupt => "CORRUPT",
            Self::Lost => "LOST",
            Self::OutcomeUnknown => "OUTCOME_UNKNOWN",
        }
    }
}

/// A typed detail of an [`Error`]: a `google.protobuf.Any` in all but name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Detail {
    /// What the bytes are: `type.googleapis.com/google.rpc.RetryInfo`.
    pub type_url: Cow<'static, str>,
    /// The encoded message.
    pub value: Bytes,
}

impl Detail {
    /// A detail of the type that `type_url` names.
    #[must_use]
    pub fn new(type_url: impl Into<Cow<'static, str>>, value: impl Into<Bytes>) -> Self {
        Self {
            type_url: type_url.into(),
            value: value.into(),
        }
    }
}

/// The error returned by every `micro` interface.
///
/// It is one pointer wide, so `Result<T>` stays cheap to move.
/// Over the wire go the kind, the message and the details; the operation, the context and the
/// source stay in the process, for they may name what strangers should not see.
///
/// ```
/// use micro_core::{Error, ErrorKind};
///
/// let err = Error::new(ErrorKind::NotFound, "service is not registered")
///     .with_operation("registry.get_service")
///     .with_context("name", "greeter");
/// assert_eq!(err.kind(), ErrorKind::NotFound);
/// assert_eq!(
///     err.to_string(),
///     "NotFound at registry.get_service: service is not registered { name: greeter }",
/// );
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    retryable: bool,
    unprocessed: bool,
    operation: &'static str,
    message: Cow<'static, str>,
    context: Vec<(&'static str, String)>,
    details: Vec<Detail>,
    source: Option<BoxError>,
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $kind:ident),* $(,)?) => {
        $(
            $(#[$doc])*
            #[must_use]
            pub fn $name(message: impl Into<Cow<'static, str>>) -> Self {
                Self::new(ErrorKind::$kind, message)
            }
        )*
    };
}

impl Error {
    /// The `ErrorInfo.domain` under which [`ErrorKind::reason`] travels.
    pub const DOMAIN: &'static str = "micro";

    /// Creates an error; only `Unavailable` starts out retryable.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            retryable: kind == ErrorKind::Unavailable,
            unprocessed: false,
            operation: "",
            message: message.into(),
            context: Vec::new(),
            details: Vec::new(),
            source: None,
        }))
    }

    constructors! {
        /// [`ErrorKind::Cancelled`]: the caller gave up.
        cancelled => Cancelled,
        /// [`ErrorKind::Unknown`]: a foreign error without a better home.
        unknown => Unknown,
        /// [`ErrorKind::InvalidArgument`]: the request can never succeed.
        invalid_argument => InvalidArgument,
        /// [`ErrorKind::DeadlineExceeded`]: the time for the call ran out.
        deadline_exceeded => DeadlineExceeded,
        /// [`ErrorKind::NotFound`]: what was asked for does not exist.
        not_found => NotFound,
        /// [`ErrorKind::AlreadyExists`]: what should be created exists.
        already_exists => AlreadyExists,
        /// [`ErrorKind::PermissionDenied`]: the caller is known and may not do this.
        permission_denied => PermissionDenied,
        /// [`ErrorKind::ResourceExhausted`]: a quota, a limit or a queue is full.
        resource_exhausted => ResourceExhausted,
        /// [`ErrorKind::FailedPrecondition`]: the system is not in the state that the call needs.
        failed_precondition => FailedPrecondition,
        /// [`ErrorKind::Aborted`]: a concurrent change got in the way.
        aborted => Aborted,
        /// [`ErrorKind::OutOfRange`]: a position beyond the valid range.
        out_of_range => OutOfRange,
        /// [`ErrorKind::Unimplemented`]: the method, option or scheme is not there.
        unimplemented => Unimplemented,
        /// [`ErrorKind::Internal`]: an invariant is broken.
        internal => Internal,
        /// [`ErrorKind::Unavailable`]: the same call may succeed soon.
        unavailable => Unavailable,
        /// [`ErrorKind::DataLoss`]: data are lost for good.
        data_loss => DataLoss,
        /// [`ErrorKind::Unauthenticated`]: who the caller is could not be established.
        unauthenticated => Unauthenticated,
        /// [`ErrorKind::Locked`]: another process holds it.
        locked => Locked,
        /// [`ErrorKind::Corrupt`]: stored bytes are not what was written.
        corrupt => Corrupt,
        /// [`ErrorKind::Lost`]: a lock, lease or leadership is no longer ours.
        lost => Lost,
        /// [`ErrorKind::OutcomeUnknown`]: it may or may not have happened.
        outcome_unknown => OutcomeUnknown,
    }

    /// Names the operation that failed, as `interface.method`: `"registry.register"`.
    #[must_use]
    pub fn with_operation(mut self, operation: &'static str) -> Self {
        self.0.operation = operation;
        self
    }

    /// Adds a fact that helps to find the cause. Never put a secret here.
    #[must_use]
    pub fn with_context(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        self.0.context.push((key, value.to_string()));
        self
    }

    /// Adds a typed detail, which travels to the caller.
    #[must_use]
    pub fn with_detail(mut self, detail: Detail) -> Self {
        self.0.details.push(detail);
        self
    }

    /// Keeps the native error as the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Says whether the same call may succeed if made again.
    #[must_use]
    pub fn with_retryable(mut self, retryable: bool) -> Self {
        self.0.retryable = retryable;
        self
    }

    /// Says that the call provably never reached the application that should have run it, as after
    /// a refused connection, so that repeating it elsewhere cannot run it twice.
    #[must_use]
    pub fn with_unprocessed(mut self, unprocessed: bool) -> Self {
        self.0.unprocessed = unprocessed;
        self
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The message, without kind, operation and context.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The operation that failed, or `""`.
    #[must_use]
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// The facts added by [`with_context`](Self::with_context), in order.
    pub fn context(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.context.iter().map(|(key, value)| (*key, &**value))
    }

    /// The typed details, in order.
    #[must_use]
    pub fn details(&self) -> &[Detail] {
        &self.0.details
    }

    /// Whether the same call may succeed if made again.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }

    /// Whether the call provably never ran; see [`with_unprocessed`](Self::with_unprocessed).
    #[must_use]
    pub fn is_unprocessed(&self) -> bool {
        self.0.unprocessed
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &self.0;
        write!(f, "{:?}", inner.kind)?;
        if !inner.operation.is_empty() {
            write!(f, " at {}", inner.operation)?;
        }
        write!(f, ": {}", inner.message)?;
        for (i, (key, value)) in inner.context.iter().enumerate() {
            let open = if i == 0 { " {" } else { "," };
            write!(f, "{open} {key}: {value}")?;
        }
        if !inner.context.is_empty() {
            f.write_str(" }")?;
        }
        Ok(())
    }
}

/// Prints the message and every cause: what `unwrap` and `main` show.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        let mut cause = error::Error::source(self);
        while let Some(err) = cause {
            write!(f, "\n  caused by: {err}")?;
            cause = err.source();
        }
        Ok(())
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

/// Maps the kinds of input and output errors that a caller can act on; the rest is `Unknown`.
impl From<io::Error> for Error {
    fn from(err: io::Error) -> Self {
        use io::ErrorKind as Io;
        let kind = match err.kind() {
            Io::NotFound => ErrorKind::NotFound,
            Io::PermissionDenied => ErrorKind::PermissionDenied,
            Io::AlreadyExists | Io::AddrInUse => ErrorKind::AlreadyExists,
            Io::InvalidInput => ErrorKind::InvalidArgument,
            Io::TimedOut => ErrorKind::DeadlineExceeded,
            Io::UnexpectedEof => ErrorKind::OutOfRange,
            Io::StorageFull | Io::QuotaExceeded => ErrorKind::ResourceExhausted,
            Io::ConnectionRefused
            | Io::ConnectionReset
            | Io::ConnectionAborted
            | Io::NotConnected
            | Io::BrokenPipe
            | Io::HostUnreachable
            | Io::NetworkUnreachable => ErrorKind::Unavailable,
            _ => ErrorKind::Unknown,
        };
        Self::new(kind, err.to_string()).with_source(err)
    }
}

// A wider error would make every `Result` on the hot path wider.
const _: () = assert!(size_of::<Result<()>>() == size_of::<usize>());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_one_kind_of_its_own_and_back() {
        for code in 1..=16 {
            let kind = ErrorKind::from_code(code).unwrap();
            assert_eq!(kind.code(), code);
            assert_eq!(
                kind.reason(),
                None,
                "{kind:?} is a code, not a further kind"
            );
        }
        assert_eq!(ErrorKind::from_code(0), None);
        assert_eq!(ErrorKind::from_code(17), Some(ErrorKind::Unknown));
        assert_eq!(ErrorKind::from_code(u32::MAX), Some(ErrorKind::Unknown));
    }

    #[test]
    fn every_further_kind_comes_back_by_its_reason() {
        let further: Vec<_> = ErrorKind::ALL
            .into_iter()
            .filter(|k| k.reason().is_some())
            .collect();
        assert_eq!(further.len(), 4);
        for kind in further {
            assert_eq!(ErrorKind::from_reason(kind.reason().unwrap()), Some(kind));
            assert_ne!(ErrorKind::from_code(kind.code()), Some(kind));
        }
        assert_eq!(ErrorKind::from_reason("QUOTA"), None);
    }

    #[test]
    fn http_statuses_follow_the_tables() {
        let to = [
            (ErrorKind::Cancelled, 499),
            (ErrorKind::Unknown, 500),
            (ErrorKind::InvalidArgument, 400),
            (ErrorKind::DeadlineExceeded, 504),
            (ErrorKind::NotFound, 404),
            (ErrorKind::AlreadyExists, 409),
            (ErrorKind::PermissionDenied, 403),
            (ErrorKind::ResourceExhausted, 429),
            (ErrorKind::FailedPrecondition, 400),
            (ErrorKind::Aborted, 409),
            (ErrorKind::OutOfRange, 400),
            (ErrorKind::Unimplemented, 501),
            (ErrorKind::Internal, 500),
            (ErrorKind::Unavailable, 503),
            (ErrorKind::DataLoss, 500),
            (ErrorKind::Unauthenticated, 401),
        ];
        for (kind, status) in to {
            assert_eq!(kind.http_status(), status, "{kind:?}");
        }
        let from = [
            (400, ErrorKind::Internal),
            (401, ErrorKind::Unauthenticated),
            (403, ErrorKind::PermissionDenied),
            (404, ErrorKind::Unimplemented),
            (429, ErrorKind::Unavailable),
            (502, ErrorKind::Unavailable),
            (503, ErrorKind::Unavailable),
            (504, ErrorKind::Unavailable),
            (418, ErrorKind::Unknown),
        ];
        for (status, kind) in from {
            assert_eq!(ErrorKind::from_http_status(status), Some(kind), "{status}");
        }
        assert_eq!(ErrorKind::from_http_status(200), None);
    }

    #[test]
    fn debug_shows_the_causes_and_display_does_not() {
        let err = Error::from(io::Error::other("disk on fire")).with_operation("store.write");
        assert_eq!(err.to_string(), "Unknown at store.write: disk on fire");
        assert!(format!("{err:?}").contains("caused by: disk on fire"));
    }
}
