//! What the tests over real servers share.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::Write as _;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use micro_core::{Random, SystemRandom};
use micro_store_core::{ReadOptions, Record, Result, Scope, Store as _, WriteOptions, Written};
use micro_store_redis::{RedisStore, RedisStoreConfig};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
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

/// A server of the test's own, which it may kill. It keeps its folder.
pub(crate) struct Redis {
    program: PathBuf,
    folder: TempDir,
    args: Vec<String>,
    pub(crate) port: u16,
    child: Option<Child>,
}

impl Redis {
    /// Starts one; without the program, the test is skipped.
    pub(crate) fn start(test: &str, args: &[&str]) -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path)
            .map(|folder| folder.join("redis-server"))
            .find(|file| file.is_file());
        let Some(program) = found else {
            skip(
                test,
                "redis-server is not installed",
                "cargo xtask services up redis",
            );
            return None;
        };
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let mut server = Self {
            program,
            folder: tempfile::tempdir().unwrap(),
            args: Vec::new(),
            port,
            child: None,
        };
        server.set(args);
        server.restart();
        Some(server)
    }

    /// What it is started with from now on.
    pub(crate) fn set(&mut self, args: &[&str]) {
        self.args = args.iter().map(|arg| (*arg).to_owned()).collect();
    }

    pub(crate) fn restart(&mut self) {
        let mut command = Command::new(&self.program);
        command
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string()])
            .args(["--save", "", "--dir"])
            .arg(self.folder.path())
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

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) async fn try_open(url: &str) -> Result<RedisStore> {
    let config = RedisStoreConfig::from_url(&micro_core::url::resolve(url)?)?;
    let random: Arc<dyn Random> = Arc::new(SystemRandom);
    RedisStore::open(config, &random).await
}

/// Opens a store; a server that was just started is waited for.
pub(crate) async fn open(url: &str) -> RedisStore {
    let begin = Instant::now();
    loop {
        match try_open(url).await {
            Ok(store) => return store,
            Err(err) => assert!(begin.elapsed() < PATIENCE, "{err:?}"),
        }
        sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) fn orders() -> Scope {
    Scope::new("shop", "orders").unwrap()
}

pub(crate) async fn put(store: &RedisStore, key: &str, value: &str) -> Result<Written> {
    let record = Record::new(key, value.to_owned());
    store
        .write(&orders(), record, WriteOptions::default())
        .await
}

pub(crate) async fn get(store: &RedisStore, key: &str) -> Result<Record> {
    store.read(&orders(), key, ReadOptions::default()).await
}

/// A prefix that nothing was written below.
pub(crate) fn fresh() -> String {
    format!("t{:016x}", SystemRandom.next_u64())
}

/// Stands between a store and its server, and does to what passes what networks do.
pub(crate) struct Wire {
    pub(crate) port: u16,
    pub(crate) fault: watch::Sender<Fault>,
    /// How many connections were made through it.
    pub(crate) made: watch::Receiver<usize>,
    task: tokio::task::AbortHandle,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// What the connections up to this number say is kept, and passed on when the fault is over, even
    /// if the client is gone by then.
    Hold(usize),
    /// The next answer is not passed on, and its connection is cut.
    CutAnswers,
}

impl Wire {
    pub(crate) async fn to(port: u16) -> Self {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
            .await
            .unwrap();
        let own = listener.local_addr().unwrap().port();
        let (fault, faults) = watch::channel(Fault::None);
        let (count, made) = watch::channel(0);
        let task = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else {
                    continue;
                };
                count.send_modify(|count| *count += 1);
                let number = *count.borrow();
                tokio::spawn(carry(client, server, number, faults.clone()));
            }
        });
        Self {
            port: own,
            fault,
            made,
            task: task.abort_handle(),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(
    client: TcpStream,
    server: TcpStream,
    number: usize,
    mut faults: watch::Receiver<Fault>,
) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let mut held = faults.clone();
    let there = tokio::spawn(async move {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
            let free = |fault: &Fault| !matches!(fault, Fault::Hold(last) if number <= *last);
            if held.wait_for(free).await.is_err() {
                return;
            }
            if to_server.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
        // The server does not learn at once that the client is gone.
        sleep(PATIENCE).await;
    });
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
        if *faults.borrow_and_update() == Fault::CutAnswers {
            there.abort();
            return;
        }
        if to_client.write_all(&buffer[..count]).await.is_err() {
            // It reads on, so that the server goes on, too.
            continue;
        }
    }
}
