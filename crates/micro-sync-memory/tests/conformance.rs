//! The suite of the interface over this backend: one driver per place, so that what is opened at one
//! place meets.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use micro_conformance::sync::{Place, Subject, Thief};
use micro_sync_core::{Coordinator as _, Drivers, Result, async_trait};
use micro_sync_memory::{MemoryCoordinator, MemoryDriver};

static DRIVERS: Mutex<BTreeMap<String, MemoryDriver>> = Mutex::new(BTreeMap::new());

struct Taker(MemoryCoordinator);

#[async_trait]
impl Thief for Taker {
    async fn take(&self, name: &str) -> Result<()> {
        assert!(self.0.take_away(name), "nobody holds {name}");
        Ok(())
    }
}

fn main() -> ExitCode {
    micro_conformance::sync::run(async |place: Place| {
        let driver = DRIVERS
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(place.id().to_owned())
            .or_default()
            .clone();
        let taker = Taker(driver.coordinator(place.env()));
        let drivers = Drivers::new().with(driver);
        let coordinator: Arc<dyn micro_sync_core::Coordinator> =
            drivers.open("memory", place.env()).await?;
        assert_eq!(coordinator.backend(), "memory");
        Ok(Subject::new(coordinator).with_thief(taker))
    })
}
