//! Runs the suite of the interface against this strategy.

use std::process::ExitCode;
use std::sync::Arc;

use {{lib}}::{{Type}}Selector;

fn main() -> ExitCode {
    micro_conformance::selector::run(|| Arc::new({{Type}}Selector::default()))
}
