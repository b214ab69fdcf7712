//! `cargo xtask bench` and `cargo xtask faults`: which areas exist, and which do not yet.

use crate::failure::{Failure, Result};
use crate::{process, workspace};

/// A part of the house that has figures or campaigns of its own.
struct Area {
    name: &'static str,
    made: bool,
}

const BENCHES: &[Area] = &[
    made("rpc"),
    made("discovery"),
    made("broker"),
    made("store"),
    made("config"),
    later("auth"),
    made("sync"),
];

const FAULTS: &[Area] = &[
    made("discovery"),
    made("broker"),
    made("store"),
    made("sync"),
    later("security"),
];

const fn made(name: &'static str) -> Area {
    Area { name, made: true }
}

const fn later(name: &'static str) -> Area {
    Area { name, made: false }
}

/// `cargo xtask bench <area> …`: the rest of the line is the bench's own.
pub(crate) fn bench(args: &[String]) -> Result<u8> {
    choose("bench", BENCHES, args)?;
    let mut cargo = workspace::cargo();
    // A profile of its own: figures from an unoptimized build would be worse than none.
    cargo
        .args([
            "run",
            "--quiet",
            "--profile",
            "bench-rpc",
            "-p",
            "micro-bench",
            "--",
        ])
        .args(args);
    Ok(process::run(&mut cargo)?.status())
}

/// `cargo xtask faults <area> …`.
pub(crate) fn faults(args: &[String]) -> Result<u8> {
    choose("faults", FAULTS, args)?;
    let mut cargo = workspace::cargo();
    // Unoptimized: what counts is what is lost, and no figure of a campaign is a speed.
    cargo
        .args(["run", "--quiet", "-p", "micro-faults", "--"])
        .args(args);
    Ok(process::run(&mut cargo)?.status())
}

/// Refuses an area that is unknown or not made; both are errors of the command line.
fn choose(command: &str, areas: &[Area], args: &[String]) -> Result<()> {
    let known = describe(areas);
    let Some(name) = args.first().filter(|arg| !arg.starts_with('-')) else {
        return Err(Failure::usage(format!(
            "usage: cargo xtask {command} <area> [--quick] [--check] …\n{known}"
        )));
    };
    match areas.iter().find(|area| area.name == name) {
        Some(area) if area.made => Ok(()),
        Some(_) => Err(Failure::usage(format!(
            "`{command} {name}` is not made yet\n{known}"
        ))),
        None => Err(Failure::usage(format!(
            "`{command}` has no area `{name}`\n{known}"
        ))),
    }
}

fn describe(areas: &[Area]) -> String {
    let list = |made: bool| {
        let names: Vec<&str> = areas
            .iter()
            .filter(|area| area.made == made)
            .map(|area| area.name)
            .collect();
        if names.is_empty() {
            "none".to_owned()
        } else {
            names.join(", ")
        }
    };
    format!(
        "areas that exist: {}\nareas planned: {}",
        list(true),
        list(false)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(areas: &[Area], arg: &str) -> Failure {
        choose("x", areas, &[arg.to_owned()]).expect_err(arg)
    }

    #[test]
    fn an_area_must_exist() {
        assert!(choose("bench", BENCHES, &["rpc".to_owned()]).is_ok());
        let unknown = refusal(BENCHES, "tea");
        assert!(
            unknown
                .text
                .contains("areas that exist: rpc, discovery, broker, store, config, sync\n"),
            "{}",
            unknown.text
        );
        let planned = refusal(FAULTS, "security");
        assert!(planned.text.contains("not made yet"), "{}", planned.text);
        assert!(
            planned
                .text
                .contains("areas that exist: discovery, broker, store"),
            "{}",
            planned.text
        );
        assert_eq!((unknown.status, planned.status), (2, 2));
        assert_eq!(refusal(BENCHES, "--quick").status, 2);
    }
}
