//! Certificates, read again for every connection.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use micro_core::{Error, Result};
use micro_tls::Pem;
use micro_tls::rustls::ClientConfig;
use micro_tls::rustls::pki_types::ServerName;

use crate::client::lock;
use crate::config::{EtcdConfig, host, invalid};

/// What makes a configuration for rustls.
#[derive(Debug)]
pub(crate) struct Tls {
    pem: Pem,
    platform: bool,
    server_name: Option<String>,
    /// By the name that is expected: the last good one of each.
    made: Mutex<Vec<(String, Arc<ClientConfig>)>>,
}

impl Tls {
    /// Nothing if the configuration asks for none. Reads all files once, to say at once what is
    /// wrong with them.
    pub(crate) fn new(config: &EtcdConfig) -> Result<Option<Self>> {
        if !config.wants_tls() {
            return Ok(None);
        }
        let mut pem = Pem::new();
        if let Some(ca) = &config.ca {
            pem = pem.with_roots(ca);
        }
        if let (Some(cert), Some(key)) = (&config.cert, &config.key) {
            pem = pem.with_certificate(cert, key.expose());
        }
        let tls = Self {
            pem,
            platform: config.ca.is_none(),
            server_name: config.server_name.clone(),
            made: Mutex::default(),
        };
        for endpoint in &config.endpoints {
            let expect = tls.expect(endpoint);
            let made = make(&tls.pem, tls.platform, &expect).map_err(|err| {
                invalid("the certificates for etcd cannot be used; check ca, cert and key")
                    .with_context("why", &err)
                    .with_source(err)
            })?;
            tls.keep(expect, made);
        }
        Ok(Some(tls))
    }

    fn expect(&self, endpoint: &str) -> String {
        let expect = self.server_name.as_deref();
        expect.unwrap_or_else(|| host(endpoint)).to_owned()
    }

    fn keep(&self, expect: String, config: Arc<ClientConfig>) {
        let mut made = lock(&self.made);
        made.retain(|(known, _)| *known != expect);
        made.push((expect, config));
    }

    /// The configuration of a connection, with what the files hold by now. Files that cannot be
    /// used, as while they are being replaced, leave the last good configuration in place.
    pub(crate) async fn for_endpoint(
        &self,
        endpoint: &str,
    ) -> Result<(Arc<ClientConfig>, ServerName<'static>)> {
        let expect = self.expect(endpoint);
        let (pem, platform, name) = (self.pem.clone(), self.platform, expect.clone());
        let made = tokio::task::spawn_blocking(move || make(&pem, platform, &name)).await;
        let made = made
            .map_err(|err| Error::internal("reading certificates failed").with_source(err))
            .and_then(|made| made);
        let server = micro_tls::server_name(&expect)?;
        match made {
            Ok(made) => {
                self.keep(expect, Arc::clone(&made));
                Ok((made, server))
            }
            Err(err) => {
                tracing::warn!(%err, "the certificates for etcd cannot be read; the last ones stay");
                let made = lock(&self.made);
                let last = made.iter().find(|(known, _)| *known == expect);
                last.map(|(_, config)| (Arc::clone(config), server))
                    .ok_or(err)
            }
        }
    }
}

fn make(pem: &Pem, platform: bool, expect: &str) -> Result<Arc<ClientConfig>> {
    let mut identity = pem.read()?;
    if platform {
        let found = rustls_native_certs::load_native_certs();
        let roots = found.certs.iter();
        identity = identity.with_roots(roots.map(|der| Bytes::copy_from_slice(der)).collect());
    }
    let mut config = micro_tls::client_config(&identity, expect)?;
    Arc::make_mut(&mut config).alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}
