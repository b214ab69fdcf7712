//! What can be chosen about a broker over RabbitMQ.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use micro_broker_core::{Error, Result, Url};
use micro_core::Secret;
use micro_core::url::{Options, Span, is_loopback};
use percent_encoding::percent_decode_str;

/// Longer times are mistakes, and would hold calls for as long.
const LONGEST: Duration = Duration::from_secs(300);
/// The names of queues begin with it and have 255 bytes at most.
const MAX_EXCHANGE: usize = 20;

/// What kind of queues groups have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Queues {
    /// Quorum queues (RabbitMQ 3.8 and later): replicated if there is a cluster, and on disk in any case.
    #[default]
    Quorum,
    /// Durable classic queues, for servers without the others.
    Classic,
}

impl FromStr for Queues {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "quorum" => Ok(Self::Quorum),
            "classic" => Ok(Self::Classic),
            _ => Err(invalid("'queues' is 'quorum' or 'classic'")),
        }
    }
}

/// The settings of a [`RabbitBroker`](crate::RabbitBroker).
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RabbitConfig {
    /// The servers, as `host:port`; any of them will do.
    pub endpoints: Vec<String>,
    /// Who we are. Default `guest`, whom a server lets in from its own machine only.
    pub username: String,
    /// How we prove it. Default `guest`.
    pub password: Secret,
    /// The virtual host. Default `/`.
    pub vhost: String,
    /// Whether to speak TLS. `ca` and `cert` turn it on.
    pub tls: bool,
    /// The authorities to trust, as PEM or the path of it; the platform's without it.
    pub ca: Option<String>,
    /// Our certificate, as PEM or the path of it.
    pub cert: Option<String>,
    /// Its key, as PEM or the path of it.
    pub key: Option<Secret>,
    /// The name that the servers' certificates must be for; each endpoint's host without it.
    pub server_name: Option<String>,
    /// The exchange of the default namespace, with which the names of all others and of all queues begin:
    /// 1 to 20 letters, digits, `.`, `-` and `_`. Default `micro`.
    pub exchange: String,
    /// What kind of queues new groups have. Default quorum queues.
    pub queues: Queues,
    /// Whether a new group's messages go to one member at a time, with the others in reserve, so that
    /// those of a key are handled in order. Default no: all members share them, in no order.
    pub ordered: bool,
    /// How many messages may wait for a new group. Default 1,000,000.
    pub max_length: u32,
    /// What they may take, in bytes. Default 1 GiB.
    pub max_bytes: u64,
    /// For how long a subscriber without a group may be away, as for a lost connection, before what
    /// waits for it is dropped. Default 60 s.
    pub expires: Duration,
    /// How long one attempt to connect to one server may take. Default 5 s.
    pub connect_timeout: Duration,
    /// How long a call may take, with the wait for a connection. Default 10 s.
    pub timeout: Duration,
}

impl Default for RabbitConfig {
    fn default() -> Self {
        Self {
            endpoints: vec!["127.0.0.1:5672".to_owned()],
            username: "guest".to_owned(),
            password: Secret::new("guest"),
            vhost: "/".to_owned(),
            tls: false,
            ca: None,
            cert: None,
            key: None,
            server_name: None,
            exchange: "micro".to_owned(),
            queues: Queues::Quorum,
            ordered: false,
            max_length: 1_000_000,
            max_bytes: 1 << 30,
            expires: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(10),
        }
    }
}

// By hand, so that a field added later is shown only if somebody decides so.
impl fmt::Debug for RabbitConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitConfig")
            .field("endpoints", &self.endpoints)
            .field("username", &self.username)
            .field("vhost", &self.vhost)
            .field("tls", &self.wants_tls())
            .field("exchange", &self.exchange)
            .field("queues", &self.queues)
            .field("ordered", &self.ordered)
            .field("max_length", &self.max_length)
            .field("max_bytes", &self.max_bytes)
            .field("expires", &self.expires)
            .field("connect_timeout", &self.connect_timeout)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl RabbitConfig {
    /// Reads `rabbitmq://user:password@host:5672/vhost?option=value`; the README names the options.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an option that is unknown, given twice or not readable, and for options
    /// that do not go together.
    pub fn from_url(url: &Url) -> Result<Self> {
        let mut options = Options::new(url);
        let mut config = Self::default();
        if let Some(username) = options.username() {
            config.username = username;
        }
        if let Some(password) = options.password() {
            config.password = password;
        }
        let path = url.path().strip_prefix('/').unwrap_or(url.path());
        if !path.is_empty() {
            let vhost = percent_decode_str(path).decode_utf8();
            config.vhost = vhost
                .map_err(|_| invalid("a virtual host is UTF-8"))?
                .into_owned();
        }
        let tls: Option<bool> = options.take("tls")?;
        config.ca = options.take("ca")?;
        config.cert = options.take("cert")?;
        config.key = options.take::<String>("key")?.map(Secret::new);
        config.server_name = options.take("server_name")?;
        config.tls = tls.unwrap_or(url.scheme() == "amqps");
        if tls == Some(false) && (config.wants_tls() || url.scheme() == "amqps") {
            return Err(invalid(
                "'tls=false' and 'amqps', 'ca' or 'cert' contradict",
            ));
        }
        let port = if config.wants_tls() { 5671 } else { 5672 };
        config.endpoints = options.endpoints(port)?;
        if config.endpoints.is_empty() {
            config.endpoints.push(format!("127.0.0.1:{port}"));
        }
        set(&mut config.exchange, options.take("exchange")?);
        set(&mut config.queues, options.take("queues")?);
        set(&mut config.ordered, options.take("ordered")?);
        set(&mut config.max_length, options.take("max_length")?);
        set(&mut config.max_bytes, options.take("max_bytes")?);
        let mut time = |name, time: &mut Duration| -> Result<()> {
            set(time, options.take(name)?.map(|Span(time)| time));
            Ok(())
        };
        time("expires", &mut config.expires)?;
        time("connect_timeout", &mut config.connect_timeout)?;
        time("timeout", &mut config.timeout)?;
        options.finish()?;
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
        if self.endpoints.iter().any(|endpoint| !is_endpoint(endpoint)) {
            // A user in it would be shown wherever an endpoint is, so it is not repeated here.
            return Err(invalid("an endpoint is 'host:port'"));
        }
        if self.cert.is_some() != self.key.is_some() {
            return Err(invalid("'cert' and 'key' come together"));
        }
        if self.wants_tls() && cfg!(not(feature = "tls")) {
            return Err(invalid(
                "this program was built without TLS: add the cargo feature \"tls\"",
            ));
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        if !(1..=MAX_EXCHANGE).contains(&self.exchange.len())
            || !self.exchange.bytes().all(plain)
            || self.exchange.starts_with("amq.")
        {
            return Err(invalid(
                "'exchange' has 1 to 20 letters, digits, '.', '-' and '_', and does not begin with 'amq.'",
            ));
        }
        // A quorum queue keeps at least what is on its way to it.
        if self.max_length == 0 || self.max_bytes < 1 << 20 || self.max_bytes > 1 << 50 {
            return Err(invalid(
                "'max_length' is at least 1, and 'max_bytes' at least 1 MiB (1048576)",
            ));
        }
        if self.username.len() > 255 || self.vhost.len() > 255 {
            return Err(invalid("a user and a virtual host have at most 255 bytes"));
        }
        if self.expires < Duration::from_secs(1) || self.expires > Duration::from_secs(86_400) {
            return Err(invalid("'expires' is 1s to 1d"));
        }
        for time in [self.connect_timeout, self.timeout] {
            if time.is_zero() || time > LONGEST {
                return Err(invalid(
                    "connect_timeout and timeout are between 1ms and 5m",
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

    /// Whether the password goes through a network for all to read.
    pub(crate) fn shouts(&self) -> bool {
        !self.wants_tls() && !self.endpoints.iter().all(|endpoint| is_loopback(endpoint))
    }
}

fn set<T>(field: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *field = given;
    }
}

fn is_endpoint(endpoint: &str) -> bool {
    let Some((host, port)) = endpoint.rsplit_once(':') else {
        return false;
    };
    !host.is_empty() && !host.contains(['@', '/', ' ']) && port.parse::<u16>().is_ok()
}

pub(crate) fn invalid(message: &'static str) -> Error {
    Error::invalid_argument(message).with_operation("broker.open")
}

#[cfg(test)]
mod tests {
    use micro_core::ErrorKind;

    use super::*;

    fn config(url: &str) -> Result<RabbitConfig> {
        RabbitConfig::from_url(&micro_core::url::resolve(url)?)
    }

    #[test]
    fn a_bare_scheme_is_enough() {
        for scheme in ["rabbitmq", "amqp", "amqp://localhost"] {
            let read = config(scheme).unwrap();
            assert_eq!((&*read.vhost, read.wants_tls()), ("/", false));
        }
        assert_eq!(config("rabbitmq").unwrap(), RabbitConfig::default());
    }

    #[test]
    fn the_url_says_it_all_and_debug_does_not() {
        let read = config(
            "amqps://me:hunter2@a/x%2Fy?endpoint=[::1]:2&exchange=x&queues=classic&ordered=true\
             &max_length=5&max_bytes=1048576&expires=5s&timeout=250ms&connect_timeout=1s&ca=/ca",
        )
        .unwrap();
        assert_eq!(read.endpoints, ["a:5671", "[::1]:2"]);
        assert_eq!((&*read.username, &*read.vhost), ("me", "x/y"));
        assert_eq!((read.queues, read.ordered), (Queues::Classic, true));
        assert_eq!((read.max_length, read.max_bytes), (5, 1 << 20));
        assert_eq!(read.expires, Duration::from_secs(5));
        assert!(read.wants_tls() && !read.shouts());
        assert!(!format!("{read:?}").contains("hunter2"));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for url in [
            "rabbitmq://a?exchnage=x",
            "rabbitmq://a?exchange=amq.topic",
            "rabbitmq://a?exchange=a/b",
            "rabbitmq://a?exchange=aaaaaaaaaaaaaaaaaaaaa",
            "rabbitmq://a?queues=stream",
            "rabbitmq://a?max_length=0",
            "rabbitmq://a?max_bytes=1",
            "rabbitmq://a?expires=0s",
            "rabbitmq://a?timeout=1h",
            "rabbitmq://a?cert=x",
            "rabbitmq://a?ca=/x&tls=false",
            "amqps://a?tls=false",
            "rabbitmq://a/%ff",
        ] {
            let err = config(url).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{url}: {err}");
        }
    }

    #[test]
    fn a_password_that_all_may_read_is_noticed() {
        for (url, shouts) in [
            ("rabbitmq://me:pw@10.0.0.1", true),
            ("rabbitmq://me:pw@127.0.0.1?endpoint=10.0.0.1", true),
            ("rabbitmq://me:pw@localhost", false),
            ("amqps://me:pw@10.0.0.1", false),
        ] {
            assert_eq!(config(url).unwrap().shouts(), shouts, "{url}");
        }
    }
}
