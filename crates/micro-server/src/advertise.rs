//! Which address goes into the registry.

use std::net::{IpAddr, SocketAddr};

use micro_core::{Error, Result};

/// An address of an interface of this machine.
pub(crate) type Candidate = (String, IpAddr);

/// The address to register for a listener bound to `bound`.
///
/// `advertise` wins: a host, or a host and a port; without a port it is the bound one. Without
/// `advertise`, it is the bound address; one that means every interface is replaced by [`choose`].
pub(crate) fn address(
    bound: &str,
    advertise: Option<&str>,
    interfaces: impl FnOnce() -> Vec<Candidate>,
) -> Result<String> {
    let socket: Option<SocketAddr> = bound.parse().ok();
    match (advertise, socket) {
        (Some(wanted), socket) => given(wanted, socket.map(|socket| socket.port())),
        (None, Some(socket)) if socket.ip().to_canonical().is_unspecified() => {
            let port = socket.port();
            Ok(match choose(&interfaces(), socket.is_ipv4()) {
                Some(ip) => SocketAddr::new(ip, port).to_string(),
                // A machine without a network: its own programs can still call.
                None if socket.is_ipv4() => format!("127.0.0.1:{port}"),
                None => format!("[::1]:{port}"),
            })
        }
        // Whatever the transport calls its addresses.
        (None, _) => Ok(bound.to_owned()),
    }
}

fn given(wanted: &str, port: Option<u16>) -> Result<String> {
    let bad = |why: &'static str| {
        let shown: String = wanted
            .chars()
            .take(80)
            .flat_map(char::escape_debug)
            .collect();
        Err(Error::invalid_argument(why)
            .with_operation("server.start")
            .with_context("advertise", shown))
    };
    if wanted.is_empty() || wanted.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return bad("the advertised address is a host, or a host and a port");
    }
    let Some(port) = port else {
        return Ok(wanted.to_owned());
    };
    let bare = wanted
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(wanted);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return given(&SocketAddr::new(ip, port).to_string(), Some(port));
    }
    if let Ok(mut socket) = wanted.parse::<SocketAddr>() {
        if socket.ip().to_canonical().is_unspecified() {
            return bad("nobody can call an advertised address that means every interface");
        }
        if socket.port() == 0 {
            socket.set_port(port);
        }
        return Ok(socket.to_string());
    }
    match wanted.rsplit_once(':') {
        None => Ok(format!("{wanted}:{port}")),
        Some((host, "" | "0")) if !host.is_empty() => Ok(format!("{host}:{port}")),
        Some((host, number)) if !host.is_empty() && number.parse::<u16>().is_ok() => {
            Ok(wanted.to_owned())
        }
        Some(_) => bad("the advertised address is a host, or a host and a port"),
    }
}

/// The address that others most likely reach: private ones first (10/8, 172.16/12, 192.168/16,
/// 100.64/10, `fd00::/8`), then public ones, then the interfaces of container bridges and virtual
/// machines, then link-local ones; among equals IPv4 before IPv6, and then the order of the
/// interfaces. Never a loopback address.
pub(crate) fn choose(candidates: &[Candidate], only_ipv4: bool) -> Option<IpAddr> {
    candidates
        .iter()
        .filter(|(_, ip)| !only_ipv4 || ip.is_ipv4())
        .filter(|(_, ip)| !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast())
        .min_by_key(|(interface, ip)| (rank(interface, *ip), ip.is_ipv6()))
        .map(|(_, ip)| *ip)
}

fn rank(interface: &str, ip: IpAddr) -> u8 {
    if is_link_local(ip) {
        3
    } else if is_bridge(interface) {
        2
    } else if is_private(ip) {
        0
    } else {
        1
    }
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            // 100.64.0.0/10: shared between a carrier's customers, or a cloud's virtual machines.
            ip.is_private() || ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64
        }
        IpAddr::V6(ip) => ip.segments()[0] >> 8 == 0xfd,
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// The interfaces that container engines and hypervisors make; nobody else sees what is behind.
fn is_bridge(interface: &str) -> bool {
    [
        "docker", "br-", "veth", "cni", "virbr", "podman", "cali", "flannel", "lxc", "lxdbr",
        "vboxnet", "vmnet",
    ]
    .iter()
    .any(|prefix| interface.starts_with(prefix))
}

/// The addresses of this machine's interfaces, in the system's order.
pub(crate) fn interfaces() -> Vec<Candidate> {
    match if_addrs::get_if_addrs() {
        Ok(interfaces) => interfaces
            .into_iter()
            .filter(|interface| interface.oper_status != if_addrs::IfOperStatus::Down)
            .map(|interface| {
                let ip = interface.ip();
                (interface.name, ip)
            })
            .collect(),
        Err(err) => {
            tracing::warn!(%err, "the interfaces cannot be listed; set what is advertised");
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use micro_core::ErrorKind;

    fn choice(candidates: &[(&str, &str)], only_ipv4: bool) -> Option<String> {
        let candidates: Vec<Candidate> = candidates
            .iter()
            .map(|(name, ip)| ((*name).to_owned(), ip.parse().unwrap()))
            .collect();
        choose(&candidates, only_ipv4).map(|ip| ip.to_string())
    }

    #[test]
    fn private_goes_before_public_and_bridges_and_link_local_come_last() {
        for (candidates, chosen) in [
            (&[("lo", "127.0.0.1"), ("eth0", "10.1.2.3")][..], "10.1.2.3"),
            (
                &[("eth0", "203.0.113.9"), ("eth1", "172.31.0.5")],
                "172.31.0.5",
            ),
            (
                &[("eth0", "172.32.0.5"), ("eth1", "192.168.1.2")],
                "192.168.1.2",
            ),
            (
                &[("eth0", "203.0.113.9"), ("eth1", "100.64.0.7")],
                "100.64.0.7",
            ),
            (&[("eth0", "100.128.0.1"), ("eth1", "10.0.0.1")], "10.0.0.1"),
            (
                &[("docker0", "172.17.0.1"), ("eth0", "203.0.113.9")],
                "203.0.113.9",
            ),
            (&[("br-1f2e", "172.18.0.1"), ("eth0", "fd00::5")], "fd00::5"),
            (
                &[("eth0", "169.254.3.4"), ("veth12", "10.0.0.9")],
                "10.0.0.9",
            ),
            (
                &[("eth0", "169.254.3.4"), ("lo", "127.0.0.1")],
                "169.254.3.4",
            ),
            (&[("eth0", "fd00::5"), ("eth0", "10.0.0.1")], "10.0.0.1"),
            (&[("eth0", "2001:db8::1"), ("eth1", "fd12::1")], "fd12::1"),
            (
                &[("eth0", "fe80::1"), ("eth0", "2001:db8::1")],
                "2001:db8::1",
            ),
            (&[("eth0", "10.0.0.2"), ("eth1", "10.0.0.1")], "10.0.0.2"),
            (
                &[("virbr0", "192.168.122.1"), ("wlan0", "192.168.0.4")],
                "192.168.0.4",
            ),
        ] {
            assert_eq!(
                choice(candidates, false).as_deref(),
                Some(chosen),
                "{candidates:?}"
            );
        }
        assert_eq!(choice(&[("lo", "127.0.0.1"), ("lo", "::1")], false), None);
        assert_eq!(choice(&[("eth0", "fd00::5")], true), None);
    }

    #[test]
    fn what_is_registered_follows_from_what_is_bound_and_said() {
        let interfaces = || vec![("eth0".to_owned(), "10.0.0.9".parse().unwrap())];
        for (bound, advertise, address_) in [
            ("127.0.0.1:80", None, "127.0.0.1:80"),
            ("192.0.2.1:80", None, "192.0.2.1:80"),
            ("0.0.0.0:80", None, "10.0.0.9:80"),
            ("[::]:80", None, "10.0.0.9:80"),
            ("memory:1", None, "memory:1"),
            ("memory:1", Some("else"), "else"),
            ("0.0.0.0:80", Some("greeter.example"), "greeter.example:80"),
            (
                "0.0.0.0:80",
                Some("greeter.example:443"),
                "greeter.example:443",
            ),
            (
                "0.0.0.0:80",
                Some("greeter.example:0"),
                "greeter.example:80",
            ),
            ("0.0.0.0:80", Some("198.51.100.1"), "198.51.100.1:80"),
            ("0.0.0.0:80", Some("198.51.100.1:0"), "198.51.100.1:80"),
            ("0.0.0.0:80", Some("2001:db8::1"), "[2001:db8::1]:80"),
            ("0.0.0.0:80", Some("[2001:db8::1]"), "[2001:db8::1]:80"),
            ("0.0.0.0:80", Some("[2001:db8::1]:9"), "[2001:db8::1]:9"),
        ] {
            let got = address(bound, advertise, interfaces).unwrap();
            assert_eq!(got, address_, "{bound} {advertise:?}");
        }
        assert_eq!(
            address("0.0.0.0:80", None, Vec::new).unwrap(),
            "127.0.0.1:80"
        );
        assert_eq!(address("[::]:80", None, Vec::new).unwrap(), "[::1]:80");
        for wrong in ["", "a b", "host:port", ":80", "0.0.0.0", "[::]:1", "h\n"] {
            let err = address("0.0.0.0:80", Some(wrong), interfaces).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{wrong:?}");
        }
    }
}
