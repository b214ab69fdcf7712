//! The registry suite over this backend, on a real NATS server: each place on subjects of its own.

mod common;

use std::process::ExitCode;

use micro_conformance::registry::Place;
use micro_registry_core::Drivers;
use micro_registry_nats::NatsDriver;

fn main() -> ExitCode {
    // The same suite over TLS, with a client certificate and a password, if the server is there.
    let mut code = ExitCode::SUCCESS;
    for (variable, server) in [
        ("MICRO_TEST_NATS_URL", "nats"),
        ("MICRO_TEST_NATS_TLS_URL", "nats_tls"),
    ] {
        let Some(url) = common::server("conformance", variable, server) else {
            continue;
        };
        let ran = micro_conformance::registry::run(async move |place: Place| {
            let separator = if url.contains('?') { '&' } else { '?' };
            let url = format!("{url}{separator}subject=test.{}&lookup=60ms", place.id());
            Drivers::new()
                .with(NatsDriver)
                .open(&url, place.env())
                .await
        });
        if ran != ExitCode::SUCCESS {
            code = ran;
        }
    }
    code
}
