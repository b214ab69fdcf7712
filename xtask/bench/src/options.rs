//! The command line.

use std::fmt::Write as _;

use crate::areas::{AREAS, Area};
use crate::{Result, stacks};

/// What this process was started for.
#[derive(Debug)]
pub(crate) enum Command {
    Help,
    /// Measure an area.
    Area {
        area: &'static Area,
        options: Options,
    },
    /// Be the server of a stack.
    Serve {
        stack: String,
        threads: usize,
    },
    /// Be the client of a stack.
    Load {
        stack: String,
        target: String,
        threads: usize,
    },
    /// Be a child of an area, whose name comes first.
    Role(Vec<String>),
}

/// How to measure. An area ignores what does not concern it.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The command as typed, for the report.
    pub(crate) command: String,
    /// Fewer and shorter rounds: shows that everything runs, not what it costs.
    pub(crate) quick: bool,
    /// Fail if a figure misses its goal.
    pub(crate) check: bool,
    /// Print for `BENCHMARKS.md`.
    pub(crate) markdown: bool,
    pub(crate) callers: Vec<usize>,
    pub(crate) sizes: Vec<usize>,
    pub(crate) stacks: Vec<String>,
    /// Rounds in which every stack has its turn.
    pub(crate) pairs: usize,
    /// Length of one turn.
    pub(crate) seconds: f64,
    /// Worker threads of each process; one means a current-thread runtime, pinned.
    pub(crate) threads: usize,
}

/// The fewest pairs that a ratio may be judged by.
const PAIRS: usize = 7;

/// The text of `--help`.
pub(crate) fn help() -> String {
    let mut text = String::from(
        "Usage: micro-bench <area> [options]\n\n\
         Options:\n  \
         --quick          few, short rounds: shows that everything runs\n  \
         --check          exit with status 1 if a figure misses its goal (xtask/goals.txt)\n  \
         --markdown       print for BENCHMARKS.md\n  \
         --callers LIST   calls in flight (1,16,64,256)\n  \
         --sizes LIST     payload bytes (64,1024)\n  \
         --stacks LIST    which of the stacks below take turns (all)\n  \
         --pairs N        rounds (7; with --quick 3)\n  \
         --seconds S      length of a turn (1.0; with --quick 0.3)\n  \
         --threads N      worker threads of each process (1, pinned to one core)\n\n\
         Areas:\n",
    );
    for area in AREAS {
        writeln!(text, "  {:<8} {}", area.name, area.about).expect("a string takes any text");
    }
    text.push_str("\nStacks:\n");
    for stack in stacks::STACKS {
        writeln!(text, "  {:<8} {}", stack.name, stack.about).expect("a string takes any text");
    }
    text
}

/// Reads the command line, without the program's name.
///
/// # Errors
///
/// Says what is wrong and what would be right.
pub(crate) fn parse(arguments: &[String]) -> Result<Command> {
    let Some((name, rest)) = arguments.split_first() else {
        return Err(format!(
            "which area? There are: {}",
            names(AREAS.iter().map(|area| area.name))
        )
        .into());
    };
    match name.as_str() {
        "help" | "--help" | "-h" => return Ok(Command::Help),
        "role" => return Ok(Command::Role(rest.to_vec())),
        "serve" => {
            let [stack, threads] = rest else {
                return Err("serve <stack> <threads>".into());
            };
            return Ok(Command::Serve {
                stack: stack.clone(),
                threads: number(threads)?,
            });
        }
        "load" => {
            let [stack, target, threads] = rest else {
                return Err("load <stack> <target> <threads>".into());
            };
            return Ok(Command::Load {
                stack: stack.clone(),
                target: target.clone(),
                threads: number(threads)?,
            });
        }
        _ => {}
    }
    let Some(area) = AREAS.iter().find(|area| area.name == name) else {
        return Err(format!(
            "no area {name:?}. There are: {}",
            names(AREAS.iter().map(|area| area.name))
        )
        .into());
    };
    if rest
        .iter()
        .any(|argument| argument == "--help" || argument == "-h")
    {
        return Ok(Command::Help);
    }
    Ok(Command::Area {
        area,
        options: area_options(arguments, rest)?,
    })
}

fn area_options(arguments: &[String], rest: &[String]) -> Result<Options> {
    let mut options = Options {
        command: format!("cargo xtask bench {}", arguments.join(" ")),
        quick: false,
        check: false,
        markdown: false,
        callers: vec![1, 16, 64, 256],
        sizes: vec![64, 1024],
        stacks: stacks::STACKS
            .iter()
            .map(|stack| stack.name.to_owned())
            .collect(),
        pairs: 0,
        seconds: 0.0,
        threads: 1,
    };
    let (mut pairs, mut seconds) = (None, None);
    let mut rest = rest.iter();
    while let Some(argument) = rest.next() {
        let mut value = || {
            rest.next()
                .ok_or_else(|| format!("{argument} wants a value"))
        };
        match argument.as_str() {
            "--quick" => options.quick = true,
            "--check" => options.check = true,
            "--markdown" => options.markdown = true,
            "--callers" => options.callers = list(value()?, number)?,
            "--sizes" => options.sizes = list(value()?, number)?,
            "--stacks" => options.stacks = list(value()?, known_stack)?,
            "--pairs" => pairs = Some(number(value()?)?),
            "--seconds" => seconds = Some(positive(value()?)?),
            "--threads" => options.threads = number(value()?)?,
            other => return Err(format!("no option {other:?}; --help lists them").into()),
        }
    }
    // With fewer pairs one disturbed turn decides the figure; --quick does not pretend otherwise.
    let least = if options.quick { 1 } else { PAIRS };
    options.pairs = pairs.unwrap_or(if options.quick { 3 } else { PAIRS });
    if options.pairs < least {
        return Err(format!("--pairs: at least {PAIRS}, or use --quick").into());
    }
    options.seconds = seconds.unwrap_or(if options.quick { 0.3 } else { 1.0 });
    Ok(options)
}

fn list<T>(text: &str, item: impl Fn(&str) -> Result<T>) -> Result<Vec<T>> {
    text.split(',').map(|part| item(part.trim())).collect()
}

fn number(text: &str) -> Result<usize> {
    text.parse()
        .ok()
        .filter(|&number| number > 0)
        .ok_or_else(|| format!("{text:?} is not a whole number above 0").into())
}

fn positive(text: &str) -> Result<f64> {
    text.parse()
        .ok()
        .filter(|&number: &f64| number.is_finite() && number > 0.0)
        .ok_or_else(|| format!("{text:?} is not a number above 0").into())
}

fn known_stack(name: &str) -> Result<String> {
    stacks::find(name).map(|stack| stack.name.to_owned())
}

/// Joins names for a message.
pub(crate) fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Options> {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        match parse(&arguments)? {
            Command::Area { options, .. } => Ok(options),
            other => Err(format!("{other:?}").into()),
        }
    }

    #[test]
    fn quick_is_short_and_its_parts_can_be_overridden() {
        let quick = parsed("rpc --quick").expect("a valid line");
        assert_eq!((quick.pairs, quick.seconds), (3, 0.3));
        let full = parsed("rpc --check --callers 1,64 --stacks tonic,mux --seconds 2")
            .expect("a valid line");
        assert_eq!((full.pairs, full.seconds, full.check), (7, 2.0, true));
        assert_eq!(full.callers, [1, 64]);
        assert_eq!(full.stacks, ["tonic", "mux"]);
        assert_eq!(
            full.command,
            "cargo xtask bench rpc --check --callers 1,64 --stacks tonic,mux --seconds 2"
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_what_would_be_right() {
        assert!(
            parsed("speed")
                .expect_err("no such area")
                .to_string()
                .contains("rpc")
        );
        assert!(
            parsed("rpc --stacks thrift")
                .expect_err("no such stack")
                .to_string()
                .contains("tonic")
        );
        assert!(parsed("rpc --callers 0").is_err());
        assert!(
            parsed("rpc --pairs 3")
                .expect_err("too few")
                .to_string()
                .contains("--quick")
        );
        assert!(
            parsed("rpc --pairs")
                .expect_err("no value")
                .to_string()
                .contains("--pairs")
        );
    }
}
