//! From Redis's errors to ours.

use std::borrow::Cow;

use micro_core::{Error, ErrorKind};
use redis::RedisError;

use crate::Effect;

/// Why there is no connection, in a form that every waiting call gets a copy of.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) kind: ErrorKind,
    pub(crate) message: Cow<'static, str>,
    pub(crate) why: String,
}

impl Problem {
    pub(crate) fn new(kind: ErrorKind, message: &'static str, why: &dyn std::fmt::Display) -> Self {
        Self {
            kind,
            message: Cow::Borrowed(message),
            why: why.to_string(),
        }
    }

    /// A connection that is there, and that its owner cannot use.
    pub(crate) fn of_greeting(err: &Error) -> Self {
        let about: Vec<String> = err
            .context()
            .map(|(name, value)| format!("{name}: {value}"))
            .chain(std::error::Error::source(err).map(ToString::to_string))
            .collect();
        Self {
            kind: err.kind(),
            message: Cow::Owned(err.message().to_owned()),
            why: about.join("; "),
        }
    }

    /// Whether waiting longer would not help.
    pub(crate) fn is_final(&self) -> bool {
        self.kind != ErrorKind::Unavailable
    }

    /// Nothing was sent, so nothing can have happened.
    pub(crate) fn error(&self) -> Error {
        let error = Error::new(self.kind, self.message.clone())
            .with_operation("redis.connect")
            .with_unprocessed(true);
        if self.why.is_empty() {
            error
        } else {
            error.with_context("why", &self.why)
        }
    }
}

impl From<RedisError> for Problem {
    fn from(err: RedisError) -> Self {
        match refusal(&err) {
            Some((kind, message)) => Self::new(kind, message, &err),
            None if err.is_io_error() => Self::new(
                ErrorKind::Unavailable,
                "the connection to Redis is lost while it begins",
                &err,
            ),
            None => Self::new(
                ErrorKind::Unavailable,
                "what answers does not speak as Redis does",
                &err,
            ),
        }
    }
}

const NOPERM: &str =
    "Redis does not permit this to our user; see its ACL for commands, keys and channels";

/// Answers by which the server says that it did not even begin.
///
/// A script's commands are refused by the same words, but not before the script has begun: scripts
/// that change something put what can be refused before the first change.
fn refusal(err: &RedisError) -> Option<(ErrorKind, &'static str)> {
    use ErrorKind as K;
    if err.kind() == redis::ErrorKind::AuthenticationFailed {
        return Some((
            K::Unauthenticated,
            "Redis refuses these credentials; check user and password",
        ));
    }
    Some(match err.code()? {
        "WRONGPASS" | "NOAUTH" => (
            K::Unauthenticated,
            "Redis refuses these credentials; check user and password",
        ),
        "NOPERM" => (K::PermissionDenied, NOPERM),
        "OOM" => (
            K::ResourceExhausted,
            "Redis is full: delete something, or raise its maxmemory",
        ),
        "LOADING" | "BUSY" | "TRYAGAIN" | "MASTERDOWN" | "NOREPLICAS" => {
            (K::Unavailable, "Redis does not serve at the moment")
        }
        "READONLY" => (
            K::FailedPrecondition,
            "this Redis is a replica and takes no changes: name its primary",
        ),
        "MISCONF" => (
            K::FailedPrecondition,
            "Redis takes no changes, since it cannot write to its disk",
        ),
        "MOVED" | "ASK" | "CROSSSLOT" | "CLUSTERDOWN" => (
            K::FailedPrecondition,
            "this Redis is a node of a cluster, and clusters are not followed",
        ),
        "WRONGTYPE" => (
            K::Corrupt,
            "a key of ours holds something else: somebody else uses the same keys",
        ),
        _ => return None,
    })
}

/// What an answer means that is an error.
pub(crate) fn refused(err: RedisError, effect: Effect) -> Error {
    let error = match refusal(&err) {
        Some((kind, message)) => {
            let before = matches!(kind, ErrorKind::Unavailable | ErrorKind::Unauthenticated);
            Error::new(kind, message).with_unprocessed(before)
        }
        None if err.is_unrecoverable_error() => return lost(effect).with_source(err),
        // What a script's command is told, who may run the script but not the command.
        None if effect == Effect::Nothing
            && err
                .detail()
                .is_some_and(|text| text.starts_with("The user executing the script can't")) =>
        {
            Error::permission_denied(NOPERM)
        }
        None if effect == Effect::Change => {
            Error::outcome_unknown("Redis has failed in the middle of a change: read what is there")
        }
        None => Error::internal("Redis has refused what it never should"),
    };
    error.with_operation("redis.call").with_source(err)
}

/// The connection is gone before the answer came.
pub(crate) fn lost(effect: Effect) -> Error {
    let error = match effect {
        Effect::Nothing => Error::unavailable("the connection to Redis is lost"),
        Effect::Change => Error::outcome_unknown(
            "the connection to Redis is lost while a change was made: read what is there",
        ),
    };
    error.with_operation("redis.call")
}

/// The answer did not come in time.
pub(crate) fn late(effect: Effect) -> Error {
    let error = match effect {
        Effect::Nothing => Error::unavailable("Redis does not answer in time"),
        Effect::Change => {
            Error::outcome_unknown("Redis does not answer in time to a change: read what is there")
        }
    };
    error.with_operation("redis.call")
}
