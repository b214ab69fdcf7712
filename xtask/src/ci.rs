//! `cargo xtask ci`: what CI runs, step by step, each timed; a failed step does not hide the next.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::failure::{Failure, Result};
use crate::{areas, codegen, new, process, suite, tidy, workspace};

const USAGE: &str = "usage: cargo xtask ci [--list] [--without STEP]… [STEP]…";

/// How long an example may run once it is built.
const EXAMPLE_WITHIN: Duration = Duration::from_secs(120);

/// How long the advisory database may take to arrive.
const ADVISORIES_WITHIN: Duration = Duration::from_secs(120);

/// One step of CI.
struct Step {
    name: &'static str,
    what: &'static str,
    /// Whether it compiles the workspace, so that its failure may be one of compilation.
    builds: bool,
    run: fn(&mut Notes) -> Result<bool>,
}

/// What steps leave for the end.
#[derive(Default)]
struct Notes {
    /// The totals of the tests: they are repeated where the output ends.
    totals: Option<String>,
    /// What could not be checked here.
    warnings: Vec<String>,
}

const STEPS: &[Step] = &[
    Step {
        name: "fmt",
        what: "every file is formatted",
        builds: false,
        run: fmt,
    },
    Step {
        name: "tidy",
        what: "the house has its shape",
        builds: false,
        run: |_| Ok(tidy::command(&[])? == 0),
    },
    Step {
        name: "codegen",
        what: "committed generated code is what proto/ says",
        builds: true,
        run: |_| Ok(codegen::command(&["--check".to_owned()])? == 0),
    },
    Step {
        name: "clippy",
        what: "no warning in any target",
        builds: true,
        run: clippy,
    },
    Step {
        name: "test",
        what: "every test, and none skipped",
        builds: true,
        run: test,
    },
    Step {
        name: "doc",
        what: "the docs build without a warning",
        builds: true,
        run: doc,
    },
    Step {
        name: "features",
        what: "every feature builds alone",
        builds: true,
        run: features,
    },
    Step {
        name: "deny",
        what: "licenses, bans, sources, advisories",
        builds: false,
        run: deny,
    },
    Step {
        name: "examples",
        what: "every example runs and ends well",
        builds: true,
        run: examples,
    },
    Step {
        name: "new",
        what: "a generated backend passes the suite of its interface",
        builds: true,
        run: |_| new::smoke(),
    },
    Step {
        name: "faults",
        what: "the short forms of the fault campaigns lose nothing",
        builds: true,
        run: |_| {
            let campaigns: [&[&str]; 4] = [
                &["discovery"],
                &["store", "--only", "kill"],
                &["broker", "--only", "http"],
                &["sync", "--only", "memory"],
            ];
            for campaign in campaigns {
                let line = [campaign, &["--quick", "--check"]].concat();
                let line: Vec<String> = line.into_iter().map(str::to_owned).collect();
                if areas::faults(&line)? != 0 {
                    return Ok(false);
                }
            }
            Ok(true)
        },
    },
    Step {
        name: "bench",
        what: "the benches run (figures are printed, not judged)",
        builds: true,
        run: |_| {
            let quick = |area: &str| areas::bench(&[area.to_owned(), "--quick".to_owned()]);
            Ok(quick("rpc")? == 0 && quick("discovery")? == 0 && quick("config")? == 0)
        },
    },
];

/// `cargo xtask ci …`.
pub(crate) fn command(args: &[String]) -> Result<u8> {
    if args == ["--list"] {
        for step in STEPS {
            println!("{:<9} {}", step.name, step.what);
        }
        return Ok(0);
    }
    run(&choose(args)?)
}

fn choose(args: &[String]) -> Result<Vec<&'static Step>> {
    let mut wanted = Vec::new();
    let mut without = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if arg == "--without" {
            let name = args.next().ok_or_else(|| Failure::usage(USAGE))?;
            without.push(known(name)?);
        } else {
            wanted.push(known(arg)?);
        }
    }
    Ok(STEPS
        .iter()
        .filter(|step| wanted.is_empty() || wanted.contains(&step.name))
        .filter(|step| !without.contains(&step.name))
        .collect())
}

fn known(name: &str) -> Result<&'static str> {
    let names = || STEPS.iter().map(|step| step.name);
    names().find(|step| *step == name).ok_or_else(|| {
        let all: Vec<&str> = names().collect();
        Failure::usage(format!(
            "no step `{name}`\n{USAGE}\nsteps: {}",
            all.join(", ")
        ))
    })
}

fn run(steps: &[&Step]) -> Result<u8> {
    let mut notes = Notes::default();
    let mut results = Vec::new();
    let mut compiled = None;
    for step in steps {
        println!("\n=== {}: {}", step.name, step.what);
        let started = Instant::now();
        let green = (step.run)(&mut notes).unwrap_or_else(|failure| {
            println!("error: {}", failure.text);
            false
        });
        let took = started.elapsed();
        let said = if green { "ok" } else { "FAILED" };
        println!("=== {}: {said} after {took:.1?}", step.name);
        results.push((step.name, said, took));
        if !green && step.builds && !*compiled.get_or_insert_with(compiles) {
            println!("\nthe workspace does not compile: the remaining steps would only repeat it");
            break;
        }
    }
    Ok(finish(steps, &results, &notes))
}

/// Asked after a failed step, once: does the workspace compile at all?
fn compiles() -> bool {
    let mut check = workspace::cargo();
    check.args([
        "check",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--all-features",
    ]);
    process::run(&mut check).is_ok_and(process::Ended::success)
}

fn finish(steps: &[&Step], results: &[(&str, &str, Duration)], notes: &Notes) -> u8 {
    println!("\n=== summary");
    for (name, said, took) in results {
        println!("{name:<9} {said:<7} {took:>8.1?}");
    }
    for step in &steps[results.len()..] {
        println!("{:<9} not run", step.name);
    }
    for warning in &notes.warnings {
        println!("warning: {warning}");
    }
    if let Some(totals) = &notes.totals {
        println!("{totals}");
    }
    let green = results.len() == steps.len() && results.iter().all(|(_, said, _)| *said == "ok");
    u8::from(!green)
}

/// Runs one cargo command; whether it ended well.
fn cargo(args: &[&str]) -> Result<bool> {
    Ok(process::run(workspace::cargo().args(args))?.success())
}

fn fmt(_: &mut Notes) -> Result<bool> {
    let mut green = cargo(&["fmt", "--all", "--check"])?;
    for folder in workspace::examples()?.1 {
        let mut fmt = suite::outside(&folder, "fmt");
        green &= process::run(fmt.arg("--check"))?.success();
    }
    Ok(green)
}

fn clippy(_: &mut Notes) -> Result<bool> {
    let mut green = cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--all-features",
        "--",
        "-D",
        "warnings",
    ])?;
    for folder in workspace::examples()?.1 {
        let mut clippy = suite::outside(&folder, "clippy");
        clippy.args(["--all-targets", "--", "-D", "warnings"]);
        green &= process::run(&mut clippy)?.success();
    }
    Ok(green)
}

fn test(notes: &mut Notes) -> Result<bool> {
    let outcome = suite::run(&[], true)?;
    println!("{}", outcome.totals);
    notes.totals = Some(outcome.totals);
    Ok(outcome.green)
}

fn doc(_: &mut Notes) -> Result<bool> {
    let mut doc = workspace::cargo();
    doc.args(["doc", "--workspace", "--all-features", "--no-deps"])
        .env("RUSTDOCFLAGS", "-D warnings");
    Ok(process::run(&mut doc)?.success())
}

fn features(_: &mut Notes) -> Result<bool> {
    Ok(tool("hack")?
        && cargo(&[
            "hack",
            "check",
            "--workspace",
            "--each-feature",
            "--no-dev-deps",
        ])?)
}

fn deny(notes: &mut Notes) -> Result<bool> {
    if !tool("deny")? {
        return Ok(false);
    }
    let mut fetched = true;
    let mut advisories = workspace::cargo();
    advisories.args(["deny", "check", "--hide-inclusion-graph", "advisories"]);
    let ended = process::stream(&mut advisories, Some(ADVISORIES_WITHIN), |line| {
        println!("{line}");
        fetched &= !line.contains("failed to fetch advisory database");
    })?;
    fetched &= !ended.timed_out;
    if !fetched {
        notes.warnings.push(
            "THE ADVISORIES WERE NOT CHECKED: their database could not be fetched from here"
                .to_owned(),
        );
        println!("warning: {}", notes.warnings[notes.warnings.len() - 1]);
    }
    // Everything else needs no network, and must not fail for the want of one.
    let rest = cargo(&[
        "deny",
        "--offline",
        "check",
        "--hide-inclusion-graph",
        "bans",
        "licenses",
        "sources",
    ])?;
    Ok(rest && (ended.success() || !fetched))
}

/// Makes sure that `cargo <name>` exists; installs it if it does not.
fn tool(name: &str) -> Result<bool> {
    let mut version = workspace::cargo();
    version.args([name, "--version"]);
    if process::output_of(&mut version).is_some() {
        return Ok(true);
    }
    println!("cargo {name} is not installed: installing it");
    // Unoptimized: it runs once and for seconds, and builds in a fraction of the time.
    cargo(&["install", "--locked", "--debug", &format!("cargo-{name}")])
}

fn examples(_: &mut Notes) -> Result<bool> {
    let mut bad = Vec::new();
    for folder in workspace::examples()?.0 {
        let name = workspace::folder_name(&folder);
        if let Some(why) = example(&folder, &name)? {
            println!("{name}: {why}");
            bad.push(name);
        }
    }
    if !bad.is_empty() {
        println!("examples that failed: {}", bad.join(", "));
    }
    Ok(bad.is_empty())
}

/// Builds and runs an example; why it failed, if it did.
fn example(folder: &Path, name: &str) -> Result<Option<String>> {
    if !folder.join("src").is_dir() {
        return Ok(Some("it has no src/".to_owned()));
    }
    // Apart, so that the limit is for the run alone.
    if !cargo(&["build", "--quiet", "-p", name])? {
        return Ok(Some("it does not build".to_owned()));
    }
    let mut run = workspace::cargo();
    run.args(["run", "--quiet", "-p", name]);
    let ended = process::run_within(&mut run, EXAMPLE_WITHIN)?;
    Ok((!ended.success()).then(|| ended.describe()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(args: &[&str]) -> Vec<&'static str> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let steps = choose(&args).expect("the steps exist");
        steps.iter().map(|step| step.name).collect()
    }

    #[test]
    fn steps_are_chosen_and_left_out() {
        assert_eq!(names(&[]).len(), STEPS.len());
        assert_eq!(names(&["doc", "fmt"]), ["fmt", "doc"]);
        let most = names(&["--without", "test", "--without", "bench"]);
        assert_eq!(most.len(), STEPS.len() - 2);
        assert!(!most.contains(&"test"));
        for wrong in [&["tests"][..], &["--without"], &["--without", "x"]] {
            let args: Vec<String> = wrong.iter().map(|arg| (*arg).to_owned()).collect();
            assert_eq!(choose(&args).err().map(|failure| failure.status), Some(2));
        }
    }

    #[test]
    fn one_failed_step_fails_the_run() {
        let steps: Vec<&Step> = STEPS.iter().take(2).collect();
        let second = Duration::from_secs(1);
        let notes = Notes::default();
        assert_eq!(
            finish(
                &steps,
                &[("fmt", "ok", second), ("tidy", "ok", second)],
                &notes
            ),
            0
        );
        assert_eq!(
            finish(
                &steps,
                &[("fmt", "ok", second), ("tidy", "FAILED", second)],
                &notes
            ),
            1
        );
        assert_eq!(finish(&steps, &[("fmt", "ok", second)], &notes), 1);
    }
}
