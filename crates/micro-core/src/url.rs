//! The URLs that choose and configure a backend.
//!
//! ```
//! use std::time::Duration;
//! use micro_core::url;
//!
//! let url = url::resolve("etcd://user:pw@a:2379?endpoint=b:2379&ttl=30s")?;
//! let mut options = url::Options::new(&url);
//! assert_eq!(options.endpoints(2379)?, ["a:2379", "b:2379"]);
//! assert_eq!(options.take::<url::Span>("ttl")?.unwrap().0, Duration::from_secs(30));
//! options.finish()?;
//! # Ok::<(), micro_core::Error>(())
//! ```

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ::url::Url;

use crate::{Error, Result, Secret};

/// Reads the URL of a backend.
///
/// - A bare scheme is enough: `mdns` is `mdns:`.
/// - `file:./data` and `file:data` are relative to the working directory, `file:/data` and
///   `file:///data` are not.
/// - Further endpoints are `?endpoint=host:port`, repeated.
///
/// # Errors
///
/// `InvalidArgument`; for `host:port` without a scheme it says so.
pub fn resolve(text: &str) -> Result<Url> {
    let text = text.trim();
    let invalid =
        |message: &'static str| Error::invalid_argument(message).with_operation("url.resolve");
    if text.is_empty() {
        return Err(invalid(
            "the URL is empty; a bare scheme such as 'memory' is enough",
        ));
    }
    let (scheme, rest) = text.split_once(':').unwrap_or((text, ""));
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
    if !is_scheme {
        return Err(
            invalid("a URL begins with a scheme, as in 'etcd://host:2379' or 'memory'")
                .with_context("url", printable(text)),
        );
    }
    // `host:2379` would otherwise be the scheme `host`.
    if !rest.is_empty()
        && rest
            .split(['/', '?'])
            .next()
            .is_some_and(|port| port.parse::<u16>().is_ok())
    {
        return Err(invalid(
            "this looks like host:port without a scheme; write 'scheme://host:port'",
        )
        .with_context("url", printable(text)));
    }
    if rest.contains('@') && !rest.starts_with("//") {
        return Err(
            invalid("a user stands behind the scheme: 'scheme://user:password@host'")
                .with_context("url", printable(text)),
        );
    }
    if scheme.eq_ignore_ascii_case("file") {
        return resolve_file(rest);
    }
    // `url` wants a host with these; without one it is this machine.
    let wants_host = ["http", "https", "ws", "wss", "ftp"];
    let named = rest.starts_with("//");
    let host = match !named
        && wants_host
            .iter()
            .any(|one| scheme.eq_ignore_ascii_case(one))
    {
        true => "//localhost",
        false => "",
    };
    Url::parse(&format!("{scheme}:{host}{rest}")).map_err(|err| {
        invalid("the URL cannot be read")
            .with_source(err)
            .with_context("url", printable(text))
    })
}

/// `url` would read `file:./data` as `/data`: the path is made absolute before it is parsed.
fn resolve_file(rest: &str) -> Result<Url> {
    let invalid = || {
        Error::invalid_argument("write 'file:./relative' or 'file:///absolute'")
            .with_operation("url.resolve")
    };
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (rest, None),
    };
    let path = match path.strip_prefix("//") {
        // `file:///data`: an empty authority, then the path.
        Some(after) if after.starts_with('/') => after,
        Some(_) => return Err(invalid().with_context("url", printable(rest))),
        None => path,
    };
    if path.is_empty() || path.contains('\0') {
        return Err(invalid());
    }
    let path = percent_decode(path).ok_or_else(invalid)?;
    let path = std::path::absolute(Path::new(&path)).map_err(Error::from)?;
    let mut url = Url::from_file_path(&path).map_err(|()| invalid())?;
    url.set_query(query);
    Ok(url)
}

fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let hex = [bytes.next()?, bytes.next()?];
        let hex = std::str::from_utf8(&hex).ok()?;
        let byte = u8::from_str_radix(hex, 16).ok().filter(|byte| *byte != 0)?;
        out.push(byte);
    }
    String::from_utf8(out).ok()
}

/// The text of a URL for logs and errors: without its user's password, and not endless.
#[must_use]
pub fn redacted(url: &Url) -> String {
    let mut url = url.clone();
    if url.password().is_some() {
        // Fails only for URLs that cannot have a password.
        let _ = url.set_password(Some("***"));
    }
    if url.query().is_some() {
        let pairs: Vec<(String, String)> = url
            .query_pairs()
            .map(|(name, value)| {
                let secret = ["password", "secret", "token", "key"]
                    .iter()
                    .any(|word| name.contains(word));
                let value = if secret {
                    "***".into()
                } else {
                    value.into_owned()
                };
                (name.into_owned(), value)
            })
            .collect();
        url.query_pairs_mut().clear().extend_pairs(pairs);
    }
    url.into()
}

/// What may be shown of a text that is no URL: it could hold a password.
fn printable(text: &str) -> String {
    let shown = match text.rsplit_once('@') {
        Some((_, after)) => format!("***@{after}"),
        None => text.to_owned(),
    };
    shown
        .chars()
        .take(100)
        .flat_map(char::escape_debug)
        .collect()
}

/// The path that a URL names, whatever its scheme: of `file:./x`, and of a backend's own
/// `mylog:///var/x` and `mylog:./x`. A relative one is relative to the working directory.
///
/// # Errors
///
/// `InvalidArgument` if the URL names a host, or no path.
pub fn file_path(url: &Url) -> Result<PathBuf> {
    let invalid = || {
        Error::invalid_argument(
            "the URL names no file: write 'scheme:./relative' or 'scheme:///absolute'",
        )
        .with_context("url", redacted(url))
    };
    if !url.cannot_be_a_base() {
        return url.to_file_path().map_err(|()| invalid());
    }
    // Only `file:` is made absolute by `resolve`; what the others mean is theirs to say.
    let path = percent_decode(url.path())
        .filter(|path| !path.is_empty())
        .ok_or_else(invalid)?;
    Ok(std::path::absolute(Path::new(&path))?)
}

/// Whether an endpoint, `host:port` or `host`, says that it is on this machine: `localhost`, or a
/// loopback address, also one that is mapped into IPv6. Nothing is resolved, so another name is not,
/// wherever it leads.
///
/// ```
/// use micro_core::url::is_loopback;
///
/// assert!(is_loopback("127.0.0.1:2379") && is_loopback("[::1]:2379") && is_loopback("localhost"));
/// assert!(!is_loopback("10.0.0.5:2379"));
/// ```
#[must_use]
pub fn is_loopback(endpoint: &str) -> bool {
    let loopback = |ip: IpAddr| ip.to_canonical().is_loopback();
    if let Some(bracketed) = endpoint.strip_prefix('[') {
        let host = bracketed.split_once(']').map_or("", |(host, _)| host);
        return host.parse().is_ok_and(loopback);
    }
    if let Ok(ip) = endpoint.parse() {
        return loopback(ip);
    }
    let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
    let name = host.strip_suffix('.').unwrap_or(host);
    name.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(loopback)
}

/// The options in a URL's query, each taken once; what is left at the end is an error.
///
/// A misspelt option is thus refused, not ignored.
#[derive(Debug)]
pub struct Options<'a> {
    url: &'a Url,
    left: Vec<(String, Secret)>,
    known: Vec<&'static str>,
}

impl<'a> Options<'a> {
    /// The options of `url`.
    #[must_use]
    pub fn new(url: &'a Url) -> Self {
        Self {
            url,
            left: url
                .query_pairs()
                .map(|(name, value)| (name.into_owned(), Secret::new(value)))
                .collect(),
            known: Vec::new(),
        }
    }

    /// Takes an option.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` if its value cannot be read as a `T`, or it is given twice.
    pub fn take<T: FromStr>(&mut self, name: &'static str) -> Result<Option<T>>
    where
        T::Err: fmt::Display,
    {
        let mut values = self.take_all(name);
        let Some(value) = values.pop() else {
            return Ok(None);
        };
        if !values.is_empty() {
            return Err(self
                .invalid("this option is given twice")
                .with_context("option", name));
        }
        match value.expose().parse() {
            Ok(value) => Ok(Some(value)),
            Err(err) => Err(self
                .invalid("the value of this option cannot be read")
                .with_context("option", name)
                .with_context("why", err)),
        }
    }

    /// Takes every value of an option that may be repeated.
    pub fn take_all(&mut self, name: &'static str) -> Vec<Secret> {
        self.known.push(name);
        let (taken, left) = std::mem::take(&mut self.left)
            .into_iter()
            .partition(|(known, _)| known == name);
        self.left = left;
        let taken: Vec<(String, Secret)> = taken;
        taken.into_iter().map(|(_, value)| value).collect()
    }

    /// The endpoints as `host:port`: the URL's own host, then each `endpoint` option.
    ///
    /// An IPv6 address stands in brackets. Empty if the URL names none.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an endpoint that is not `host` or `host:port`.
    pub fn endpoints(&mut self, default_port: u16) -> Result<Vec<String>> {
        let mut all = Vec::new();
        if let Some(host) = self.url.host_str().filter(|host| !host.is_empty()) {
            all.push(format!(
                "{host}:{}",
                self.url.port().unwrap_or(default_port)
            ));
        }
        for endpoint in self.take_all("endpoint") {
            let url = Url::parse(&format!("endpoint://{}", endpoint.expose())).ok();
            let plain = url.filter(|url| {
                url.username().is_empty()
                    && url.password().is_none()
                    && matches!(url.path(), "" | "/")
                    && url.query().is_none()
            });
            let Some((url, host)) = plain.as_ref().and_then(|url| Some((url, url.host_str()?)))
            else {
                return Err(self
                    .invalid("an endpoint is 'host:port'")
                    .with_context("option", "endpoint"));
            };
            all.push(format!("{host}:{}", url.port().unwrap_or(default_port)));
        }
        Ok(all)
    }

    /// The user name, percent-decoded.
    #[must_use]
    pub fn username(&self) -> Option<String> {
        Some(self.url.username())
            .filter(|name| !name.is_empty())
            .and_then(percent_decode)
    }

    /// The password, percent-decoded.
    #[must_use]
    pub fn password(&self) -> Option<Secret> {
        self.url
            .password()
            .and_then(percent_decode)
            .map(Secret::new)
    }

    /// Refuses what was not taken.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` naming the first unknown option and those there are.
    pub fn finish(mut self) -> Result<()> {
        let Some((name, _)) = self.left.pop() else {
            return Ok(());
        };
        let known = if self.known.is_empty() {
            "none".to_owned()
        } else {
            self.known.join(" ")
        };
        Err(self
            .invalid("this backend has no such option")
            .with_context("option", printable(&name))
            .with_context("known", known))
    }

    fn invalid(&self, message: &'static str) -> Error {
        Error::invalid_argument(message)
            .with_operation("url.options")
            .with_context("scheme", self.url.scheme())
    }
}

/// A length of time in a URL or a variable: `250ms`, `30s`, `5m`, `1h`; a bare number is seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = || {
            Error::invalid_argument(
                "a length of time is a number with ms, s, m or h: '250ms', '30s'",
            )
        };
        let digits = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let number: f64 = number.parse().map_err(|_| invalid())?;
        let seconds = match unit {
            "ns" => number / 1e9,
            "us" | "µs" => number / 1e6,
            "ms" => number / 1e3,
            "" | "s" => number,
            "m" => number * 60.0,
            "h" => number * 3600.0,
            _ => return Err(invalid()),
        };
        Duration::try_from_secs_f64(seconds)
            .map(Self)
            .map_err(|_| invalid())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn urls_follow_the_rules() {
        let cwd = std::env::current_dir().unwrap();
        let cwd = cwd.to_str().unwrap();
        let table = [
            ("mdns", "mdns:".to_owned()),
            ("  memory ", "memory:".to_owned()),
            ("memory:", "memory:".to_owned()),
            ("MEMORY", "memory:".to_owned()),
            ("memory://", "memory://".to_owned()),
            ("nats://h:4222", "nats://h:4222".to_owned()),
            (
                "etcd://[::1]:2379/x?endpoint=b:1",
                "etcd://[::1]:2379/x?endpoint=b:1".to_owned(),
            ),
            ("file:./data", format!("file://{cwd}/data")),
            ("file:data", format!("file://{cwd}/data")),
            ("file:data?sync=1", format!("file://{cwd}/data?sync=1")),
            ("file:/var/data", "file:///var/data".to_owned()),
            ("file:///var/data", "file:///var/data".to_owned()),
            ("file:///var/a%20b", "file:///var/a%20b".to_owned()),
        ];
        for (text, expected) in table {
            assert_eq!(resolve(text).unwrap().as_str(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_url_is_refused_with_advice() {
        let table = [
            ("", "is empty"),
            ("localhost:2379", "without a scheme"),
            ("10.0.0.5:2379", "begins with a scheme"),
            ("://x", "begins with a scheme"),
            ("a b://x", "begins with a scheme"),
            ("etcd://[::1", "cannot be read"),
            ("file:", "file:./relative"),
            ("file://host/data", "file:./relative"),
            ("file:a%00b", "file:./relative"),
        ];
        for (text, advice) in table {
            let err = resolve(text).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidArgument);
            assert!(err.to_string().contains(advice), "{text}: {err}");
        }
        let err = resolve("user:hunter2@x:1").unwrap_err();
        assert!(!format!("{err:?}").contains("hunter2"), "{err:?}");
    }

    #[test]
    fn options_are_read_once_and_the_rest_is_refused() {
        let url = resolve("x://u:p%20w@h?ttl=1.5s&endpoint=[::1]&endpoint=b:7&typo=1").unwrap();
        let mut options = Options::new(&url);
        assert_eq!(
            options.take::<Span>("ttl").unwrap(),
            Some(Span(Duration::from_millis(1500)))
        );
        assert_eq!(options.take::<u16>("retries").unwrap(), None);
        assert_eq!(options.endpoints(9).unwrap(), ["h:9", "[::1]:9", "b:7"]);
        assert_eq!(options.password().unwrap().expose(), "p w");
        let err = options.finish().unwrap_err().to_string();
        assert!(
            err.contains("option: typo, known: ttl retries endpoint"),
            "{err}"
        );
        assert_eq!(
            redacted(&resolve("x://u:pw@h?token=abc&a=1").unwrap()),
            "x://u:***@h?token=***&a=1"
        );
    }

    #[test]
    fn a_path_may_stand_in_any_scheme() {
        let cwd = std::env::current_dir().unwrap();
        for (text, expected) in [
            ("file:./x", cwd.join("x")),
            ("mylog:./a%20b", cwd.join("a b")),
            ("mylog:x?poll=1s", cwd.join("x")),
            ("mylog:///var/x", PathBuf::from("/var/x")),
            ("mylog:/var/x", PathBuf::from("/var/x")),
        ] {
            assert_eq!(
                file_path(&resolve(text).unwrap()).unwrap(),
                expected,
                "{text}"
            );
        }
        for text in ["mylog://host/x", "mylog:", "memory"] {
            assert!(file_path(&resolve(text).unwrap()).is_err(), "{text}");
        }
    }

    #[test]
    fn s51_what_is_on_loopback_says_so_itself() {
        for endpoint in [
            "localhost",
            "LocalHost.:80",
            "127.0.0.1",
            "127.8.9.10:80",
            "::1",
            "[::1]",
            "[::1]:80",
            "[::ffff:127.0.0.1]:80",
        ] {
            assert!(is_loopback(endpoint), "{endpoint}");
        }
        for endpoint in [
            "",
            ":80",
            "[]",
            "localhost.example:80",
            "10.0.0.1:80",
            "0.0.0.0:80",
            "[::]:80",
            "::2",
            "[fe80::1]:80",
            "127.1:80",
            "2130706433:80",
            "[localhost]:80",
            "127.0.0.1.example:80",
            "user@127.0.0.1:80",
        ] {
            assert!(!is_loopback(endpoint), "{endpoint}");
        }
    }

    #[test]
    fn a_bare_http_is_this_machine() {
        for (text, url) in [
            ("http", "http://localhost/"),
            ("http:?wait=1s", "http://localhost/?wait=1s"),
            ("http://10.0.0.1:80", "http://10.0.0.1/"),
        ] {
            assert_eq!(resolve(text).unwrap().as_str(), url, "{text}");
        }
    }

    #[test]
    fn lengths_of_time_have_units() {
        let table = [
            ("250ms", 250),
            ("30s", 30_000),
            ("2", 2_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
        ];
        for (text, ms) in table {
            assert_eq!(
                text.parse::<Span>().unwrap().0,
                Duration::from_millis(ms),
                "{text}"
            );
        }
        for text in ["", "s", "-1s", "1d", "1e400s", "1 s", "ü"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }
}
