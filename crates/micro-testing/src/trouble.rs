//! Faults by chance.

use std::collections::BTreeSet;
use std::time::Duration;

use micro_core::{Random as _, Result};
use tokio::time::{Instant, sleep};

use crate::cluster::Cluster;
use crate::node::NodeHandle;
use crate::seed;

/// How much trouble [`Cluster::trouble`] makes.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Trouble {
    /// How long it lasts: 60 s.
    pub lasting: Duration,
    /// The longest pause between two events; the shortest is a tenth of it: 3 s.
    pub pause: Duration,
    /// The largest part of a service's nodes that is in trouble at once, rounded down: a half. A
    /// service of one node is left alone unless this is 1.
    pub part: f64,
    /// Whether programs are killed: yes. They are started again.
    pub crashes: bool,
    /// Whether the registry has its share: yes. It stops, is silent or fails, and keeps what it
    /// knows.
    pub registry: bool,
}

impl Default for Trouble {
    fn default() -> Self {
        Self {
            lasting: Duration::from_secs(60),
            pause: Duration::from_secs(3),
            part: 0.5,
            crashes: true,
            registry: true,
        }
    }
}

impl Trouble {
    /// Sets [`lasting`](Self::lasting).
    #[must_use]
    pub fn with_lasting(mut self, lasting: Duration) -> Self {
        self.lasting = lasting;
        self
    }

    /// Sets [`pause`](Self::pause).
    #[must_use]
    pub fn with_pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Sets [`part`](Self::part).
    #[must_use]
    pub fn with_part(mut self, part: f64) -> Self {
        self.part = part;
        self
    }

    /// Sets [`crashes`](Self::crashes).
    #[must_use]
    pub fn with_crashes(mut self, crashes: bool) -> Self {
        self.crashes = crashes;
        self
    }

    /// Sets [`registry`](Self::registry).
    #[must_use]
    pub fn with_registry(mut self, registry: bool) -> Self {
        self.registry = registry;
        self
    }
}

impl Cluster {
    /// Makes trouble drawn from the seed, and ends it: run it beside the calls of the test, as in
    /// `tokio::join!(cluster.trouble(Trouble::default()), calls)`.
    ///
    /// When it returns, everything is healed and every program runs.
    ///
    /// # Errors
    ///
    /// If a program cannot be started again.
    pub async fn trouble(&self, trouble: Trouble) -> Result<()> {
        let end = Instant::now() + trouble.lasting;
        let nodes = self.all_nodes();
        // One more than there are nodes is the registry.
        let places = nodes.len() + usize::from(trouble.registry);
        let mut troubled = BTreeSet::new();
        if places == 0 {
            return Ok(());
        }
        loop {
            let pause = trouble.pause.mul_f64(0.1 + 0.9 * self.chance());
            if Instant::now() + pause >= end {
                sleep(end - Instant::now()).await;
                break;
            }
            sleep(pause).await;
            let place = self.draw(places);
            let Some(node) = nodes.get(place) else {
                if troubled.remove(&place) {
                    self.registry().heal();
                } else {
                    troubled.insert(place);
                    match self.draw(3) {
                        0 => self.registry().stop(),
                        1 => self.registry().black_hole(),
                        _ => self.registry().fail(0.5),
                    }
                }
                continue;
            };
            if troubled.remove(&place) {
                make_well(node).await?;
                continue;
            }
            let its = |other: &NodeHandle| other.seat.service == node.seat.service;
            let all = nodes.iter().filter(|other| its(other)).count();
            let now = troubled.iter().filter_map(|place| nodes.get(*place));
            let now = now.filter(|other| its(other)).count();
            if (now + 1) as f64 <= all as f64 * trouble.part {
                troubled.insert(place);
                self.make_ill(node, trouble.crashes);
            }
        }
        self.heal();
        for node in &nodes {
            make_well(node).await?;
        }
        Ok(())
    }

    fn make_ill(&self, node: &NodeHandle, crashes: bool) {
        match self.draw(if crashes { 7 } else { 6 }) {
            0 => {
                let delay = Duration::from_millis(5).mul_f64(1.0 + 199.0 * self.chance());
                node.slow_between(delay / 2, delay);
            }
            1 => node.fail(0.2 + 0.8 * self.chance()),
            2 => node.black_hole(),
            3 => node.refuse(),
            4 => node.flap(Duration::from_millis(200).mul_f64(1.0 + 9.0 * self.chance())),
            5 => node.isolate(),
            _ => node.crash(),
        }
    }

    fn chance(&self) -> f64 {
        seed::share(&self.parts.net.random)
    }

    /// A number below `below`, which is small.
    fn draw(&self, below: usize) -> usize {
        (self.parts.net.random.next_u64() % below.max(1) as u64) as usize
    }
}

async fn make_well(node: &NodeHandle) -> Result<()> {
    node.heal();
    if node.is_running() {
        return Ok(());
    }
    node.restart().await
}
