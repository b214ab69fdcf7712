//! The store suite over this backend, on a real Redis: each place below a prefix of its own.

mod common;

use std::process::ExitCode;

use micro_conformance::store::Place;
use micro_store_core::Drivers;
use micro_store_redis::RedisDriver;

fn main() -> ExitCode {
    // The same suite over TLS, as a user with a password and few rights, if the server is there.
    let mut code = ExitCode::SUCCESS;
    for (variable, server) in [
        ("MICRO_TEST_REDIS_URL", "redis"),
        ("MICRO_TEST_REDIS_TLS_URL", "redis_tls"),
    ] {
        let Some(url) = common::server("conformance", variable, server) else {
            continue;
        };
        let ran = micro_conformance::store::run(async move |place: Place| {
            let separator = if url.contains('?') { '&' } else { '?' };
            let url = format!("{url}{separator}prefix={}&timeout=20s", place.id());
            Drivers::new()
                .with(RedisDriver)
                .open(&url, place.env())
                .await
        });
        if ran != ExitCode::SUCCESS {
            code = ran;
        }
    }
    code
}
