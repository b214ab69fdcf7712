//! The registry suite over this backend: on the loopback interface, each case on a port of its own.

use std::net::UdpSocket;
use std::process::ExitCode;
use std::sync::Arc;

use micro_registry_core::{Env, Result};
use micro_registry_mdns::{MdnsConfig, MdnsRegistry};

fn main() -> ExitCode {
    micro_conformance::registry::run(async || {
        let config = MdnsConfig::default()
            .with_interface("lo")
            .with_port(free_port()?);
        Ok(Arc::new(MdnsRegistry::open(config, &Env::new())?) as _)
    })
}

fn free_port() -> Result<u16> {
    Ok(UdpSocket::bind(("0.0.0.0", 0))?.local_addr()?.port())
}
