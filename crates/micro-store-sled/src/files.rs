//! sled's files: made whole or not at all, locked, and synced.

use std::fs::{File, TryLockError};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use micro_core::{Clock as _, SystemClock};
use micro_embedded::Directory;
use micro_store_core::{Error, Result};
use sled::Db;

use crate::SledConfig;
use crate::error::Failure;
use crate::split::SEGMENT;

/// The file that is locked while the store is open.
const LOCK: &str = "lock";
/// sled's own directory.
const DATA: &str = "sled";
/// The same while it is made.
const NEW: &str = "sled.new";

/// sled lets go of its files on threads of its own, some time after it was dropped.
const LETTING_GO: Duration = Duration::from_secs(10);

/// An opened sled, and what it takes to sync it.
#[derive(Debug)]
pub(crate) struct Files {
    /// The file of its log: the same that sled writes to.
    log: File,
    /// Where it puts what does not fit into the log.
    blobs: PathBuf,
    /// Behind the others: unlocked when they are closed.
    _lock: File,
}

impl Files {
    pub(crate) fn open(config: &SledConfig) -> Result<(Db, Self)> {
        let directory = Directory::open(&config.directory)?;
        let lock = directory.file(LOCK)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::locked(
                    "another process, or another handle of this one, has the store open",
                ));
            }
            Err(TryLockError::Error(err)) => return Err(directory.explain(err)),
        }
        // sled opens its files by path, and would follow a link.
        directory.refuse_links()?;
        let data = directory.path().join(DATA);
        if !data.exists() {
            make(config, &directory, &data).map_err(|err| directory.explain(err))?;
        }
        let inner = Directory::open(&data)?;
        inner.refuse_links()?;
        let db = open_patiently(config, &data)?;
        let files = Self {
            log: inner.file("db")?,
            blobs: data.join("blobs"),
            _lock: lock,
        };
        Ok((db, files))
    }

    /// Waits until everything that sled has written is on the disk. What sled calls a flush leaves out
    /// how long its file is, and where its blocks are.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.log.sync_data()?;
        let mut blobs = std::fs::read_dir(&self.blobs)?.peekable();
        if blobs.peek().is_none() {
            return Ok(());
        }
        // Values are cut so that there are none. If there are, they count.
        for blob in blobs {
            match File::open(blob?.path()) {
                Ok(blob) => blob.sync_all()?,
                // Removed meanwhile.
                Err(err) if err.kind() == io::ErrorKind::NotFound => {}
                Err(err) => return Err(err),
            }
        }
        File::open(&self.blobs)?.sync_all()
    }
}

fn open(config: &SledConfig, path: &Path) -> sled::Result<Db> {
    sled::Config::new()
        .path(path)
        .segment_size(SEGMENT)
        .cache_capacity(config.cache_bytes)
        // Every commit flushes.
        .flush_every_ms(None)
        .open()
}

/// Drops it. It syncs its file then, and panics if it cannot; false if it has.
pub(crate) fn close(db: Db) -> bool {
    catch_unwind(AssertUnwindSafe(move || drop(db))).is_ok()
}

/// An empty sled, in its place only when all of it is on the disk: a crash in the middle leaves
/// none, and not one that does not open.
fn make(config: &SledConfig, directory: &Directory, data: &Path) -> io::Result<()> {
    let new = directory.path().join(NEW);
    match std::fs::remove_dir_all(&new) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
        _ => {}
    }
    if !close(open(config, &new)?) {
        return Err(io::Error::other("sled could not sync what it has made"));
    }
    for entry in std::fs::read_dir(&new)? {
        File::open(entry?.path())?.sync_all()?;
    }
    File::open(&new)?.sync_all()?;
    std::fs::rename(&new, data)?;
    File::open(directory.path())?.sync_all()
}

/// We hold the store's lock, so whoever still has sled's is on its way out.
fn open_patiently(config: &SledConfig, data: &Path) -> Result<Db> {
    let until = SystemClock.now() + LETTING_GO;
    loop {
        match open(config, data) {
            Err(err) if is_locked(&err) && SystemClock.now() < until => {
                std::thread::park_timeout(Duration::from_millis(2));
            }
            Err(err) if is_locked(&err) => {
                return Err(Error::locked("another program has the store's sled open"));
            }
            opened => return Ok(opened.map_err(Failure::from)?),
        }
    }
}

/// sled says it in words only.
fn is_locked(err: &sled::Error) -> bool {
    matches!(err, sled::Error::Io(err) if err.to_string().starts_with("could not acquire lock"))
}
