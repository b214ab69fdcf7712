//! The registry suite over the wire: one program registers, another one looks.
//!
//! The suite of `conformance.rs` finds its own nodes, which need no packet.

use std::net::UdpSocket;
use std::process::ExitCode;
use std::sync::Arc;

use micro_registry_core::{
    Capabilities, DeregisterOptions, Env, EventStream, GetOptions, ListOptions, RegisterOptions,
    Registry, Result, Service, WatchOptions, async_trait,
};
use micro_registry_mdns::{MdnsConfig, MdnsRegistry};

fn main() -> ExitCode {
    micro_conformance::registry::run(async || {
        let port = UdpSocket::bind(("0.0.0.0", 0))?.local_addr()?.port();
        let config = MdnsConfig::default().with_interface("lo").with_port(port);
        Ok(Arc::new(Pair {
            speaker: MdnsRegistry::open(config.clone(), &Env::new())?,
            listener: MdnsRegistry::open(config, &Env::new())?,
        }) as _)
    })
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
