//! The kills.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use micro_core::{Random as _, SeededRandom};
use tokio::time::{Instant, sleep};

use super::child::Child;
use super::engine::Engine;
use super::judge::Ledger;
use super::{CONSUMERS, PATIENCE, PUBLISHERS};
use crate::report::Report;
use crate::{Options, Result};

/// Those who run.
struct Cast {
    engine: Engine,
    ledger: Arc<Mutex<Ledger>>,
    publishers: Vec<Child>,
    consumers: Vec<Child>,
    /// How many publishers there have been: no two have the same name.
    names: usize,
    /// Those who ended by themselves, or in disorder.
    crashed: u64,
}

pub(super) async fn run(engine: Engine, options: &Options, report: &mut Report) -> Result<()> {
    let kills = if options.quick { 3 } else { 20 };
    let random = SeededRandom::new(options.seed);
    let below = |most: u64| random.next_u64() % most;
    let name = engine.kind.name();
    let mut cast = Cast {
        engine,
        ledger: Arc::default(),
        publishers: Vec::new(),
        consumers: Vec::new(),
        names: 0,
        crashed: 0,
    };
    for _ in 0..CONSUMERS {
        let consumer = cast.consumer()?;
        cast.consumers.push(consumer);
    }
    // A group is there once its first member is.
    cast.wait("no consumer is ready", |ledger| ledger.ready > 0)
        .await?;
    // RabbitMQ 3.10 notes up to half a second late that a quorum queue was made: killed before that, the
    // queue never has a leader again.
    sleep(Duration::from_secs(2)).await;
    for at in 0..PUBLISHERS {
        let publisher = cast.publisher(at)?;
        cast.publishers.push(publisher);
    }
    for _ in 0..kills {
        // Each kill is to hit what is at work.
        cast.all_flows().await?;
        sleep(Duration::from_millis(100 + below(300))).await;
        let at = below(CONSUMERS as u64) as usize;
        let next = cast.consumer()?;
        let killed = std::mem::replace(&mut cast.consumers[at], next);
        cast.crashed += u64::from(killed.kill().await?);

        sleep(Duration::from_millis(100 + below(300))).await;
        let at = below(PUBLISHERS as u64) as usize;
        // Its disk is the next one's: they must not be there together.
        let killed = cast.publishers.remove(at);
        cast.crashed += u64::from(killed.kill().await?);
        let next = cast.publisher(at)?;
        cast.publishers.insert(at, next);

        sleep(Duration::from_millis(100 + below(300))).await;
        cast.engine.kill();
        sleep(Duration::from_millis(below(300))).await;
        cast.engine.run().await?;
    }
    sleep(Duration::from_secs(1)).await;
    for publisher in std::mem::take(&mut cast.publishers) {
        cast.crashed += u64::from(!publisher.end().await?);
    }
    cast.all_has_arrived().await;
    for consumer in std::mem::take(&mut cast.consumers) {
        cast.crashed += u64::from(!consumer.end().await?);
    }

    let ledger = cast.ledger();
    for id in ledger.missing().iter().take(10) {
        eprintln!("  lost: {id}");
    }
    let verdict = ledger.verdict();
    for (what, count) in [
        ("kills_of_consumers", kills),
        ("kills_of_publishers", kills),
        ("kills_of_the_engine", kills),
    ] {
        report.figure(format!("{name}_{what}"), count as f64, "kills");
    }
    for (what, count) in [
        ("published", verdict.tried),
        ("acknowledged", verdict.acknowledged),
        ("refused", verdict.refused),
        ("for_nobody", verdict.nobody),
        ("arrived", verdict.arrived),
        ("duplicates", verdict.duplicates),
    ] {
        report.figure(format!("{name}_{what}"), count as f64, "messages");
    }
    for (what, count, unit) in [
        ("lost", verdict.lost, "messages"),
        ("phantom", verdict.phantom, "messages"),
        ("wrong", verdict.wrong, "messages"),
        ("not_understood", verdict.unread, "lines"),
        ("crashed", cast.crashed, "children"),
    ] {
        report.at_most(format!("{name}_{what}"), count as f64, unit, 0.0);
    }
    // A campaign in which nothing happens proves nothing.
    let idle = u64::from(verdict.acknowledged < 100);
    report.at_most(format!("{name}_idle"), idle as f64, "campaigns", 0.0);
    Ok(())
}

impl Cast {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn consumer(&self) -> Result<Child> {
        let engine = &self.engine;
        let arguments = ["consume", &engine.url(), &engine.registry()];
        Child::start(&arguments, &self.ledger)
    }

    fn publisher(&mut self, at: usize) -> Result<Child> {
        let engine = &self.engine;
        let name = format!("p{at}.{}", self.names);
        self.names += 1;
        let arguments = [
            "publish",
            &name,
            &engine.publisher_url(),
            &engine.registry(),
            &engine.store(at),
        ];
        Child::start(&arguments, &self.ledger)
    }

    async fn wait(&self, failure: &'static str, until: impl Fn(&Ledger) -> bool) -> Result<()> {
        let begin = Instant::now();
        while !until(&self.ledger()) {
            if begin.elapsed() > PATIENCE {
                return Err(failure.into());
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Waits until messages are acknowledged, and others arrive.
    async fn all_flows(&self) -> Result<()> {
        let before = self.ledger().counts();
        self.wait("no messages arrive any more", |ledger| {
            let now = ledger.counts();
            now.0 > before.0 + 10 && now.1 > before.1 + 10
        })
        .await
    }

    /// Waits until all that was acknowledged has arrived, or nothing more does.
    async fn all_has_arrived(&self) {
        let (mut missing, mut since) = (usize::MAX, Instant::now());
        loop {
            let now = self.ledger().missing().len();
            if now < missing {
                (missing, since) = (now, Instant::now());
            }
            if missing == 0 || since.elapsed() > PATIENCE {
                return;
            }
            sleep(Duration::from_millis(200)).await;
        }
    }
}
