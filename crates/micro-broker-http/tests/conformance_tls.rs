//! The broker suite with TLS on, where publishers show certificates too.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use micro_broker_core::Broker;
use micro_broker_http::{HttpBroker, HttpBrokerConfig};
use micro_conformance::broker::Place;
use micro_registry_core::Registry;
use micro_registry_memory::MemoryDriver;
use micro_tls::dev::Authority;

static DRIVERS: Mutex<BTreeMap<String, MemoryDriver>> = Mutex::new(BTreeMap::new());

fn main() -> ExitCode {
    let authority = Authority::new("broker suite").expect("it can be made");
    let identity = authority.issue(&["127.0.0.1"]).expect("it can be made");
    let config = HttpBrokerConfig::default().with_tls(identity.with_require_client(true));
    micro_conformance::broker::run(async move |place: Place| {
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
        let broker: Arc<dyn Broker> = Arc::new(HttpBroker::open(config.clone(), &env)?);
        Ok(broker)
    })
}
