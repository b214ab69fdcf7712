//! What the URL says.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use async_nats::rustls::pki_types::CertificateDer;
use async_nats::rustls::{ClientConfig, RootCertStore};
use async_nats::{ConnectOptions, ServerAddr};
use bytes::Bytes;
use micro_core::url::{Options, Span, is_loopback};
use micro_core::{Error, Result, Secret, Url};
use micro_tls::Pem;

/// The port of an endpoint that names none.
const DEFAULT_PORT: u16 = 4222;
/// So many messages wait for a subscription's reader; further ones are dropped, and
/// [`Status::lost`](crate::Status::lost) says so. The library's own 65,536 of up to 1 MiB are much.
const BACKLOG: usize = 8192;
/// Longer times are mistakes, and would hold calls for as long.
const LONGEST: Duration = Duration::from_secs(300);

/// How to reach NATS, and who we are.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NatsConfig {
    /// The servers, as `host:port`; any of them will do.
    pub endpoints: Vec<String>,
    /// Who we are, by name; with [`password`](Self::password).
    pub username: Option<String>,
    /// How we prove it.
    pub password: Option<Secret>,
    /// A token instead.
    pub token: Option<Secret>,
    /// The path of a `.creds` file instead.
    pub creds: Option<PathBuf>,
    /// The path of a file with an NKey seed instead.
    pub nkey: Option<PathBuf>,
    /// Whether to insist on TLS.
    pub tls: bool,
    /// The authorities to trust, as PEM or the path of it; the platform's without it.
    pub ca: Option<String>,
    /// Our certificate, as PEM or the path of it.
    pub cert: Option<String>,
    /// Its key, as PEM or the path of it.
    pub key: Option<Secret>,
    /// What the server's monitoring calls us.
    pub name: String,
    /// How long one attempt to connect may take.
    pub connect: Duration,
    /// How long one call may take.
    pub timeout: Duration,
}

impl Default for NatsConfig {
    fn default() -> Self {
        Self {
            endpoints: vec![format!("127.0.0.1:{DEFAULT_PORT}")],
            username: None,
            password: None,
            token: None,
            creds: None,
            nkey: None,
            tls: false,
            ca: None,
            cert: None,
            key: None,
            name: "micro".to_owned(),
            connect: Duration::from_secs(5),
            timeout: Duration::from_secs(5),
        }
    }
}

// By hand, so that a field added later is shown only if somebody decides so.
impl fmt::Debug for NatsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsConfig")
            .field("endpoints", &self.endpoints)
            .field("username", &self.username)
            .field("tls", &self.wants_tls())
            .field("name", &self.name)
            .field("connect", &self.connect)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl NatsConfig {
    /// Reads a URL that has no options but those of the README.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an option that is unknown, given twice or not readable, and for
    /// credentials that do not go together.
    pub fn from_url(url: &Url) -> Result<Self> {
        let mut options = Options::new(url);
        let config = Self::take(url, &mut options)?;
        options.finish()?;
        Ok(config)
    }

    /// Takes what is ours of a backend's URL and leaves the rest to it.
    ///
    /// # Errors
    ///
    /// As [`from_url`](Self::from_url), except for unknown options.
    pub fn take(url: &Url, options: &mut Options<'_>) -> Result<Self> {
        if !matches!(url.path(), "" | "/") {
            return Err(invalid(
                "a NATS URL has no path: 'nats://host:4222?option=value'",
            ));
        }
        let mut config = Self {
            username: options.username(),
            password: options.password(),
            creds: options.take("creds")?,
            nkey: options.take("nkey")?,
            tls: options.take("tls")?.unwrap_or(false),
            ca: options.take("ca")?,
            cert: options.take("cert")?,
            key: options.take::<String>("key")?.map(Secret::new),
            ..Self::default()
        };
        config.token = options.take::<String>("token")?.map(Secret::new);
        if config.password.is_none()
            && let Some(token) = config.username.take()
        {
            if config.token.is_some() {
                return Err(invalid("a user without a password is a token: give one"));
            }
            config.token = Some(Secret::new(token));
        }
        let endpoints = options.endpoints(DEFAULT_PORT)?;
        if !endpoints.is_empty() {
            config.endpoints = endpoints;
        }
        if let Some(name) = options.take("name")? {
            config.name = name;
        }
        if let Some(Span(connect)) = options.take("connect")? {
            config.connect = connect;
        }
        if let Some(Span(timeout)) = options.take("timeout")? {
            config.timeout = timeout;
        }
        config.check()?;
        Ok(config)
    }

    /// Checks what fields alone cannot say.
    ///
    /// # Errors
    ///
    /// `InvalidArgument`, saying what does not go together.
    pub fn check(&self) -> Result<()> {
        let ways = [
            self.username.is_some() || self.password.is_some(),
            self.token.is_some(),
            self.creds.is_some(),
            self.nkey.is_some(),
        ];
        if ways.iter().filter(|way| **way).count() > 1 {
            return Err(invalid(
                "give one of user and password, token, creds and nkey",
            ));
        }
        if self.password.is_some() && self.username.is_none() {
            return Err(invalid(
                "a password needs a user: 'nats://user:password@host'",
            ));
        }
        if self.cert.is_some() != self.key.is_some() {
            return Err(invalid("cert and key come together"));
        }
        for time in [self.connect, self.timeout] {
            if time.is_zero() || time > LONGEST {
                return Err(invalid("connect and timeout are between 1ms and 5m"));
            }
        }
        if self.name.len() > 128 || self.name.contains(char::is_control) {
            return Err(invalid(
                "name has at most 128 bytes and no control characters",
            ));
        }
        self.servers().map(drop)
    }

    /// Whether connections must be encrypted.
    #[must_use]
    pub fn wants_tls(&self) -> bool {
        self.tls || self.ca.is_some() || self.cert.is_some()
    }

    /// Whether every server named is on this machine's loopback.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.endpoints.iter().all(|endpoint| is_loopback(endpoint))
    }

    /// Whether something that anybody on the way can use as well is sent unencrypted. A JWT's and an
    /// NKey's seed only sign what the server asks, and stay here.
    pub(crate) fn shouts(&self) -> bool {
        (self.password.is_some() || self.token.is_some())
            && !self.wants_tls()
            && !self.is_loopback()
    }

    /// The servers as the client library wants them. It would take a user from here; ours stands
    /// in the options, so that no list of servers can leak it.
    pub(crate) fn servers(&self) -> Result<Vec<ServerAddr>> {
        if self.endpoints.is_empty() {
            return Err(invalid("there is no server to connect to"));
        }
        let parse = |endpoint: &String| {
            if endpoint.contains('@') {
                // Neither repeated here nor by whatever shows the list.
                return Err(invalid(
                    "an endpoint is 'host:port'; a user stands in 'username' and 'password'",
                ));
            }
            format!("nats://{endpoint}").parse().map_err(|err| {
                invalid("an endpoint is 'host:port'")
                    .with_context("endpoint", endpoint.escape_debug())
                    .with_source(err)
            })
        };
        self.endpoints.iter().map(parse).collect()
    }

    /// The options of one connection. Files are read here, so a rotated one is seen by the next
    /// first connection.
    pub(crate) async fn options(&self) -> Result<ConnectOptions> {
        let mut options = ConnectOptions::new()
            .name(&self.name)
            .connection_timeout(self.connect)
            .subscription_capacity(BACKLOG)
            .request_timeout(Some(self.timeout));
        if let (Some(user), Some(password)) = (&self.username, &self.password) {
            options = options.user_and_password(user.clone(), password.expose().to_owned());
        }
        if let Some(token) = &self.token {
            options = options.token(token.expose().to_owned());
        }
        if let Some(path) = &self.creds {
            let text = read(path).await?;
            // The library's error may quote what it read.
            options = options.credentials(text.expose()).map_err(|_| {
                invalid("this is no credentials file (a JWT and a seed)")
                    .with_context("creds", path.display())
            })?;
        }
        if let Some(path) = &self.nkey {
            let seed = read(path).await?;
            options = options.nkey(seed.expose().trim().to_owned());
        }
        if self.wants_tls() {
            options = options
                .require_tls(true)
                .tls_client_config(self.tls_config().await?);
        }
        Ok(options)
    }

    async fn tls_config(&self) -> Result<ClientConfig> {
        let mut pem = Pem::new();
        if let Some(ca) = &self.ca {
            pem = pem.with_roots(ca);
        }
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            pem = pem.with_certificate(cert, key.expose());
        }
        let platform = self.ca.is_none();
        let made = tokio::task::spawn_blocking(move || {
            let mut identity = pem.read()?;
            if platform {
                let found = rustls_native_certs::load_native_certs();
                // Platforms keep some old ones that nothing can be verified by.
                let usable = |der: &&CertificateDer<'static>| {
                    RootCertStore::empty().add((*der).clone()).is_ok()
                };
                let roots = found.certs.iter().filter(usable);
                identity =
                    identity.with_roots(roots.map(|der| Bytes::copy_from_slice(der)).collect());
            }
            // The name to expect is that of each server, which the library passes on.
            micro_tls::client_config(&identity, "server")
        });
        let config = made
            .await
            .map_err(|err| Error::internal("reading certificates failed").with_source(err))??;
        Ok(ClientConfig::clone(&config))
    }
}

/// Reads a file that holds a secret.
async fn read(path: &PathBuf) -> Result<Secret> {
    let text = tokio::fs::read_to_string(path).await.map_err(|err| {
        Error::from(err)
            .with_operation("nats.connect")
            .with_context("path", path.display())
    })?;
    Ok(Secret::new(text))
}

pub(crate) fn invalid(message: &'static str) -> Error {
    Error::invalid_argument(message).with_operation("nats.config")
}

#[cfg(test)]
mod tests {
    use micro_core::ErrorKind;

    use super::*;

    fn config(url: &str) -> Result<NatsConfig> {
        NatsConfig::from_url(&micro_core::url::resolve(url)?)
    }

    #[test]
    fn a_bare_scheme_is_enough() {
        assert_eq!(config("nats").unwrap(), NatsConfig::default());
    }

    #[test]
    fn the_url_says_it_all_and_debug_does_not() {
        let url = "nats://me:hunter2@a:1?endpoint=[::1]:2&timeout=250ms&connect=1s&name=x&ca=/ca&cert=/c&key=/hunter2";
        let config = config(url).unwrap();
        assert_eq!(config.endpoints, ["a:1", "[::1]:2"]);
        assert_eq!(config.timeout, Duration::from_millis(250));
        assert_eq!(config.username.as_deref(), Some("me"));
        assert!(config.wants_tls());
        assert_eq!(config.servers().unwrap().len(), 2);
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn a_user_alone_is_a_token() {
        let config = config("nats://s3cret@a").unwrap();
        assert_eq!(config.username, None);
        assert_eq!(config.token.unwrap().expose(), "s3cret");
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for url in [
            "nats://a?tiemout=1s",
            "nats://a/path",
            "nats://me:pw@a?token=t",
            "nats://t@a?token=t",
            "nats://a?creds=/x&nkey=/y",
            "nats://a?cert=/c",
            "nats://a?key=/c",
            "nats://a?timeout=0s",
            "nats://a?connect=1h",
            "nats://a?tls=maybe",
            "nats://a?name=a%0Ab",
            "nats://a?endpoint=b/c",
        ] {
            let err = config(url).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{url}: {err:?}");
        }
    }

    #[test]
    fn an_endpoint_holds_no_secret() {
        let given = NatsConfig {
            endpoints: vec!["me:hunter2@a:4222".to_owned()],
            ..NatsConfig::default()
        };
        let err = given.check().unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{err:?}");
        assert!(!format!("{err:?}").contains("hunter2"), "{err:?}");
        let err = config("nats://a?endpoint=me:hunter2@b").unwrap_err();
        assert!(!format!("{err:?}").contains("hunter2"), "{err:?}");
    }

    #[test]
    fn a_password_on_its_way_through_a_network_is_noticed() {
        for (url, shouts) in [
            ("nats://me:pw@10.0.0.1", true),
            ("nats://t@nats.example", true),
            ("nats://me:pw@127.0.0.1?endpoint=10.0.0.1", true),
            ("nats://me:pw@127.0.0.1?endpoint=localhost", false),
            ("nats://me:pw@10.0.0.1?tls=true", false),
            ("nats://10.0.0.1?nkey=/seed", false),
            ("nats://10.0.0.1", false),
        ] {
            assert_eq!(config(url).unwrap().shouts(), shouts, "{url}");
        }
    }

    #[tokio::test]
    async fn files_that_are_none_are_named_without_what_is_in_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.creds");
        std::fs::write(&path, "hunter2").unwrap();
        let shown = path.display().to_string();
        let given = config(&format!("nats://a?creds={shown}")).unwrap();
        let err = given.options().await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{err:?}");
        let text = format!("{err:?}");
        assert!(text.contains(&shown) && !text.contains("hunter2"), "{text}");

        let absent = config("nats://a?nkey=/nonexistent/seed").unwrap();
        let err = absent.options().await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::NotFound, "{err:?}");
        let given = config(&format!("nats://a?ca={shown}")).unwrap();
        let err = given.options().await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{err:?}");
    }
}
