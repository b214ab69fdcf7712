//! Runs the suite of the interface against this codec.

use std::process::ExitCode;
use std::sync::Arc;

use {{lib}}::{{Type}}Codec;

fn main() -> ExitCode {
    micro_conformance::codec::run(|| Arc::new({{Type}}Codec))
}
