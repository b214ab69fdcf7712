//! The registry suite over this backend: on the loopback interface, each place on a port of its own.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use micro_conformance::registry::Place;
use micro_registry_core::Result;
use micro_registry_mdns::{MdnsConfig, MdnsRegistry};

fn main() -> ExitCode {
    micro_conformance::registry::run(async |place: Place| {
        let config = MdnsConfig::default()
            .with_interface("lo")
            .with_port(port_of(&place)?);
        Ok(Arc::new(MdnsRegistry::open(config, place.env())?) as _)
    })
}

/// Whoever is on another port is not heard: a port is a directory.
fn port_of(place: &Place) -> Result<u16> {
    static PORTS: Mutex<BTreeMap<String, u16>> = Mutex::new(BTreeMap::new());
    let mut ports = PORTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(port) = ports.get(place.id()) {
        return Ok(*port);
    }
    loop {
        let port = UdpSocket::bind(("0.0.0.0", 0))?.local_addr()?.port();
        // It is free until somebody opens it, and may be offered twice.
        if ports.values().all(|other| *other != port) {
            ports.insert(place.id().to_owned(), port);
            return Ok(port);
        }
    }
}
