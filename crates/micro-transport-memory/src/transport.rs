//! The network: who listens where.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use micro_transport_core::{
    Connection, DialOptions, Error, ListenOptions, Listener, Peer, Result, Transport, async_trait,
};

use crate::SCHEME;
use crate::connection::MemoryConnection;
use crate::listener::MemoryListener;
use crate::port::{Port, Stage};

/// A network within this process. Clones share it; two of them never meet.
#[derive(Clone, Debug, Default)]
pub struct MemoryTransport(Arc<Network>);

#[derive(Debug, Default)]
pub(crate) struct Network {
    ports: Mutex<HashMap<String, Arc<Port>>>,
    next_port: AtomicU64,
    next_peer: AtomicU64,
}

impl MemoryTransport {
    /// A network on which nobody listens yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Network {
    fn ports(&self) -> MutexGuard<'_, HashMap<String, Arc<Port>>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an address; `wanted` may leave the choice to us.
    fn bind(&self, wanted: &str, options: &ListenOptions) -> Result<Arc<Port>> {
        let mut ports = self.ports();
        let address = match Wanted::parse(wanted)? {
            Wanted::Fresh { host } => (0..u64::from(u16::MAX))
                .map(|_| {
                    let next = self.next_port.fetch_add(1, Ordering::Relaxed);
                    format!("{host}:{}", next % u64::from(u16::MAX) + 1)
                })
                .find(|address| !ports.contains_key(address)),
            Wanted::Range { host, from, to } => (from..=to)
                .map(|port| format!("{host}:{port}"))
                .find(|address| !ports.contains_key(address)),
            Wanted::Exactly => Some(wanted.to_owned()).filter(|name| !ports.contains_key(name)),
        };
        let Some(address) = address else {
            return Err(
                Error::already_exists("this address is taken; ':0' takes a free one")
                    .with_operation("transport.listen")
                    .with_context("address", wanted),
            );
        };
        let port = Arc::new(Port::new(address.clone(), options.clone()));
        ports.insert(address, Arc::clone(&port));
        Ok(port)
    }

    /// Gives the address back, unless somebody else has it by now.
    pub(crate) fn unbind(&self, port: &Arc<Port>) {
        let mut ports = self.ports();
        if ports
            .get(&port.address)
            .is_some_and(|known| Arc::ptr_eq(known, port))
        {
            ports.remove(&port.address);
        }
    }
}

/// What an address to listen on asks for.
enum Wanted<'a> {
    Fresh { host: &'a str },
    Range { host: &'a str, from: u16, to: u16 },
    Exactly,
}

impl<'a> Wanted<'a> {
    fn parse(address: &'a str) -> Result<Self> {
        if address.is_empty() {
            return Ok(Self::Fresh { host: SCHEME });
        }
        check_address(address, "transport.listen")?;
        let Some((host, port)) = address.rsplit_once(':') else {
            return Ok(Self::Exactly);
        };
        let host = if host.is_empty() { SCHEME } else { host };
        if port == "0" {
            return Ok(Self::Fresh { host });
        }
        // Something else with a hyphen is a name like any other.
        let range = port
            .split_once('-')
            .and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
        match range {
            Some((from, to)) if from > to || from == 0 => Err(Error::invalid_argument(
                "a port range is written 'host:8000-8010'",
            )
            .with_operation("transport.listen")
            .with_context("address", address)),
            Some((from, to)) => Ok(Self::Range { host, from, to }),
            None => Ok(Self::Exactly),
        }
    }
}

fn check_address(address: &str, operation: &'static str) -> Result<()> {
    if address.is_empty() || address.chars().any(char::is_control) {
        return Err(Error::invalid_argument(
            "an address in memory is any text without control characters",
        )
        .with_operation(operation)
        .with_context("address", address.escape_debug()));
    }
    Ok(())
}

fn no_tls(operation: &'static str) -> Error {
    Error::unimplemented(
        "the memory transport has no TLS: calls never leave the process; leave the TLS options away",
    )
    .with_operation(operation)
}

#[async_trait]
impl Transport for MemoryTransport {
    fn backend(&self) -> &'static str {
        SCHEME
    }

    async fn dial(&self, address: &str, opts: DialOptions) -> Result<Arc<dyn Connection>> {
        check_address(address, "transport.dial")?;
        if opts.tls.is_some() {
            return Err(no_tls("transport.dial"));
        }
        let refused = |why: &'static str| {
            Error::unavailable(why)
                .with_unprocessed(true)
                .with_operation("transport.dial")
                .with_context("address", address)
        };
        let found = self.0.ports().get(address).cloned();
        let port = found.ok_or_else(|| refused("nobody listens on this address"))?;
        if port.stage() == Stage::Bound {
            let serving = tokio::time::timeout(opts.timeout, port.reached(Stage::Serving));
            serving.await.map_err(|_| {
                Error::deadline_exceeded("the listener does not serve yet")
                    .with_unprocessed(true)
                    .with_operation("transport.dial")
                    .with_context("address", address)
            })?;
        }
        if port.stage() != Stage::Serving {
            return Err(refused("the listener stops"));
        }
        let number = self.0.next_peer.fetch_add(1, Ordering::Relaxed) + 1;
        let peer = Peer::in_process(format!("{SCHEME}:client-{number}"));
        match MemoryConnection::open(port, opts.limits, peer) {
            Some(connection) => Ok(Arc::new(connection)),
            None => Err(refused("the listener has all the connections it may have")),
        }
    }

    async fn listen(&self, address: &str, opts: ListenOptions) -> Result<Box<dyn Listener>> {
        if opts.tls.is_some() {
            return Err(no_tls("transport.listen"));
        }
        let port = self.0.bind(address, &opts)?;
        Ok(Box::new(MemoryListener::new(port, Arc::clone(&self.0))))
    }
}

#[cfg(test)]
mod tests {
    use micro_transport_core::{ErrorKind, TlsIdentity};

    use super::*;

    async fn listen(network: &MemoryTransport, address: &str) -> Result<Box<dyn Listener>> {
        network.listen(address, ListenOptions::default()).await
    }

    #[tokio::test]
    async fn addresses_are_chosen_as_asked_for_and_given_back() {
        let network = MemoryTransport::new();
        let first = listen(&network, "").await.unwrap();
        assert_eq!(first.address(), "memory:1");
        let second = listen(&network, "127.0.0.1:0").await.unwrap();
        assert!(second.address().starts_with("127.0.0.1:"));
        assert_ne!(second.address(), "127.0.0.1:0");
        let low = listen(&network, "h:8000-8001").await.unwrap();
        let high = listen(&network, "h:8000-8001").await.unwrap();
        assert_eq!(
            (low.address(), high.address()),
            ("h:8000".into(), "h:8001".into())
        );
        let err = listen(&network, "h:8000-8001").await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::AlreadyExists);
        drop(low);
        assert_eq!(
            listen(&network, "h:8000-8001").await.unwrap().address(),
            "h:8000"
        );
        for wrong in ["h:9-8", "h:0-8", "a\nb"] {
            let err = listen(&network, wrong).await.unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{wrong:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_dialer_waits_for_serve_but_not_for_ever() {
        let network = MemoryTransport::new();
        let listener = listen(&network, "slow").await.unwrap();
        let err = network
            .dial("slow", DialOptions::default())
            .await
            .unwrap_err();
        assert_eq!(err.kind(), ErrorKind::DeadlineExceeded);
        let dialing = {
            let network = network.clone();
            tokio::spawn(async move { network.dial("slow", DialOptions::default()).await })
        };
        tokio::task::yield_now().await;
        drop(listener);
        let err = dialing.await.unwrap().unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unavailable);
        assert!(err.is_unprocessed());
    }

    #[tokio::test]
    async fn tls_is_refused_and_not_ignored() {
        let network = MemoryTransport::new();
        let opts = ListenOptions::default().with_tls(TlsIdentity::new());
        let err = network.listen("x", opts).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unimplemented);
        let opts = DialOptions::default().with_tls(TlsIdentity::new());
        let err = network.dial("x", opts).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unimplemented);
    }
}
