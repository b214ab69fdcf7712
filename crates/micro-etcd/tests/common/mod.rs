//! What the tests over real servers share.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::Write as _;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use micro_core::{ErrorKind, SystemRandom, url};
use micro_etcd::{Client, EtcdConfig};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The URL of a server that `cargo xtask services` started; without it, the test is skipped.
pub(crate) fn server(test: &str, variable: &str, name: &str) -> Option<String> {
    if let Ok(url) = std::env::var(variable) {
        return Some(url);
    }
    let reason = format!("{variable} is not set");
    skip(
        test,
        &reason,
        &format!("cargo xtask services up {name}, then cargo xtask test"),
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

pub(crate) fn with_option(url: &str, name: &str, value: &str) -> String {
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}{name}={value}")
}

/// An etcd of the test's own: it may be killed.
pub(crate) struct Etcd {
    dir: TempDir,
    port: u16,
    peer_port: u16,
    child: Option<Child>,
}

impl Etcd {
    /// Starts one and waits until it answers; `None` if etcd is not installed.
    pub(crate) async fn start(test: &str) -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path).any(|folder| folder.join("etcd").is_file());
        if !found {
            skip(
                test,
                "etcd is not installed",
                "cargo xtask services up etcd",
            );
            return None;
        }
        // Ports of a server that is started again must be the same, and nobody else's meanwhile:
        // outside of what the kernel gives to those who ask for any.
        let (port, peer_port) = (free_port(), free_port());
        let mut etcd = Self {
            dir: TempDir::new().unwrap(),
            port,
            peer_port,
            child: None,
        };
        etcd.run().await;
        Some(etcd)
    }

    /// Starts the process, on whatever data there are.
    pub(crate) async fn run(&mut self) {
        let clients = format!("http://127.0.0.1:{}", self.port);
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let log = std::fs::File::options()
            .append(true)
            .create(true)
            .open(self.dir.path().join("log"))
            .unwrap();
        let child = Command::new("etcd")
            .arg(format!("--data-dir={}", self.data().display()))
            .arg(format!("--listen-client-urls={clients}"))
            .arg(format!("--advertise-client-urls={clients}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster=default={peer}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let until = Instant::now() + PATIENCE;
        let ready = client(&with_option(&self.url(), "timeout", "1s"));
        // With authentication on, a refusal is an answer, too.
        while let Err(err) = ready.get("ready").await
            && err.kind() != ErrorKind::Unauthenticated
        {
            assert!(Instant::now() < until, "etcd does not start: {err:?}");
        }
    }

    /// Makes `root` with the password `secret`, and turns authentication on.
    pub(crate) async fn enable_auth(&self) {
        for (path, body) in [
            ("user/add", r#"{"name":"root","password":"secret"}"#),
            ("user/grant", r#"{"user":"root","role":"root"}"#),
            ("enable", "{}"),
        ] {
            let answer = self.post(&format!("/v3/auth/{path}"), body).await;
            assert!(answer.starts_with("HTTP/1.0 200"), "{path}: {answer}");
        }
    }

    /// etcd's JSON API, for what the client has no call for.
    async fn post(&self, path: &str, body: &str) -> String {
        let mut tcp = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let length = body.len();
        let request = format!("POST {path} HTTP/1.0\r\ncontent-length: {length}\r\n\r\n{body}");
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// Ends the process as a power cut would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Takes its data away.
    pub(crate) fn wipe(&self) {
        std::fs::remove_dir_all(self.data()).unwrap();
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        format!("etcd://127.0.0.1:{}", self.port)
    }

    pub(crate) fn client(&self) -> Client {
        client(&with_option(&self.url(), "timeout", "1s"))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port below those that the kernel gives to anybody, so that it stays free.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 3000).unwrap();
    loop {
        let port = 29_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 3000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

pub(crate) fn client(url: &str) -> Client {
    let url = url::resolve(url).unwrap();
    let mut options = url::Options::new(&url);
    let config = EtcdConfig::take(&url, &mut options).unwrap();
    Client::new(config, Arc::new(SystemRandom)).unwrap()
}

/// Waits until something is so.
pub(crate) async fn eventually(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !so().await {
        assert!(Instant::now() < until, "{what}: not within {PATIENCE:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// What stands between us and a server, and can be cut.
pub(crate) struct Proxy {
    port: u16,
    target: u16,
    accepting: Option<AbortHandle>,
    shared: Arc<ProxyState>,
}

#[derive(Default)]
struct ProxyState {
    connections: Mutex<Vec<AbortHandle>>,
    accepted: AtomicUsize,
    /// When each connection was accepted.
    times: Mutex<Vec<Instant>>,
}

impl Proxy {
    pub(crate) async fn start(target: u16) -> Self {
        let mut proxy = Self {
            port: free_port(),
            target,
            accepting: None,
            shared: Arc::default(),
        };
        proxy.open().await;
        proxy
    }

    /// Lets connections in, to the server.
    pub(crate) async fn open(&mut self) {
        let target = self.target;
        self.listen(move |mut ours| async move {
            if let Ok(mut theirs) = TcpStream::connect(("127.0.0.1", target)).await {
                let _ = copy_bidirectional(&mut ours, &mut theirs).await;
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
        let until = Instant::now() + PATIENCE;
        let listener = loop {
            match tokio::net::TcpListener::bind(("127.0.0.1", self.port)).await {
                Ok(listener) => break listener,
                Err(err) => assert!(Instant::now() < until, "{err}"),
            }
            sleep(Duration::from_millis(10)).await;
        };
        let shared = Arc::clone(&self.shared);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                shared.accepted.fetch_add(1, Ordering::Relaxed);
                shared.times.lock().unwrap().push(Instant::now());
                let task = tokio::spawn(serve(stream));
                shared.connections.lock().unwrap().push(task.abort_handle());
            }
        });
        self.accepting = Some(task.abort_handle());
    }

    /// Breaks all connections and refuses new ones.
    pub(crate) fn cut(&mut self) {
        if let Some(task) = self.accepting.take() {
            task.abort();
        }
        for connection in self.shared.connections.lock().unwrap().drain(..) {
            connection.abort();
        }
    }

    /// How many connections there were.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// When they came; forgets them.
    pub(crate) fn take_times(&self) -> Vec<Instant> {
        std::mem::take(&mut self.shared.times.lock().unwrap())
    }

    pub(crate) fn url(&self) -> String {
        format!("etcd://127.0.0.1:{}", self.port)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
    }
}
