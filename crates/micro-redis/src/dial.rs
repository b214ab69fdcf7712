//! From a config to a connection that has said who it is.

use std::sync::Arc;

use bytes::Bytes;
use micro_core::{Error, ErrorKind, Result};
use micro_tls::Pem;
use micro_tls::rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use redis::RedisConnectionInfo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::RedisConfig;
use crate::error::Problem;

/// A socket, with TLS or without.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Connects, without a word to Redis yet. The caller gives it a time.
pub(crate) async fn dial(config: &RedisConfig) -> Result<Box<dyn Io>, Problem> {
    let unreachable =
        |err: std::io::Error| Problem::new(ErrorKind::Unavailable, "Redis cannot be reached", &err);
    if !config.wants_tls() {
        let socket = TcpStream::connect(&*config.endpoint).await;
        let socket = socket.map_err(unreachable)?;
        socket.set_nodelay(true).map_err(unreachable)?;
        return Ok(Box::new(socket));
    }
    let refused =
        |err: Error| Problem::new(err.kind(), "the settings for Redis cannot be used", &err);
    // Read anew for each connection, so that what is rotated is used by the next one.
    let (tls, name) = tls(config).await.map_err(refused)?;
    let socket = TcpStream::connect(&*config.endpoint).await;
    let socket = socket.map_err(unreachable)?;
    socket.set_nodelay(true).map_err(unreachable)?;
    let connected = TlsConnector::from(tls).connect(name, socket).await;
    let stream = connected.map_err(|err| {
        Problem::new(
            ErrorKind::Unavailable,
            "TLS with Redis fails; check ca, cert and key, and the name of the server",
            &err,
        )
    })?;
    Ok(Box::new(stream))
}

/// Who we are, as the client library wants it.
pub(crate) fn login(config: &RedisConfig) -> RedisConnectionInfo {
    let mut login = RedisConnectionInfo::default()
        .set_db(i64::from(config.database))
        .set_skip_set_lib_name();
    if let Some(username) = &config.username {
        login = login.set_username(username);
    }
    if let Some(password) = &config.password {
        login = login.set_password(password.expose());
    }
    login
}

/// The name that the server's certificate must have.
fn host(endpoint: &str) -> &str {
    let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

async fn tls(config: &RedisConfig) -> Result<(Arc<ClientConfig>, ServerName<'static>)> {
    let mut pem = Pem::new();
    if let Some(ca) = &config.ca {
        pem = pem.with_roots(ca);
    }
    if let (Some(cert), Some(key)) = (&config.cert, &config.key) {
        pem = pem.with_certificate(cert, key.expose());
    }
    let platform = config.ca.is_none();
    let host = host(&config.endpoint).to_owned();
    let name = micro_tls::server_name(&host)?;
    let made = tokio::task::spawn_blocking(move || {
        let mut identity = pem.read()?;
        if platform {
            let found = rustls_native_certs::load_native_certs();
            // Platforms keep some old ones that nothing can be verified by.
            let usable = found
                .certs
                .iter()
                .filter(|der| RootCertStore::empty().add((*der).clone()).is_ok());
            let roots = usable.map(|der| Bytes::copy_from_slice(der)).collect();
            identity = identity.with_roots(roots);
        }
        micro_tls::client_config(&identity, &host)
    });
    let made = made
        .await
        .map_err(|err| Error::internal("reading certificates failed").with_source(err))??;
    Ok((made, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_an_endpoint_is_without_brackets() {
        for (endpoint, expected) in [
            ("a:1", "a"),
            ("[::1]:6379", "::1"),
            ("10.0.0.1:2", "10.0.0.1"),
        ] {
            assert_eq!(host(endpoint), expected);
        }
    }
}
