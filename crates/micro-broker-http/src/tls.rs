//! TLS at the port where messages arrive.

use std::sync::{Arc, Mutex, PoisonError};

use micro_broker_core::Result;
use micro_core::Live;
use micro_tls::rustls::ServerConfig;
use micro_transport_core::TlsIdentity;
use tokio_rustls::TlsAcceptor;

/// Accepts TLS with whatever the identity is by then.
pub(crate) struct Acceptor {
    identity: Live<TlsIdentity>,
    /// An identity and the configuration that was made of it.
    made: Mutex<(Arc<TlsIdentity>, Arc<ServerConfig>)>,
}

impl Acceptor {
    /// # Errors
    ///
    /// `InvalidArgument` for an identity that no listener can have.
    pub(crate) fn new(identity: Live<TlsIdentity>) -> Result<Self> {
        let now = identity.get_arc();
        let made = micro_tls::server_config(&now);
        let config = made.map_err(|err| err.with_operation("broker.listen"))?;
        Ok(Self {
            identity,
            made: Mutex::new((now, config)),
        })
    }

    /// What accepts the next connection. A new identity that cannot be used leaves the last good one in
    /// place: a listener does not stop because of a broken file.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.identity.get_arc();
        if !Arc::ptr_eq(&made.0, &now) {
            match micro_tls::server_config(&now) {
                Ok(config) => made.1 = config,
                Err(error) => {
                    tracing::error!(%error, "the new certificate cannot be used; the last one stays");
                }
            }
            made.0 = now;
        }
        TlsAcceptor::from(Arc::clone(&made.1))
    }
}
