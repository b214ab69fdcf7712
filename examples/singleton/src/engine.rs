//! What the nodes share: an etcd of our own, or whatever `MICRO_SYNC` names.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use micro::sync::LockOptions;
use micro::{Error, Result, Service, Settings};
use tokio::time::{Instant, sleep};

/// How long it may take until it answers.
const PATIENCE: Duration = Duration::from_secs(20);

/// Dropping it ends an etcd of our own.
pub(crate) struct Engine {
    pub(crate) url: String,
    own: Option<(Child, PathBuf)>,
}

impl Engine {
    /// `None` if there is none, and nothing to start.
    pub(crate) async fn find() -> Result<Option<Self>> {
        let engine = match std::env::var("MICRO_SYNC")
            .ok()
            .filter(|url| !url.is_empty())
        {
            Some(url) => Self { url, own: None },
            None => match start()? {
                Some(engine) => engine,
                None => return Ok(None),
            },
        };
        engine.ready().await?;
        Ok(Some(engine))
    }

    /// Waits until it gives locks.
    async fn ready(&self) -> Result<()> {
        let settings = Settings::from_pairs([("MICRO_SYNC", self.url.as_str())])?;
        let probe = Service::new("clock")
            .settings(settings)
            .namespace(namespace());
        let coordinator = probe.coordinator().await?;
        if !coordinator.capabilities().shared {
            return Err(Error::failed_precondition(
                "three processes cannot share locks in memory: unset MICRO_SYNC, or name an etcd or PostgreSQL",
            ));
        }
        let until = Instant::now() + PATIENCE;
        loop {
            match coordinator.try_lock("ready", LockOptions::default()).await {
                Ok(_) => return Ok(()),
                Err(err) if err.is_retryable() && Instant::now() < until => {
                    sleep(Duration::from_millis(100)).await;
                }
                Err(err) => return Err(err),
            }
        }
    }
}

/// Each run has leaders of its own, whoever else uses the engine.
pub(crate) fn namespace() -> String {
    format!("example-{}", std::process::id())
}

fn start() -> Result<Option<Engine>> {
    let port = || TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    let (client, peer) = (port()?, port()?);
    let (client_url, peer_url) = (format!("http://{client}"), format!("http://{peer}"));
    let folder = std::env::temp_dir().join(format!("micro-example-{}", namespace()));
    let child = Command::new("etcd")
        .arg("--data-dir")
        .arg(&folder)
        .args(["--listen-client-urls", &client_url])
        .args(["--advertise-client-urls", &client_url])
        .args(["--listen-peer-urls", &peer_url])
        .args(["--initial-advertise-peer-urls", &peer_url])
        .args(["--initial-cluster", &format!("default={peer_url}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    match child {
        Ok(child) => Ok(Some(Engine {
            url: format!("etcd://{client}"),
            own: Some((child, folder)),
        })),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err.into()),
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some((child, folder)) = &mut self.own {
            let _ = child.kill();
            let _ = child.wait();
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}
