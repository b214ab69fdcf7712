//! The suite of config sources over this backend.

use std::process::ExitCode;

use micro_config_env::EnvSource;
use micro_conformance::config::{Place, Subject, words};

fn main() -> ExitCode {
    micro_conformance::config::run(async |place: Place| {
        let variables = words(place.content())
            .into_iter()
            .map(|(keys, text)| (format!("APP_{}", keys.join("__").to_uppercase()), text));
        Ok(Subject::constant(
            EnvSource::new("APP").with_variables(variables),
        ))
    })
}
