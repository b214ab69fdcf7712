//! The one command surface of the house: `cargo xtask <command>`.
//!
//! It has no dependencies, so that the first command anybody types compiles in seconds.
//! What it needs of TOML it reads itself ([`toml`]); everything else it asks of cargo.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "an application talks to the person who ran it"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "it times real processes and waits for them; there is no runtime and no Clock here"
)]

mod areas;
mod ci;
mod codegen;
mod failure;
mod new;
mod process;
mod services;
mod suite;
mod tidy;
mod toml;
mod workspace;

use std::process::ExitCode;

use crate::failure::{Failure, Result};

const USAGE: &str = "\
cargo xtask <command>

  test [cargo test arguments]         run every test and print the totals
  ci [--list | --without STEP | STEP] run what CI runs, or the chosen steps of it
  tidy                                check the shape of the house
  services up|down|status|env [NAME]  real servers on loopback, for tests
  bench <area> [--quick] [--check]    figures, paired with the raw library
  faults <area> [--quick] [--check] [--seed N]
  codegen [--check]                   regenerate committed code from proto/
  new <interface> <backend> [--out DIR]  write a backend crate in the house's shape
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&args) {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            eprintln!("error: {}", failure.text);
            ExitCode::from(failure.status)
        }
    }
}

/// Runs one command; the number is the exit status of an orderly end.
fn dispatch(args: &[String]) -> Result<u8> {
    let Some((command, rest)) = args.split_first() else {
        return Err(Failure::usage(format!("no command\n\n{USAGE}")));
    };
    match command.as_str() {
        "test" => suite::command(rest),
        "ci" => ci::command(rest),
        "tidy" => tidy::command(rest),
        "services" => services::command(rest),
        "bench" => areas::bench(rest),
        "faults" => areas::faults(rest),
        "codegen" => codegen::command(rest),
        "new" => new::command(rest),
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            Ok(0)
        }
        other => Err(Failure::usage(format!(
            "unknown command `{other}`\n\n{USAGE}"
        ))),
    }
}
