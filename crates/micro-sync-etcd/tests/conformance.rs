//! Runs the suite of the interface against real etcds: `MICRO_TEST_ETCD_URL` and
//! `MICRO_TEST_ETCD_TLS_URL` (with certificates on both sides and a password) say where.

mod common;

use std::process::ExitCode;

use micro_conformance::sync::{Place, Subject, Thief};
use micro_etcd::{Client, Keys, RangeOptions};
use micro_sync_core::{Drivers, Result, async_trait};
use micro_sync_etcd::EtcdDriver;

/// Deletes the key of whoever holds the lock, as an operator would.
struct Deleter {
    client: Client,
    prefix: String,
}

#[async_trait]
impl Thief for Deleter {
    async fn take(&self, name: &str) -> Result<()> {
        let keys = Keys::prefix(format!("{}{name}/", self.prefix));
        let found = self.client.range(keys, &RangeOptions::default()).await?;
        let held = found.entries.iter().min_by_key(|key| key.create_revision);
        let held = held.unwrap_or_else(|| panic!("nobody holds {name}"));
        self.client.delete(Keys::one(held.key.clone())).await?;
        Ok(())
    }
}

fn main() -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for (variable, server) in [
        ("MICRO_TEST_ETCD_URL", "etcd"),
        ("MICRO_TEST_ETCD_TLS_URL", "etcd_tls"),
    ] {
        let Some(url) = common::server("etcd sync conformance", variable, server) else {
            continue;
        };
        let ran = micro_conformance::sync::run(async move |place: Place| {
            // One place is one prefix. The user of the server with TLS may touch "/micro/" alone.
            let prefix = format!("/micro/{}/sync/", place.id());
            let deleter = Deleter {
                client: common::client(&url),
                prefix: prefix.clone(),
            };
            let url = common::with_option(&url, "prefix", &prefix);
            let drivers = Drivers::new().with(EtcdDriver::default());
            let coordinator = drivers.open(&url, place.env()).await?;
            Ok(Subject::new(coordinator).with_thief(deleter))
        });
        if ran != ExitCode::SUCCESS {
            code = ran;
        }
    }
    code
}
