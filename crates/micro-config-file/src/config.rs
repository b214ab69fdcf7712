//! How a file is read and followed.

use std::path::PathBuf;
use std::time::Duration;

use micro_config_core::{Error, Result};
use micro_core::Url;
use micro_core::url::{Options, Span, file_path};

use crate::Format;

/// The options of a [`FileSource`](crate::FileSource).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileConfig {
    /// The file or directory.
    pub path: PathBuf,
    /// What the file is written in; by its extension if `None`.
    pub format: Option<Format>,
    /// Whether the path is a directory with a secret in each file, as `/run/secrets` is.
    pub secrets: bool,
    /// How long the content must have rested after its writer has closed it; 100 ms by default.
    pub debounce: Duration,
    /// How long the content must have rested if nobody says that its writer has closed it, as when
    /// a change was found by polling; 500 ms by default. Pauses of a slow writer must be shorter.
    pub settle: Duration,
    /// How often the content is looked at although no event came; 2 s by default.
    pub poll: Duration,
    /// Whether events of the system are used; without them changes are found by polling.
    pub events: bool,
    /// The most bytes that are read, of all files together; 1 MiB by default.
    pub max_bytes: u64,
    /// The last line that a file must have to count as complete, for writers that do not replace
    /// files but write into them.
    pub end: Option<String>,
}

/// The most files that are read of a directory.
pub(crate) const FILES_AT_MOST: usize = 1_000;

impl FileConfig {
    /// The defaults, for a file or directory.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            format: None,
            secrets: false,
            debounce: Duration::from_millis(100),
            settle: Duration::from_millis(500),
            poll: Duration::from_secs(2),
            events: true,
            max_bytes: 1024 * 1024,
            end: None,
        }
    }

    /// Reads the file as this, whatever its extension.
    #[must_use]
    pub fn with_format(mut self, format: Format) -> Self {
        self.format = Some(format);
        self
    }

    /// Reads a directory with a secret in each file.
    #[must_use]
    pub fn with_secrets(mut self, secrets: bool) -> Self {
        self.secrets = secrets;
        self
    }

    /// Sets how long the content must have rested.
    #[must_use]
    pub fn with_debounce(mut self, debounce: Duration) -> Self {
        self.debounce = debounce;
        self
    }

    /// Sets how long it must have rested if its writer may still have it open.
    #[must_use]
    pub fn with_settle(mut self, settle: Duration) -> Self {
        self.settle = settle;
        self
    }

    /// Sets how often the content is looked at although no event came.
    #[must_use]
    pub fn with_poll(mut self, poll: Duration) -> Self {
        self.poll = poll;
        self
    }

    /// Says whether events of the system are used.
    #[must_use]
    pub fn with_events(mut self, events: bool) -> Self {
        self.events = events;
        self
    }

    /// Sets the most bytes that are read.
    #[must_use]
    pub fn with_max_bytes(mut self, max_bytes: u64) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    /// Sets the last line that a complete file has.
    #[must_use]
    pub fn with_end(mut self, end: impl Into<String>) -> Self {
        self.end = Some(end.into());
        self
    }

    /// Reads `file:./app.toml?poll=5s&debounce=50ms&settle=1s&events=false&max_bytes=65536&format=yaml&end=%23end&secrets=true`.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an option that is unknown or cannot be read.
    pub fn from_url(url: &Url) -> Result<Self> {
        let mut config = Self::new(file_path(url)?);
        let mut options = Options::new(url);
        config.format = options.take("format")?;
        config.end = options.take("end")?;
        let spans = [
            ("debounce", &mut config.debounce),
            ("settle", &mut config.settle),
            ("poll", &mut config.poll),
        ];
        for (name, span) in spans {
            if let Some(Span(value)) = options.take(name)? {
                *span = value;
            }
        }
        let flags = [
            ("events", &mut config.events),
            ("secrets", &mut config.secrets),
        ];
        for (name, flag) in flags {
            if let Some(value) = options.take(name)? {
                *flag = value;
            }
        }
        if let Some(max_bytes) = options.take("max_bytes")? {
            config.max_bytes = max_bytes;
        }
        options.finish()?;
        config.check()?;
        Ok(config)
    }

    pub(crate) fn check(&self) -> Result<()> {
        let invalid = |message: &'static str| {
            Err(Error::invalid_argument(message).with_operation("config.file"))
        };
        if self.poll < Duration::from_millis(10) {
            return invalid("the poll interval is at least 10 ms");
        }
        if self.settle < self.debounce {
            return invalid("settle is at least as long as debounce");
        }
        if self
            .end
            .as_deref()
            .is_some_and(|end| end.trim() != end || end.is_empty() || end.contains('\n'))
        {
            return invalid("the last line of a file is one line without white space around it");
        }
        Ok(())
    }
}
