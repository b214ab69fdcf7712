//! Which addresses are announced, and which are believed.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

/// Where a node listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Ip(SocketAddr),
    Name(String, u16),
}

impl Address {
    /// Reads `host:port`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if let Ok(mut address) = text.parse::<SocketAddr>() {
            // `[::ffff:127.0.0.1]` is 127.0.0.1 and gets no other treatment.
            address.set_ip(address.ip().to_canonical());
            return Some(Self::Ip(address));
        }
        let (host, port) = text.rsplit_once(':')?;
        let named = (1..=253).contains(&host.len())
            && host
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
            // "1.2.3" and "127.1" are addresses to some resolvers.
            && host.bytes().any(|byte| byte.is_ascii_alphabetic());
        let port = port.parse().ok().filter(|_| named)?;
        Some(Self::Name(host.to_owned(), port))
    }

    pub(crate) fn port(&self) -> u16 {
        match self {
            Self::Ip(address) => address.port(),
            Self::Name(_, port) => *port,
        }
    }

    pub(crate) fn is_loopback(&self) -> bool {
        match self {
            Self::Ip(address) => address.ip().is_loopback(),
            Self::Name(host, _) => {
                let host = host.trim_end_matches('.').to_ascii_lowercase();
                host == "localhost" || host.ends_with(".localhost")
            }
        }
    }

    /// Whether anybody could reach a node there.
    pub(crate) fn is_sound(&self) -> bool {
        self.port() != 0
            && match self {
                Self::Ip(address) => is_sound(address.ip()),
                Self::Name(..) => true,
            }
    }

    /// Whether to believe it: loopback only from this machine itself.
    pub(crate) fn is_believed(&self, from_loopback: bool) -> bool {
        self.is_sound() && (from_loopback || !self.is_loopback())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

/// Link-local addresses lead to the metadata services of clouds (169.254.169.254), and IPv6's mean
/// nothing without an interface.
fn is_sound(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            !ip.is_unspecified()
                && !ip.is_multicast()
                && !ip.is_broadcast()
                && !ip.is_link_local()
                && ip.octets()[0] != 0
        }
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_unicast_link_local(),
    }
}

/// Whether an address is one of this machine's.
pub(crate) fn is_ours(ip: IpAddr) -> bool {
    // The system tells without having to list interfaces.
    UdpSocket::bind((ip, 0)).is_ok()
}

/// The loopback address that stands for this machine on its loopback interface.
pub(crate) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Whether an interface of this name is the loopback one.
pub(crate) fn is_loopback_interface(name: &str) -> bool {
    let digits = |rest: &str| rest.bytes().all(|byte| byte.is_ascii_digit());
    name.strip_prefix("lo").is_some_and(digits) || name.starts_with("Loopback")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        for text in [
            "127.0.0.1:80",
            "[::1]:80",
            "[2001:db8::7]:65535",
            "host.example:443",
        ] {
            assert_eq!(Address::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "host",
            ":80",
            "host:",
            "host:99999",
            "ho st:80",
            "host\0:80",
            "a@b:80",
            "::1:80",
            "[::1]",
            "2130706433:80",
            "127.1:80",
        ] {
            assert_eq!(Address::parse(text), None, "{text}");
        }
    }

    #[test]
    fn what_leads_elsewhere_is_not_believed() {
        let believed = |text: &str, from_loopback| {
            Address::parse(text).is_some_and(|address| address.is_believed(from_loopback))
        };
        for text in [
            "169.254.169.254:80",
            "0.0.0.0:80",
            "0.1.2.3:80",
            "224.0.0.251:80",
            "255.255.255.255:80",
            "[::]:80",
            "[fe80::1]:80",
            "[ff02::fb]:80",
            "[::ffff:169.254.169.254]:80",
            "10.0.0.1:0",
        ] {
            assert!(!believed(text, true), "{text}");
        }
        for text in [
            "127.0.0.1:80",
            "127.9.9.9:80",
            "[::1]:80",
            "[::ffff:127.0.0.1]:80",
            "localhost:80",
            "LOCALHOST.:80",
            "x.localhost:80",
        ] {
            assert!(believed(text, true), "{text}");
            assert!(!believed(text, false), "{text}");
        }
        for text in ["10.0.0.7:80", "[2001:db8::7]:80", "host.example:80"] {
            assert!(believed(text, false), "{text}");
        }
    }

    #[test]
    fn interfaces_are_told_apart() {
        for name in ["lo", "lo0", "Loopback Pseudo-Interface 1"] {
            assert!(is_loopback_interface(name));
        }
        for name in ["eth0", "long0", "wlo1", ""] {
            assert!(!is_loopback_interface(name));
        }
        assert!(is_ours(LOOPBACK));
        assert!(!is_ours("192.0.2.1".parse().unwrap()));
    }
}
