//! `cargo xtask test`: every test there is, and one honest line of totals at the end.
//!
//! A test that lacks something (a server, a tool) says so in the file that `MICRO_SKIP_LOG` names,
//! one line `<test>\t<reason>\t<cure>`, and returns. libtest counts it as passed; we do not.

mod tally;

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use crate::failure::{OrFail as _, Result};
use crate::services;
use crate::suite::tally::Tally;
use crate::{process, workspace};

/// With this set to something other than `0`, a skipped test fails the run.
const REQUIRED: &str = "MICRO_REQUIRED";

/// Cures, separated by commas, that may be missing all the same: a skip whose cure contains one of
/// these texts fails nothing.
const MAY_MISS: &str = "MICRO_MAY_MISS";

/// The file tests write their skips to.
const SKIP_LOG: &str = "MICRO_SKIP_LOG";

/// `cargo xtask test [cargo test arguments]`.
pub(crate) fn command(args: &[String]) -> Result<u8> {
    let required = env::var(REQUIRED).is_ok_and(|value| !value.is_empty() && value != "0");
    let outcome = run(args, required)?;
    println!("{}", outcome.totals);
    Ok(u8::from(!outcome.green))
}

/// How a run of the suite ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) green: bool,
    /// The line that must be the last of its kind in all output.
    pub(crate) totals: String,
}

/// Runs the suite and prints all but the totals; with `required`, a skip is a failure.
pub(crate) fn run(args: &[String], required: bool) -> Result<Outcome> {
    let (tally, mut green) = read_runs(args, required)?;
    print!("{}", tally.summary());
    let may_miss = env::var(MAY_MISS).unwrap_or_default();
    if required && tally.skipped_beyond(&may_miss) > 0 {
        println!("a skipped test fails this run, because {REQUIRED} is set");
        green = false;
    }
    Ok(Outcome {
        green,
        totals: tally.totals(),
    })
}

fn read_runs(args: &[String], required: bool) -> Result<(Tally, bool)> {
    let log = workspace::scratch_dir()?.join(format!("skips-{}.tsv", std::process::id()));
    fs::write(&log, "").or_fail(log.display())?;
    let variables = services::variables()?;

    let mut tally = Tally::default();
    let mut green = true;
    for (what, mut command) in commands(args)? {
        command.env(SKIP_LOG, &log).envs(variables.iter().cloned());
        if required {
            command.env(REQUIRED, "1");
        }
        if std::io::stdout().is_terminal() {
            // cargo sees a pipe; what reads it in the end is a terminal.
            command.env("CARGO_TERM_COLOR", "always");
        }
        let ended = process::stream(&mut command, None, |line| {
            println!("{line}");
            tally.line(line);
        })?;
        tally.finish(&what, ended);
        green &= ended.success();
    }
    tally.skip_log(&fs::read_to_string(&log).or_fail(log.display())?);
    let _ = fs::remove_file(&log);
    Ok((tally, green))
}

/// The cargo commands that make up the whole suite, or the part that `args` choose.
fn commands(args: &[String]) -> Result<Vec<(String, Command)>> {
    let chosen = Chosen::from(args);
    let mut main = workspace::cargo();
    main.args(["test", "--no-fail-fast"]);
    if !chosen.packages {
        main.arg("--workspace");
    }
    if !chosen.features {
        main.arg("--all-features");
    }
    main.args(args);
    let mut all = vec![("the workspace".to_owned(), main)];
    // Crates outside stand for strangers; a choice of packages does not mean them.
    if !chosen.packages {
        for folder in workspace::examples()?.1 {
            let mut outside = outside(&folder, "test");
            outside.arg("--no-fail-fast").args(args);
            all.push((workspace::folder_name(&folder), outside));
        }
    }
    Ok(all)
}

/// A cargo command on a crate outside the workspace, which builds into our target folder.
pub(crate) fn outside(folder: &Path, command: &str) -> Command {
    let manifest: PathBuf = folder.join("Cargo.toml");
    let mut cargo = workspace::cargo();
    cargo
        .arg(command)
        .arg("--manifest-path")
        .arg(manifest)
        .env("CARGO_TARGET_DIR", workspace::target_dir());
    cargo
}

/// What the caller's own arguments already decide.
struct Chosen {
    packages: bool,
    features: bool,
}

impl Chosen {
    fn from(args: &[String]) -> Self {
        let has = |names: &[&str]| {
            args.iter()
                .take_while(|arg| *arg != "--")
                .any(|arg| names.contains(&arg.split('=').next().unwrap_or(arg)))
        };
        // `-pNAME` is one word.
        let glued = args
            .iter()
            .any(|arg| arg.starts_with("-p") && arg.len() > 2);
        Self {
            packages: glued || has(&["-p", "--package", "--workspace", "--manifest-path"]),
            features: has(&[
                "-F",
                "--features",
                "--all-features",
                "--no-default-features",
            ]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(args: &[&str]) -> (bool, bool) {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let chosen = Chosen::from(&args);
        (chosen.packages, chosen.features)
    }

    #[test]
    fn own_arguments_replace_the_defaults() {
        assert_eq!(chosen(&[]), (false, false));
        assert_eq!(chosen(&["-p", "micro-core"]), (true, false));
        assert_eq!(chosen(&["-pmicro-core"]), (true, false));
        assert_eq!(chosen(&["--package=micro-core"]), (true, false));
        assert_eq!(chosen(&["--features", "x"]), (false, true));
        assert_eq!(chosen(&["--", "-p"]), (false, false));
    }
}
