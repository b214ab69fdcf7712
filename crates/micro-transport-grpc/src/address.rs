//! Addresses: `host:port`, `host:8000-8010`, `[::1]:0`, `:8080`.

use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;

use micro_core::{Error, ErrorKind, Result};
use tokio::net::{TcpListener, lookup_host};

fn invalid(address: &str) -> Error {
    Error::invalid_argument(
        "an address is 'host:port' or, to listen, 'host:8000-8010'; IPv6 stands in brackets: '[::1]:0'",
    )
    .with_context("address", address.escape_debug())
}

/// The host and port of an address to dial. The host has no brackets.
pub(crate) fn host_and_port(address: &str) -> Result<(&str, u16)> {
    let (host, port) = split(address).ok_or_else(|| invalid(address))?;
    let port = port.parse().map_err(|_| invalid(address))?;
    if host.is_empty() || port == 0 {
        return Err(invalid(address));
    }
    Ok((host, port))
}

fn split(address: &str) -> Option<(&str, &str)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']')?,
        // A second colon without brackets: an IPv6 address whose last group is no port.
        None if host.contains(':') => return None,
        None => host,
    };
    if host.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | '@')) {
        return None;
    }
    Some((host, port))
}

fn ports(text: &str) -> Option<RangeInclusive<u16>> {
    let number = |text: &str| {
        // `parse` would take a sign.
        text.bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| text.parse::<u16>().ok())
            .flatten()
    };
    match text.split_once('-') {
        Some((first, last)) => {
            let range = number(first)?..=number(last)?;
            (!range.is_empty() && *range.start() > 0).then_some(range)
        }
        None => number(text).map(|port| port..=port),
    }
}

/// Binds the first free port of an address.
pub(crate) async fn bind(address: &str) -> Result<TcpListener> {
    let failed = |err: Error| {
        err.with_operation("transport.listen")
            .with_context("address", address)
    };
    let (host, range) = split(address)
        .and_then(|(host, port)| Some((host, ports(port)?)))
        .ok_or_else(|| invalid(address).with_operation("transport.listen"))?;
    // `:8080`, as Go writes it.
    let host = if host.is_empty() { "0.0.0.0" } else { host };
    let found: Vec<SocketAddr> = lookup_host((host, *range.start()))
        .await
        .map_err(|err| {
            failed(
                Error::invalid_argument("the host of this address is not known").with_source(err),
            )
        })?
        .collect();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for port in range {
        for at in &found {
            let mut at = *at;
            at.set_port(port);
            match TcpListener::bind(at).await {
                Ok(listener) => return Ok(listener),
                Err(err) => last = err,
            }
        }
        if last.kind() != io::ErrorKind::AddrInUse {
            break;
        }
    }
    let err = match last.kind() {
        io::ErrorKind::AddrInUse => Error::already_exists(
            "the address is taken; port 0 takes any free one, 'host:8000-8010' the first of a range",
        ),
        io::ErrorKind::AddrNotAvailable => {
            Error::invalid_argument("this machine does not have the address")
        }
        io::ErrorKind::PermissionDenied => {
            Error::permission_denied("this process may not listen there; try a port above 1023")
        }
        _ => Error::new(ErrorKind::Unknown, "the address cannot be listened on"),
    };
    Err(failed(err.with_source(last)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_or_refused() {
        let table = [
            ("localhost:80", Some(("localhost", 80))),
            ("[::1]:80", Some(("::1", 80))),
            ("10.0.0.1:65535", Some(("10.0.0.1", 65535))),
            ("::1:80", None),
            ("localhost", None),
            ("localhost:", None),
            ("localhost:0", None),
            (":80", None),
            ("localhost:65536", None),
            ("a b:80", None),
            ("http://a:80", None),
            ("[::1:80", None),
            ("", None),
        ];
        for (address, expected) in table {
            assert_eq!(host_and_port(address).ok(), expected, "{address}");
        }
        for (text, expected) in [
            ("0", Some(0..=0)),
            ("8000-8010", Some(8000..=8010)),
            ("8010-8000", None),
            ("0-10", None),
            ("-1", None),
            ("+1", None),
            ("", None),
        ] {
            assert_eq!(ports(text), expected, "{text}");
        }
    }

    #[tokio::test]
    async fn a_range_takes_the_first_free_port() {
        let first = bind("127.0.0.1:0").await.unwrap();
        let port = first.local_addr().unwrap().port();
        let err = bind(&format!("127.0.0.1:{port}")).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::AlreadyExists);
        let last = port.saturating_add(20);
        let second = bind(&format!("127.0.0.1:{port}-{last}")).await.unwrap();
        assert_ne!(second.local_addr().unwrap().port(), port);
        for (address, kind) in [
            ("192.0.2.1:0", ErrorKind::InvalidArgument),
            ("nowhere.invalid:0", ErrorKind::InvalidArgument),
            ("8080", ErrorKind::InvalidArgument),
        ] {
            assert_eq!(bind(address).await.unwrap_err().kind(), kind, "{address}");
        }
    }
}
