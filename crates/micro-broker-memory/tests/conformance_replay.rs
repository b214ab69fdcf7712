//! The broker suite over this backend with retained messages, so that replay is a part of it.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use micro_broker_core::Drivers;
use micro_broker_memory::MemoryDriver;
use micro_conformance::broker::Place;

static DRIVERS: Mutex<BTreeMap<String, MemoryDriver>> = Mutex::new(BTreeMap::new());

fn main() -> ExitCode {
    micro_conformance::broker::run(async |place: Place| {
        let driver = DRIVERS
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(place.id().to_owned())
            .or_default()
            .clone();
        Drivers::new()
            .with(driver)
            .open("memory:?retain=1000", place.env())
            .await
    })
}
