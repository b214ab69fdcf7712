//! sled's errors, in the terms a caller can act on.

use std::io;

use micro_store_core::{Error, ErrorKind};

/// What sled said. Private: nobody outside matches on it.
#[derive(Debug)]
pub(crate) struct Failure(sled::Error);

impl From<sled::Error> for Failure {
    fn from(err: sled::Error) -> Self {
        Self(err)
    }
}

impl From<io::Error> for Failure {
    fn from(err: io::Error) -> Self {
        Self(sled::Error::Io(err))
    }
}

impl From<Failure> for Error {
    fn from(Failure(err): Failure) -> Self {
        use sled::Error as S;
        let (kind, message) = match &err {
            S::Io(err) => match err.kind() {
                // sled looks for a file that it has written, or reads behind the end of one.
                io::ErrorKind::NotFound
                | io::ErrorKind::InvalidData
                | io::ErrorKind::UnexpectedEof => {
                    (ErrorKind::Corrupt, "the store's files are damaged, or none")
                }
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => (
                    ErrorKind::ResourceExhausted,
                    "the disk is full; make room and open the store again",
                ),
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => (
                    ErrorKind::PermissionDenied,
                    "the store's files cannot be written",
                ),
                _ => (
                    ErrorKind::FailedPrecondition,
                    "the disk has failed; the store must be opened again",
                ),
            },
            S::Unsupported(_) => (
                ErrorKind::FailedPrecondition,
                "the store's files were written by another version of sled, or with other settings",
            ),
            // It takes what it cannot explain for a bug of its own; a changed bit has the same effect.
            S::Corruption { .. } | S::ReportableBug(_) | S::CollectionNotFound(_) => {
                (ErrorKind::Corrupt, "the store's files are damaged")
            }
        };
        Self::new(kind, message).with_source(err)
    }
}
