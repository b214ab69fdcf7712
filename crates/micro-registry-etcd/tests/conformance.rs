//! Runs the suite of the interface against real etcds: `MICRO_TEST_ETCD_URL` and
//! `MICRO_TEST_ETCD_TLS_URL` (with certificates on both sides and a password) say where.

mod common;

use std::process::ExitCode;

use micro_conformance::registry::Place;
use micro_registry_core::Drivers;
use micro_registry_etcd::EtcdDriver;

fn main() -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for (variable, server) in [
        ("MICRO_TEST_ETCD_URL", "etcd"),
        ("MICRO_TEST_ETCD_TLS_URL", "etcd_tls"),
    ] {
        let Some(url) = common::server("etcd conformance", variable, server) else {
            continue;
        };
        let ran = micro_conformance::registry::run(async move |place: Place| {
            // One place is one prefix. The user of the server with TLS may touch "/micro/" alone.
            let prefix = format!("/micro/{}/registry/", place.id());
            let url = common::with_option(&url, "prefix", &prefix);
            let drivers = Drivers::new().with(EtcdDriver::default());
            drivers.open(&url, place.env()).await
        });
        if ran != ExitCode::SUCCESS {
            code = ran;
        }
    }
    code
}
