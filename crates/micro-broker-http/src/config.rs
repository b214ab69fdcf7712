//! What can be chosen about the HTTP broker.

use std::time::Duration;

use micro_broker_core::{Error, MAX_BODY, Result, Url};
use micro_core::url::{Options, Span};
use micro_http::HttpConfig;

/// A connection that was unused for so long is not used again: less than servers let one idle.
const IDLE: Duration = Duration::from_secs(5);

/// So many messages are on their way to a port at once; others wait.
const MAX_AT_ONCE: usize = 256;

/// The largest answer of a subscriber, in bytes.
const MAX_ANSWER: usize = 64 << 10;

/// The settings of an [`HttpBroker`](crate::HttpBroker).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HttpBrokerConfig {
    /// Where messages are received, `host:port`. It is bound with the first subscription. Default
    /// `127.0.0.1:0`: any port, for this machine only.
    pub address: String,
    /// What others call, `host:port`. Default the address that was bound.
    pub advertise: Option<String>,
    /// How long `publish` waits for handlers; then the receipt says that they are pending. Default 5 s.
    pub wait: Duration,
    /// How long one subscriber may take to answer, its handler included. Default 60 s.
    pub timeout: Duration,
    /// How long it is tried again without reaching any member of a group. Default 60 s; an outbox keeps
    /// trying for a day.
    pub retry_for: Duration,
    /// The largest body of a message, in bytes. Default 1 MiB.
    pub max_body: usize,
    /// What messages that are being handed on may take, in bytes. Default 64 MiB.
    pub max_pending: usize,
    /// How many messages of a subscriber may wait for their turn. Default 1,024.
    pub max_waiting: usize,
    /// How many connections are served at once. Default 1,024.
    pub max_connections: usize,
    /// The table of the opened store that keeps messages until they are handled. Default none.
    pub outbox: Option<String>,
    /// Turns on TLS: whom to trust, the certificate that subscribers show, and publishers too if
    /// subscribers [demand](micro_transport_core::TlsIdentity::require_client) one. Then nobody is sent a
    /// message who has no TLS. Default off.
    #[cfg(feature = "tls")]
    pub tls: Option<micro_core::Live<micro_transport_core::TlsIdentity>>,
    /// The name that subscribers' certificates must be for, also a `spiffe://` identity. Default the host
    /// of their addresses.
    pub server_name: Option<String>,
}

impl Default for HttpBrokerConfig {
    fn default() -> Self {
        Self {
            address: "127.0.0.1:0".to_owned(),
            advertise: None,
            wait: Duration::from_secs(5),
            timeout: Duration::from_secs(60),
            retry_for: Duration::from_secs(60),
            max_body: MAX_BODY,
            max_pending: 64 << 20,
            max_waiting: 1024,
            max_connections: 1024,
            outbox: None,
            #[cfg(feature = "tls")]
            tls: None,
            server_name: None,
        }
    }
}

impl HttpBrokerConfig {
    /// Sets [`address`](Self::address).
    #[must_use]
    pub fn with_address(mut self, address: impl Into<String>) -> Self {
        self.address = address.into();
        self
    }

    /// Sets [`advertise`](Self::advertise).
    #[must_use]
    pub fn with_advertise(mut self, address: impl Into<String>) -> Self {
        self.advertise = Some(address.into());
        self
    }

    /// Sets [`wait`](Self::wait).
    #[must_use]
    pub fn with_wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Sets [`timeout`](Self::timeout).
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets [`retry_for`](Self::retry_for).
    #[must_use]
    pub fn with_retry_for(mut self, time: Duration) -> Self {
        self.retry_for = time;
        self
    }

    /// Sets [`max_body`](Self::max_body).
    #[must_use]
    pub fn with_max_body(mut self, bytes: usize) -> Self {
        self.max_body = bytes;
        self
    }

    /// Sets [`max_pending`](Self::max_pending).
    #[must_use]
    pub fn with_max_pending(mut self, bytes: usize) -> Self {
        self.max_pending = bytes;
        self
    }

    /// Sets [`max_waiting`](Self::max_waiting).
    #[must_use]
    pub fn with_max_waiting(mut self, messages: usize) -> Self {
        self.max_waiting = messages;
        self
    }

    /// Sets [`max_connections`](Self::max_connections).
    #[must_use]
    pub fn with_max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections;
        self
    }

    /// Sets [`outbox`](Self::outbox).
    #[must_use]
    pub fn with_outbox(mut self, table: impl Into<String>) -> Self {
        self.outbox = Some(table.into());
        self
    }

    /// Sets [`tls`](Self::tls).
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(
        mut self,
        identity: impl Into<micro_core::Live<micro_transport_core::TlsIdentity>>,
    ) -> Self {
        self.tls = Some(identity.into());
        self
    }

    /// Sets [`server_name`](Self::server_name).
    #[must_use]
    pub fn with_server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Whether messages travel encrypted, and to no others.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        return false;
    }

    /// How subscribers are called; the endpoints are still to be filled in.
    pub(crate) fn of_peers(&self) -> HttpConfig {
        let mut config = HttpConfig::new(Vec::new())
            .with_timeout(self.timeout)
            .with_concurrency(MAX_AT_ONCE)
            .with_idle(IDLE)
            .with_max_body(MAX_ANSWER);
        config.server_name.clone_from(&self.server_name);
        #[cfg(feature = "tls")]
        {
            config.tls.clone_from(&self.tls);
        }
        config
    }

    /// Reads a URL: `http`, `http://0.0.0.0:8090?advertise=10.0.0.7:8090&outbox=events`, with options of
    /// the names of the fields but `address`. With `https`, `ca` is whom to trust, `cert` and `key` are
    /// what to show, each PEM or the path of such a file, and `require_client=true` demands a certificate
    /// of publishers.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an unknown option, a value that is none, a path, `https` without `ca`, and
    /// for `https` in a program that was built without the feature `tls`; what reading the files says.
    pub fn from_url(url: &Url) -> Result<Self> {
        let invalid =
            |message: &'static str| Error::invalid_argument(message).with_operation("broker.open");
        let mut config = Self::default();
        if let Some(host) = url.host_str() {
            config.address = format!("{host}:{}", url.port().unwrap_or(0));
        }
        if !matches!(url.path(), "" | "/") || !url.username().is_empty() || url.password().is_some()
        {
            return Err(invalid(
                "an HTTP broker has an address and options: 'http://127.0.0.1:8090?wait=1s'",
            ));
        }
        let mut options = Options::new(url);
        config.advertise = options.take("advertise")?;
        config.outbox = options.take("outbox")?;
        for (name, field) in [
            ("wait", &mut config.wait),
            ("timeout", &mut config.timeout),
            ("retry_for", &mut config.retry_for),
        ] {
            if let Some(Span(time)) = options.take(name)? {
                *field = time;
            }
        }
        for (name, field) in [
            ("max_body", &mut config.max_body),
            ("max_pending", &mut config.max_pending),
            ("max_waiting", &mut config.max_waiting),
            ("max_connections", &mut config.max_connections),
        ] {
            if let Some(number) = options.take(name)? {
                *field = number;
            }
        }
        config.server_name = options.take("server_name")?;
        if url.scheme() == crate::SECURE_SCHEME {
            config.read_tls(&mut options)?;
        }
        options.finish()?;
        if config.timeout.is_zero() || config.max_connections == 0 || config.max_waiting == 0 {
            return Err(invalid(
                "timeout, max_connections and max_waiting are more than 0",
            ));
        }
        Ok(config)
    }

    #[cfg(feature = "tls")]
    fn read_tls(&mut self, options: &mut Options<'_>) -> Result<()> {
        let invalid =
            |message: &'static str| Error::invalid_argument(message).with_operation("broker.open");
        let ca: Option<String> = options.take("ca")?;
        let ca = ca.ok_or_else(|| {
            invalid("'https' wants 'ca': the authority that subscribers' certificates come from")
        })?;
        let mut pem = micro_tls::Pem::new().with_roots(ca);
        pem = match (
            options.take::<String>("cert")?,
            options.take::<String>("key")?,
        ) {
            (Some(cert), Some(key)) => pem.with_certificate(cert, key),
            (None, None) => pem,
            _ => return Err(invalid("'cert' and 'key' come together")),
        };
        let required = options.take("require_client")?.unwrap_or_default();
        self.tls = Some(pem.with_require_client(required).read()?.into());
        Ok(())
    }

    #[cfg(not(feature = "tls"))]
    #[expect(
        clippy::unused_self,
        reason = "it is the other one's shape without TLS"
    )]
    fn read_tls(&mut self, _options: &mut Options<'_>) -> Result<()> {
        Err(Error::invalid_argument(
            "this program was built without TLS: add the cargo feature \"tls\"",
        )
        .with_operation("broker.open"))
    }
}
