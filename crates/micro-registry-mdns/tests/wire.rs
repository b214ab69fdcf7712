//! The registry suite over the wire: one program registers, another one looks.
//!
//! The suite of `conformance.rs` finds its own nodes, which need no packet.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use micro_conformance::registry::Place;
use micro_registry_core::{
    Capabilities, DeregisterOptions, EventStream, GetOptions, ListOptions, RegisterOptions,
    Registry, Result, Service, WatchOptions, async_trait,
};
use micro_registry_mdns::{MdnsConfig, MdnsRegistry};

fn main() -> ExitCode {
    micro_conformance::registry::run(async |place: Place| {
        let config = MdnsConfig::default()
            .with_interface("lo")
            .with_port(port_of(&place)?);
        Ok(Arc::new(Pair {
            speaker: MdnsRegistry::open(config.clone(), place.env())?,
            listener: MdnsRegistry::open(config, place.env())?,
        }) as _)
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

/// Two programs that share nothing but the network.
#[derive(Debug)]
struct Pair {
    speaker: MdnsRegistry,
    listener: MdnsRegistry,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Registry for Pair {
    fn backend(&self) -> &'static str {
        self.listener.backend()
    }

    fn capabilities(&self) -> Capabilities {
        self.listener.capabilities()
    }

    async fn register(&self, service: &Service, opts: RegisterOptions) -> Result<()> {
        self.speaker.register(service, opts).await
    }

    async fn deregister(&self, service: &Service, opts: DeregisterOptions) -> Result<()> {
        self.speaker.deregister(service, opts).await
    }

    async fn get_service(&self, name: &str, opts: GetOptions) -> Result<Vec<Service>> {
        self.listener.get_service(name, opts).await
    }

    async fn list_services(&self, opts: ListOptions) -> Result<Vec<Service>> {
        self.listener.list_services(opts).await
    }

    async fn watch(&self, opts: WatchOptions) -> Result<EventStream> {
        self.listener.watch(opts).await
    }
}
