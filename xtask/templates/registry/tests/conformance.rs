//! Runs the suite of the interface against this backend.

use std::process::ExitCode;

use {{lib}}::{{Type}}Driver;
use micro_registry_core::{Driver as _, Env};

fn main() -> ExitCode {
    micro_conformance::registry::run(async || {
        // A driver of its own for each case: its directory is empty.
        let url = micro_core::url::resolve({{lib}}::SCHEME)?;
        {{Type}}Driver::default().open(&url, &Env::default()).await
    })
}
