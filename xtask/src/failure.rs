//! What a command says when it cannot do its work.

/// The result of everything in this crate.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// A readable text and the exit status that goes with it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) text: String,
    pub(crate) status: u8,
}

impl Failure {
    /// The work went wrong: status 1.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            status: 1,
        }
    }

    /// The command line was wrong: status 2.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            status: 2,
        }
    }
}

/// Says which file or program an I/O error is about.
pub(crate) trait OrFail<T> {
    /// Turns the error into a [`Failure`] that begins with `what`.
    fn or_fail(self, what: impl std::fmt::Display) -> Result<T>;
}

impl<T, E: std::fmt::Display> OrFail<T> for std::result::Result<T, E> {
    fn or_fail(self, what: impl std::fmt::Display) -> Result<T> {
        self.map_err(|err| Failure::new(format!("{what}: {err}")))
    }
}
