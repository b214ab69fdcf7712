//! Which addresses a list may hold.

use std::net::{IpAddr, SocketAddr};

/// Checks `host:port`: something that can be dialled, and leads where it seems to.
///
/// Loopback is allowed: whoever writes the list means this machine.
pub(crate) fn check(text: &str) -> Result<(), &'static str> {
    if text.contains(char::is_control) {
        return Err("an address has no control characters");
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        if matches!(address, SocketAddr::V6(v6) if v6.scope_id() != 0) {
            return Err("an address has no interface in it");
        }
        if address.port() == 0 {
            return Err("port 0 is none; write the port that the node listens on");
        }
        // `[::ffff:0.0.0.0]` is 0.0.0.0 and gets no other treatment.
        return check_ip(address.ip().to_canonical());
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err("an address is 'host:port'");
    };
    match port.parse::<u16>() {
        Ok(0) => return Err("port 0 is none; write the port that the node listens on"),
        Ok(_) if port.bytes().all(|byte| byte.is_ascii_digit()) => {}
        _ => return Err("a port is a number from 1 to 65535"),
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let plain = host.strip_suffix('.').unwrap_or(host);
    if plain.len() > 253 || !plain.split('.').all(label) {
        return Err(
            "a host is an IP address (IPv6 in brackets) or a DNS name: labels of letters, digits and '-'",
        );
    }
    // "1.2.3" and "127.1" are addresses to some resolvers, and names to none.
    let last = plain.rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x") {
        return Err("this is neither an IP address nor a DNS name");
    }
    Ok(())
}

fn check_ip(ip: IpAddr) -> Result<(), &'static str> {
    if ip.is_unspecified() || matches!(ip, IpAddr::V4(v4) if v4.octets()[0] == 0) {
        return Err("an unspecified address says where to listen, not where to connect to");
    }
    if ip.is_multicast() || matches!(ip, IpAddr::V4(v4) if v4.is_broadcast()) {
        return Err("a multicast or broadcast address is no node");
    }
    // 169.254.169.254 leads to the metadata service of a cloud; IPv6's mean nothing without an
    // interface.
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if link_local {
        return Err("a link-local address is no node's");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s51_addresses_that_lead_nowhere_or_astray_are_refused() {
        for text in [
            "",
            "host",
            ":80",
            "host:",
            "host:0",
            "host:+80",
            "host:65536",
            "10.0.0.1:0",
            "[::1]:0",
            "0.0.0.0:80",
            "0.1.2.3:80",
            "[::]:80",
            "[::ffff:0.0.0.0]:80",
            "[::ffff:169.254.169.254]:80",
            "169.254.169.254:80",
            "[fe80::1]:80",
            "[fe80::1%2]:80",
            "255.255.255.255:80",
            "224.0.0.1:80",
            "[ff02::1]:80",
            "ho\0st:80",
            "host\r\n:80",
            "ho st:80",
            "user@host:80",
            "http://host:80",
            "::1:80",
            "[::1]",
            "[host]:80",
            "-host:80",
            "host-.example:80",
            "a..b:80",
            "2130706433:80",
            "127.1:80",
            "0x7f000001:80",
            "größe.example:80",
            &format!("{}:80", "a".repeat(64)),
            &format!("{}:80", ["a"; 130].join(".")),
        ] {
            assert!(check(text).is_err(), "{text}");
        }
        for text in [
            "127.0.0.1:80",
            "10.0.0.1:65535",
            "[::1]:8080",
            "[2001:db8::7]:1",
            "localhost:80",
            "greeter.example.:443",
            "my_host-1:80",
            "xn--gre-8ka6d.example:80",
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
    }
}
