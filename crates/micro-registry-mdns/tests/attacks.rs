//! What somebody on the same network can do, and what it costs: multicast DNS knows no secrets.

mod common;

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use micro_core::{Random as _, SeededRandom};
use micro_registry_cache::{Resolver, ResolverOptions};
use micro_registry_core::RegistryExt as _;
use rustix::net::{self, AddressFamily, SocketType, sockopt};
use tokio::time::{Instant, sleep};

use common::*;

const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const MS: fn(u64) -> Duration = Duration::from_millis;

/// Somebody who hears what is said on loopback, and can say anything.
struct Attacker {
    socket: UdpSocket,
    port: u16,
}

impl Attacker {
    fn on(port: u16) -> Self {
        let socket = net::socket(AddressFamily::INET, SocketType::DGRAM, None).unwrap();
        sockopt::set_socket_reuseaddr(&socket, true).unwrap();
        sockopt::set_socket_reuseport(&socket, true).unwrap();
        net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)).unwrap();
        sockopt::set_ip_add_membership(&socket, &GROUP, &Ipv4Addr::LOCALHOST).unwrap();
        sockopt::set_ip_multicast_if(&socket, &Ipv4Addr::LOCALHOST).unwrap();
        sockopt::set_ip_multicast_loop(&socket, true).unwrap();
        let socket = UdpSocket::from(socket);
        socket.set_nonblocking(true).unwrap();
        Self { socket, port }
    }

    fn say(&self, packet: &[u8]) {
        self.socket.send_to(packet, (GROUP, self.port)).unwrap();
    }

    /// The next response that has `text` in it.
    async fn overhear(&self, text: &str) -> Vec<u8> {
        let start = Instant::now();
        let mut buffer = [0; 9000];
        loop {
            assert!(start.elapsed() < PATIENCE, "nothing was said");
            match self.socket.recv(&mut buffer) {
                Ok(length) => {
                    let packet = &buffer[..length];
                    let response = length > 12 && packet[2] & 0x80 != 0;
                    let has = packet
                        .windows(text.len())
                        .any(|window| window == text.as_bytes());
                    if response && has {
                        return packet.to_vec();
                    }
                }
                Err(_) => sleep(MS(5)).await,
            }
        }
    }
}

/// Where each record's TTL stands in a packet.
fn ttls(packet: &[u8]) -> Vec<usize> {
    let number = |at: usize| usize::from(packet[at]) << 8 | usize::from(packet[at + 1]);
    let name = |mut at: usize| loop {
        match packet[at] {
            0 => return at + 1,
            pointer if pointer & 0xc0 == 0xc0 => return at + 2,
            label => at += 1 + usize::from(label),
        }
    };
    let mut at = 12;
    for _ in 0..number(4) {
        at = name(at) + 4;
    }
    let records = number(6) + number(8) + number(10);
    let mut ttls = Vec::new();
    for _ in 0..records {
        at = name(at);
        ttls.push(at + 4);
        at += 10 + number(at + 8);
    }
    ttls
}

#[tokio::test(flavor = "multi_thread")]
async fn s47_a_goodbye_in_anothers_name_takes_nobody_out_of_service() {
    let port = free_port();
    let attacker = Attacker::on(port);
    let (owner, client) = (open(loopback(port), ""), open(loopback(port), ""));
    register(&owner, &greeter("victim", "127.0.0.1:8080")).await;
    let announcement = attacker.overhear("victim").await;
    until_nodes(&client, &["victim"]).await;
    let resolver = Resolver::new(Arc::new(client.clone()), ResolverOptions::default());
    let resolved = resolver.service("greeter").unwrap();
    resolved.known(None).await.unwrap();
    // Past the second in which the owner may not repeat itself.
    sleep(MS(1500)).await;
    let mut goodbye = announcement;
    for at in ttls(&goodbye) {
        goodbye[at..at + 4].fill(0);
    }
    let start = Instant::now();
    let mut missing = 0;
    while start.elapsed() < MS(8000) {
        if start.elapsed().as_millis() % 2500 < 10 {
            attacker.say(&goodbye);
        }
        missing += usize::from(resolved.snapshot().is_empty());
        sleep(MS(10)).await;
    }
    assert_eq!(missing, 0, "the node was out of service");
    // The real one still counts.
    deregister(&owner, &greeter("victim", "127.0.0.1:8080")).await;
    let gone = until_nodes(&client, &[]).await;
    assert!(gone < MS(2500), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn s54_an_announcement_replayed_after_the_goodbye_does_not_last() {
    let port = free_port();
    let attacker = Attacker::on(port);
    let owner = open(loopback(port).with_ttl(Duration::from_secs(2)), "");
    let client = open(loopback(port), "");
    let service = greeter("gone", "127.0.0.1:8080");
    register(&owner, &service).await;
    let announcement = attacker.overhear("gone").await;
    until_nodes(&client, &["gone"]).await;
    deregister(&owner, &service).await;
    until_nodes(&client, &[]).await;
    attacker.say(&announcement);
    // It is believed, for it looks like any other. Nobody answers for it, so it is taken out
    // again when its time is over; until then its address refuses connections.
    sleep(MS(500)).await;
    let gone = until_nodes(&client, &[]).await;
    figure(&format!("a replayed announcement lasts {gone:?}"));
    assert!(gone < Duration::from_secs(8), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn s49_broken_packets_stop_nobody() {
    let port = free_port();
    let attacker = Attacker::on(port);
    let (owner, client) = (open(loopback(port), ""), open(loopback(port), ""));
    register(&owner, &greeter("a", "127.0.0.1:8080")).await;
    let good = attacker.overhear("greeter").await;
    until_nodes(&client, &["a"]).await;
    let header = |flags: u8, counts: [u16; 4]| {
        let mut packet = vec![0, 0, flags, 0];
        packet.extend(counts.iter().flat_map(|count| count.to_be_bytes()));
        packet
    };
    let with = |mut head: Vec<u8>, rest: &[u8]| {
        head.extend(rest);
        head
    };
    let crafted = [
        // A name that points to itself, and two that point to each other.
        with(
            header(0x84, [0, 1, 0, 0]),
            &[0xc0, 12, 0, 12, 0, 1, 0, 0, 0, 9, 0, 2, 0xc0, 12],
        ),
        with(
            header(0x84, [0, 1, 0, 0]),
            &[0xc0, 14, 0xc0, 12, 0, 12, 0, 1, 0, 0, 0, 9, 0, 0],
        ),
        // Forward, and past the end.
        with(
            header(0x84, [0, 1, 0, 0]),
            &[0xc0, 200, 0, 12, 0, 1, 0, 0, 0, 9, 0, 0],
        ),
        with(header(0x84, [0, 1, 0, 0]), &[0xff, 0xff, 0, 12, 0, 1]),
        // A label that is longer than what there is, and one of a kind that there is not.
        with(header(0x84, [0, 1, 0, 0]), &[63, b'a']),
        with(header(0x84, [0, 1, 0, 0]), &[0x80, b'a', 0]),
        // More records than 16 bits of anything.
        header(0x84, [0xffff; 4]),
        with(header(0, [0xffff, 0xffff, 0xffff, 0xffff]), &[0]),
        // RDATA and TXT that go on past the end.
        with(
            header(0x84, [0, 1, 0, 0]),
            &[1, b'x', 0, 0, 16, 0, 1, 0, 0, 0, 9, 0xff, 0xff, 5, b'a'],
        ),
        with(
            header(0x84, [0, 1, 0, 0]),
            &[1, b'x', 0, 0, 16, 0, 1, 0, 0, 0, 9, 0, 2, 0xff, b'a'],
        ),
        // An address of one byte, a service without a target.
        with(
            header(0x84, [0, 1, 0, 0]),
            &[1, b'x', 0, 0, 1, 0, 1, 0, 0, 0, 9, 0, 1, 7],
        ),
        with(
            header(0x84, [0, 1, 0, 0]),
            &[1, b'x', 0, 0, 33, 0, 1, 0, 0, 0, 9, 0, 3, 0, 0, 0],
        ),
        vec![],
        vec![0; 11],
    ];
    for packet in &crafted {
        attacker.say(packet);
    }
    // And a good one with whatever goes wrong on the way.
    let before = memory();
    let seed = 49;
    let random = SeededRandom::new(seed);
    let draw = |below: usize| usize::try_from(random.next_u64() % below as u64).unwrap();
    for round in 0..3000 {
        let mut packet = good.clone();
        for _ in 0..=draw(4) {
            let at = draw(packet.len());
            packet[at] = u8::try_from(draw(256)).unwrap();
        }
        if draw(3) == 0 {
            packet.truncate(draw(packet.len()));
        }
        attacker.say(&packet);
        if round % 100 == 0 {
            sleep(MS(5)).await;
        }
    }
    sleep(MS(500)).await;
    let grown = memory().saturating_sub(before);
    figure(&format!(
        "3014 broken packets (seed {seed}): {grown} KiB more"
    ));
    assert!(grown < 64 << 10, "{grown} KiB");
    // Whoever speaks and listens still does.
    let third = open(loopback(port), "");
    register(&third, &greeter("b", "127.0.0.1:8081")).await;
    let start = Instant::now();
    let ours = ["a", "b"];
    loop {
        let found = nodes(&client).await;
        if ours
            .iter()
            .all(|id| found.iter().any(|(found, _)| found == id))
        {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "{found:?}");
        sleep(MS(50)).await;
    }
    assert!(client.get("greeter").await.is_ok());
}

/// What this process holds, in KiB.
fn memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}
