//! Five clients fight for two locks in an etcd; clients are killed and stopped, and so is the etcd.

use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use micro_core::SeededRandom;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::engine::Etcd;
use super::judge::{event, judge};
use super::resource::Resource;
use super::{PATIENCE, TTL, below};
use crate::report::Report;
use crate::{Options, Result};

const CLIENTS: usize = 5;

/// How much is done, at least.
struct Measure {
    locks: usize,
    faults: u64,
}

pub(super) async fn run(options: &Options, report: &mut Report) -> Result<()> {
    let measure = if options.quick {
        Measure {
            locks: 300,
            faults: 12,
        }
    } else {
        Measure {
            locks: 2000,
            faults: 60,
        }
    };
    let random = SeededRandom::new(options.seed);
    let mut etcd = Etcd::start().await?;
    let store = Resource::start().await?;
    let seed = || below(&random, u64::MAX).to_string();
    let start = |seed: &str| {
        let arguments = ["client", &etcd.url(), &store.address().to_string(), seed];
        Player::start(&arguments)
    };
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(start(&seed())?);
    }
    let mut lines = Lines::default();
    let (mut kills, mut stops, mut restarts) = (0, 0, 0);
    let url = etcd.url();
    let until = Instant::now() + PATIENCE * 10;
    while lines.acquired(&clients) < measure.locks || kills + stops + restarts < measure.faults {
        if Instant::now() > until {
            return Err("the clients do not get on".into());
        }
        sleep(Duration::from_millis(200 + below(&random, 800))).await;
        match below(&random, 6) {
            0..3 => {
                let chosen = choose(&clients, &random);
                let arguments = ["client", &url, &store.address().to_string(), &seed()];
                let next = Player::start(&arguments)?;
                let killed = std::mem::replace(&mut clients[chosen], next);
                lines.take(killed.kill().await?);
                kills += 1;
            }
            3..5 => {
                let chosen = choose(&clients, &random);
                clients[chosen].signal(Signal::STOP)?;
                // The others go on for twice the time to live.
                sleep(TTL * 2).await;
                clients[chosen].signal(Signal::CONT)?;
                stops += 1;
            }
            _ => {
                etcd.kill();
                sleep(Duration::from_millis(below(&random, 1500))).await;
                etcd.run().await?;
                restarts += 1;
            }
        }
    }
    for client in clients {
        lines.take(client.end().await?);
    }
    // What was held by the killed has ended by then.
    sleep(TTL + Duration::from_secs(3)).await;
    let (keys, leases) = (etcd.keys().await?, etcd.leases().await?);
    let woke = |held: &str| {
        let woken = lines.all.iter().filter(|line| line.starts_with("woke "));
        woken.filter(|line| line.ends_with(held)).count()
    };
    report.figure("etcd_kills", kills as f64, "clients");
    report.figure("etcd_stops", stops as f64, "clients");
    report.figure("etcd_restarts", restarts as f64, "restarts");
    report.figure("etcd_stopped_holders", woke("") as f64, "holders");
    report.at_most(
        "etcd_woke_and_believed",
        woke("true") as f64,
        "holders",
        0.0,
    );
    report.at_most("etcd_leaked_keys", keys as f64, "keys", 0.0);
    report.at_most("etcd_leaked_leases", leases as f64, "leases", 0.0);
    report.at_most("etcd_crashed", lines.crashed as f64, "clients", 0.0);
    let mut events = store.events();
    for line in &lines.all {
        events.extend(event(line)?);
    }
    judge(events, "etcd", report);
    Ok(())
}

/// One that holds a lock, if there is one.
fn choose(clients: &[Player], random: &SeededRandom) -> usize {
    let holding: Vec<usize> = (0..clients.len())
        .filter(|at| clients[*at].holds())
        .collect();
    let most = u64::try_from(holding.len().max(1)).unwrap_or(1);
    let chosen = usize::try_from(below(random, most)).unwrap_or_default();
    holding.get(chosen).copied().unwrap_or(chosen)
}

/// What was said by those who have ended.
#[derive(Default)]
struct Lines {
    all: Vec<String>,
    /// Those who ended in disorder by themselves.
    crashed: usize,
}

impl Lines {
    fn take(&mut self, (lines, crashed): (Vec<String>, bool)) {
        self.all.extend(lines);
        self.crashed += usize::from(crashed);
    }

    fn acquired(&self, running: &[Player]) -> usize {
        let acquired = |line: &String| line.starts_with("acquired ");
        let ended = self.all.iter().filter(|line| acquired(line)).count();
        let running = running.iter().map(|player| {
            let lines = player.lines();
            lines.iter().filter(|line| acquired(line)).count()
        });
        ended + running.sum::<usize>()
    }
}

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
    fn holds(&self) -> bool {
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
    async fn end(mut self) -> Result<(Vec<String>, bool)> {
        drop(self.child.stdin.take());
        let status = timeout(PATIENCE, self.child.wait()).await??;
        self.reading.await?;
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        Ok((said.clone(), !status.success()))
    }
}
