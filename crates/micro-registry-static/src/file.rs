//! A file that is read again when it changes.
//!
//! Events of the system make it quick; they get lost, and are not there on every file system, so
//! the content is compared from time to time as well.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use micro_registry_core::{Error, Result, Service};
use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use crate::StaticConfig;
use crate::list;

/// A longer file is refused.
const LONGEST: u64 = 8 * 1024 * 1024;
/// A file that never rests is read after so many debounces anyway.
const MOST_DEBOUNCES: u32 = 10;

/// The file, and what was made of it.
pub(crate) struct Source {
    path: PathBuf,
    debounce: Duration,
    poll: Duration,
    changed: Arc<Notify>,
    /// Not here while a thread looks at the file with them.
    folders: Option<Folders>,
    /// The content that is served.
    good: Vec<u8>,
    /// What was last complained about, so that it is said once.
    complaint: String,
}

/// The folders that are watched.
#[derive(Default)]
struct Folders {
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<(PathBuf, Option<Identity>)>,
}

/// Which folder it is, whatever its name.
type Identity = (u64, u64);

/// What one look at the file found.
enum Look {
    Content(Vec<u8>),
    /// It changed while it was read.
    Restless,
}

impl Folders {
    /// Watches the folder of the file, and where a symbolic link leads, that one's: a file that is
    /// replaced by renaming is another file under the same name.
    fn watch(&mut self, file: &Path) {
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        let names = [Some(file.to_owned()), fs::canonicalize(file).ok()];
        let wanted: BTreeSet<_> = names
            .into_iter()
            .flatten()
            .filter_map(|file| Some(file.parent()?.to_owned()))
            .map(|folder| {
                let identity = fs::metadata(&folder).ok().map(|meta| identity(&meta));
                (folder, identity)
            })
            .collect();
        if wanted == self.watched {
            return;
        }
        for (folder, _) in &self.watched {
            // Fails for what is gone.
            let _ = watcher.unwatch(folder);
        }
        for (folder, _) in &wanted {
            if let Err(err) = watcher.watch(folder, RecursiveMode::NonRecursive) {
                tracing::debug!(%err, folder = %folder.display(), "a folder cannot be watched; the list is looked at from time to time");
            }
        }
        self.watched = wanted;
    }
}

impl Source {
    pub(crate) fn new(path: PathBuf, config: &StaticConfig) -> Self {
        let changed = Arc::new(Notify::new());
        let tell = Arc::clone(&changed);
        // The content says what changed; only that somebody read it, as we do, is nothing to look at.
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let read = event.is_ok_and(|event| match event.kind {
                EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
                kind => kind.is_access(),
            });
            if !read {
                tell.notify_one();
            }
        });
        let watcher = watcher.inspect_err(|err| {
            tracing::warn!(%err, poll = ?config.poll, "files cannot be watched here; the list is looked at from time to time");
        });
        let folders = Folders {
            watcher: watcher.ok(),
            watched: BTreeSet::new(),
        };
        Self {
            path,
            debounce: config.debounce,
            poll: config.poll,
            changed,
            folders: Some(folders),
            good: Vec::new(),
            complaint: String::new(),
        }
    }

    /// The list, or why there is none.
    pub(crate) async fn first(&mut self) -> Result<Vec<Service>> {
        for _ in 0..MOST_DEBOUNCES {
            let Look::Content(content) = self.look().await? else {
                sleep(self.debounce).await;
                continue;
            };
            let services = list::parse(&content).map_err(|why| {
                Error::invalid_argument("the list cannot be used")
                    .with_context("file", self.path.display())
                    .with_context("why", why)
            })?;
            self.good = content;
            return Ok(services);
        }
        Err(
            Error::unavailable("the list is being written all the time; try again")
                .with_context("file", self.path.display()),
        )
    }

    /// Waits for the next list. One that cannot be used is complained about, and not returned.
    pub(crate) async fn next(&mut self) -> Vec<Service> {
        loop {
            if timeout(self.poll, self.changed.notified()).await.is_ok() {
                self.rest().await;
            }
            let content = match self.look().await {
                Ok(Look::Content(content)) => content,
                Ok(Look::Restless) => {
                    self.changed.notify_one();
                    continue;
                }
                Err(err) => {
                    self.complain(&err.to_string());
                    continue;
                }
            };
            if content == self.good {
                self.complaint.clear();
                continue;
            }
            match list::parse(&content) {
                Ok(services) => {
                    tracing::info!(file = %self.path.display(), services = services.len(), "the list of nodes was read again");
                    self.good = content;
                    self.complaint.clear();
                    return services;
                }
                Err(why) => self.complain(&why),
            }
        }
    }

    /// Waits until the file was left alone for a while.
    async fn rest(&self) {
        let until = Instant::now() + self.debounce * MOST_DEBOUNCES;
        while Instant::now() < until
            && timeout(self.debounce, self.changed.notified())
                .await
                .is_ok()
        {}
    }

    fn complain(&mut self, why: &str) {
        if self.complaint != why {
            why.clone_into(&mut self.complaint);
            tracing::warn!(
                file = %self.path.display(),
                why,
                "the list of nodes cannot be used; the last good one stays"
            );
        }
    }

    /// Looks at the file, on a thread that may wait for a disk.
    async fn look(&mut self) -> Result<Look> {
        let path = self.path.clone();
        let mut folders = self.folders.take().unwrap_or_default();
        let looked = tokio::task::spawn_blocking(move || {
            // Watched before it is read: a change in between is seen.
            folders.watch(&path);
            let read = read(&path).map_err(|err| err.with_context("file", path.display()));
            (folders, read)
        });
        let (folders, read) = looked
            .await
            .map_err(|err| Error::internal("reading the file failed").with_source(err))?;
        self.folders = Some(folders);
        read
    }
}

/// Reads the file, unless somebody writes it meanwhile.
fn read(path: &Path) -> Result<Look> {
    // Before it is opened: that would wait for whoever writes to a pipe.
    if !fs::metadata(path)?.is_file() {
        return Err(Error::invalid_argument(
            "the list is to be in a regular file",
        ));
    }
    let mut file = File::open(path)?;
    let before = file.metadata()?;
    if before.len() > LONGEST {
        return Err(Error::invalid_argument("the list has more than 8 MiB"));
    }
    let mut content = Vec::new();
    file.by_ref().take(LONGEST + 1).read_to_end(&mut content)?;
    let after = file.metadata()?;
    let same = stamp(&before) == stamp(&after)
        && u64::try_from(content.len()).is_ok_and(|length| length == after.len());
    Ok(if same {
        Look::Content(content)
    } else {
        Look::Restless
    })
}

fn stamp(meta: &Metadata) -> (u64, Option<SystemTime>) {
    (meta.len(), meta.modified().ok())
}

#[cfg(unix)]
fn identity(meta: &Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt as _;
    (meta.dev(), meta.ino())
}

#[cfg(not(unix))]
fn identity(_meta: &Metadata) -> Identity {
    (0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(port: usize) -> String {
        format!(
            "{{\"services\": [{{\"name\": \"a\", \"nodes\": [{{\"address\": \"h:{port}\"}}]}}]}}"
        )
    }

    fn source(file: &Path, poll: Duration) -> Source {
        let config = StaticConfig::default()
            .with_file(file)
            .with_debounce(Duration::from_millis(50))
            .with_poll(poll);
        Source::new(file.to_owned(), &config)
    }

    #[tokio::test]
    async fn f14_without_events_the_content_is_compared() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("nodes.json");
        fs::write(&file, list(1)).unwrap();
        let mut source = source(&file, Duration::from_millis(50));
        // As on a system that has no watches left.
        source.folders = Some(Folders::default());
        source.first().await.unwrap();
        for port in 2..5 {
            fs::write(&file, list(port)).unwrap();
            let services = timeout(Duration::from_secs(20), source.next())
                .await
                .unwrap();
            assert_eq!(services[0].nodes[0].address, format!("h:{port}"));
        }
    }

    #[tokio::test]
    async fn f11_a_thousand_changes_are_few_lists_and_the_last_is_among_them() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("nodes.json");
        fs::write(&file, list(1)).unwrap();
        // So that only events can be what makes it look.
        let mut source = source(&file, Duration::from_secs(3600));
        source.first().await.unwrap();
        let writer = {
            let file = file.clone();
            tokio::task::spawn_blocking(move || {
                for port in 2..=1000 {
                    fs::write(file.with_extension("new"), list(port)).unwrap();
                    fs::rename(file.with_extension("new"), &file).unwrap();
                }
            })
        };
        let start = Instant::now();
        let mut lists = 0;
        loop {
            let services = timeout(Duration::from_secs(20), source.next())
                .await
                .unwrap();
            lists += 1;
            if services[0].nodes[0].address == "h:1000" {
                break;
            }
        }
        writer.await.unwrap();
        let most = 1 + start.elapsed().as_millis() / 50;
        assert!(lists <= most, "{lists} lists in {:?}", start.elapsed());
    }
}
