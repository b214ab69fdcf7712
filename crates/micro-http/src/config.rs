//! What a client is made with.

use std::fmt;
use std::time::Duration;

use micro_core::url::{Options, Span, is_loopback};
use micro_core::{Error, Result, Secret};

/// How requests prove who sends them.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credentials {
    /// They do not.
    #[default]
    None,
    /// `authorization: Bearer …` (RFC 6750).
    Bearer(Secret),
    /// `authorization: Basic …` (RFC 7617).
    Basic {
        /// The user's name; it has no colon.
        username: String,
        /// The password.
        password: Secret,
    },
    /// A header of the server's own, such as `x-consul-token`.
    Header {
        /// The header's name, in lower case.
        name: &'static str,
        /// Its value.
        value: Secret,
    },
}

/// Says what kind they are, and no more.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Bearer(_) => "Bearer(***)",
            Self::Basic { .. } => "Basic(***)",
            Self::Header { .. } => "Header(***)",
        })
    }
}

/// How to reach an HTTP server, and what its answers may cost.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HttpConfig {
    /// The servers, as `host:port`. One is used until it cannot be reached, breaks off or does not
    /// answer in time, then the next.
    pub endpoints: Vec<String>,
    /// How requests prove who sends them. Default: they do not.
    pub credentials: Credentials,
    /// The time to connect to one server, TLS included. Default 3 s.
    pub connect_timeout: Duration,
    /// The time from the first byte of a request to the last of its answer, with the wait for a
    /// connection and other servers tried. Default 5 s.
    pub timeout: Duration,
    /// The largest body of an answer, in bytes. Default 8 MiB.
    pub max_body: usize,
    /// The longest line of a streamed answer, in bytes. Default 2 MiB.
    pub max_line: usize,
    /// The most requests at once, long ones aside; others wait for their turn. Default 16.
    pub concurrency: usize,
    /// The most long requests at once; more are refused. Default 512.
    pub long_requests: usize,
    /// How long a connection may be unused before it is not used again. Default 30 s.
    pub idle: Duration,
    /// Turns on TLS: whom to trust, and the certificate to show if there is one.
    #[cfg(feature = "tls")]
    pub tls: Option<micro_core::Live<micro_transport_core::TlsIdentity>>,
    /// The name that the server's certificate must be for; the endpoint's host if there is none.
    pub server_name: Option<String>,
}

impl HttpConfig {
    /// The defaults, for these servers (`host:port`).
    #[must_use]
    pub fn new(endpoints: Vec<String>) -> Self {
        Self {
            endpoints,
            credentials: Credentials::None,
            connect_timeout: Duration::from_secs(3),
            timeout: Duration::from_secs(5),
            max_body: 8 << 20,
            max_line: 2 << 20,
            concurrency: 16,
            long_requests: 512,
            idle: Duration::from_secs(30),
            #[cfg(feature = "tls")]
            tls: None,
            server_name: None,
        }
    }

    /// Sets [`credentials`](Self::credentials).
    #[must_use]
    pub fn with_credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = credentials;
        self
    }

    /// Sets [`connect_timeout`](Self::connect_timeout).
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets [`timeout`](Self::timeout).
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets [`max_body`](Self::max_body).
    #[must_use]
    pub fn with_max_body(mut self, bytes: usize) -> Self {
        self.max_body = bytes;
        self
    }

    /// Sets [`max_line`](Self::max_line).
    #[must_use]
    pub fn with_max_line(mut self, bytes: usize) -> Self {
        self.max_line = bytes;
        self
    }

    /// Sets [`concurrency`](Self::concurrency).
    #[must_use]
    pub fn with_concurrency(mut self, requests: usize) -> Self {
        self.concurrency = requests;
        self
    }

    /// Sets [`long_requests`](Self::long_requests).
    #[must_use]
    pub fn with_long_requests(mut self, requests: usize) -> Self {
        self.long_requests = requests;
        self
    }

    /// Sets [`idle`](Self::idle).
    #[must_use]
    pub fn with_idle(mut self, idle: Duration) -> Self {
        self.idle = idle;
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

    /// Takes what every HTTP backend has in its URL: `timeout`, `connect_timeout`, and for TLS
    /// `ca` (which turns it on), `cert` and `key` (paths of PEM files) and `server_name`.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for values that cannot be read, for `cert` without `ca`, and for TLS in a
    /// program that was built without the feature `tls`; what reading the files says.
    pub fn with_options(mut self, options: &mut Options<'_>) -> Result<Self> {
        if let Some(Span(timeout)) = options.take("timeout")? {
            self.timeout = timeout;
        }
        if let Some(Span(timeout)) = options.take("connect_timeout")? {
            self.connect_timeout = timeout;
        }
        if let Some(name) = options.take("server_name")? {
            self.server_name = Some(name);
        }
        let ca: Option<String> = options.take("ca")?;
        let cert: Option<String> = options.take("cert")?;
        let key: Option<String> = options.take("key")?;
        self.read_tls(ca, cert, key)
    }

    /// Turns on TLS with a server of this authority: the path of a PEM file, or PEM itself.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for what is no PEM, and in a program that was built without the feature
    /// `tls`; what reading the file says.
    pub fn with_ca(self, ca: impl Into<String>) -> Result<Self> {
        self.read_tls(Some(ca.into()), None, None)
    }

    #[cfg(feature = "tls")]
    fn read_tls(
        mut self,
        ca: Option<String>,
        cert: Option<String>,
        key: Option<String>,
    ) -> Result<Self> {
        let invalid = |message: &'static str| {
            Err(Error::invalid_argument(message).with_operation("http.options"))
        };
        let pem = match (ca, cert, key) {
            (None, None, None) => return Ok(self),
            (Some(ca), None, None) => micro_tls::Pem::new().with_roots(ca),
            (Some(ca), Some(cert), Some(key)) => micro_tls::Pem::new()
                .with_roots(ca)
                .with_certificate(cert, key),
            (None, ..) => {
                return invalid("'cert' and 'key' want 'ca': the authority of the server, as PEM");
            }
            _ => return invalid("'cert' and 'key' come together"),
        };
        self.tls = Some(pem.read()?.into());
        Ok(self)
    }

    #[cfg(not(feature = "tls"))]
    fn read_tls(
        self,
        ca: Option<String>,
        cert: Option<String>,
        key: Option<String>,
    ) -> Result<Self> {
        if ca.or(cert).or(key).is_none() {
            return Ok(self);
        }
        Err(Error::invalid_argument(
            "this program was built without TLS: add the cargo feature \"tls\"",
        )
        .with_operation("http.options"))
    }

    /// Checks the endpoints.
    pub(crate) fn check(&self) -> Result<()> {
        let invalid =
            |message: &'static str| Error::invalid_argument(message).with_operation("http.new");
        if self.endpoints.is_empty() {
            return Err(invalid(
                "there is no server to send requests to: give 'host:port'",
            ));
        }
        for endpoint in &self.endpoints {
            let authority = endpoint.parse::<http::uri::Authority>();
            // A user in it would be shown wherever an endpoint is, so it is not repeated here.
            if endpoint.contains('@') || !authority.is_ok_and(|name| name.port_u16().is_some()) {
                return Err(invalid("an endpoint is 'host:port'"));
            }
        }
        Ok(())
    }

    /// Whether nobody on the way can read what is sent: it is encrypted, or stays on this machine.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.is_secure() || self.endpoints.iter().all(|endpoint| is_loopback(endpoint))
    }

    /// Whether the connections are encrypted.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        return false;
    }
}
