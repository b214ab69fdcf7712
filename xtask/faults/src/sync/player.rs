//! A child of a campaign.

use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::PATIENCE;
use crate::Result;

/// A child, and what it has said.
pub(super) struct Player {
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
    reading: JoinHandle<()>,
}

impl Player {
    /// Starts one: `<role> <argument> …`.
    pub(super) fn start(arguments: &[&str]) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["role", "sync"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let out = child.stdout.take().ok_or("its output is piped")?;
        let said: Arc<Mutex<Vec<String>>> = Arc::default();
        let told = Arc::clone(&said);
        // It ends with the child.
        let reading = tokio::spawn(async move {
            let mut out = BufReader::new(out);
            let mut line = String::new();
            while let Ok(1..) = out.read_line(&mut line).await {
                // A child that was killed may leave a part of a line.
                if line.ends_with('\n') {
                    told.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(line.trim_end().to_owned());
                }
                line.clear();
            }
        });
        Ok(Self {
            child,
            said,
            reading,
        })
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.clone()
    }

    /// Whether it has a lock, by what it said last.
    pub(super) fn holds(&self) -> bool {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.last()
            .is_some_and(|line| line.starts_with("acquired ") || line.starts_with("verified "))
    }

    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        let id = self.child.id().ok_or("the child has ended")?;
        let id = Pid::from_raw(i32::try_from(id)?).ok_or("it has no id")?;
        Ok(kill_process(id, signal)?)
    }

    /// As `kill -9`; what it said, and whether it had ended by itself.
    pub(super) async fn kill(mut self) -> Result<(Vec<String>, bool)> {
        let crashed = self.child.try_wait()?.is_some();
        self.child.kill().await?;
        self.reading.await?;
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        Ok((said.clone(), crashed))
    }

    /// Lets it end.
    pub(super) async fn end(mut self) -> Result<(Vec<String>, bool)> {
        drop(self.child.stdin.take());
        let status = timeout(PATIENCE, self.child.wait()).await??;
        self.reading.await?;
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        Ok((said.clone(), !status.success()))
    }
}
