//! The bytes of a file or directory at one moment.

use std::fs::{self, File};
use std::io::{ErrorKind as Io, Read as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use micro_config_core::{Error, Result};

use crate::FileConfig;
use crate::config::FILES_AT_MOST;
use crate::format::Format;

/// What was read, or why nothing was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) kind: Kind,
    /// Name and bytes, in the order in which they are merged.
    pub(crate) files: Vec<(String, Vec<u8>)>,
    /// All of it was put there at once.
    pub(crate) at_once: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One document.
    File,
    /// Documents that are merged in the order of their names.
    Documents,
    /// A file per key, and perhaps documents.
    Keys,
}

/// One look at the path.
pub(crate) struct Look {
    pub(crate) outcome: Result<Content>,
    /// When the newest of the files was written.
    pub(crate) written: Option<SystemTime>,
    /// It was put there at once, and cannot be half of something.
    pub(crate) whole: bool,
}

impl Look {
    /// Whether two looks saw the same.
    pub(crate) fn same(&self, other: &Self) -> bool {
        match (&self.outcome, &other.outcome) {
            // The bytes themselves: neither size nor time nor a hash can deceive.
            (Ok(one), Ok(other)) => one == other,
            (Err(one), Err(other)) => {
                one.kind() == other.kind() && one.message() == other.message()
            }
            _ => false,
        }
    }
}

/// Reads everything once. A directory that is replaced meanwhile is read again.
pub(crate) fn look(config: &FileConfig) -> Look {
    let mut written = None;
    let mut outcome = read(config, &mut written);
    for _ in 0..10 {
        match &outcome {
            // The directory behind `..data` was replaced under our eyes.
            Err(err) if err.message() == MOVED => outcome = read(config, &mut written),
            _ => break,
        }
    }
    Look {
        whole: outcome.as_ref().is_ok_and(|content| content.at_once),
        outcome: outcome.map_err(|err| err.with_operation("config.file")),
        written,
    }
}

const MOVED: &str =
    "a file of the directory is gone: the directory changes, or a link leads nowhere";

fn moved(path: &Path) -> Error {
    Error::unavailable(MOVED).with_context("file", path.display())
}

fn read(config: &FileConfig, written: &mut Option<SystemTime>) -> Result<Content> {
    let meta = fs::metadata(&config.path).map_err(|err| failed(err, &config.path))?;
    let mut left = config.max_bytes;
    if meta.is_dir() {
        return read_directory(config, &mut left, written);
    }
    if config.secrets {
        return Err(Error::invalid_argument(
            "secrets are a directory with a file for each",
        ));
    }
    let bytes = read_file(&config.path, &mut left, config.max_bytes, written)?;
    let name = config.path.file_name().unwrap_or_default();
    Ok(Content {
        kind: Kind::File,
        files: vec![(name.to_string_lossy().into_owned(), bytes)],
        at_once: false,
    })
}

fn read_directory(
    config: &FileConfig,
    left: &mut u64,
    written: &mut Option<SystemTime>,
) -> Result<Content> {
    // Kubernetes puts a volume's files behind the link `..data`, and replaces the link: read behind
    // where it leads now, all files are of one version.
    let data = config.path.join("..data");
    let (folder, kind) = match fs::read_link(&data) {
        Ok(target) => (config.path.join(target), Kind::Keys),
        Err(_) if config.secrets => (config.path.clone(), Kind::Keys),
        Err(_) => (config.path.clone(), Kind::Documents),
    };
    let moving = folder != config.path;
    let gone = |err: std::io::Error, path: &Path| match err.kind() {
        Io::NotFound if moving || kind == Kind::Documents => moved(path),
        _ => failed(err, path),
    };
    let mut names: Vec<(String, PathBuf)> = Vec::new();
    for entry in fs::read_dir(&folder).map_err(|err| gone(err, &folder))? {
        let entry = entry.map_err(|err| gone(err, &folder))?;
        let path = entry.path();
        let name = entry.file_name().into_string().map_err(|name| {
            Error::invalid_argument("the name of a file is not UTF-8")
                .with_context("file", name.display().to_string().escape_debug())
        })?;
        // Hidden files are those of editors and of Kubernetes.
        if name.starts_with('.') || (kind == Kind::Documents && Format::of(&path).is_none()) {
            continue;
        }
        // Whatever is in directories below is not looked at.
        if fs::metadata(&path).is_ok_and(|meta| meta.is_dir()) {
            continue;
        }
        names.push((name, path));
        if names.len() > FILES_AT_MOST {
            return Err(
                Error::resource_exhausted("the directory has too many files")
                    .with_context("limit", FILES_AT_MOST),
            );
        }
    }
    names.sort();
    let mut files = Vec::with_capacity(names.len());
    for (name, path) in names {
        // A link from one moment to the next: what is not there any more was replaced.
        let bytes = match read_file(&path, left, config.max_bytes, written) {
            Err(err) if err.kind() == micro_config_core::ErrorKind::NotFound => {
                return Err(moved(&path));
            }
            other => other?,
        };
        files.push((name, bytes));
    }
    Ok(Content {
        kind,
        files,
        at_once: moving,
    })
}

fn read_file(
    path: &Path,
    left: &mut u64,
    limit: u64,
    written: &mut Option<SystemTime>,
) -> Result<Vec<u8>> {
    let meta = fs::metadata(path).map_err(|err| failed(err, path))?;
    // Opening a pipe would wait for its writer.
    if !meta.is_file() {
        return Err(
            Error::invalid_argument("this is neither a file nor a directory")
                .with_context("file", path.display()),
        );
    }
    let too_large = || {
        Error::resource_exhausted("the file is too large; raise max_bytes if it is meant")
            .with_context("file", path.display())
            .with_context("limit", limit)
    };
    if meta.len() > *left {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|err| failed(err, path))?;
    file.take(*left + 1)
        .read_to_end(&mut bytes)
        .map_err(|err| failed(err, path))?;
    let length = bytes.len() as u64;
    if length > *left {
        return Err(too_large());
    }
    *left -= length;
    *written = (*written).max(meta.modified().ok());
    Ok(bytes)
}

fn failed(err: std::io::Error, path: &Path) -> Error {
    let kind = err.kind();
    let err = match kind {
        // Which part of the path is missing or no directory makes no difference.
        Io::NotFound | Io::NotADirectory => {
            Error::not_found("the file is not there").with_source(err)
        }
        Io::PermissionDenied => {
            Error::permission_denied("the file may not be read by this program").with_source(err)
        }
        _ => Error::from(err),
    };
    err.with_context("file", path.display())
}
