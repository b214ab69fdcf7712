//! What was published, and what arrived.

use std::collections::{BTreeMap, BTreeSet};

/// What all children have said so far.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    tried: BTreeSet<String>,
    acknowledged: BTreeSet<String>,
    /// How often each was handled.
    arrived: BTreeMap<String, u64>,
    refused: u64,
    nobody: u64,
    wrong: u64,
    pub(super) ready: usize,
    unread: u64,
}

/// What it comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) tried: u64,
    pub(super) acknowledged: u64,
    pub(super) arrived: u64,
    /// Acknowledged, and not arrived.
    pub(super) lost: u64,
    /// Arrived, and never published.
    pub(super) phantom: u64,
    /// Arrived, and not what was published under this id.
    pub(super) wrong: u64,
    /// Arrived once more.
    pub(super) duplicates: u64,
    /// Not acknowledged: publishing failed.
    pub(super) refused: u64,
    /// Not acknowledged: nobody was known to subscribe.
    pub(super) nobody: u64,
    /// What a child said and nobody understands.
    pub(super) unread: u64,
}

impl Ledger {
    /// Notes what a child says.
    pub(super) fn note(&mut self, line: &str) {
        let (what, id) = line.split_once(' ').unwrap_or((line, ""));
        let id = || id.to_owned();
        match what {
            "ready" => self.ready += 1,
            "try" => drop(self.tried.insert(id())),
            "ack" => drop(self.acknowledged.insert(id())),
            "got" => *self.arrived.entry(id()).or_default() += 1,
            "err" => self.refused += 1,
            "nobody" => self.nobody += 1,
            "wrong" => self.wrong += 1,
            _ => {
                eprintln!("  a child says: {line}");
                self.unread += 1;
            }
        }
    }

    /// How many were acknowledged, and how many arrived.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.acknowledged.len() as u64, self.arrived.len() as u64)
    }

    pub(super) fn missing(&self) -> Vec<&str> {
        let mut all: Vec<&str> = self.acknowledged.iter().map(String::as_str).collect();
        all.retain(|id| !self.arrived.contains_key(*id));
        all
    }

    pub(super) fn verdict(&self) -> Verdict {
        let count = |count: usize| count as u64;
        let (acknowledged, arrived) = self.counts();
        let handled: u64 = self.arrived.values().sum();
        let mut strangers = self.arrived.keys();
        let phantom = strangers.by_ref().filter(|id| !self.tried.contains(*id));
        Verdict {
            tried: count(self.tried.len()),
            acknowledged,
            arrived,
            lost: count(self.missing().len()),
            phantom: count(phantom.count()),
            wrong: self.wrong,
            duplicates: handled - arrived,
            refused: self.refused,
            nobody: self.nobody,
            unread: self.unread,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_invented_or_doubled_is_counted() {
        let mut ledger = Ledger::default();
        for line in [
            "ready", "try a", "ack a", "try b", "ack b", "try c", "err c", "try d", "nobody d",
            "got a", "got a", "got c", "got x", "wrong a",
        ] {
            ledger.note(line);
        }
        assert_eq!((ledger.ready, ledger.missing()), (1, vec!["b"]));
        let expected = Verdict {
            tried: 4,
            acknowledged: 2,
            arrived: 3,
            lost: 1,
            phantom: 1,
            wrong: 1,
            duplicates: 1,
            refused: 1,
            nobody: 1,
            unread: 0,
        };
        assert_eq!(ledger.verdict(), expected);
    }
}
