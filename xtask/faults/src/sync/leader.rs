//! Three processes want to lead; whoever leads is killed, or stopped for longer than its time.

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::engine::Engine;
use super::judge::{event, judge};
use super::player::Player;
use super::resource::Resource;
use super::{PATIENCE, TTL, now};
use crate::report::Report;
use crate::{Options, Result};

pub(super) async fn run<E: Engine>(options: &Options, report: &mut Report) -> Result<()> {
    let rounds = if options.quick { 2 } else { 10 };
    let engine = E::start().await?;
    let store = Resource::start().await?;
    let start = || Player::start(&["leader", &engine.url(), &store.address().to_string()]);
    let mut players = vec![start()?, start()?, start()?];
    let mut lines = Vec::new();
    let mut terms = 0;
    let (mut after_kill, mut after_stop) = (Vec::new(), Vec::new());
    let (mut leader, _) = elected(&players, &mut terms).await?;
    for _ in 0..rounds {
        let killed = std::mem::replace(&mut players[leader], start()?);
        let at = now();
        let (said, _) = killed.kill().await?;
        terms -= terms_of(&said);
        lines.extend(said);
        let (stopped, since) = elected(&players, &mut terms).await?;
        after_kill.push((since.saturating_sub(at)).as_secs_f64());

        players[stopped].signal(Signal::STOP)?;
        let at = now();
        let (next, since) = elected(&players, &mut terms).await?;
        leader = next;
        after_stop.push((since.saturating_sub(at)).as_secs_f64());
        sleep(TTL).await;
        players[stopped].signal(Signal::CONT)?;
        let begin = Instant::now();
        while !players[stopped]
            .lines()
            .last()
            .is_some_and(|line| line.starts_with("lost "))
        {
            if begin.elapsed() > PATIENCE {
                return Err("one that was stopped does not learn that it has lost".into());
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
    for player in players {
        let (said, _) = player.kill().await?;
        lines.extend(said);
    }
    let count = |line: &str| lines.iter().filter(|said| said.starts_with(line)).count() as f64;
    let woke = |held: &str| {
        let woken = lines.iter().filter(|line| line.starts_with("woke "));
        woken.filter(|line| line.ends_with(held)).count() as f64
    };
    let longest = |times: &[f64]| times.iter().copied().fold(0.0, f64::max);
    let goal = TTL.as_secs_f64() + 1.0;
    let name = |what: &str| format!("{}_leader_{what}", E::NAME);
    report.figure(name("rounds"), f64::from(rounds), "rounds");
    report.at_most(name("after_kill"), longest(&after_kill), "s", goal);
    report.at_most(name("after_stop"), longest(&after_stop), "s", goal);
    report.at_most(name("woke_and_believed"), woke("true"), "leaders", 0.0);
    let late = count("late true");
    report.at_most(name("late_writes_let_through"), late, "writes", 0.0);
    let unaware = f64::from(rounds) - count("lost true");
    report.at_most(name("stopped_and_unaware"), unaware, "leaders", 0.0);
    let mut events = store.events();
    for line in &lines {
        events.extend(event(line)?);
    }
    judge(events, &name("term"), report);
    Ok(())
}

fn terms_of(lines: &[String]) -> usize {
    let acquired = lines.iter().filter(|line| line.starts_with("acquired "));
    acquired.count()
}

/// Waits until there is one term more than before; who leads, and since when.
async fn elected(players: &[Player], terms: &mut usize) -> Result<(usize, Duration)> {
    let begin = Instant::now();
    loop {
        let lines: Vec<Vec<String>> = players.iter().map(Player::lines).collect();
        let all = lines.iter().map(|lines| terms_of(lines)).sum();
        if all > *terms {
            *terms = all;
            let mut newest = (0, Duration::ZERO);
            for (player, lines) in lines.iter().enumerate() {
                for line in lines {
                    if let Some((_, operation)) = event(line)? {
                        let returned = operation.returned.unwrap_or_default();
                        if returned > newest.1 {
                            newest = (player, returned);
                        }
                    }
                }
            }
            return Ok(newest);
        }
        if begin.elapsed() > PATIENCE {
            return Err("nobody is elected".into());
        }
        sleep(Duration::from_millis(10)).await;
    }
}
