//! What can go wrong.

use std::error::Error as StdError;
use std::fmt;
use std::path::Path;

/// Why no code could be generated.
///
/// Its `Debug` is as readable as its `Display`: that is what a build script prints.
pub struct Error {
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            source: None,
        }
    }

    pub(crate) fn io(verb: &str, path: &Path, source: std::io::Error) -> Self {
        Self {
            message: format!("cannot {verb} {}: {source}", path.display()),
            source: Some(Box::new(source)),
        }
    }

    /// Code that a generator below us made and that is not Rust.
    pub(crate) fn not_rust(what: &str, source: syn::Error) -> Self {
        Self {
            message: format!("the code for {what} is not Rust: {source}"),
            source: Some(Box::new(source)),
        }
    }
}

impl From<protox::Error> for Error {
    fn from(source: protox::Error) -> Self {
        Self {
            // Debug has what Display lacks: file, line and column.
            message: format!("{source:?}"),
            source: Some(Box::new(source)),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
