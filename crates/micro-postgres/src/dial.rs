//! From a config to a connection that may be used.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use micro_core::{Error, Result};
use micro_tls::Pem;
use micro_tls::rustls::{ClientConfig, RootCertStore};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, Connection, NoTls};
use tokio_rustls::TlsConnector;

use crate::error::{Failure, Fate, refused};
use crate::frame::Bounded;
use crate::{PostgresConfig, Server};

/// An idle connection is asked after so long, so often, and so many times, whether anybody is there.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(30), Duration::from_secs(10), 3);

/// "May we speak TLS?" (PostgreSQL's protocol 3.0, `SSLRequest`.)
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// A socket, with TLS or without.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

type Socket = Bounded<Box<dyn Io>>;

/// A connection, and what has to run for it.
pub(crate) struct Dialed {
    pub(crate) client: Client,
    pub(crate) connection: Connection<Socket, tokio_postgres::tls::NoTlsStream>,
    pub(crate) server: Server,
}

/// Connects to an endpoint, and says who we are. The caller gives it a time.
pub(crate) async fn dial(config: &PostgresConfig, endpoint: &str) -> Result<Dialed, Failure> {
    // Read anew for each connection, so that what is rotated is used by the next one.
    let tls = match config.wants_tls() {
        true => Some(tls(config).await.map_err(Failure::failed)?),
        false => None,
    };
    let unreachable = |err: std::io::Error| {
        let error = Error::unavailable("the database cannot be reached").with_source(err);
        Failure::new(Fate::Again, error)
    };
    let socket = TcpStream::connect(endpoint).await.map_err(unreachable)?;
    socket.set_nodelay(true).map_err(unreachable)?;
    let (idle, interval, retries) = KEEPALIVE;
    let keepalive = TcpKeepalive::new().with_time(idle).with_interval(interval);
    SockRef::from(&socket)
        .set_tcp_keepalive(&keepalive.with_retries(retries))
        .map_err(unreachable)?;
    let socket: Box<dyn Io> = match tls {
        Some(tls) => Box::new(encrypt(socket, tls, host(endpoint)).await?),
        None => Box::new(socket),
    };
    let (client, connection) = login(config)
        .connect_raw(Bounded::new(socket), NoTls)
        .await
        .map_err(refused)?;
    let server = match connection.parameter("crdb_version") {
        Some(_) => Server::Cockroach,
        None => Server::Postgres,
    };
    Ok(Dialed {
        client,
        connection,
        server,
    })
}

async fn encrypt(
    mut socket: TcpStream,
    tls: Arc<ClientConfig>,
    host: &str,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Failure> {
    let failed = |err: std::io::Error| {
        let error = Error::unavailable(
            "TLS with the database fails; check ca, cert and key, and the name of the server",
        );
        Failure::new(Fate::Again, error.with_source(err))
    };
    let name = micro_tls::server_name(host).map_err(Failure::failed)?;
    let mut answer = [0];
    socket.write_all(&SSL_REQUEST).await.map_err(failed)?;
    // One byte and no more: what stands behind it unencrypted is not from the server.
    socket.read_exact(&mut answer).await.map_err(failed)?;
    if answer != *b"S" {
        let error = Error::failed_precondition(
            "the database speaks no TLS: turn it on there, or sslmode=disable here",
        );
        return Err(Failure::failed(error));
    }
    let connected = TlsConnector::from(tls).connect(name, socket).await;
    connected.map_err(failed)
}

/// Who we are, as the client library wants it.
fn login(config: &PostgresConfig) -> Config {
    let mut login = Config::new();
    login
        .user(&config.username)
        .dbname(&config.database)
        .application_name(&config.name)
        // Ours is around it.
        .ssl_mode(SslMode::Disable);
    if let Some(password) = &config.password {
        login.password(password.expose());
    }
    if let Some(options) = &config.options {
        login.options(options);
    }
    login
}

/// The name that the server's certificate must have.
fn host(endpoint: &str) -> &str {
    let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

async fn tls(config: &PostgresConfig) -> Result<Arc<ClientConfig>> {
    let mut pem = Pem::new();
    if let Some(ca) = &config.ca {
        pem = pem.with_roots(ca);
    }
    if let (Some(cert), Some(key)) = (&config.cert, &config.key) {
        pem = pem.with_certificate(cert, key.expose());
    }
    let platform = config.ca.is_none();
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
        // The name to expect is given with each connection.
        micro_tls::client_config(&identity, "server")
    });
    made.await
        .map_err(|err| Error::internal("reading certificates failed").with_source(err))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_an_endpoint_is_without_brackets() {
        for (endpoint, expected) in [
            ("a:1", "a"),
            ("[::1]:5432", "::1"),
            ("10.0.0.1:2", "10.0.0.1"),
        ] {
            assert_eq!(host(endpoint), expected);
        }
    }
}
