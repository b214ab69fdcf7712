//! How the sources are, for operators and tests.

use std::fmt;
use std::time::SystemTime;

use micro_core::ErrorKind;

use crate::Rank;

/// The state of a configuration.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Status {
    /// Grows by one with every change that was taken over.
    pub version: u64,
    /// Every source, the strongest first.
    pub sources: Vec<SourceStatus>,
    /// The program closed the configuration, or its runtime ended: nothing changes any more.
    pub closed: bool,
}

/// The state of a source.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SourceStatus {
    /// What it is called: `file /etc/app.toml`.
    pub name: String,
    /// How strong it is.
    pub rank: Rank,
    /// Whether the program starts without it.
    pub required: bool,
    /// How it is.
    pub state: SourceState,
    /// What an operator should know, such as that a file is polled.
    pub note: Option<String>,
    /// Why what it says now is not in force.
    pub refusal: Option<Refusal>,
    /// When it was last taken over.
    pub taken: Option<SystemTime>,
}

/// How a source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SourceState {
    /// What it says is in force.
    Ready,
    /// It is not there, and has not been: what stands below it is in force.
    Absent,
    /// It is not there any more, or cannot be reached: its last good state is in force, if there is one.
    Away,
    /// What it says is refused: its last good state is in force, if there is one.
    Refused,
}

/// Why something is not in force. Nothing in it is the value of a secret.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Refusal {
    /// Which source.
    pub source: String,
    /// Which key, if it is one.
    pub path: Option<String>,
    /// Where the key stands: `line 3`, `variable APP_PORT`.
    pub place: Option<String>,
    /// What kind of error it is.
    pub kind: ErrorKind,
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: SystemTime,
    /// How often it has been refused for this reason.
    pub count: u64,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)?;
        if let Some(place) = &self.place {
            write!(f, ", {place}")?;
        }
        if let Some(path) = &self.path {
            write!(f, ", key '{path}'")?;
        }
        write!(f, ": {}", self.reason)
    }
}
