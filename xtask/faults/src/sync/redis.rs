//! A Redis of the campaign's own, which writes every change to its disk.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use micro_core::{Random, SystemRandom, url};
use micro_redis::redis::{Value, cmd};
use micro_redis::{Connection, RedisConfig};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use super::PATIENCE;
use super::engine::{Engine, Left};
use crate::Result;

/// A single server.
pub(super) struct Redis {
    folder: TempDir,
    port: u16,
    child: Option<Child>,
}

impl Engine for Redis {
    const NAME: &'static str = "redis";
    const CURE: &'static str = "Redis is not installed; apt-get install redis-server";

    fn is_installed() -> bool {
        let mut version = Command::new("redis-server");
        version
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        version.status().is_ok()
    }

    async fn start() -> Result<Self> {
        let socket = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        let port = socket.local_addr()?.port();
        drop(socket);
        let mut redis = Self {
            folder: TempDir::new()?,
            port,
            child: None,
        };
        redis.run().await?;
        Ok(redis)
    }

    async fn run(&mut self) -> Result<()> {
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string()])
            .args(["--save", "", "--dir"])
            .arg(self.folder.path())
            .args(["--appendonly", "yes", "--appendfsync", "always"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        self.child = Some(child);
        let ready = async {
            while self.say("PING", "").await.is_err() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, ready)
            .await
            .map_err(|_| "Redis does not start".into())
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    async fn left(&self) -> Result<Left> {
        let mut left = Vec::new();
        for (what, pattern) in [
            ("locks", "{micro-sync}:l:*"),
            ("queues", "{micro-sync}:q:*"),
        ] {
            let Value::Array(keys) = self.say("KEYS", pattern).await? else {
                return Err("keys are a list".into());
            };
            left.push((what, keys.len()));
        }
        Ok(left)
    }
}

impl Redis {
    async fn say(&self, word: &str, argument: &str) -> Result<Value> {
        let random: Arc<dyn Random> = Arc::new(SystemRandom);
        let mut config = RedisConfig::from_url(&url::resolve(&self.url())?)?;
        config.timeout = Duration::from_secs(1);
        let connection = Connection::open(config, &random)?;
        let mut command = cmd(word);
        if !argument.is_empty() {
            command.arg(argument);
        }
        Ok(connection.ask(&command, connection.deadline()).await?)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}
