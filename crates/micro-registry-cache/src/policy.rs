//! What a registry may say: which addresses are called, and which facts are kept.
//!
//! A directory is written by others. An address in it makes this program open a connection, so
//! one that leads to the program's own surroundings is a way in (server-side request forgery).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use micro_registry_core::{Endpoint, Node, Service};

/// The longest id or address.
const LONGEST: usize = 512;
/// The most bytes of metadata of a node, of a version or of an endpoint.
const MOST_METADATA: usize = 64 << 10;
/// The most endpoints of a version.
const MOST_ENDPOINTS: usize = 4096;

/// Says why a node is not to be called, if it is not.
///
/// `loopback` is whether loopback addresses are this machine's.
pub(crate) fn refusal(node: &Node, loopback: bool) -> Option<&'static str> {
    let sound = |text: &str| {
        !text.is_empty() && text.len() <= LONGEST && !text.contains(|c: char| c.is_control())
    };
    if !sound(&node.id) {
        return Some("its id is empty, too long, or has control characters");
    }
    if !sound(&node.address) || node.address.contains(char::is_whitespace) {
        return Some("its address is empty, too long, or has control characters or spaces");
    }
    if let Ok(socket) = node.address.parse::<SocketAddr>() {
        if socket.port() == 0 {
            return Some("its port is 0");
        }
        return match socket.ip() {
            IpAddr::V4(ip) => refusal_of_v4(ip, loopback),
            IpAddr::V6(ip) => refusal_of_v6(ip, loopback),
        };
    }
    refusal_of_name(&node.address, loopback)
}

fn refusal_of_v4(ip: Ipv4Addr, loopback: bool) -> Option<&'static str> {
    if ip.octets()[0] == 0 {
        Some("its address is unspecified")
    } else if ip.is_multicast() {
        Some("its address is a multicast group")
    } else if ip.octets()[0] >= 240 {
        Some("its address is broadcast or reserved")
    } else if ip.is_link_local() || ip == Ipv4Addr::new(100, 100, 100, 200) {
        Some("its address is link-local, as those of cloud metadata services")
    } else if ip.is_loopback() && !loopback {
        Some(ELSEWHERE)
    } else {
        None
    }
}

const ELSEWHERE: &str = "its address is loopback, and the registry is not on this machine";

fn refusal_of_v6(ip: Ipv6Addr, loopback: bool) -> Option<&'static str> {
    let segments = ip.segments();
    let tail = || {
        let [.., a, b, c, d] = ip.octets();
        Ipv4Addr::new(a, b, c, d)
    };
    if ip.is_unspecified() {
        Some("its address is unspecified")
    } else if ip.is_loopback() {
        (!loopback).then_some(ELSEWHERE)
    } else if segments[..5] == [0; 5] {
        // `::ffff:a.b.c.d` and `::a.b.c.d`: nobody registers so, except to get past a filter.
        Some("its address is an IPv4 address in the form of an IPv6 one")
    } else if ip.is_multicast() {
        Some("its address is a multicast group")
    } else if ip.is_unicast_link_local() {
        Some("its address is link-local, which means nothing without an interface")
    } else if ip == CLOUD_METADATA {
        Some("its address is that of a cloud metadata service")
    } else if segments[..6] == [0x64, 0xff9b, 0, 0, 0, 0] {
        // NAT64 (RFC 6052): what counts is where it leads.
        refusal_of_v4(tail(), false)
    } else if segments[0] == 0x2002 {
        // 6to4 (RFC 3056).
        let [_, _, a, b, c, d, ..] = ip.octets();
        refusal_of_v4(Ipv4Addr::new(a, b, c, d), false)
    } else {
        None
    }
}

/// The one address of its kind that is not link-local (AWS).
const CLOUD_METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// A name, which is looked up when it is dialled.
fn refusal_of_name(address: &str, loopback: bool) -> Option<&'static str> {
    const NO_ADDRESS: &str = "its address is not 'host:port'";
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (address, None),
    };
    let named = host.len() <= 253
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    if host.is_empty() || !named {
        return Some(NO_ADDRESS);
    }
    match port.map(str::parse::<u16>) {
        Some(Ok(0)) => return Some("its port is 0"),
        Some(Ok(_)) => {}
        Some(Err(_)) => return Some(NO_ADDRESS),
        // Within one machine a transport may call its addresses as it likes.
        None if loopback => {}
        None => return Some(NO_ADDRESS),
    }
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let last = host.rsplit('.').next().unwrap_or_default();
    let hex = last.strip_prefix("0x");
    // "2130706433", "127.1" and "0x7f.1" are addresses to many resolvers.
    if last.bytes().all(|byte| byte.is_ascii_digit())
        || hex.is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
    {
        return Some("its address is a number that only some programs read as an address");
    }
    let local = host == "localhost" || host.ends_with(".localhost");
    (local && !loopback).then_some(ELSEWHERE)
}

/// Takes out of a version what must not be kept: facts with control characters, and what is too
/// large. Says whether anything was.
pub(crate) fn clean(service: &mut Service) -> bool {
    let mut cleaned = clean_metadata(&mut service.metadata);
    if service.endpoints.len() > MOST_ENDPOINTS {
        service.endpoints.truncate(MOST_ENDPOINTS);
        cleaned = true;
    }
    service.endpoints.retain(|endpoint: &Endpoint| {
        let sound = endpoint.name.len() <= LONGEST && !endpoint.name.contains(char::is_control);
        cleaned |= !sound;
        sound
    });
    for endpoint in &mut service.endpoints {
        cleaned |= clean_metadata(&mut endpoint.metadata);
    }
    for node in &mut service.nodes {
        cleaned |= clean_metadata(&mut node.metadata);
    }
    cleaned
}

/// Facts are printed, put into headers and compared: a line break in one is an attack or a fault.
fn clean_metadata(metadata: &mut BTreeMap<String, String>) -> bool {
    let before = metadata.len();
    let mut bytes = 0_usize;
    metadata.retain(|name, value| {
        let sound = !name.contains(char::is_control) && !value.contains(char::is_control);
        if sound {
            bytes = bytes.saturating_add(name.len() + value.len());
        }
        sound && bytes <= MOST_METADATA
    });
    metadata.len() != before
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(address: &str, loopback: bool) -> bool {
        refusal(&Node::new("a", address), loopback).is_some()
    }

    #[test]
    fn s51_addresses_that_lead_elsewhere_are_refused() {
        for address in [
            "169.254.169.254:80",
            "169.254.170.2:80",
            "100.100.100.200:80",
            "[fd00:ec2::254]:80",
            "255.255.255.255:80",
            "240.0.0.1:80",
            "224.0.0.251:80",
            "[ff02::fb]:80",
            "0.0.0.0:80",
            "0.1.2.3:80",
            "[::]:80",
            "10.0.0.1:0",
            "host:0",
            "[fe80::1]:80",
            "[::ffff:10.0.0.1]:80",
            "[::ffff:127.0.0.1]:80",
            "[::ffff:169.254.169.254]:80",
            "[::127.0.0.1]:80",
            "[64:ff9b::169.254.169.254]:80",
            "[64:ff9b::7f00:1]:80",
            "[2002:7f00:1::]:80",
            "host\0.example:80",
            "host\r\n:80",
            "ho st:80",
            "user@host:80",
            "host/path:80",
            "[::1%lo]:80",
            "host:99999",
            "host:",
            ":80",
            "",
            "2130706433:80",
            "127.1:80",
            "0x7f.1:80",
            "0x7f000001:80",
            "::1:80",
        ] {
            assert!(refused(address, true), "{address:?}");
            assert!(refused(address, false), "{address:?}");
        }
        assert!(refused(&"a".repeat(600), true));
        for address in [
            "10.0.0.7:80",
            "198.51.100.7:65535",
            "[2001:db8::7]:80",
            "[64:ff9b::c633:6407]:80",
            "greeter.internal:80",
            "7.example:80",
            "under_score:80",
        ] {
            assert!(!refused(address, false), "{address}");
        }
    }

    #[test]
    fn s51_loopback_is_believed_from_this_machine_only() {
        for address in [
            "127.0.0.1:80",
            "127.9.9.9:80",
            "[::1]:80",
            "localhost:80",
            "LOCALHOST.:80",
            "x.localhost:80",
        ] {
            assert!(refused(address, false), "{address}");
            assert!(!refused(address, true), "{address}");
        }
        // What a transport in memory calls its addresses.
        assert!(!refused("memory:1", true));
        assert!(!refused("here", true));
        assert!(refused("here", false));
    }

    #[test]
    fn s52_facts_with_line_breaks_or_without_end_are_left_out() {
        let mut service = Service::new("greeter", "v1")
            .with_metadata("zone", "a")
            .with_metadata("note", "x\r\nauthorization: admin")
            .with_endpoint(Endpoint::new("Greeter.Hello").with_metadata("a\nb", "c"))
            .with_endpoint(Endpoint::new("Greeter\r\n.Hello"))
            .with_node(
                Node::new("a", "10.0.0.1:80")
                    .with_metadata("zone", "a")
                    .with_metadata("zz", "x".repeat(1 << 20)),
            );
        assert!(clean(&mut service));
        let kept: Vec<_> = service.metadata.into_keys().collect();
        assert_eq!(kept, ["zone"]);
        assert_eq!(service.endpoints, [Endpoint::new("Greeter.Hello")]);
        let kept: Vec<_> = service.nodes.remove(0).metadata.into_keys().collect();
        assert_eq!(kept, ["zone"]);
        let mut sound = Service::new("greeter", "v1").with_metadata("zone", "a");
        assert!(!clean(&mut sound));
    }

    #[test]
    fn s48_what_is_too_much_is_cut_off() {
        let mut service = Service::new("greeter", "v1");
        service.endpoints = (0..100_000).map(|i| Endpoint::new(i.to_string())).collect();
        let facts = (0..100_000).map(|i| (format!("k{i:06}"), "v".to_owned()));
        service.metadata = facts.collect();
        assert!(clean(&mut service));
        assert_eq!(service.endpoints.len(), MOST_ENDPOINTS);
        let bytes = |(name, value): (&String, &String)| name.len() + value.len();
        assert!(service.metadata.iter().map(bytes).sum::<usize>() <= MOST_METADATA);
    }
}
