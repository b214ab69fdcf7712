//! The store suite over this backend, on a real PostgreSQL: each place has tables of its own.
//!
//! Once more over TLS with a password, and over CockroachDB if somebody has one.

mod common;

use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use micro_conformance::store::Place;
use micro_store_cockroach::CockroachDriver;
use micro_store_core::Drivers;

use common::{Schema, server, with};

fn main() -> ExitCode {
    let mut urls = Vec::new();
    urls.extend(server("conformance", "MICRO_TEST_POSTGRES_URL", "postgres"));
    urls.extend(server(
        "conformance over TLS",
        "MICRO_TEST_POSTGRES_TLS_URL",
        "postgres_tls",
    ));
    // No package has a CockroachDB, so that it is not here is not reported as a skip.
    urls.extend(std::env::var("MICRO_TEST_COCKROACH_URL"));
    let mut code = ExitCode::SUCCESS;
    for url in urls {
        let ran = run(&url);
        if ran != ExitCode::SUCCESS {
            code = ran;
        }
    }
    code
}

fn run(url: &str) -> ExitCode {
    let made = Arc::new(Mutex::new(Vec::new()));
    let (server, names) = (url.to_owned(), Arc::clone(&made));
    let code = micro_conformance::store::run(async move |place: Place| {
        let name = format!("micro_test_{}", place.id().replace('-', "_"));
        let schema = Schema::named(&server, &name).await;
        names.lock().unwrap().push(name);
        // Many cases run at a time, and the server has a hundred connections.
        let url = with(&schema.url, "connections=4");
        Drivers::new()
            .with(CockroachDriver)
            .open(&url, place.env())
            .await
    });
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let mut names = std::mem::take(&mut *made.lock().unwrap());
        names.sort();
        names.dedup();
        for name in names {
            Schema::named(url, &name).await.remove().await;
        }
    });
    code
}
