//! Five clients fight for two locks in an engine; clients are killed and stopped, and the engine is
//! killed and started again.

use std::time::Duration;

use micro_core::SeededRandom;
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::engine::Engine;
use super::judge::{event, judge};
use super::player::Player;
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

pub(super) async fn run<E: Engine>(options: &Options, report: &mut Report) -> Result<()> {
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
    let mut engine = E::start().await?;
    let store = Resource::start().await?;
    let seed = || below(&random, u64::MAX).to_string();
    let start = |seed: &str| {
        let arguments = ["client", &engine.url(), &store.address().to_string(), seed];
        Player::start(&arguments)
    };
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(start(&seed())?);
    }
    let mut lines = Lines::default();
    let (mut kills, mut stops, mut restarts) = (0, 0, 0);
    let url = engine.url();
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
                engine.kill();
                sleep(Duration::from_millis(below(&random, 1500))).await;
                engine.run().await?;
                restarts += 1;
            }
        }
    }
    for client in clients {
        lines.take(client.end().await?);
    }
    // What was held by the killed has ended by then.
    sleep(TTL + Duration::from_secs(3)).await;
    let left = engine.left().await?;
    let woke = |held: &str| {
        let woken = lines.all.iter().filter(|line| line.starts_with("woke "));
        woken.filter(|line| line.ends_with(held)).count()
    };
    let name = |what: &str| format!("{}_{what}", E::NAME);
    report.figure(name("kills"), kills as f64, "clients");
    report.figure(name("stops"), stops as f64, "clients");
    report.figure(name("restarts"), restarts as f64, "restarts");
    report.figure(name("stopped_holders"), woke("") as f64, "holders");
    let believed = woke("true") as f64;
    report.at_most(name("woke_and_believed"), believed, "holders", 0.0);
    for (what, count) in left {
        report.at_most(name(&format!("leaked_{what}")), count as f64, what, 0.0);
    }
    report.at_most(name("crashed"), lines.crashed as f64, "clients", 0.0);
    let mut events = store.events();
    for line in &lines.all {
        events.extend(event(line)?);
    }
    judge(events, E::NAME, report);
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
