//! redb's errors, in the terms a caller can act on.

use std::io;

use micro_store_core::{Error, ErrorKind};

/// What redb said. Private: nobody outside matches on it.
#[derive(Debug)]
pub(crate) struct Failure(redb::Error);

impl<E: Into<redb::Error>> From<E> for Failure {
    fn from(err: E) -> Self {
        Self(err.into())
    }
}

impl From<Failure> for Error {
    fn from(Failure(err): Failure) -> Self {
        use redb::Error as R;
        let (kind, message) = match &err {
            R::DatabaseAlreadyOpen | R::LockProtocolMismatch => (
                ErrorKind::Locked,
                "another process, or another handle of this one, has the store open",
            ),
            R::Corrupted(_)
            | R::TableTypeMismatch { .. }
            | R::TableIsMultimap(_)
            | R::TypeDefinitionChanged { .. }
            | R::RepairAborted => (ErrorKind::Corrupt, "the store's file is damaged"),
            R::Io(err) => match err.kind() {
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                    (ErrorKind::Corrupt, "the store's file is damaged, or none")
                }
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => (
                    ErrorKind::ResourceExhausted,
                    "the disk is full; make room and open the store again",
                ),
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => (
                    ErrorKind::PermissionDenied,
                    "the store's file cannot be written",
                ),
                _ => (
                    ErrorKind::FailedPrecondition,
                    "the disk has failed; the store must be opened again",
                ),
            },
            R::PreviousIo | R::DatabaseClosed | R::LockPoisoned(_) => (
                ErrorKind::FailedPrecondition,
                "the store has failed before and must be opened again",
            ),
            R::UpgradeRequired(_) => (
                ErrorKind::FailedPrecondition,
                "the store's file was written by another version of redb",
            ),
            _ => (ErrorKind::Internal, "redb has refused what it never should"),
        };
        Self::new(kind, message).with_source(err)
    }
}
