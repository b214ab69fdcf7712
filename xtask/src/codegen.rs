//! `cargo xtask codegen`: committed Rust code, made again from `proto/`.

use crate::failure::{Failure, Result};
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

/// Where generated code lives, as git sees it.
const GENERATED: &str = "crates/*/src/generated";

/// `cargo xtask codegen [--check]`.
pub(crate) fn command(args: &[String]) -> Result<u8> {
    let check = match args {
        [] => false,
        [flag] if flag == "--check" => true,
        _ => return Err(Failure::usage("usage: cargo xtask codegen [--check]")),
    };
    let ended = process::run(workspace::cargo().args(GENERATE))?;
    if !ended.success() {
        return Err(Failure::new(format!("codegen: {}", ended.describe())));
    }
    if check && changed()? {
        return Err(Failure::new(
            "generated code differs from what is committed: run `cargo xtask codegen` and commit",
        ));
    }
    Ok(0)
}

/// Whether generation changed a committed file or made a new one.
fn changed() -> Result<bool> {
    let git = |args: &[&str]| {
        let mut git = std::process::Command::new("git");
        git.current_dir(workspace::root())
            .args(args)
            .args(["--", GENERATED]);
        git
    };
    if !process::run(&mut git(&["diff", "--exit-code"]))?.success() {
        return Ok(true);
    }
    // `git diff` does not see a file that was never added.
    let new = process::output_of(&mut git(&["ls-files", "--others", "--exclude-standard"]))
        .ok_or_else(|| Failure::new("git could not list new files"))?;
    print!("{new}");
    Ok(!new.is_empty())
}
