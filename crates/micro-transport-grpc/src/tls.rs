//! TLS on either side.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use micro_core::{Error, ErrorKind, Live, Result};
use micro_tls::rustls;
use micro_transport_core::TlsIdentity;
use rustls::{AlertDescription, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

const H2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// An identity and the configuration that was made of it.
type Made = (Arc<TlsIdentity>, Arc<ServerConfig>);

/// Accepts TLS with whatever the identity is by then.
#[derive(Clone)]
pub(crate) struct Acceptor {
    identity: Live<TlsIdentity>,
    made: Arc<Mutex<Made>>,
    http1: bool,
}

impl Acceptor {
    pub(crate) fn new(identity: Live<TlsIdentity>, http1: bool) -> Result<Self> {
        let now = identity.get_arc();
        let config = make(&now, http1).map_err(|err| err.with_operation("transport.listen"))?;
        Ok(Self {
            identity,
            made: Arc::new(Mutex::new((now, config))),
            http1,
        })
    }

    /// The configuration, made anew if the identity was replaced. One that cannot be used leaves
    /// the last good one in place: a listener does not stop because of a broken file.
    fn config(&self) -> Arc<ServerConfig> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.identity.get_arc();
        if !Arc::ptr_eq(&made.0, &now) {
            match make(&now, self.http1) {
                Ok(config) => made.1 = config,
                Err(err) => {
                    tracing::error!(%err, "the new certificate cannot be used; the last one stays");
                }
            }
            made.0 = now;
        }
        Arc::clone(&made.1)
    }

    pub(crate) async fn accept(
        &self,
        tcp: TcpStream,
    ) -> Result<(tokio_rustls::server::TlsStream<TcpStream>, Arc<[Bytes]>)> {
        let stream = TlsAcceptor::from(self.config())
            .accept(tcp)
            .await
            .map_err(|err| explain(err, "the TLS handshake failed"))?;
        let certificates = stream
            .get_ref()
            .1
            .peer_certificates()
            .unwrap_or_default()
            .iter()
            .map(|certificate| Bytes::copy_from_slice(certificate))
            .collect();
        Ok((stream, certificates))
    }
}

fn make(identity: &TlsIdentity, http1: bool) -> Result<Arc<ServerConfig>> {
    let mut config = micro_tls::server_config(identity)?;
    let alpn = &mut Arc::make_mut(&mut config).alpn_protocols;
    alpn.push(H2.to_vec());
    if http1 {
        alpn.push(HTTP1.to_vec());
    }
    Ok(config)
}

/// TLS to a node that must be `expect`.
pub(crate) async fn connect(
    tcp: TcpStream,
    identity: &TlsIdentity,
    expect: &str,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut config = micro_tls::client_config(identity, expect)?;
    Arc::make_mut(&mut config).alpn_protocols = vec![H2.to_vec()];
    let name = micro_tls::server_name(expect)?;
    let stream = TlsConnector::from(config)
        .connect(name, tcp)
        .await
        .map_err(|err| explain(err, "the TLS handshake failed").with_unprocessed(true))?;
    if stream.get_ref().1.alpn_protocol() != Some(H2) {
        return Err(Error::unavailable(
            "the peer speaks TLS, but no HTTP/2: is this the right port?",
        )
        .with_unprocessed(true));
    }
    Ok(stream)
}

/// What a failed handshake means, and what to do about it.
pub(crate) fn explain(err: io::Error, otherwise: &'static str) -> Error {
    let (kind, message) = classify(&err).unwrap_or((ErrorKind::Unavailable, otherwise));
    Error::new(kind, message)
        .with_context("why", &err)
        .with_source(err)
}

/// What a failure of TLS means; `None` if it is not TLS that failed.
pub(crate) fn classify(err: &io::Error) -> Option<(ErrorKind, &'static str)> {
    use AlertDescription as Alert;
    Some(match err.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(_) => (
            ErrorKind::Unauthenticated,
            "the peer is not who it should be: its certificate was refused",
        ),
        rustls::Error::NoCertificatesPresented => (
            ErrorKind::Unauthenticated,
            "the peer shows no certificate, and this listener demands one",
        ),
        rustls::Error::AlertReceived(
            Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::UnknownCA
            | Alert::CertificateUnknown
            | Alert::CertificateExpired
            | Alert::CertificateRevoked
            | Alert::UnsupportedCertificate
            | Alert::AccessDenied
            | Alert::DecryptError
            | Alert::HandshakeFailure,
        ) => (
            ErrorKind::Unauthenticated,
            "the peer refused our certificate, or demands one: give TlsIdentity a chain it trusts",
        ),
        rustls::Error::InvalidMessage(_) => (
            ErrorKind::Unavailable,
            "the peer does not speak TLS: dial it without, or give its listener an identity",
        ),
        _ => (
            ErrorKind::Unavailable,
            "the peer and we have no TLS in common",
        ),
    })
}
