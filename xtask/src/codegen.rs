//! `cargo xtask codegen`: committed Rust code, made again from `proto/`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, OrFail as _, Result};
use crate::{process, workspace};

/// The program that writes the files; it belongs to the crate that knows how.
const GENERATE: &[&str] = &[
    "run",
    "--quiet",
    "-p",
    "micro-build",
    "--example",
    "codegen",
];

/// Where generated code lives in a crate.
const GENERATED: &str = "src/generated";

/// Every generated file and its bytes.
type Snapshot = BTreeMap<PathBuf, Vec<u8>>;

/// `cargo xtask codegen [--check]`.
pub(crate) fn command(args: &[String]) -> Result<u8> {
    let check = match args {
        [] => false,
        [flag] if flag == "--check" => true,
        _ => return Err(Failure::usage("usage: cargo xtask codegen [--check]")),
    };
    // Compared by content and not by git: it needs no repository, and sees files that nobody added.
    let before = snapshot()?;
    let ended = process::run(workspace::cargo().args(GENERATE))?;
    if !ended.success() {
        return Err(Failure::new(format!("codegen: {}", ended.describe())));
    }
    let after = snapshot()?;
    let changed = differences(&before, &after);
    for path in &changed {
        let shown = path.strip_prefix(workspace::root()).unwrap_or(path);
        println!("changed: {}", shown.display());
    }
    println!("{} generated files, {} changed", after.len(), changed.len());
    if check && !changed.is_empty() {
        return Err(Failure::new(
            "generated code is not what proto/ says: commit what `cargo xtask codegen` writes",
        ));
    }
    Ok(0)
}

fn snapshot() -> Result<Snapshot> {
    let mut files = Snapshot::new();
    for package in workspace::packages_below(&workspace::root().join("crates"))? {
        let folder = package.join(GENERATED);
        if folder.is_dir() {
            read_all(&folder, &mut files)?;
        }
    }
    Ok(files)
}

fn read_all(folder: &Path, files: &mut Snapshot) -> Result<()> {
    for entry in fs::read_dir(folder).or_fail(folder.display())? {
        let path = entry.or_fail(folder.display())?.path();
        if path.is_dir() {
            read_all(&path, files)?;
        } else {
            let bytes = fs::read(&path).or_fail(path.display())?;
            files.insert(path, bytes);
        }
    }
    Ok(())
}

/// The files that are new, gone or different.
fn differences<'a>(before: &'a Snapshot, after: &'a Snapshot) -> Vec<&'a PathBuf> {
    let all: BTreeSet<&PathBuf> = before.keys().chain(after.keys()).collect();
    all.into_iter()
        .filter(|path| before.get(*path) != after.get(*path))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_gone_and_different_files_are_seen() {
        let files = |pairs: &[(&str, &str)]| -> Snapshot {
            pairs
                .iter()
                .map(|(path, text)| (PathBuf::from(path), text.as_bytes().to_vec()))
                .collect()
        };
        let before = files(&[("same", "1"), ("other", "1"), ("gone", "1")]);
        let after = files(&[("same", "1"), ("other", "2"), ("new", "1")]);
        let expected = ["gone", "new", "other"].map(PathBuf::from);
        assert_eq!(
            differences(&before, &after),
            expected.iter().collect::<Vec<_>>()
        );
    }
}
