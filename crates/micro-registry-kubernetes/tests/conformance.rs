//! Runs the suite of the interface against this backend.

use std::process::ExitCode;

use micro_conformance::registry::Place;
use micro_registry_core::Drivers;
use micro_registry_kubernetes::KubernetesDriver;

fn main() -> ExitCode {
    let driver = KubernetesDriver::default();
    micro_conformance::registry::run(async move |place: Place| {
        // One place is one directory: here, one server.
        let url = format!("kubernetes://{}", place.id());
        let drivers = Drivers::new().with(driver.clone());
        drivers.open(&url, place.env()).await
    })
}
