//! What the tests over real sockets share: ports, children, hosts of their own.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::Write as _;
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::time::Duration;

use micro_registry_core::{
    DeregisterOptions, Env, ErrorKind, Node, RegisterOptions, Registry, RegistryExt as _, Service,
};
use micro_registry_mdns::{MdnsConfig, MdnsRegistry};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::time::{Instant, sleep, timeout};

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A port that nobody uses now.
pub(crate) fn free_port() -> u16 {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
    socket.local_addr().unwrap().port()
}

pub(crate) fn loopback(port: u16) -> MdnsConfig {
    MdnsConfig::default().with_interface("lo").with_port(port)
}

pub(crate) fn open(config: MdnsConfig, namespace: &str) -> MdnsRegistry {
    MdnsRegistry::open(config, &Env::new().with_namespace(namespace)).unwrap()
}

pub(crate) fn greeter(id: &str, address: &str) -> Service {
    Service::new("greeter", "v1").with_node(Node::new(id, address))
}

pub(crate) async fn register(registry: &MdnsRegistry, service: &Service) {
    let opts = RegisterOptions::default();
    registry.register(service, opts).await.unwrap();
}

pub(crate) async fn deregister(registry: &MdnsRegistry, service: &Service) {
    let opts = DeregisterOptions::default();
    registry.deregister(service, opts).await.unwrap();
}

/// Ids and addresses of the nodes of `greeter`, sorted.
pub(crate) async fn nodes(registry: &MdnsRegistry) -> Vec<(String, String)> {
    let found = match registry.get("greeter").await {
        Ok(found) => found,
        Err(err) if err.kind() == ErrorKind::NotFound => Vec::new(),
        Err(err) => panic!("{err:?}"),
    };
    let nodes = found.into_iter().flat_map(|service| service.nodes);
    let mut nodes: Vec<_> = nodes.map(|node| (node.id, node.address)).collect();
    nodes.sort();
    nodes
}

/// Waits until exactly these nodes are found, and tells how long that took.
pub(crate) async fn until_nodes(registry: &MdnsRegistry, ids: &[&str]) -> Duration {
    let start = Instant::now();
    loop {
        let found = nodes(registry).await;
        if found.iter().map(|(id, _)| &**id).eq(ids.iter().copied()) {
            return start.elapsed();
        }
        assert!(
            start.elapsed() < PATIENCE,
            "{found:?} is found instead of {ids:?}"
        );
        sleep(Duration::from_millis(10)).await;
    }
}

/// Shows a figure; the harness keeps what is printed otherwise.
pub(crate) fn figure(text: &str) {
    let _ = writeln!(std::io::stderr(), "figure: {text}");
}

/// Says honestly that a test did not run.
pub(crate) fn skip(test: &str, reason: &str, cure: &str) {
    figure(&format!("skipped {test}: {reason}; {cure}"));
    if let Some(log) = std::env::var_os("MICRO_SKIP_LOG") {
        let mut log = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(log)
            .unwrap();
        writeln!(log, "{test}\t{reason}\t{cure}").unwrap();
    }
}

/// A network of its own, with nothing but loopback until told otherwise.
pub(crate) struct Host {
    pub(crate) name: String,
}

impl Host {
    /// `None` where that is not possible.
    pub(crate) fn new(name: &str) -> Option<Self> {
        let host = Self {
            name: format!("micro-{}-{name}", std::process::id()),
        };
        if !ip(&["netns", "add", &host.name]) {
            return None;
        }
        ip(&["-n", &host.name, "link", "set", "lo", "up"]).then_some(host)
    }

    /// Connects two hosts by a wire, with these addresses.
    pub(crate) fn connect(&self, other: &Self, addresses: [&str; 2]) -> bool {
        ip(&[
            "-n",
            &self.name,
            "link",
            "add",
            "eth0",
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            &other.name,
        ]) && [self, other].iter().zip(addresses).all(|(host, address)| {
            ip(&["-n", &host.name, "addr", "add", address, "dev", "eth0"])
                && ip(&["-n", &host.name, "link", "set", "eth0", "up"])
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        ip(&["netns", "del", &self.name]);
    }
}

fn ip(args: &[&str]) -> bool {
    let status = Command::new("ip")
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

/// A command, on a host of its own if one is given.
pub(crate) fn command(host: Option<&Host>, program: &str) -> tokio::process::Command {
    let mut command = match host {
        Some(host) => {
            let mut command = tokio::process::Command::new("ip");
            command.args(["netns", "exec", &host.name, program]);
            command
        }
        None => tokio::process::Command::new(program),
    };
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Another program: this test binary once more, running one of its functions that are no tests.
pub(crate) struct Program {
    pub(crate) child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    stdin: Option<ChildStdin>,
}

impl Program {
    pub(crate) fn start(host: Option<&Host>, role: &str, settings: &[(&str, &str)]) -> Self {
        let exe = std::env::current_exe().unwrap();
        let mut command = command(host, exe.to_str().unwrap());
        command
            .args([role, "--exact", "--nocapture"])
            .env("TEST_PROGRAM", role)
            .envs(settings.iter().copied());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let stdin = child.stdin.take();
        Self {
            child,
            lines,
            stdin,
        }
    }

    /// The next line that the program says on purpose.
    pub(crate) async fn line(&mut self) -> String {
        let line = async {
            loop {
                let line = self.lines.next_line().await.unwrap();
                let line = line.expect("the program ended too soon");
                if let Some(said) = line.strip_prefix("SAYS ") {
                    return said.to_owned();
                }
            }
        };
        timeout(PATIENCE, line).await.expect("the program hangs")
    }

    /// Ends it cleanly, and waits for that.
    pub(crate) async fn stop(mut self) {
        drop(self.stdin.take());
        timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap();
    }
}

/// Whether this process is such a program; what is no test does nothing in the test run itself.
pub(crate) fn is_program() -> bool {
    setting("TEST_PROGRAM").is_some()
}

/// What a program says to the test that started it.
pub(crate) fn say(text: &str) {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "SAYS {text}").unwrap();
    stdout.flush().unwrap();
}

/// A setting of a program.
pub(crate) fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Waits until the test that started this program wants it to end.
pub(crate) async fn until_told_to_stop() {
    let mut stdin = BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(_)) = stdin.next_line().await {}
}
