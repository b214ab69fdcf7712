//! The broker suite over this backend: one registry in memory per place.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use micro_broker_core::Drivers;
use micro_broker_http::HttpDriver;
use micro_conformance::broker::Place;
use micro_registry_core::Registry;
use micro_registry_memory::MemoryDriver;

static DRIVERS: Mutex<BTreeMap<String, MemoryDriver>> = Mutex::new(BTreeMap::new());

fn main() -> ExitCode {
    micro_conformance::broker::run(async |place: Place| {
        let driver = DRIVERS
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(place.id().to_owned())
            .or_default()
            .clone();
        let registry: Arc<dyn Registry> = micro_registry_core::Drivers::new()
            .with(driver)
            .open("memory", place.env())
            .await?;
        let env = place.env().clone().with(registry);
        Drivers::new().with(HttpDriver).open("http", &env).await
    })
}
