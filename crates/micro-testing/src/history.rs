//! What happened, in order.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// So many entries are kept; beyond, the oldest are forgotten, and counted.
const KEPT: usize = 65_536;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// Since the cluster began.
    pub at: Duration,
    /// Who did it: a host such as `greeter-0` or `client-0`, or `test`.
    pub who: String,
    /// What it was.
    pub what: String,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (secs, micros) = (self.at.as_secs(), self.at.subsec_micros());
        write!(f, "{secs:>5}.{micros:06} {} {}", self.who, self.what)
    }
}

/// The log of a cluster: connections, calls, what was said to the registry, and faults.
///
/// The same seed and the same test give the same history. It displays as one line per entry.
/// The last 65,536 entries are kept.
#[derive(Clone, Debug)]
pub struct History(Arc<Mutex<Log>>);

#[derive(Debug)]
struct Log {
    began: Instant,
    entries: VecDeque<Entry>,
    forgotten: u64,
}

impl History {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Log {
            began: Instant::now(),
            entries: VecDeque::new(),
            forgotten: 0,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, who: &str, what: impl Into<String>) {
        let mut log = self.lock();
        if log.entries.len() >= KEPT {
            log.entries.pop_front();
            log.forgotten += 1;
        }
        let at = log.began.elapsed();
        log.entries.push_back(Entry {
            at,
            who: who.to_owned(),
            what: what.into(),
        });
    }

    /// Adds a line of the test's own.
    pub fn note(&self, what: impl Into<String>) {
        self.add("test", what);
    }

    /// The entries that are kept, oldest first.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.lock().entries.iter().cloned().collect()
    }

    /// How many entries say `what`.
    #[must_use]
    pub fn count(&self, what: &str) -> usize {
        let log = self.lock();
        let entries = log.entries.iter();
        entries.filter(|entry| entry.what.contains(what)).count()
    }

    /// The last `count` entries, one per line.
    #[must_use]
    pub fn tail(&self, count: usize) -> String {
        let log = self.lock();
        let skipped = log.entries.len().saturating_sub(count);
        let lines = log.entries.iter().skip(skipped);
        lines.map(|entry| format!("{entry}\n")).collect()
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let log = self.lock();
        if log.forgotten > 0 {
            writeln!(f, "({} entries before are forgotten)", log.forgotten)?;
        }
        for entry in &log.entries {
            writeln!(f, "{entry}")?;
        }
        Ok(())
    }
}
