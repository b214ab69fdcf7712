//! Runs the suite of the interface against this backend and a scripted API server. A real Kubernetes
//! is not asked.

mod common;

use std::process::ExitCode;
use std::sync::Arc;

use common::Server;
use micro_conformance::harness::runtime;
use micro_conformance::registry::Place;
use micro_registry_core::Drivers;
use micro_registry_kubernetes::KubernetesDriver;

fn main() -> ExitCode {
    let server = Arc::new(runtime().block_on(Server::start()));
    micro_conformance::registry::run(async move |place: Place| {
        // One place is one directory: here, one namespace of Kubernetes.
        let url = format!("kubernetes://{}?namespace={}", server.address, place.id());
        let drivers = Drivers::new().with(KubernetesDriver);
        drivers.open(&url, place.env()).await
    })
}
