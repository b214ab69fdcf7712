//! The suite that micro's own registries pass.

use std::process::ExitCode;

use micro_conformance::registry::Place;
use micro_registry_core::Drivers;
use third_party_registry::FileDirDriver;

fn main() -> ExitCode {
    let all = tempfile::tempdir().expect("a temporary folder can be made");
    // A folder of its own for each place; all of them go with the first one.
    let path = all.path().to_owned();
    let code = micro_conformance::registry::run(async move |place: Place| {
        let url = format!("filedir://{}/{}", path.display(), place.id());
        Drivers::new()
            .with(FileDirDriver)
            .open(&url, place.env())
            .await
    });
    drop(all);
    code
}
