//! What an error of the server or of the connection means.

use micro_core::{Error, ErrorKind};
use tokio_postgres::error::{DbError, Severity, SqlState};

/// What became of a statement that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fate {
    /// It has no effect, and the same again would fail again.
    Failed,
    /// It has no effect, and the same again may succeed: begin the transaction anew.
    Again,
    /// It may have taken effect.
    Unknown,
}

/// An error, and what became of what was to be done.
#[derive(Debug)]
pub struct Failure {
    fate: Fate,
    error: Error,
    code: Option<SqlState>,
}

impl Failure {
    /// An error of one's own that is final: nothing has happened.
    #[must_use]
    pub fn failed(error: Error) -> Self {
        Self::new(Fate::Failed, error)
    }

    pub(crate) fn new(fate: Fate, error: Error) -> Self {
        Self {
            fate,
            error,
            code: None,
        }
    }

    /// What became of it.
    #[must_use]
    pub fn fate(&self) -> Fate {
        self.fate
    }

    /// The SQLSTATE, if it was the server that said no.
    #[must_use]
    pub fn code(&self) -> Option<&SqlState> {
        self.code.as_ref()
    }

    /// For what changes nothing, or nothing yet: a read, or a statement of a transaction that was
    /// not committed. That nobody knows what became of it only means that it must be repeated.
    #[must_use]
    pub fn harmless(mut self) -> Self {
        if self.fate == Fate::Unknown {
            self.fate = Fate::Again;
        }
        self
    }

    /// For what does nothing if it was done before: try again.
    #[must_use]
    pub fn again(self) -> Self {
        self.with_fate(Fate::Again)
    }

    /// The error to tell; one of kind `OutcomeUnknown` if the outcome is.
    #[must_use]
    pub fn into_error(self) -> Error {
        if self.fate == Fate::Unknown && self.error.kind() != ErrorKind::OutcomeUnknown {
            return Error::outcome_unknown(
                "the connection was lost before the answer came: it may have happened or not",
            )
            .with_source(self.error);
        }
        self.error
    }

    pub(crate) fn map(mut self, change: impl FnOnce(Error) -> Error) -> Self {
        self.error = change(self.error);
        self
    }

    pub(crate) fn with_fate(mut self, fate: Fate) -> Self {
        self.fate = fate;
        self
    }

    /// The connection was lost, or is not to be trusted any more.
    pub(crate) fn lost(why: Error) -> Self {
        Self::new(Fate::Unknown, why)
    }

    /// What the client library says about a statement that was sent.
    pub(crate) fn of(err: tokio_postgres::Error) -> Self {
        let Some(db) = err.as_db_error() else {
            // Cut off, or the answer cannot be read.
            let lost = Error::unavailable("the connection to the database is lost");
            return Self::lost(lost.with_source(err));
        };
        let (fate, kind, message) = meaning(db);
        let code = db.code().clone();
        let error = Error::new(kind, message)
            .with_retryable(fate == Fate::Again || kind == ErrorKind::Unavailable)
            .with_context("sqlstate", code.code())
            .with_source(err);
        Self {
            fate,
            error,
            code: Some(code),
        }
    }
}

/// By the SQLSTATE: its class are the first two characters (PostgreSQL, Appendix A).
fn meaning(db: &DbError) -> (Fate, ErrorKind, &'static str) {
    let code = db.code();
    let class = code.code().get(..2).unwrap_or_default();
    match code.code() {
        // CockroachDB's is one code for all of its reasons to begin anew.
        "40001" | "40P01" => (
            Fate::Again,
            ErrorKind::Unavailable,
            "other changes got in the way again and again; try later",
        ),
        "40003" => (
            Fate::Unknown,
            ErrorKind::OutcomeUnknown,
            "the database does not know whether it happened",
        ),
        // The server shuts down, has crashed, or is not up yet.
        "57P01" | "57P02" | "57P03" | "57P04" | "57P05" => (
            Fate::Unknown,
            ErrorKind::Unavailable,
            "the database is restarting or has ended the connection",
        ),
        "57014" => (
            Fate::Failed,
            ErrorKind::Unavailable,
            "the database took too long for a statement, and gave it up",
        ),
        "55P03" => (
            Fate::Again,
            ErrorKind::Unavailable,
            "somebody else holds a lock; try later",
        ),
        // A standby, or one that has become it: another server may be the one that writes.
        "25006" => (
            Fate::Again,
            ErrorKind::Unavailable,
            "the database is read-only: it is a standby, or set so",
        ),
        // What was prepared does not fit any more: the connection is left behind with it.
        "0A000" if db.message().contains("cached plan") => (
            Fate::Again,
            ErrorKind::Unavailable,
            "the table has changed; try again",
        ),
        "26000" => (
            Fate::Again,
            ErrorKind::Unavailable,
            "prepared statements are lost on the way: connect past the pooler, or set it to sessions",
        ),
        "3D000" => (
            Fate::Failed,
            ErrorKind::FailedPrecondition,
            "there is no such database: create it, or name another in the URL's path",
        ),
        "42501" => (
            Fate::Failed,
            ErrorKind::PermissionDenied,
            "the database does not permit this to our user",
        ),
        "42P01" | "42703" | "42804" | "42P18" | "42883" => (
            Fate::Failed,
            ErrorKind::FailedPrecondition,
            "a table is missing or has another layout",
        ),
        "53300" => (
            Fate::Again,
            ErrorKind::Unavailable,
            "the database has too many connections",
        ),
        "XX001" | "XX002" => (
            Fate::Failed,
            ErrorKind::Corrupt,
            "the database finds its own data damaged",
        ),
        _ => match class {
            "08" => (
                Fate::Unknown,
                ErrorKind::Unavailable,
                "the connection to the database is lost",
            ),
            "28" => (
                Fate::Failed,
                ErrorKind::Unauthenticated,
                "the database refuses these credentials; check user, password and certificate",
            ),
            "53" | "54" => (
                Fate::Failed,
                ErrorKind::ResourceExhausted,
                "the database is full, or this is too large for it",
            ),
            _ if is_the_end(db) => (
                Fate::Unknown,
                ErrorKind::Unavailable,
                "the database has ended the connection",
            ),
            _ => (
                Fate::Failed,
                ErrorKind::Unknown,
                "the database refuses the statement",
            ),
        },
    }
}

/// Whether the server ends the connection with this. Not every server gives the severity that is never
/// translated.
fn is_the_end(db: &DbError) -> bool {
    match db.parsed_severity() {
        Some(severity) => matches!(severity, Severity::Fatal | Severity::Panic),
        None => matches!(db.severity(), "FATAL" | "PANIC"),
    }
}

/// What a failed attempt to connect means: nothing has happened, and it is tried again unless it is
/// about who we are or what we want.
pub(crate) fn refused(err: tokio_postgres::Error) -> Failure {
    if err.as_db_error().is_some() {
        let failure = Failure::of(err);
        return match failure.fate {
            Fate::Unknown => failure.with_fate(Fate::Again),
            _ => failure,
        };
    }
    // The library does not say the kind but in words; a test watches them.
    let text = err.to_string();
    if text == "authentication error" || text == "invalid configuration" {
        let error = Error::unauthenticated(
            "the database and we do not agree on how to prove who we are; check user and password",
        );
        return Failure::failed(error.with_source(err));
    }
    let error = Error::unavailable("the database does not speak with us");
    Failure::new(Fate::Again, error.with_source(err))
}
