//! Runs the suite of the interface against this strategy.

use std::process::ExitCode;
use std::sync::Arc;

use {{lib}}::{{Type}}Selector;

fn main() -> ExitCode {
    micro_conformance::selector::run(async || Ok(Arc::new({{Type}}Selector::default()) as _))
}
