//! The suite of config sources over this backend.

use std::process::ExitCode;

use micro_config_args::ArgsSource;
use micro_config_core::path;
use micro_conformance::config::{Place, Subject, words};

fn main() -> ExitCode {
    micro_conformance::config::run(async |place: Place| {
        let sets = words(place.content())
            .into_iter()
            .map(|(keys, text)| format!("{}={text}", path::join(keys)));
        Ok(Subject::constant(ArgsSource::from_sets(sets)?))
    })
}
