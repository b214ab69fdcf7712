//! What every writer does, step by step, and what is there after so many steps.
//!
//! A writer has keys of its own and makes one step at a time, so after a crash its keys hold what its
//! acknowledged steps have left, or one step more, whole: the one that was under way.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use micro_core::{Fence, FencingToken, Random as _, SeededRandom};
use micro_store_core::{DeleteOptions, Operation, Record, Scope, WriteOptions};

/// So many write at a time.
pub(super) const WRITERS: usize = 8;
const LARGE: &str = "+large";
/// The keys of a writer: few, so that most are written over and deleted again and again.
const KEYS: u64 = 24;

/// What is decided by a seed. As text, for children: `7`, or `7+large`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ledger {
    pub(super) seed: u64,
    /// Whether all values are large, so that a disk is full soon.
    pub(super) large: bool,
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.seed, if self.large { LARGE } else { "" })
    }
}

impl FromStr for Ledger {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let seed = text.strip_suffix(LARGE);
        Ok(Self {
            seed: seed.unwrap_or(text).parse()?,
            large: seed.is_some(),
        })
    }
}

/// What a step does to one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Change {
    key: u64,
    /// The length of the value that is written; nothing if the record is deleted.
    length: Option<usize>,
    expires: bool,
}

/// Which step has written a record, and whether it expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    step: u64,
    length: usize,
    pub(super) expires: bool,
}

/// The table of all.
pub(super) fn scope() -> Scope {
    Scope::new("faults", "ledger").expect("the name is good")
}

/// What the keys of a writer begin with.
pub(super) fn prefix(writer: usize) -> String {
    format!("w{writer}/")
}

/// The lock that a writer holds at a step; its token grows with every step.
pub(super) fn fence(writer: usize, step: u64) -> Fence {
    Fence::new(format!("writer-{writer}"), FencingToken::new(1, step))
}

impl Ledger {
    /// The changes of a step: one of four is several together.
    fn changes(self, writer: usize, step: u64) -> Vec<Change> {
        let place = (writer as u64) << 48 | step;
        let random = SeededRandom::new(self.seed.rotate_left(17) ^ place);
        let parts = match random.next_u64() % 8 {
            0 | 1 => 2 + random.next_u64() % 4,
            _ => 1,
        };
        let first = random.next_u64() % KEYS;
        (0..parts)
            .map(|part| {
                let length = match random.next_u64() % 64 {
                    0..10 => None,
                    11.. if self.large => Some(100_000 + (random.next_u64() % 400_000) as usize),
                    10 => Some(100_000 + (random.next_u64() % 400_000) as usize),
                    _ => Some((random.next_u64() % 2_000) as usize),
                };
                Change {
                    // A batch changes a key once.
                    key: (first + part * 5) % KEYS,
                    length,
                    expires: random.next_u64().is_multiple_of(4),
                }
            })
            .collect()
    }

    /// A step, to be made.
    pub(super) fn step(self, writer: usize, step: u64) -> Vec<Operation> {
        let fence = fence(writer, step);
        let changes = self.changes(writer, step).into_iter();
        let operation = |change: Change| {
            let key = key(writer, change.key);
            let Some(length) = change.length else {
                let options = DeleteOptions::default().with_fence(fence.clone());
                return Operation::delete_with(&scope(), key, options);
            };
            let mut options = WriteOptions::default().with_fence(fence.clone());
            if change.expires {
                // Far beyond any campaign.
                options = options.with_ttl(Duration::from_secs(24 * 3600));
            }
            let record = Record::new(key.as_str(), value(&key, step, length))
                .with_metadata("step", step.to_string());
            Operation::write_with(&scope(), record, options)
        };
        changes.map(operation).collect()
    }

    /// What a writer's keys hold after so many steps.
    pub(super) fn after(self, writer: usize, steps: u64) -> BTreeMap<String, Stamp> {
        let mut all = BTreeMap::new();
        for step in 0..steps {
            self.apply(writer, step, &mut all);
        }
        all
    }

    /// Makes a step in memory.
    pub(super) fn apply(self, writer: usize, step: u64, all: &mut BTreeMap<String, Stamp>) {
        for change in self.changes(writer, step) {
            let key = key(writer, change.key);
            match change.length {
                None => {
                    all.remove(&key);
                }
                Some(length) => {
                    let expires = change.expires;
                    all.insert(
                        key,
                        Stamp {
                            step,
                            length,
                            expires,
                        },
                    );
                }
            }
        }
    }
}

impl Stamp {
    /// Whether a record is the one that this step has written.
    pub(super) fn fits(self, record: &Record) -> bool {
        record.expiry.is_some() == self.expires && self.has_value(record)
    }

    fn has_value(self, record: &Record) -> bool {
        record.metadata.len() == 1
            && record.metadata.get("step") == Some(&self.step.to_string())
            && record.value == value(&record.key, self.step, self.length)
    }
}

/// Which step a record says it is of.
pub(super) fn step_of(record: &Record) -> Option<u64> {
    record.metadata.get("step")?.parse().ok()
}

fn key(writer: usize, key: u64) -> String {
    format!("{}{key:02}", prefix(writer))
}

/// No two steps write the same value, and no two keys hold the same.
fn value(key: &str, step: u64, length: usize) -> Vec<u8> {
    let pattern = format!("{key}:{step};");
    pattern.bytes().cycle().take(length).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_the_same_each_time_and_changes_a_key_once() {
        let ledger: Ledger = "7".parse().unwrap();
        assert_eq!(ledger.to_string().parse(), Ok(ledger));
        let mut several = 0;
        for step in 0..2_000 {
            let changes = ledger.changes(3, step);
            assert_eq!(changes, ledger.changes(3, step));
            let mut keys: Vec<u64> = changes.iter().map(|change| change.key).collect();
            keys.sort_unstable();
            keys.dedup();
            assert_eq!(keys.len(), changes.len(), "step {step}");
            several += usize::from(changes.len() > 1);
        }
        assert!((300..700).contains(&several), "{several} batches");
        assert_ne!(ledger.changes(3, 1), ledger.changes(4, 1));
    }

    #[test]
    fn a_value_of_another_step_or_key_is_noticed() {
        let stamp = Stamp {
            step: 5,
            length: 30,
            expires: false,
        };
        let record = |key: &str, step: u64| {
            Record::new(key, value(key, step, 30)).with_metadata("step", "5")
        };
        assert!(stamp.fits(&record("w0/01", 5)));
        assert!(!stamp.fits(&record("w0/01", 6)));
        let mut moved = record("w0/01", 5);
        moved.key = "w0/02".to_owned();
        assert!(!stamp.fits(&moved));
    }
}
