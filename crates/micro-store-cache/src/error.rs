//! An error for everybody who waited.

use std::error::Error as _;
use std::fmt;
use std::sync::Arc;

use micro_store_core::Error;

/// The same error once more.
pub(crate) fn again(err: &Arc<Error>) -> Error {
    let mut copy = Error::new(err.kind(), err.message().to_owned())
        .with_operation(err.operation())
        .with_retryable(err.is_retryable())
        .with_unprocessed(err.is_unprocessed());
    for (key, value) in err.context() {
        copy = copy.with_context(key, value);
    }
    for detail in err.details() {
        copy = copy.with_detail(detail.clone());
    }
    if err.source().is_some() {
        copy = copy.with_source(Cause(Arc::clone(err)));
    }
    copy
}

/// The cause of an error, shared.
struct Cause(Arc<Error>);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.source() {
            Some(cause) => fmt::Display::fmt(cause, f),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.source() {
            Some(cause) => fmt::Debug::fmt(cause, f),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Cause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source().and_then(std::error::Error::source)
    }
}
