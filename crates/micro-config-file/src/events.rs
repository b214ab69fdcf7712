//! What the system says of the files: quick, and not to be relied upon.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

/// More files than this are not written at the same time; what is beyond is not known to be closed.
const OPEN_AT_MOST: usize = 1_000;
/// As many links as Linux follows.
const LINKS_AT_MOST: usize = 40;

/// The events of a path: of the file, of the links that lead to it, and of what they stand in.
pub(crate) struct Events {
    watcher: Option<RecommendedWatcher>,
    watched: BTreeMap<PathBuf, Identity>,
    seen: Arc<Seen>,
    trouble: Option<String>,
}

/// Which directory it is, whatever its name.
type Identity = (u64, u64);

/// What the events have told.
#[derive(Default)]
pub(crate) struct Seen {
    /// Told with every event.
    pub(crate) wake: Notify,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What is looked at: these paths, and everything in these directories.
    paths: BTreeSet<PathBuf>,
    folders: BTreeSet<PathBuf>,
    /// Files that somebody has written into and not closed.
    open: BTreeSet<PathBuf>,
    /// How often somebody has finished a file.
    finished: u64,
}

impl Seen {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a file is being written.
    pub(crate) fn is_open(&self) -> bool {
        !self.state().open.is_empty()
    }

    /// How often a file was finished.
    pub(crate) fn finished(&self) -> u64 {
        self.state().finished
    }

    fn hear(&self, event: &Event) {
        let mut state = self.state();
        if event.need_rescan() {
            // The queue overflowed: who has what open is not known any more.
            state.open.clear();
            drop(state);
            self.wake.notify_one();
            return;
        }
        let mut relevant = false;
        for (index, path) in event.paths.iter().enumerate() {
            let ours = state.paths.contains(path)
                || path
                    .parent()
                    .is_some_and(|parent| state.folders.contains(parent));
            if !ours {
                continue;
            }
            match event.kind {
                EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
                    state.open.remove(path);
                    state.finished += 1;
                }
                // Reading, as we do.
                EventKind::Access(_) => continue,
                EventKind::Create(_) | EventKind::Modify(ModifyKind::Data(_)) => {
                    // A link is made at once, and never closed.
                    let is_file = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file());
                    if is_file && state.open.len() < OPEN_AT_MOST {
                        state.open.insert(path.clone());
                    } else if !is_file {
                        state.finished += 1;
                    }
                }
                EventKind::Modify(ModifyKind::Name(mode)) => {
                    state.open.remove(path);
                    let arrives = match mode {
                        RenameMode::To => true,
                        RenameMode::Both => index == 1,
                        _ => false,
                    };
                    state.finished += u64::from(arrives);
                }
                EventKind::Remove(_) => {
                    state.open.remove(path);
                }
                _ => {}
            }
            relevant = true;
        }
        drop(state);
        if relevant {
            self.wake.notify_one();
        }
    }
}

impl Events {
    /// Begins to listen, if that is wanted and possible.
    pub(crate) fn new(wanted: bool) -> Self {
        let seen = Arc::new(Seen::default());
        let mut events = Self {
            watcher: None,
            watched: BTreeMap::new(),
            seen: Arc::clone(&seen),
            trouble: None,
        };
        if !wanted {
            events.trouble = Some("events are switched off".to_owned());
            return events;
        }
        let watcher =
            notify::recommended_watcher(move |event: notify::Result<Event>| match event {
                Ok(event) => seen.hear(&event),
                // Whatever it was, a look does no harm.
                Err(_) => seen.wake.notify_one(),
            });
        match watcher {
            Ok(watcher) => events.watcher = Some(watcher),
            Err(err) => events.trouble = Some(format!("the system gives no events: {err}")),
        }
        events
    }

    pub(crate) fn seen(&self) -> &Arc<Seen> {
        &self.seen
    }

    /// Why events cannot be relied upon, if they cannot.
    pub(crate) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Watches what the path leads to now.
    pub(crate) fn follow(&mut self, path: &Path) {
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        let (paths, folders) = ways(path);
        let mut wanted: BTreeMap<PathBuf, Identity> = BTreeMap::new();
        let parents = paths.iter().filter_map(|path| path.parent());
        for folder in parents.chain(folders.iter().map(PathBuf::as_path)) {
            if let Ok(meta) = fs::metadata(folder) {
                wanted.insert(folder.to_owned(), identity(&meta));
            }
        }
        {
            let mut state = self.seen.state();
            let State { open, .. } = &mut *state;
            // Who is not looked at any more is not waited for.
            open.retain(|path| {
                paths.contains(path) || path.parent().is_some_and(|parent| folders.contains(parent))
            });
            state.paths = paths;
            state.folders = folders;
        }
        if wanted == self.watched {
            return;
        }
        for (folder, identity) in &self.watched {
            if wanted.get(folder) != Some(identity) {
                // Fails for what is gone.
                let _ = watcher.unwatch(folder);
            }
        }
        let mut trouble = None;
        let before = std::mem::take(&mut self.watched);
        for (folder, identity) in wanted {
            if before.get(&folder) != Some(&identity)
                && let Err(err) = watcher.watch(&folder, RecursiveMode::NonRecursive)
            {
                // Tried again with the next look.
                trouble = Some(format!("a directory cannot be watched: {err}"));
                continue;
            }
            self.watched.insert(folder, identity);
        }
        self.trouble = trouble;
    }
}

/// The paths on which the content depends, and the directories of which everything counts.
///
/// Directories have their real names, for under those the system reports.
fn ways(path: &Path) -> (BTreeSet<PathBuf>, BTreeSet<PathBuf>) {
    let mut paths = BTreeSet::new();
    let mut folders = BTreeSet::new();
    let mut at = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for _ in 0..LINKS_AT_MOST {
        add(&at, &mut paths);
        for (steps, above) in at.ancestors().skip(1).enumerate() {
            // The directory itself may be replaced, and any link on the way may be turned.
            if steps == 0 || fs::read_link(above).is_ok() {
                add(above, &mut paths);
            }
        }
        match (fs::read_link(&at), at.parent()) {
            (Ok(target), Some(parent)) => at = parent.join(target),
            _ => break,
        }
    }
    if let Ok(real) = fs::canonicalize(path)
        && real.is_dir()
    {
        folders.insert(real);
    }
    (paths, folders)
}

fn add(path: &Path, to: &mut BTreeSet<PathBuf>) {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return;
    };
    if let Ok(parent) = fs::canonicalize(parent) {
        to.insert(parent.join(name));
    }
}

#[cfg(unix)]
fn identity(meta: &fs::Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt as _;
    (meta.dev(), meta.ino())
}

/// Without a number for a directory, the time at which it was made has to do.
#[cfg(not(unix))]
fn identity(meta: &fs::Metadata) -> Identity {
    let made = meta
        .created()
        .ok()
        .and_then(|made| made.duration_since(std::time::SystemTime::UNIX_EPOCH).ok());
    (0, made.map_or(0, |made| made.as_nanos() as u64))
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, DataChange, Flag};

    use super::*;

    fn seen(path: &Path) -> Seen {
        let seen = Seen::default();
        seen.state().paths.insert(path.to_owned());
        seen
    }

    fn told(seen: &Seen) -> bool {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        std::pin::pin!(seen.wake.notified())
            .poll(&mut cx)
            .is_ready()
    }

    #[test]
    fn f13_an_overflow_of_the_queue_leads_to_a_look() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        fs::write(&path, "").unwrap();
        let seen = seen(&path);
        seen.hear(&Event::new(EventKind::Create(CreateKind::File)).add_path(path));
        assert!(seen.is_open() && told(&seen) && !told(&seen));
        seen.hear(&Event::new(EventKind::Other).set_flag(Flag::Rescan));
        assert!(!seen.is_open() && told(&seen));
    }

    #[test]
    fn a_file_is_open_until_it_is_closed_or_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        fs::write(&path, "").unwrap();
        let seen = seen(&path);
        let changed = || EventKind::Modify(ModifyKind::Data(DataChange::Any));
        let closed = EventKind::Access(AccessKind::Close(AccessMode::Write));
        let gone = EventKind::Modify(ModifyKind::Name(RenameMode::From));
        for (end, finished) in [(closed, 1), (gone, 1)] {
            seen.hear(&Event::new(changed()).add_path(path.clone()));
            assert!(seen.is_open());
            seen.hear(&Event::new(end).add_path(path.clone()));
            assert!(!seen.is_open());
            assert_eq!(seen.finished(), finished);
        }
        assert!(told(&seen));
        // Others in the same directory, and readers, are nothing to look at.
        seen.hear(&Event::new(changed()).add_path(folder.path().join("y")));
        seen.hear(&Event::new(EventKind::Access(AccessKind::Open(AccessMode::Any))).add_path(path));
        assert!(!told(&seen));
    }
}
