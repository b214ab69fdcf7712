//! The thread that speaks multicast DNS, and how it is spoken to.

use std::net::IpAddr;
use std::time::Duration;

use mdns_sd::{IfKind, Receiver, ServiceDaemon, ServiceEvent, ServiceInfo, UnregisterStatus};
use micro_registry_core::{Error, Result};

use crate::MdnsConfig;

/// The daemon takes 100 commands at once; then it has to get some done first.
const FULL: Duration = Duration::from_millis(5);
/// How long the end of a program waits for the last goodbye to be sent.
const LAST_GOODBYE: Duration = Duration::from_millis(500);

/// A handle of the thread. It ends with [`stop`](Self::stop), not by itself.
#[derive(Clone)]
pub(crate) struct Daemon(ServiceDaemon);

impl Daemon {
    pub(crate) fn start(config: &MdnsConfig) -> Result<Self> {
        let daemon = ServiceDaemon::new_with_port(config.port).map_err(failed)?;
        if !config.interfaces.is_empty() {
            let interfaces: Vec<IfKind> = config
                .interfaces
                .iter()
                .map(|interface| match interface.parse::<IpAddr>() {
                    Ok(address) => IfKind::Addr(address),
                    Err(_) => IfKind::Name(interface.clone()),
                })
                .collect();
            daemon.disable_interface(IfKind::All).map_err(failed)?;
            daemon.enable_interface(interfaces).map_err(failed)?;
        }
        Ok(Self(daemon))
    }

    pub(crate) async fn register(&self, info: &ServiceInfo) -> Result<()> {
        patiently(|| self.0.register(info.clone())).await
    }

    /// Takes a node back; the goodbye is sent when the answer arrives.
    pub(crate) async fn unregister(&self, fullname: &str) -> Result<Receiver<UnregisterStatus>> {
        patiently(|| self.0.unregister(fullname)).await
    }

    /// Asks an instance whether it is still there; it is removed unless it answers in time.
    pub(crate) async fn verify(&self, fullname: &str, timeout: Duration) -> Result<()> {
        patiently(|| self.0.verify(fullname.to_owned(), timeout)).await
    }

    /// Listens for instances of a type, after telling what is known of them already.
    ///
    /// A second call takes the place of the first.
    pub(crate) async fn browse(&self, ty: &str) -> Result<Receiver<ServiceEvent>> {
        patiently(|| self.0.browse(ty)).await
    }

    /// Says goodbye for all nodes and ends the thread; waits for it, but not for long.
    pub(crate) fn stop(&self) {
        for _ in 0..100 {
            match self.0.shutdown() {
                Ok(done) => {
                    let _ = done.recv_timeout(LAST_GOODBYE);
                    return;
                }
                // This is a destructor: there is no runtime to wait with.
                Err(mdns_sd::Error::Again) => std::thread::park_timeout(FULL),
                Err(_) => return,
            }
        }
    }
}

/// Gives a command to the daemon, which may have to do others first.
async fn patiently<T>(mut command: impl FnMut() -> mdns_sd::Result<T>) -> Result<T> {
    loop {
        match command() {
            Err(mdns_sd::Error::Again) => tokio::time::sleep(FULL).await,
            result => return result.map_err(failed),
        }
    }
}

fn failed(err: mdns_sd::Error) -> Error {
    Error::unavailable("multicast DNS does not work on this machine; is its network up?")
        .with_operation("registry.mdns")
        .with_context("why", &err)
        .with_source(err)
}
