//! A child of the campaign.

use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::PATIENCE;
use super::judge::Ledger;
use crate::Result;

/// A child. What it says is written into the ledger.
pub(super) struct Child {
    child: tokio::process::Child,
    reading: JoinHandle<()>,
}

impl Child {
    /// Starts one: `<role> <argument> …`.
    pub(super) fn start(arguments: &[&str], ledger: &Arc<Mutex<Ledger>>) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["role", "broker"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let out = child.stdout.take().ok_or("its output is piped")?;
        let ledger = Arc::clone(ledger);
        // It ends with the child.
        let reading = tokio::spawn(async move {
            let mut out = BufReader::new(out);
            let mut line = String::new();
            while let Ok(1..) = out.read_line(&mut line).await {
                // A child that was killed may leave a part of a line.
                if line.ends_with('\n') {
                    let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
                    ledger.note(line.trim_end());
                }
                line.clear();
            }
        });
        Ok(Self { child, reading })
    }

    /// As `kill -9`; whether it had ended by itself.
    pub(super) async fn kill(mut self) -> Result<bool> {
        let ended = self.child.try_wait()?.is_some();
        self.child.kill().await?;
        self.reading.await?;
        Ok(ended)
    }

    /// Lets it end; whether it ends in order.
    pub(super) async fn end(mut self) -> Result<bool> {
        drop(self.child.stdin.take());
        let status = timeout(PATIENCE * 2, self.child.wait()).await;
        let status = status.map_err(|_| "a child does not end")??;
        self.reading.await?;
        Ok(status.success())
    }
}
