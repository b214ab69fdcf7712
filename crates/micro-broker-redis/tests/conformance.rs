//! The broker suite over this backend, on a real Redis: each place below a prefix of its own.

mod common;

use std::process::ExitCode;

use micro_broker_core::Drivers;
use micro_broker_redis::RedisDriver;
use micro_conformance::broker::Place;

fn main() -> ExitCode {
    // The same suite without replay, and over TLS, as a user with a password and few rights.
    let mut code = ExitCode::SUCCESS;
    for (variable, server, options) in [
        ("MICRO_TEST_REDIS_URL", "redis", ""),
        ("MICRO_TEST_REDIS_URL", "redis", "&retain=0s&dedup=0s"),
        ("MICRO_TEST_REDIS_TLS_URL", "redis_tls", ""),
    ] {
        let Some(url) = common::server("conformance", variable, server) else {
            continue;
        };
        let ran = micro_conformance::broker::run(async move |place: Place| {
            let separator = if url.contains('?') { '&' } else { '?' };
            let url = format!("{url}{separator}prefix={}&timeout=20s{options}", place.id());
            let drivers = Drivers::new().with(RedisDriver::default());
            drivers.open(&url, place.env()).await
        });
        if ran != ExitCode::SUCCESS {
            code = ran;
        }
    }
    code
}
