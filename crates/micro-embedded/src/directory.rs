//! Files in the directory that was named, and nowhere else.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use micro_store_core::{Error, ErrorKind, Result};

/// The directory of a store. Links in it are not followed: they could lead out of it.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    #[cfg(unix)]
    opened: std::os::fd::OwnedFd,
}

impl Directory {
    /// Opens it; makes it, for its owner alone, if only it is missing.
    ///
    /// # Errors
    ///
    /// `NotFound` if its parent is missing; `PermissionDenied`; `InvalidArgument` if it is a file, or
    /// its name is too long; `ResourceExhausted` if the disk is full.
    pub fn open(path: &Path) -> Result<Self> {
        make(path)?;
        Ok(Self {
            path: path.to_owned(),
            #[cfg(unix)]
            opened: open_directory(path).map_err(|err| explain(err, path))?,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a file in it to be read and written, and makes it if it is not there.
    ///
    /// # Errors
    ///
    /// `FailedPrecondition` if something stands in its place that is no file; those of
    /// [`open`](Self::open).
    pub fn file(&self, name: &str) -> Result<File> {
        let file = self.open_file(name).map_err(|err| self.explain(err))?;
        let Some(file) = file else {
            return Err(self.about(Error::failed_precondition(
                "in place of the store's file there is a link, which is not followed",
            )));
        };
        let kind = file.metadata().map_err(|err| self.explain(err))?;
        if !kind.is_file() {
            return Err(self.about(Error::failed_precondition(
                "in place of the store's file there is something else",
            )));
        }
        Ok(file)
    }

    /// Whether something of this name stands in it, be it a link that leads nowhere.
    ///
    /// # Errors
    ///
    /// If the disk fails.
    pub fn has(&self, name: &str) -> Result<bool> {
        match self.path.join(name).symlink_metadata() {
            Ok(_) => Ok(true),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(err) => Err(self.explain(err)),
        }
    }

    /// Keeps others who call this from the directory until this value is dropped; they get `Locked`. Where
    /// there are no locks of directories, nobody is kept.
    ///
    /// # Errors
    ///
    /// `Locked`; if the file system has no locks.
    pub fn lock(&self) -> Result<()> {
        #[cfg(unix)]
        {
            use rustix::fs::{FlockOperation, flock};
            use rustix::io::Errno;

            match flock(&self.opened, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) => {
                    return Err(self.about(Error::locked("another process is making the store")));
                }
                locked => locked.map_err(|err| self.explain(err.into()))?,
            }
        }
        Ok(())
    }

    /// Gives a file another name, in place of what has it, and waits until that is on the disk: a crash
    /// leaves the one or the other.
    ///
    /// # Errors
    ///
    /// If the disk fails.
    pub fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.rename_file(from, to)
            .map_err(|err| self.explain(err))?;
        self.sync()
    }

    /// Makes sure that everything in it is a file or a directory: for engines that open their files
    /// by path.
    ///
    /// # Errors
    ///
    /// `FailedPrecondition` if there is a link; those of [`open`](Self::open).
    pub fn refuse_links(&self) -> Result<()> {
        let entries = std::fs::read_dir(&self.path).map_err(|err| self.explain(err))?;
        for entry in entries {
            let kind = entry.and_then(|entry| entry.file_type());
            let kind = kind.map_err(|err| self.explain(err))?;
            if !kind.is_file() && !kind.is_dir() {
                return Err(self.about(Error::failed_precondition(
                    "among the store's files there is a link, which is not followed",
                )));
            }
        }
        Ok(())
    }

    /// Waits until the names of its files are on the disk.
    ///
    /// # Errors
    ///
    /// If the disk fails.
    pub fn sync(&self) -> Result<()> {
        sync_directory(&self.path).map_err(|err| self.explain(err))
    }

    /// What an error of the file system means here.
    #[must_use]
    pub fn explain(&self, err: io::Error) -> Error {
        explain(err, &self.path)
    }

    fn about(&self, err: Error) -> Error {
        about(err, &self.path)
    }

    /// Nothing if there is a link.
    #[cfg(unix)]
    fn open_file(&self, name: &str) -> io::Result<Option<File>> {
        use rustix::fs::{Mode, OFlags, fsync, openat};
        use rustix::io::Errno;

        let file = match openat(
            &self.opened,
            name,
            // Not to wait, if it is a pipe or a device.
            OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK,
            Mode::RUSR | Mode::WUSR,
        ) {
            Err(Errno::LOOP) => return Ok(None),
            file => file?,
        };
        fsync(&self.opened)?;
        Ok(Some(File::from(file)))
    }

    #[cfg(unix)]
    fn rename_file(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.opened, from, &self.opened, to)?)
    }

    #[cfg(not(unix))]
    fn rename_file(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))
    }

    #[cfg(not(unix))]
    fn open_file(&self, name: &str) -> io::Result<Option<File>> {
        let path = self.path.join(name);
        if path.is_symlink() {
            return Ok(None);
        }
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        options.open(path).map(Some)
    }
}

fn make(directory: &Path) -> Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(directory) {
        Ok(()) => {
            // Or a power cut could take the directory away, with all that is in it.
            let parent = directory.parent().filter(|p| !p.as_os_str().is_empty());
            sync_directory(parent.unwrap_or(Path::new("."))).map_err(|err| explain(err, directory))
        }
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        // It may be there all the same: a read-only file system refuses before it looks.
        Err(_) if directory.is_dir() => Ok(()),
        Err(err) => Err(explain(err, directory)),
    }
}

#[cfg(unix)]
fn open_directory(directory: &Path) -> io::Result<std::os::fd::OwnedFd> {
    use rustix::fs::{Mode, OFlags, open};

    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(open(directory, flags, Mode::empty())?)
}

#[cfg(unix)]
fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(not(unix))]
fn sync_directory(_directory: &Path) -> io::Result<()> {
    Ok(())
}

fn explain(err: io::Error, directory: &Path) -> Error {
    let (kind, message) = match err.kind() {
        io::ErrorKind::NotFound => (
            ErrorKind::NotFound,
            "neither the store's directory nor its parent is there: make the parent",
        ),
        io::ErrorKind::NotADirectory => (
            ErrorKind::InvalidArgument,
            "the store's URL names a directory, and there is a file",
        ),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => (
            ErrorKind::PermissionDenied,
            "the store's directory cannot be written by this process",
        ),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            (ErrorKind::ResourceExhausted, "the disk is full")
        }
        io::ErrorKind::InvalidFilename => (
            ErrorKind::InvalidArgument,
            "the name of the store's directory is too long for the file system",
        ),
        _ => (
            ErrorKind::FailedPrecondition,
            "the store's file cannot be opened",
        ),
    };
    about(Error::new(kind, message).with_source(err), directory)
}

fn about(err: Error, directory: &Path) -> Error {
    err.with_operation("store.open")
        .with_context("directory", format_args!("{directory:?}"))
}
