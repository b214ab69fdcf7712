//! What the tests over real servers share.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use micro_registry_core::{Env, ErrorKind, Node, Registry as _, RegistryExt as _, Service};
use micro_registry_nats::{NatsRegistry, NatsRegistryConfig};
use tokio::time::{Instant, sleep};

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The URL of a server that `cargo xtask services` started; without it, the test is skipped.
pub(crate) fn server(test: &str, variable: &str, name: &str) -> Option<String> {
    if let Ok(url) = std::env::var(variable) {
        return Some(url);
    }
    skip(
        test,
        &format!("{variable} is not set"),
        &format!("cargo xtask services up {name}"),
    );
    None
}

/// Says honestly that a test did not run.
pub(crate) fn skip(test: &str, reason: &str, cure: &str) {
    let _ = writeln!(std::io::stderr(), "skipped {test}: {reason}; {cure}");
    if let Some(log) = std::env::var_os("MICRO_SKIP_LOG") {
        let mut log = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(log)
            .unwrap();
        writeln!(log, "{test}\t{reason}\t{cure}").unwrap();
    }
}

/// Shows a figure; the harness keeps what is printed otherwise.
pub(crate) fn figure(text: &str) {
    let _ = writeln!(std::io::stderr(), "figure: {text}");
}

/// Where the server's program is.
pub(crate) fn program(test: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join("nats-server"))
        .find(|file| file.is_file());
    if found.is_none() {
        skip(
            test,
            "nats-server is not installed",
            "cargo xtask services up nats",
        );
    }
    found
}

/// A server of the test's own, which it may kill.
pub(crate) struct Server {
    program: PathBuf,
    args: Vec<String>,
    pub(crate) port: u16,
    child: Option<Child>,
}

impl Server {
    pub(crate) fn start(program: &Path, args: &[&str]) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let mut server = Self {
            program: program.to_owned(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            port,
            child: None,
        };
        server.restart();
        server
    }

    pub(crate) fn restart(&mut self) {
        let mut command = Command::new(&self.program);
        command
            .args(["-a", "127.0.0.1", "-p", &self.port.to_string()])
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.child = Some(command.spawn().unwrap());
    }

    /// As `kill -9`.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Lets it stand still, or go on: `STOP` or `CONT`.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        let status = Command::new("kill").args(["-s", signal, &pid]).status();
        assert!(status.unwrap().success());
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) fn config(url: &str) -> NatsRegistryConfig {
    NatsRegistryConfig::from_url(&micro_core::url::resolve(url).unwrap()).unwrap()
}

pub(crate) fn open(config: NatsRegistryConfig) -> NatsRegistry {
    NatsRegistry::open(config, &Env::new()).unwrap()
}

pub(crate) fn greeter(id: &str, address: &str) -> Service {
    Service::new("greeter", "v1").with_node(Node::new(id, address))
}

pub(crate) async fn register(registry: &NatsRegistry, service: &Service) {
    registry
        .register(service, Default::default())
        .await
        .unwrap();
}

/// Ids of the nodes of `greeter`, sorted.
pub(crate) async fn ids(registry: &NatsRegistry) -> Vec<String> {
    let found = match registry.get("greeter").await {
        Ok(found) => found,
        Err(err) if matches!(err.kind(), ErrorKind::NotFound | ErrorKind::Unavailable) => {
            Vec::new()
        }
        Err(err) => panic!("{err:?}"),
    };
    let nodes = found.into_iter().flat_map(|service| service.nodes);
    let mut ids: Vec<_> = nodes.map(|node| node.id).collect();
    ids.sort();
    ids
}

/// Waits until exactly these nodes are found, and tells how long that took.
pub(crate) async fn until_ids(registry: &NatsRegistry, expected: &[&str]) -> Duration {
    let start = Instant::now();
    loop {
        let found = ids(registry).await;
        if found == expected {
            return start.elapsed();
        }
        assert!(
            start.elapsed() < PATIENCE,
            "{found:?} is found instead of {expected:?}"
        );
        sleep(Duration::from_millis(10)).await;
    }
}
