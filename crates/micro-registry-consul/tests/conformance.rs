//! Runs the suite of the interface against a real Consul: `MICRO_TEST_CONSUL_URL` says where.
//!
//! `cargo xtask services up consul` starts one.

mod common;

use std::process::ExitCode;

use micro_conformance::registry::Place;
use micro_registry_consul::ConsulDriver;
use micro_registry_core::Drivers;

fn main() -> ExitCode {
    let Ok(url) = std::env::var("MICRO_TEST_CONSUL_URL") else {
        common::skip("consul conformance", "MICRO_TEST_CONSUL_URL is not set");
        return ExitCode::SUCCESS;
    };
    micro_conformance::registry::run(async move |place: Place| {
        // One place is one directory: here, one prefix.
        let join = if url.contains('?') { '&' } else { '?' };
        let url = format!("{url}{join}prefix={}", place.id());
        let drivers = Drivers::new().with(ConsulDriver);
        drivers.open(&url, place.env()).await
    })
}
