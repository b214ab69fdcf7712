//! Runs the suite of the interface against a real Consul: `MICRO_TEST_CONSUL_URL` says where.
//!
//! `cargo xtask services up consul` starts one.

mod common;

use std::process::ExitCode;

use micro_conformance::sync::{Place, Subject};

fn main() -> ExitCode {
    let Ok(url) = std::env::var("MICRO_TEST_CONSUL_URL") else {
        common::skip(
            "consul sync conformance",
            "MICRO_TEST_CONSUL_URL is not set",
        );
        return ExitCode::SUCCESS;
    };
    micro_conformance::sync::run(async move |place: Place| {
        // One place is one prefix.
        let prefix = format!("micro/{}/sync/", place.id());
        let client = common::client(&url);
        let coordinator = common::open(&format!("{url}?prefix={prefix}"), place.env()).await;
        Ok(Subject::new(coordinator).with_thief(common::Deleter { client, prefix }))
    })
}
