//! Where things are: the checkout, its target folder, and the crates outside the workspace.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use crate::failure::{OrFail, Result};
use crate::toml;

/// The top folder of the checkout.
pub(crate) fn root() -> PathBuf {
    // At run time cargo says where this crate is; a copied binary falls back to where it was built.
    let own = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    own.parent().map_or_else(|| own.clone(), Path::to_path_buf)
}

/// The folder cargo builds into, absolute.
pub(crate) fn target_dir() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => std::path::absolute(&dir).unwrap_or_else(|_| PathBuf::from(dir)),
        None => root().join("target"),
    }
}

/// A folder of our own below the target folder, made if it is not there.
pub(crate) fn scratch_dir() -> Result<PathBuf> {
    let dir = target_dir().join("xtask");
    fs::create_dir_all(&dir).or_fail(dir.display())?;
    Ok(dir)
}

/// A cargo command that starts in the top folder.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// The folders directly below `parent` that hold a manifest, sorted by name.
pub(crate) fn packages_below(parent: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(parent) {
        Ok(entries) => entries,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(err) => return Err(err).or_fail(parent.display()),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.or_fail(parent.display())?.path();
        if path.join("Cargo.toml").is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The examples, split into members of the workspace and crates with a workspace of their own.
pub(crate) fn examples() -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let mut members = Vec::new();
    let mut outside = Vec::new();
    for folder in packages_below(&root().join("examples"))? {
        if toml::read(&folder.join("Cargo.toml"))?.contains_key("workspace") {
            outside.push(folder);
        } else {
            members.push(folder);
        }
    }
    Ok((members, outside))
}

/// The last part of a folder's path, for messages and package names.
pub(crate) fn folder_name(folder: &Path) -> String {
    folder
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}
