//! A real etcd, killed and restarted again and again while calls are made.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use micro::codec::shape;
use micro::{Client, Context, Routes, Running, Service};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::report::Report;
use crate::{Options, Result};

const NODES: usize = 3;
const CALLERS: usize = 8;
const TTL: Duration = Duration::from_secs(10);
const INTERVAL: Duration = Duration::from_secs(3);
/// How long etcd is away each time.
const AWAY: Duration = Duration::from_secs(2);
/// How long anything else may take.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    if Command::new("etcd")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_err()
    {
        report.skip("etcd", "etcd is not installed; apt-get install etcd-server");
        return Ok(());
    }
    let kills = if options.quick { 3 } else { 10 };
    super::runtime()?.block_on(campaign(kills, report))
}

async fn campaign(kills: usize, report: &mut Report) -> Result<()> {
    let mut etcd = Etcd::new()?;
    etcd.start().await?;
    let url = etcd.url();
    let mut nodes = Vec::new();
    for index in 0..NODES {
        nodes.push(node(&url, index).await?);
    }
    etcd.registered().await?;
    let client = Client::builder().registry_url(&url).build().await?;
    let load = Load::start(&client);
    // Until everything runs.
    sleep(Duration::from_secs(1)).await;
    let mut back = Vec::new();
    let mut stale = 0;
    for kill in 0..kills {
        etcd.kill();
        // Every other time what it knew is lost, too.
        let lost = kill % 2 == 1;
        if lost {
            etcd.forget()?;
        }
        sleep(AWAY).await;
        etcd.start().await?;
        let ready = Instant::now();
        etcd.registered().await?;
        let took = ready.elapsed();
        eprintln!(
            "  kill {}{}: registered again after {took:.2?}",
            kill + 1,
            if lost { ", data lost" } else { "" }
        );
        back.push(took.as_secs_f64());
        // Also somebody who comes now finds them.
        let late = Client::builder().registry_url(&url).build().await?;
        stale += usize::from(hello(&late).await.is_err());
        sleep(Duration::from_secs(2)).await;
    }
    // A lease that nobody renews any more would end only now.
    sleep(TTL + Duration::from_secs(2)).await;
    let listed = etcd.keys().await?;
    let (made, failed, first) = load.stop().await;
    if let Some(first) = first {
        eprintln!("  the first call that failed: {first}");
    }
    report.figure("etcd_kills", kills as f64, "kills");
    report.figure("etcd_calls", made as f64, "calls");
    report.at_most("etcd_failed_calls", failed as f64, "calls", 0.0);
    report.at_most("etcd_failed_lookups", stale as f64, "lookups", 0.0);
    let longest = back.iter().copied().fold(0.0, f64::max);
    report.at_most("etcd_registered_again", longest, "s", TTL.as_secs_f64());
    let missing = NODES.saturating_sub(listed) as f64;
    report.at_most("etcd_missing_at_the_end", missing, "nodes", 0.0);
    for node in nodes {
        node.stop().await?;
    }
    Ok(())
}

async fn node(url: &str, index: usize) -> Result<Running> {
    let routes = Routes::dynamic("Greeter").unary(
        "Hello",
        shape!(String),
        shape!(String),
        |_cx, name: String| async move { Ok(format!("Hello, {name}!")) },
    );
    let service = Service::new("greeter").id(format!("greeter-{index}"));
    let service = service.routes(routes).registry_url(url);
    let service = service
        .register(TTL, INTERVAL)
        .stop_timeout(Duration::from_secs(2));
    Ok(service.start().await?)
}

async fn hello(client: &Client) -> micro::Result<String> {
    let call = client.call("greeter", "Greeter.Hello", &"Ada");
    call.send(&Context::new()).await
}

/// Callers who never stop.
struct Load {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    first: Arc<Mutex<Option<String>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(client: &Client) -> Self {
        let mut load = Self {
            stop: Arc::default(),
            made: Arc::default(),
            failed: Arc::default(),
            first: Arc::default(),
            tasks: Vec::new(),
        };
        for _ in 0..CALLERS {
            let client = client.clone();
            let (stop, made) = (Arc::clone(&load.stop), Arc::clone(&load.made));
            let (failed, first) = (Arc::clone(&load.failed), Arc::clone(&load.first));
            load.tasks.push(tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    made.fetch_add(1, Ordering::Relaxed);
                    if let Err(err) = hello(&client).await {
                        failed.fetch_add(1, Ordering::Relaxed);
                        let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
                        first.get_or_insert_with(|| err.to_string());
                    }
                    sleep(Duration::from_millis(5)).await;
                }
            }));
        }
        load
    }

    /// How many calls were made, how many failed, and how the first one did.
    async fn stop(self) -> (u64, u64, Option<String>) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            let _ = task.await;
        }
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        (
            self.made.load(Ordering::Relaxed),
            self.failed.load(Ordering::Relaxed),
            first.clone(),
        )
    }
}

/// An etcd of our own, on ports of its own.
struct Etcd {
    folder: PathBuf,
    port: u16,
    peer: u16,
    child: Option<Child>,
}

impl Etcd {
    fn new() -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("micro-faults-etcd-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let free = || -> Result<u16> {
            let socket = std::net::TcpListener::bind(("127.0.0.1", 0))?;
            Ok(socket.local_addr()?.port())
        };
        Ok(Self {
            folder,
            port: free()?,
            peer: free()?,
            child: None,
        })
    }

    fn url(&self) -> String {
        format!("etcd://127.0.0.1:{}", self.port)
    }

    fn data(&self) -> PathBuf {
        Path::new(&self.folder).join("data")
    }

    async fn start(&mut self) -> Result<()> {
        let client = format!("http://127.0.0.1:{}", self.port);
        let peer = format!("http://127.0.0.1:{}", self.peer);
        let child = Command::new("etcd")
            .arg(format!("--data-dir={}", self.data().display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster=default={peer}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        self.child = Some(child);
        let ready = async {
            loop {
                match self.keys().await {
                    Ok(_) => return,
                    Err(_) => sleep(Duration::from_millis(20)).await,
                }
            }
        };
        timeout(PATIENCE, ready)
            .await
            .map_err(|_| "etcd does not start".into())
    }

    /// As `kill -9`.
    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn forget(&self) -> Result<()> {
        Ok(std::fs::remove_dir_all(self.data())?)
    }

    /// Waits until all nodes are registered.
    async fn registered(&self) -> Result<()> {
        let start = Instant::now();
        while self.keys().await? < NODES {
            if start.elapsed() > PATIENCE {
                return Err("the nodes are not registered".into());
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// How many keys it has, whoever they belong to: by its JSON gateway.
    async fn keys(&self) -> Result<usize> {
        let body = r#"{"key":"AA==","range_end":"AA==","count_only":true}"#;
        let request = format!(
            "POST /v3/kv/range HTTP/1.0\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let exchange = async {
            let mut socket = TcpStream::connect(("127.0.0.1", self.port)).await?;
            socket.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            socket.read_to_string(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        let answer = timeout(Duration::from_secs(5), exchange).await??;
        if !answer.contains(" 200 ") {
            return Err("etcd is not ready".into());
        }
        // Nothing is said of a count of none.
        let count = answer.split("\"count\":\"").nth(1).unwrap_or("0\"");
        Ok(count.split('"').next().unwrap_or_default().parse()?)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
