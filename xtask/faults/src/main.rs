//! Fault campaigns: they break things on purpose, and count what was lost.
//!
//! `cargo xtask faults <area> [--quick] [--check] [--seed N]` prints one line per figure, as the
//! benchmarks do: `FIGURE <area>.<name> <value> <unit> goal <op> <value> ok|short`. What cannot be
//! done on this machine is said: `SKIPPED <area>.<name> reason=…`, and with `MICRO_REQUIRED=1` it
//! fails the run.
//!
//! The same binary is also its own children, which are cut off or killed: `role <area> <name> …`.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "figures go to standard output, progress and errors to standard error"
)]

mod broker;
mod discovery;
mod report;
mod store;
mod sync;

use std::process::ExitCode;

use crate::report::Report;

/// Whatever went wrong, in words: this program only ever prints it.
pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;
/// A result of this program.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

const USAGE: &str =
    "usage: micro-faults discovery|broker|store|sync [--quick] [--check] [--seed N] [--only NAME]";

/// One part of the house, and how it is broken.
struct Area {
    name: &'static str,
    /// Its campaigns, by name.
    campaigns: &'static [&'static str],
    run: fn(&Options, &mut Report) -> Result<()>,
    /// What a child of it does, by its role.
    play: fn(&str, &[&str]) -> Result<()>,
}

const AREAS: &[Area] = &[
    Area {
        name: "discovery",
        campaigns: discovery::NAMES,
        run: discovery::run,
        play: discovery::play,
    },
    Area {
        name: "broker",
        campaigns: broker::NAMES,
        run: broker::run,
        play: broker::play,
    },
    Area {
        name: "store",
        campaigns: store::NAMES,
        run: store::run,
        play: store::play,
    },
    Area {
        name: "sync",
        campaigns: sync::NAMES,
        run: sync::run,
        play: sync::play,
    },
];

/// How a campaign is run.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Less than a minute instead of several.
    pub(crate) quick: bool,
    /// Whether a goal that was missed fails the run.
    check: bool,
    pub(crate) seed: u64,
    /// One campaign of the area, by name.
    only: Option<String>,
}

impl Options {
    pub(crate) fn wants(&self, campaign: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == campaign)
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments.as_slice() {
        ["role", area, role, rest @ ..] => {
            find(area).and_then(|area| (area.play)(role, rest).map(|()| true))
        }
        [name, rest @ ..] => match chosen(name, rest) {
            Ok((area, options)) => campaign(area, &options),
            Err(wrong) => {
                eprintln!("micro-faults: {wrong}\n{USAGE}");
                return ExitCode::from(2);
            }
        },
        [] => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("micro-faults: {error}");
            ExitCode::FAILURE
        }
    }
}

fn find(name: &str) -> Result<&'static Area> {
    let area = AREAS.iter().find(|area| area.name == name);
    area.ok_or_else(|| format!("there is no area '{name}'").into())
}

fn chosen(name: &str, rest: &[&str]) -> Result<(&'static Area, Options)> {
    let area = find(name)?;
    Ok((area, options(area, rest)?))
}

fn options(area: &Area, arguments: &[&str]) -> Result<Options> {
    let mut options = Options {
        quick: false,
        check: false,
        seed: 1,
        only: None,
    };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match *argument {
            "--quick" => options.quick = true,
            "--check" => options.check = true,
            "--seed" => {
                let seed = arguments.next().and_then(|seed| seed.parse().ok());
                options.seed = seed.ok_or("--seed is followed by a number")?;
            }
            "--only" => {
                let only = arguments.next().ok_or("--only is followed by a name")?;
                if !area.campaigns.contains(only) {
                    return Err(format!("there are {}", area.campaigns.join(", ")).into());
                }
                options.only = Some((*only).to_owned());
            }
            unknown => return Err(format!("'{unknown}' is not known").into()),
        }
    }
    Ok(options)
}

/// Runs an area's campaigns and prints their figures. False means that they did not pass.
fn campaign(area: &Area, options: &Options) -> Result<bool> {
    let required = std::env::var_os("MICRO_REQUIRED").is_some_and(|value| value == "1");
    let mut report = Report::new(area.name, options.seed);
    (area.run)(options, &mut report)?;
    print!("{report}");
    Ok((!options.check || report.short() == 0) && (!required || report.skipped() == 0))
}
