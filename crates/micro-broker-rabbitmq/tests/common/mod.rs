//! What the tests over real servers share.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use micro_broker_core::{Broker, Drivers, Env};
use micro_broker_rabbitmq::RabbitDriver;
use micro_core::{Random as _, SystemRandom};
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

/// The URL of a server that `cargo xtask services` started; without it, the test is skipped.
pub(crate) fn server(test: &str, variable: &str, name: &str) -> Option<String> {
    if let Ok(url) = std::env::var(variable) {
        return Some(url);
    }
    let cure = format!("cargo xtask services up {name}, then cargo xtask test");
    skip(test, &format!("{variable} is not set"), &cure);
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
            .expect("the log of skips opens");
        writeln!(log, "{test}\t{reason}\t{cure}").expect("it takes a line");
    }
}

/// Shows a figure; the harness keeps what is printed otherwise.
pub(crate) fn figure(text: &str) {
    let _ = writeln!(std::io::stderr(), "figure: {text}");
}

pub(crate) fn with_option(url: &str, option: &str) -> String {
    match (option, url.contains('?')) {
        ("", _) => url.to_owned(),
        (_, true) => format!("{url}&{option}"),
        (_, false) => format!("{url}?{option}"),
    }
}

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn open(url: &str, namespace: &str) -> Arc<dyn Broker> {
    let env = Env::new().with_namespace(namespace);
    let drivers = Drivers::new().with(RabbitDriver::default());
    drivers.open(url, &env).await.expect("it opens")
}

/// A namespace that nobody else has.
pub(crate) fn namespace() -> String {
    format!("t{:016x}", SystemRandom.next_u64())
}

/// What stands between us and a server, and can be cut.
pub(crate) struct Proxy {
    port: u16,
    target: String,
    accepting: Option<AbortHandle>,
    connections: Arc<Mutex<Vec<AbortHandle>>>,
}

impl Proxy {
    /// Before the server of this URL.
    pub(crate) async fn start(url: &str) -> Self {
        let target = url.split("://").nth(1).expect("it has a host");
        let target = target.split(['/', '?']).next().expect("it has a host");
        let mut proxy = Self {
            port: free_port(),
            target: target.to_owned(),
            accepting: None,
            connections: Arc::default(),
        };
        proxy.open().await;
        proxy
    }

    pub(crate) fn url(&self) -> String {
        format!("rabbitmq://127.0.0.1:{}", self.port)
    }

    /// Lets connections in, to the server.
    pub(crate) async fn open(&mut self) {
        let target = self.target.clone();
        self.listen(move |mut ours| {
            let target = target.clone();
            async move {
                if let Ok(mut theirs) = TcpStream::connect(target).await {
                    let _ = copy_bidirectional(&mut ours, &mut theirs).await;
                }
            }
        })
        .await;
    }

    /// Lets connections in and never answers.
    pub(crate) async fn swallow(&mut self) {
        self.cut();
        self.listen(async move |ours| {
            let _held = ours;
            std::future::pending::<()>().await;
        })
        .await;
    }

    async fn listen<F>(&mut self, serve: impl Fn(TcpStream) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        // Whoever had it before ends a moment later.
        let listener = loop {
            match tokio::net::TcpListener::bind(("127.0.0.1", self.port)).await {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        let connections = Arc::clone(&self.connections);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let task = tokio::spawn(serve(stream));
                connections
                    .lock()
                    .expect("no panic")
                    .push(task.abort_handle());
            }
        });
        self.accepting = Some(task.abort_handle());
    }

    /// Breaks all connections and refuses new ones.
    pub(crate) fn cut(&mut self) {
        if let Some(task) = self.accepting.take() {
            task.abort();
        }
        for connection in self.connections.lock().expect("no panic").drain(..) {
            connection.abort();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
    }
}

/// A port below those that the kernel gives to anybody, so that it stays free.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 3000).expect("it is small");
    loop {
        let port = 26_500 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 2000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

/// A RabbitMQ of a test's own: it may be killed.
pub(crate) struct Rabbit {
    dir: TempDir,
    port: u16,
    ports: [u16; 2],
    children: Vec<Child>,
}

impl Rabbit {
    /// Starts one; `None` if RabbitMQ is not installed.
    pub(crate) fn start(test: &str) -> Option<Self> {
        if !Path::new(SERVER).is_file() {
            skip(
                test,
                "RabbitMQ is not installed",
                "cargo xtask services up rabbitmq",
            );
            return None;
        }
        let mut rabbit = Self {
            dir: TempDir::new().expect("a folder"),
            port: free_port(),
            ports: [free_port(), free_port()],
            children: Vec::new(),
        };
        rabbit.run();
        Some(rabbit)
    }

    /// Starts the processes, on whatever data there are.
    pub(crate) fn run(&mut self) {
        let dir = self.dir.path();
        let file = |name: &str, text: String| {
            std::fs::write(dir.join(name), text).expect("a file");
        };
        let listen = format!("listeners.tcp.1 = 127.0.0.1:{}\n", self.port);
        file(
            "rabbitmq.conf",
            listen + "disk_free_limit.absolute = 10MB\n",
        );
        file("enabled_plugins", "[].\n".to_owned());
        let [epmd, dist] = self.ports.map(|port| port.to_string());
        let path = |name: &str| dir.join(name);
        let start = |program: &str, args: &[&str]| {
            let mut command = Command::new(program);
            command
                .args(args)
                .current_dir(dir)
                .env("HOME", dir)
                .env("ERL_EPMD_ADDRESS", "127.0.0.1")
                .env("ERL_EPMD_PORT", &epmd)
                .env("RABBITMQ_NODENAME", format!("test{dist}@localhost"))
                .env("RABBITMQ_DIST_PORT", &dist)
                .env("RABBITMQ_CONFIG_FILE", path("rabbitmq.conf"))
                .env("RABBITMQ_ENABLED_PLUGINS_FILE", path("enabled_plugins"))
                .env("RABBITMQ_LOG_BASE", path("logs"))
                .env("RABBITMQ_LOGS", "-")
                .env("RABBITMQ_MNESIA_BASE", path("mnesia"))
                .env("RABBITMQ_PID_FILE", path("pid"))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            // A group of its own: the script's child is what is to be killed.
            command.process_group(0).spawn().expect("it starts")
        };
        let epmd = start("epmd", &["-address", "127.0.0.1", "-port", &epmd]);
        self.children = vec![epmd, start(SERVER, &[])];
    }

    /// Ends it in good order.
    pub(crate) fn stop(&mut self) {
        if let Some(mut server) = self.children.pop() {
            let id = server.id().to_string();
            let _ = Command::new("kill").args(["-TERM", &id]).status();
            let _ = server.wait();
        }
        self.kill();
    }

    /// Ends the processes as a power cut would.
    pub(crate) fn kill(&mut self) {
        for mut child in self.children.drain(..) {
            let group = format!("-{}", child.id());
            let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
            let _ = child.wait();
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("rabbitmq://127.0.0.1:{}", self.port)
    }
}

impl Drop for Rabbit {
    fn drop(&mut self) {
        self.kill();
    }
}
