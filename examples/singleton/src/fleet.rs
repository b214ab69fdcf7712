//! The nodes: this program again, three times.

use std::process::Stdio;
use std::time::Duration;

use micro::{Error, Result};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant, timeout};

use crate::engine::namespace;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a node has said, and when.
struct Said {
    node: usize,
    line: String,
    at: Instant,
}

pub(crate) struct Fleet {
    nodes: Vec<Child>,
    said: Receiver<Said>,
}

/// Who leads, with which token, and since when.
#[derive(Clone, Copy)]
pub(crate) struct Leader {
    pub(crate) node: usize,
    pub(crate) token: u64,
    pub(crate) since: Instant,
}

impl Fleet {
    pub(crate) fn start(sync: &str, ledger: &str) -> Result<Self> {
        let (tell, said) = channel(16);
        let nodes: Result<Vec<Child>> = (0..3)
            .map(|node| start(node, sync, ledger, tell.clone()))
            .collect();
        Ok(Self {
            nodes: nodes?,
            said,
        })
    }

    /// Waits until somebody else leads.
    pub(crate) async fn leader(&mut self) -> Result<Leader> {
        loop {
            let Said { node, line, at } = self.next().await?;
            if let Some(token) = line.strip_prefix("leads ") {
                let token = token.parse().map_err(|_| Error::internal(line.clone()))?;
                return Ok(Leader {
                    node,
                    token,
                    since: at,
                });
            }
        }
    }

    /// Waits until this node says this; what follows it.
    pub(crate) async fn says(&mut self, node: usize, what: &str) -> Result<String> {
        loop {
            let said = self.next().await?;
            let rest = said.line.strip_prefix(what);
            if let Some(rest) = rest.filter(|_| said.node == node) {
                return Ok(rest.trim().to_owned());
            }
        }
    }

    async fn next(&mut self) -> Result<Said> {
        let said = timeout(PATIENCE, self.said.recv()).await;
        let said = said.map_err(|_| Error::deadline_exceeded("the nodes say nothing"))?;
        said.ok_or_else(|| Error::unavailable("all nodes have ended"))
    }

    /// As `kill -<signal>` does.
    pub(crate) async fn signal(&self, node: usize, signal: &str) -> Result<()> {
        let id = self.nodes[node].id();
        let id = id.ok_or_else(|| Error::unavailable("the node has ended by itself"))?;
        let sent = Command::new("kill")
            .arg(format!("-{signal}"))
            .arg(id.to_string())
            .status();
        match sent.await?.success() {
            true => Ok(()),
            false => Err(Error::internal("the signal was not sent")),
        }
    }
}

fn start(node: usize, sync: &str, ledger: &str, tell: Sender<Said>) -> Result<Child> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("node")
        .env("MICRO_SYNC", sync)
        .env("MICRO_NAMESPACE", namespace())
        .env("MICRO_REGISTRY", format!("static:?ledger={ledger}"))
        .env("MICRO_LOG", "error")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let out = child.stdout.take();
    let out = out.ok_or_else(|| Error::internal("it has no output"))?;
    // It ends with the node.
    tokio::spawn(async move {
        let mut lines = BufReader::new(out).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let at = Instant::now();
            if tell.send(Said { node, line, at }).await.is_err() {
                break;
            }
        }
    });
    Ok(child)
}
