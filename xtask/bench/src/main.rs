//! Paired benchmarks: `micro` against what it stands on, in one run.
//!
//! `micro-bench <area>` measures one area and prints readable tables, then one line per figure:
//! `FIGURE <area>.<name> <value> <unit> goal <op> <value> ok|short`. The areas are listed in
//! [`areas`], the goals stand in `xtask/goals.txt`. Only ratios between stacks of the same run
//! carry over to another machine, so stacks take turns in short rounds and a figure is the median
//! over those rounds.
//!
//! The same binary is also its own children: `serve <stack>` and `load <stack> <target>` are
//! started by [`process`] and are not for people.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "figures go to standard output, progress and errors to standard error"
)]

mod alloc;
mod areas;
mod clock;
mod cost;
mod figures;
mod load;
mod machine;
mod options;
mod process;
mod report;
mod stacks;
mod table;
mod wire;

use std::process::ExitCode;

use crate::options::{Command, Options};
use crate::report::Report;

/// Whatever went wrong, in words: this program only ever prints it.
pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;
/// A result of this program.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match options::parse(&arguments) {
        Ok(Command::Help) => {
            print!("{}", options::help());
            return ExitCode::SUCCESS;
        }
        Ok(Command::Serve { stack, threads }) => stacks::serve(&stack, threads).map(|()| true),
        Ok(Command::Load {
            stack,
            target,
            threads,
        }) => stacks::load(&stack, &target, threads).map(|()| true),
        Ok(Command::Role(role)) => areas::play(&role).map(|()| true),
        Ok(Command::Area { area, options }) => measure(area, &options),
        Err(usage) => {
            eprintln!("micro-bench: {usage}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("micro-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Measures an area and prints its report. False means that `--check` was given and did not pass.
fn measure(area: &areas::Area, options: &Options) -> Result<bool> {
    let goals = figures::Goals::ours()?;
    let machine = machine::Machine::here();
    let figures = (area.run)(options)?;
    let report = Report::new(area.name, options, &machine, figures, &goals)?;
    print!("{report}");
    if let [first, others @ ..] = report.not_measured() {
        eprintln!(
            "micro-bench: this run says nothing about {first} and {} other goals",
            others.len()
        );
    }
    if !options.check {
        return Ok(true);
    }
    if report.judged() == 0 {
        return Err("--check: no figure of this run has a goal, so nothing was checked".into());
    }
    Ok(report.short() == 0)
}
