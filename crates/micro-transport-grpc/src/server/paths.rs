//! Paths that were seen, and which of them take too long to be polled in place.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use micro_core::{Live, LiveWriter};

/// A poll that takes longer than this holds up the other calls of its connection.
pub(crate) const SLOW: Duration = Duration::from_micros(500);

/// A path, and how its handler's polls went on one connection.
#[derive(Debug)]
pub(crate) struct Path {
    pub(crate) path: Arc<str>,
    polls: AtomicU32,
    slow: AtomicU32,
}

impl Path {
    /// Counts a poll; says whether the path has turned out to be slow.
    ///
    /// One poll says little: the machine may have run something else meanwhile. A path is slow if
    /// one in twenty of its polls is, and at least two.
    pub(crate) fn polled(&self, took: Duration) -> bool {
        let polls = self.polls.fetch_add(1, Ordering::Relaxed) + 1;
        if polls >= 1 << 20 {
            self.polls.store(polls / 2, Ordering::Relaxed);
            self.slow
                .store(self.slow.load(Ordering::Relaxed) / 2, Ordering::Relaxed);
        }
        if took < SLOW {
            return false;
        }
        let slow = self.slow.fetch_add(1, Ordering::Relaxed) + 1;
        slow >= 2 && slow.saturating_mul(20) >= polls
    }
}

/// The paths of one connection: a small table, so that no call allocates its path again.
#[derive(Debug, Default)]
pub(crate) struct Paths {
    slots: Vec<Option<Arc<Path>>>,
}

impl Paths {
    const SLOTS: usize = 64;

    /// The path, shared. A path that falls on a taken slot replaces what was there.
    pub(crate) fn get(&mut self, path: &str) -> Arc<Path> {
        if self.slots.is_empty() {
            self.slots.resize(Self::SLOTS, None);
        }
        // FNV-1a over the end, where methods differ. Collisions cost an allocation, no more.
        let tail = &path.as_bytes()[path.len().saturating_sub(24)..];
        let hash = tail.iter().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
        });
        let slot = &mut self.slots[hash as usize % Self::SLOTS];
        match slot {
            Some(known) if &*known.path == path => Arc::clone(known),
            _ => {
                let new = Arc::new(Path {
                    path: Arc::from(path),
                    polls: AtomicU32::new(0),
                    slow: AtomicU32::new(0),
                });
                *slot = Some(Arc::clone(&new));
                new
            }
        }
    }
}

/// The slow paths of a listener. Asking costs one relaxed load while there are none.
pub(crate) struct SlowPaths {
    any: AtomicBool,
    paths: Live<HashSet<Arc<str>>>,
    writer: Mutex<LiveWriter<HashSet<Arc<str>>>>,
}

impl SlowPaths {
    const MOST: usize = 256;

    pub(crate) fn new() -> Self {
        let (writer, paths) = Live::channel(HashSet::new());
        Self {
            any: AtomicBool::new(false),
            paths,
            writer: Mutex::new(writer),
        }
    }

    pub(crate) fn contains(&self, path: &str) -> bool {
        self.any.load(Ordering::Relaxed) && self.paths.get().contains(path)
    }

    pub(crate) fn add(&self, path: &Arc<str>) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut paths = HashSet::clone(&self.paths.get());
        if paths.len() >= Self::MOST || !paths.insert(Arc::clone(path)) {
            return;
        }
        tracing::debug!(%path, "this handler computes for long; its calls get tasks of their own");
        writer.set(paths);
        self.any.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_poll_is_no_slow_path() {
        let path = Paths::default().get("/a.B/C");
        assert!(!path.polled(SLOW));
        assert!(path.polled(SLOW));
        let path = Paths::default().get("/a.B/C");
        for _ in 0..1000 {
            assert!(!path.polled(Duration::ZERO));
        }
        for _ in 0..30 {
            assert!(!path.polled(SLOW));
        }
    }

    #[test]
    fn the_tables_are_bounded() {
        let mut paths = Paths::default();
        let slow = SlowPaths::new();
        for i in 0..1000 {
            let path = paths.get(&format!("/a.B/C{i}"));
            assert!(Arc::ptr_eq(&path, &paths.get(&path.path)));
            slow.add(&path.path);
        }
        assert_eq!(paths.slots.len(), Paths::SLOTS);
        assert_eq!(slow.paths.get().len(), SlowPaths::MOST);
        assert!(slow.contains("/a.B/C0") && !slow.contains("/a.B/C999"));
    }
}
