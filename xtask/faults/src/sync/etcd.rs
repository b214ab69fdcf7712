//! An etcd of the campaign's own.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::PATIENCE;
use super::engine::{Engine, Left};
use crate::Result;

/// A single member.
pub(super) struct Etcd {
    folder: TempDir,
    port: u16,
    peer: u16,
    child: Option<Child>,
}

impl Engine for Etcd {
    const NAME: &'static str = "etcd";
    const CURE: &'static str = "etcd is not installed; apt-get install etcd-server";

    fn is_installed() -> bool {
        let mut version = Command::new("etcd");
        version
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        version.status().is_ok()
    }

    async fn start() -> Result<Self> {
        let free = || -> Result<u16> {
            let socket = std::net::TcpListener::bind(("127.0.0.1", 0))?;
            Ok(socket.local_addr()?.port())
        };
        let mut etcd = Self {
            folder: TempDir::new()?,
            port: free()?,
            peer: free()?,
            child: None,
        };
        etcd.run().await?;
        Ok(etcd)
    }

    async fn run(&mut self) -> Result<()> {
        let client = format!("http://127.0.0.1:{}", self.port);
        let peer = format!("http://127.0.0.1:{}", self.peer);
        let child = Command::new("etcd")
            .arg(format!(
                "--data-dir={}",
                self.folder.path().join("data").display()
            ))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster=default={peer}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        self.child = Some(child);
        let ready = async {
            while self.keys().await.is_err() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, ready)
            .await
            .map_err(|_| "etcd does not start".into())
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn url(&self) -> String {
        format!("etcd://127.0.0.1:{}", self.port)
    }

    async fn left(&self) -> Result<Left> {
        Ok(vec![
            ("keys", self.keys().await?),
            ("leases", self.leases().await?),
        ])
    }
}

impl Etcd {
    /// How many keys there are, whoever they belong to.
    async fn keys(&self) -> Result<usize> {
        let all = r#"{"key":"AA==","range_end":"AA==","count_only":true}"#;
        let answer = self.post("/v3/kv/range", all).await?;
        // Nothing is said of a count of none.
        let count = answer.split("\"count\":\"").nth(1).unwrap_or("0\"");
        Ok(count.split('"').next().unwrap_or_default().parse()?)
    }

    /// How many leases there are.
    async fn leases(&self) -> Result<usize> {
        let answer = self.post("/v3/lease/leases", "{}").await?;
        Ok(answer.matches("\"ID\":").count())
    }

    /// Its JSON gateway.
    async fn post(&self, path: &str, body: &str) -> Result<String> {
        let length = body.len();
        let request = format!("POST {path} HTTP/1.0\r\ncontent-length: {length}\r\n\r\n{body}");
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
        Ok(answer)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}
