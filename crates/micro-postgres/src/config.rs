//! What the URL says.

use std::fmt;
use std::time::Duration;

use micro_core::url::{Options, Span, is_loopback};
use micro_core::{Error, Result, Secret, Url};

/// Longer times are mistakes, and would hold calls for as long.
const LONGEST: Duration = Duration::from_secs(60);
/// More connections than any server is set up for are a mistake as well.
const MOST_CONNECTIONS: usize = 1000;

/// How to reach PostgreSQL or CockroachDB, and who we are.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PostgresConfig {
    /// The servers, as `host:port`; they are tried in turn.
    pub endpoints: Vec<String>,
    /// Who we are.
    pub username: String,
    /// How we prove it.
    pub password: Option<Secret>,
    /// The database.
    pub database: String,
    /// Whether to insist on TLS; the server's certificate is always verified, with its name.
    pub tls: bool,
    /// The authorities to trust, as PEM or the path of it; the platform's without it.
    pub ca: Option<String>,
    /// Our certificate, as PEM or the path of it.
    pub cert: Option<String>,
    /// Its key, as PEM or the path of it.
    pub key: Option<Secret>,
    /// Settings for the session, as `psql` has them: `-c search_path=shop`.
    pub options: Option<String>,
    /// What the server's activity view calls us.
    pub name: String,
    /// The most connections at a time.
    pub connections: usize,
    /// How long one attempt to connect may take.
    pub connect: Duration,
    /// How long a call may wait to get to a server, and how long the server may then take for each
    /// statement of it.
    pub timeout: Duration,
}

impl Default for PostgresConfig {
    fn default() -> Self {
        Self {
            endpoints: vec!["127.0.0.1:5432".to_owned()],
            username: "postgres".to_owned(),
            password: None,
            database: "postgres".to_owned(),
            tls: false,
            ca: None,
            cert: None,
            key: None,
            options: None,
            name: "micro".to_owned(),
            connections: 10,
            connect: Duration::from_secs(5),
            timeout: Duration::from_secs(5),
        }
    }
}

// By hand, so that a field added later is shown only if somebody decides so.
impl fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresConfig")
            .field("endpoints", &self.endpoints)
            .field("username", &self.username)
            .field("database", &self.database)
            .field("tls", &self.wants_tls())
            .field("name", &self.name)
            .field("connections", &self.connections)
            .field("connect", &self.connect)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl PostgresConfig {
    /// Reads a URL that has no options but those of the README.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an option that is unknown, given twice or not readable, and for what
    /// does not go together.
    pub fn from_url(url: &Url) -> Result<Self> {
        let mut options = Options::new(url);
        let config = Self::take(url, &mut options)?;
        options.finish()?;
        Ok(config)
    }

    /// Takes what is ours of a backend's URL and leaves the rest to it. A `cockroach:` or
    /// `cockroachdb:` URL has CockroachDB's port, user and database where it names none.
    ///
    /// # Errors
    ///
    /// As [`from_url`](Self::from_url), except for unknown options.
    pub fn take(url: &Url, options: &mut Options<'_>) -> Result<Self> {
        let (port, username, database) = if url.scheme().starts_with("cockroach") {
            (26257, "root", "defaultdb")
        } else {
            (5432, "postgres", "postgres")
        };
        let mut config = Self {
            endpoints: options.endpoints(port)?,
            username: options.username().unwrap_or_else(|| username.to_owned()),
            password: options.password(),
            database: database_of(url)?.unwrap_or_else(|| database.to_owned()),
            tls: tls(options)?,
            ca: either(options, "ca", "sslrootcert")?,
            cert: either(options, "cert", "sslcert")?,
            key: either(options, "key", "sslkey")?.map(Secret::new),
            options: options.take("options")?,
            ..Self::default()
        };
        if config.endpoints.is_empty() {
            config.endpoints = vec![format!("127.0.0.1:{port}")];
        }
        if let Some(name) = either(options, "name", "application_name")? {
            config.name = name;
        }
        if let Some(connections) = options.take("connections")? {
            config.connections = connections;
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
        if self.endpoints.is_empty() {
            return Err(invalid("there is no server to connect to"));
        }
        if self.endpoints.iter().any(|endpoint| endpoint.contains('@')) {
            // Not repeated here: it may hold a password.
            return Err(invalid(
                "an endpoint is 'host:port'; a user stands in 'username' and 'password'",
            ));
        }
        if self.cert.is_some() != self.key.is_some() {
            return Err(invalid("cert and key come together"));
        }
        for time in [self.connect, self.timeout] {
            if time < Duration::from_millis(1) || time > LONGEST {
                return Err(invalid("connect and timeout are between 1ms and 1m"));
            }
        }
        if !(1..=MOST_CONNECTIONS).contains(&self.connections) {
            return Err(invalid("connections are between 1 and 1000"));
        }
        let sent = [&self.username, &self.database, &self.name];
        let sent = sent.into_iter().chain(&self.options);
        for text in sent {
            if text.is_empty() || text.len() > 1024 || text.contains(char::is_control) {
                return Err(invalid(
                    "user, database, name and options have 1 to 1024 bytes and no control characters",
                ));
            }
        }
        Ok(())
    }

    /// Whether connections must be encrypted.
    #[must_use]
    pub fn wants_tls(&self) -> bool {
        self.tls || self.ca.is_some() || self.cert.is_some()
    }

    /// Whether a password may go through a network as it is: the server chooses how it is sent.
    pub(crate) fn shouts(&self) -> bool {
        let here = self.endpoints.iter().all(|endpoint| is_loopback(endpoint));
        self.password.is_some() && !self.wants_tls() && !here
    }
}

/// The database that the path names, percent-decoded.
fn database_of(url: &Url) -> Result<Option<String>> {
    let path = url.path().trim_start_matches('/');
    if path.is_empty() {
        return Ok(None);
    }
    // A query's values are decoded; the path is made one of them.
    let mut decoder = url.clone();
    decoder.set_query(Some(&format!("d={}", path.replace('+', "%2B"))));
    let database = decoder
        .query_pairs()
        .next()
        .map(|(_, value)| value.into_owned());
    database
        .filter(|name| !path.contains(['/', '&']) && !name.contains('\u{fffd}'))
        .map(Some)
        .ok_or_else(|| {
            invalid("the path of the URL is a database: 'postgres://user@host:5432/database'")
        })
}

/// What `tls` and libpq's `sslmode` say together.
fn tls(options: &mut Options<'_>) -> Result<bool> {
    let tls: Option<bool> = options.take("tls")?;
    let mode: Option<String> = options.take("sslmode")?;
    let by_mode = match mode.as_deref() {
        None => None,
        Some("disable") => Some(false),
        Some("require" | "verify-ca" | "verify-full") => Some(true),
        Some(_) => {
            return Err(invalid(
                "sslmode is 'disable', or 'verify-full', which 'require' and 'verify-ca' mean as well; \
                 'allow' and 'prefer' can be talked out of encryption by anybody on the way",
            ));
        }
    };
    match (tls, by_mode) {
        (Some(tls), Some(by_mode)) if tls != by_mode => {
            Err(invalid("tls and sslmode contradict each other"))
        }
        (tls, by_mode) => Ok(tls.or(by_mode).unwrap_or(false)),
    }
}

/// An option by our name or by libpq's.
fn either(
    options: &mut Options<'_>,
    ours: &'static str,
    libpq: &'static str,
) -> Result<Option<String>> {
    match (options.take(ours)?, options.take(libpq)?) {
        (Some(_), Some(_)) => {
            Err(invalid("this option is given by both of its names").with_context("option", ours))
        }
        (one, other) => Ok(one.or(other)),
    }
}

pub(crate) fn invalid(message: &'static str) -> Error {
    Error::invalid_argument(message).with_operation("postgres.config")
}

#[cfg(test)]
mod tests {
    use micro_core::ErrorKind;

    use super::*;

    fn config(url: &str) -> Result<PostgresConfig> {
        PostgresConfig::from_url(&micro_core::url::resolve(url)?)
    }

    #[test]
    fn a_bare_scheme_is_enough() {
        assert_eq!(config("postgres").unwrap(), PostgresConfig::default());
        let cockroach = config("cockroach").unwrap();
        assert_eq!(cockroach.endpoints, ["127.0.0.1:26257"]);
        assert_eq!(
            (&*cockroach.username, &*cockroach.database),
            ("root", "defaultdb")
        );
    }

    #[test]
    fn the_url_says_it_all_and_debug_does_not() {
        let url = "postgres://me:hunter2@a:1/my%20shop?endpoint=[::1]:2&timeout=250ms&connect=1s\
                   &name=x&ca=/ca&cert=/c&key=/hunter2&connections=3&options=-c%20search_path%3Dshop";
        let config = config(url).unwrap();
        assert_eq!(config.endpoints, ["a:1", "[::1]:2"]);
        assert_eq!((&*config.username, &*config.database), ("me", "my shop"));
        assert_eq!(config.timeout, Duration::from_millis(250));
        assert_eq!(config.options.as_deref(), Some("-c search_path=shop"));
        assert_eq!(config.connections, 3);
        assert!(config.wants_tls());
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn urls_of_cockroach_s_own_tools_are_read() {
        let url = "postgresql://root@localhost:26257/defaultdb?sslmode=verify-full\
                   &sslrootcert=/ca&sslcert=/c&sslkey=/k&application_name=x";
        let config = config(url).unwrap();
        assert!(config.tls && config.wants_tls());
        assert_eq!(config.ca.as_deref(), Some("/ca"));
        assert_eq!(config.name, "x");
    }

    #[test]
    fn encryption_is_on_with_verification_or_off() {
        for (url, expected) in [
            ("postgres://a", false),
            ("postgres://a?sslmode=disable", false),
            ("postgres://a?sslmode=require", true),
            ("postgres://a?sslmode=verify-ca", true),
            ("postgres://a?sslmode=verify-full", true),
            ("postgres://a?tls=true&sslmode=require", true),
            ("postgres://a?ca=/ca", true),
        ] {
            assert_eq!(config(url).unwrap().wants_tls(), expected, "{url}");
        }
        for url in [
            "postgres://a?sslmode=prefer",
            "postgres://a?sslmode=allow",
            "postgres://a?sslmode=",
            "postgres://a?tls=true&sslmode=disable",
        ] {
            let err = config(url).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{url}: {err:?}");
        }
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for url in [
            "postgres://a?tiemout=1s",
            "postgres://a/d/e",
            "postgres://a/d&e",
            "postgres://a/%ff",
            "postgres://a/%00",
            "postgres://a?cert=/c",
            "postgres://a?key=/c",
            "postgres://a?ca=/c&sslrootcert=/c",
            "postgres://a?timeout=0s",
            "postgres://a?connect=1h",
            "postgres://a?connections=0",
            "postgres://a?connections=-1",
            "postgres://a?tls=maybe",
            "postgres://a?name=a%0Ab",
            "postgres://a?endpoint=b/c",
        ] {
            let err = config(url).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{url}: {err:?}");
        }
    }

    #[test]
    fn an_endpoint_holds_no_secret() {
        let given = PostgresConfig {
            endpoints: vec!["me:hunter2@a:5432".to_owned()],
            ..PostgresConfig::default()
        };
        let err = given.check().unwrap_err();
        assert!(!format!("{err:?}").contains("hunter2"), "{err:?}");
    }

    #[test]
    fn a_password_on_its_way_through_a_network_is_noticed() {
        for (url, shouts) in [
            ("postgres://me:pw@10.0.0.1", true),
            ("postgres://me:pw@127.0.0.1?endpoint=10.0.0.1", true),
            ("postgres://me:pw@127.0.0.1?endpoint=localhost", false),
            ("postgres://me:pw@10.0.0.1?tls=true", false),
            ("postgres://me@10.0.0.1", false),
        ] {
            assert_eq!(config(url).unwrap().shouts(), shouts, "{url}");
        }
    }
}
