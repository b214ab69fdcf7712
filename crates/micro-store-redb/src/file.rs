//! Opening the store's file: in the directory that was named, and nowhere else.

use std::fs::File;
use std::io;
use std::path::Path;

use micro_store_core::{Error, ErrorKind, Result};

/// The file in the directory.
const NAME: &str = "store.redb";

/// Opens the file, and makes it and its directory if they are not there.
///
/// A link in place of the file is not followed: it could lead out of the directory.
pub(crate) fn open(directory: &Path) -> Result<File> {
    make_directory(directory)?;
    let file = open_in(directory).map_err(|err| explain(err, directory))?;
    let Some(file) = file else {
        return Err(about(
            Error::failed_precondition(
                "in place of the store's file there is a link, which is not followed",
            ),
            directory,
        ));
    };
    let kind = file.metadata().map_err(|err| explain(err, directory))?;
    if !kind.is_file() {
        return Err(about(
            Error::failed_precondition("in place of the store's file there is something else"),
            directory,
        ));
    }
    Ok(file)
}

fn make_directory(directory: &Path) -> Result<()> {
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

/// Nothing if there is a link.
#[cfg(unix)]
fn open_in(directory: &Path) -> io::Result<Option<File>> {
    use rustix::fs::{Mode, OFlags, fsync, open, openat};
    use rustix::io::Errno;

    let directory = open(
        directory,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let file = match openat(
        &directory,
        NAME,
        // Not to wait, if it is a pipe or a device.
        OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK,
        Mode::RUSR | Mode::WUSR,
    ) {
        Err(Errno::LOOP) => return Ok(None),
        file => file?,
    };
    fsync(&directory)?;
    Ok(Some(File::from(file)))
}

#[cfg(not(unix))]
fn open_in(directory: &Path) -> io::Result<Option<File>> {
    let path = directory.join(NAME);
    if path.is_symlink() {
        return Ok(None);
    }
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    options.open(path).map(Some)
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
