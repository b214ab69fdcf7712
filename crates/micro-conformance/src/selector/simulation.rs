//! A fleet in a time of its own: what a strategy makes of bad days, in a second instead of a minute.
//!
//! It is a discrete-event simulation. Clients that know nothing of each other make calls at random
//! moments (Poisson), and act as `micro-client` does: a selector picks, [`Outliers`] are told the
//! outcome, a node that joins starts slowly. How long a node takes is exponentially distributed
//! and does not depend on its load. The same seed gives the same run.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::time::{Duration, Instant};

use micro_core::{Clock as _, Random as _, SeededRandom, SystemClock};
use micro_selector_core::{
    Entry, Node, Nodes, Outcome, Outliers, Pick, PickHint, Readiness, Selector,
};

/// How a node is at some moment.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Health {
    /// It answers in [`Scenario::SERVICE`] on average.
    Well,
    /// It takes so many times as long.
    Slow(f64),
    /// It fails every call within [`Scenario::FAILURE`].
    Failing,
}

/// What happens to a fleet.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Scenario {
    /// What it shows.
    pub name: &'static str,
    /// How many nodes there are, from when on; the last ones leave first.
    pub sizes: &'static [(u64, usize)],
    /// How long calls are made, in seconds.
    pub seconds: u64,
    /// How often a failed call is made again, each time on another node.
    pub retries: usize,
    /// How a node, by number, is after so many seconds.
    pub health: fn(usize, f64) -> Health,
}

impl Scenario {
    /// How long a node takes on average that is well.
    pub const SERVICE: Duration = Duration::from_millis(10);
    /// How long a failing one takes.
    pub const FAILURE: Duration = Duration::from_micros(500);
    /// The clients.
    pub const CLIENTS: usize = 10;
    /// The calls of all clients in a second.
    pub const RATE: f64 = 1000.0;
    /// Seconds that say nothing: clients learn.
    pub const WARM_UP: u64 = 5;
    /// From when to when all nodes fail in [`ALL_FAILING`](Self::ALL_FAILING), and the first one in
    /// [`RECOVERING`](Self::RECOVERING).
    pub const BAD: (u64, u64) = (10, 20);

    /// Ten nodes that are well.
    pub const HEALTHY: Self = Self {
        name: "healthy",
        sizes: &[(0, 10)],
        seconds: 35,
        retries: 0,
        health: |_, _| Health::Well,
    };
    /// One of them is twenty times slower.
    pub const SLOW: Self = Self {
        name: "one 20x slower",
        health: |node, _| {
            if node == 0 {
                Health::Slow(20.0)
            } else {
                Health::Well
            }
        },
        ..Self::HEALTHY
    };
    /// One of them fails at once.
    pub const FAILING: Self = Self {
        name: "one failing",
        health: |node, _| {
            if node == 0 {
                Health::Failing
            } else {
                Health::Well
            }
        },
        ..Self::HEALTHY
    };
    /// The same, with calls that may be made again.
    pub const FAILING_RETRIED: Self = Self {
        name: "one failing, two retries",
        retries: 2,
        ..Self::FAILING
    };
    /// All of them fail for a while.
    pub const ALL_FAILING: Self = Self {
        name: "all failing",
        health: |_, at| {
            if bad(at) {
                Health::Failing
            } else {
                Health::Well
            }
        },
        ..Self::HEALTHY
    };
    /// One of them fails for a while and gets well.
    pub const RECOVERING: Self = Self {
        name: "one recovering",
        seconds: 60,
        health: |node, at| {
            if node == 0 && bad(at) {
                Health::Failing
            } else {
                Health::Well
            }
        },
        ..Self::HEALTHY
    };
    /// One of them fails for half of each second.
    pub const FLAPPING: Self = Self {
        name: "one flapping at 1 Hz",
        seconds: 65,
        health: |node, at| {
            if node == 0 && at.fract() < 0.5 {
                Health::Failing
            } else {
                Health::Well
            }
        },
        ..Self::HEALTHY
    };
    /// Three nodes become thirty, and three again.
    pub const SCALING: Self = Self {
        name: "3, 30, 3 nodes",
        sizes: &[(0, 3), (10, 30), (30, 3)],
        ..Self::HEALTHY
    };
}

fn bad(at: f64) -> bool {
    (Scenario::BAD.0 as f64..Scenario::BAD.1 as f64).contains(&at)
}

impl fmt::Debug for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scenario")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A call that has ended.
#[derive(Clone, Copy, Debug)]
struct Call {
    begun: f64,
    took: f64,
    ok: bool,
}

/// All that happened.
#[derive(Clone, Debug, Default)]
pub struct Run {
    calls: Vec<Call>,
    /// When which node was picked.
    picks: Vec<(f64, usize)>,
}

impl Run {
    fn calls(&self, from: f64, to: f64) -> impl Iterator<Item = &Call> {
        let within = move |call: &&Call| (from..to).contains(&call.begun);
        self.calls.iter().filter(within)
    }

    /// The calls that began between two moments, in seconds.
    #[must_use]
    pub fn count(&self, from: f64, to: f64) -> usize {
        self.calls(from, to).count()
    }

    /// How many of them failed.
    #[must_use]
    pub fn errors(&self, from: f64, to: f64) -> usize {
        self.calls(from, to).filter(|call| !call.ok).count()
    }

    /// Which share of them failed.
    #[must_use]
    pub fn error_rate(&self, from: f64, to: f64) -> f64 {
        self.errors(from, to) as f64 / self.count(from, to).max(1) as f64
    }

    /// The time within which this share of them ended, in seconds.
    ///
    /// # Panics
    ///
    /// If no call began between the two.
    #[must_use]
    pub fn quantile(&self, share: f64, from: f64, to: f64) -> f64 {
        let mut times: Vec<f64> = self.calls(from, to).map(|call| call.took).collect();
        times.sort_by(f64::total_cmp);
        let place = (share * times.len() as f64) as usize;
        times[place.min(times.len() - 1)]
    }

    /// How often each of the first `nodes` nodes was picked between two moments.
    #[must_use]
    pub fn picks(&self, nodes: usize, from: f64, to: f64) -> Vec<usize> {
        let mut counts = vec![0; nodes];
        for (at, node) in &self.picks {
            if (from..to).contains(at)
                && let Some(count) = counts.get_mut(*node)
            {
                *count += 1;
            }
        }
        counts
    }

    /// The same for one node as a factor of its fair share among `nodes`.
    #[must_use]
    pub fn part(&self, node: usize, nodes: usize, from: f64, to: f64) -> f64 {
        let counts = self.picks(nodes, from, to);
        let fair = counts.iter().sum::<usize>() as f64 / nodes as f64;
        counts[node] as f64 / fair.max(1.0)
    }

    /// How uneven the picks are: the busiest node's as a factor of a fair share, and the idlest's.
    #[must_use]
    pub fn spread(&self, nodes: usize, from: f64, to: f64) -> (f64, f64) {
        let counts = self.picks(nodes, from, to);
        let fair = (counts.iter().sum::<usize>() as f64 / nodes as f64).max(1.0);
        let of = |count: Option<&usize>| count.map_or(0.0, |count| *count as f64 / fair);
        (of(counts.iter().max()), of(counts.iter().min()))
    }
}

struct Client {
    nodes: Nodes,
    outliers: Outliers,
}

struct UnderWay {
    client: usize,
    begun: f64,
    tried: Vec<usize>,
    pick: Pick,
    took: Duration,
    ok: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Resize(usize),
    Arrival,
    End(usize),
}

struct World<'a> {
    selector: &'a dyn Selector,
    scenario: &'a Scenario,
    random: SeededRandom,
    start: Instant,
    clients: Vec<Client>,
    /// By time in nanoseconds, then in the order in which they were planned.
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    planned: u64,
    calls: Vec<Option<UnderWay>>,
    free: Vec<usize>,
    run: Run,
}

/// Runs a scenario. The same seed gives the same run.
#[must_use]
pub fn run(selector: &dyn Selector, scenario: &Scenario, seed: u64) -> Run {
    let balance = selector.balance();
    let client = |_| Client {
        nodes: Nodes::default(),
        outliers: Outliers::new(balance.ejection, balance.slow_start),
    };
    let mut world = World {
        selector,
        scenario,
        random: SeededRandom::new(seed),
        start: SystemClock.now(),
        clients: (0..Scenario::CLIENTS).map(client).collect(),
        events: BinaryHeap::new(),
        planned: 0,
        calls: Vec::new(),
        free: Vec::new(),
        run: Run::default(),
    };
    for (at, size) in scenario.sizes {
        world.plan(Duration::from_secs(*at), Event::Resize(*size));
    }
    world.plan(Duration::ZERO, Event::Arrival);
    world.go();
    world.run
}

impl World<'_> {
    fn plan(&mut self, at: Duration, event: Event) {
        self.planned += 1;
        let nanos = u64::try_from(at.as_nanos()).expect("a scenario takes no centuries");
        self.events.push(Reverse((nanos, self.planned, event)));
    }

    fn exponential(&self, mean: Duration) -> Duration {
        // Neither 0 nor 1 comes out.
        let uniform = ((self.random.next_u64() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        mean.mul_f64(-uniform.ln())
    }

    fn go(&mut self) {
        let end = Duration::from_secs(self.scenario.seconds);
        while let Some(Reverse((nanos, _, event))) = self.events.pop() {
            let at = Duration::from_nanos(nanos);
            match event {
                Event::Resize(size) => self.resize(size, at),
                Event::Arrival => {
                    if at < end {
                        let every = Duration::from_secs_f64(1.0 / Scenario::RATE);
                        let next = at + self.exponential(every);
                        self.plan(next, Event::Arrival);
                        let client = self.random.next_u64() as usize % self.clients.len();
                        self.begin(client, at.as_secs_f64(), Vec::new(), at);
                    }
                }
                Event::End(slot) => self.end(slot, at),
            }
        }
    }

    /// Nodes join and leave; what is known of those that stay is kept.
    fn resize(&mut self, size: usize, at: Duration) {
        let now = self.start + at;
        let slow_start = self.selector.balance().slow_start;
        for client in &mut self.clients {
            let joins = !client.nodes.is_empty();
            client.nodes = (0..size)
                .map(|node| {
                    if let Some(known) = client.nodes.get(node) {
                        return known.clone();
                    }
                    let entry = Entry::new(Node::new(node.to_string(), "10.0.0.1:1"), "v1");
                    entry.state().set_readiness(Readiness::Ready);
                    if joins {
                        entry.state().slow_start(now, slow_start);
                    }
                    entry
                })
                .collect();
        }
    }

    fn begin(&mut self, client: usize, begun: f64, tried: Vec<usize>, at: Duration) {
        let hint = PickHint::new(self.start + at)
            .with_random(self.random.next_u64())
            .with_tried(&tried);
        let pick = self.selector.pick(&self.clients[client].nodes, &hint);
        let pick = pick.expect("there are nodes");
        let node = pick.index();
        self.run.picks.push((at.as_secs_f64(), node));
        let health = (self.scenario.health)(node, at.as_secs_f64());
        let took = match health {
            Health::Well => self.exponential(Scenario::SERVICE),
            Health::Slow(factor) => self.exponential(Scenario::SERVICE.mul_f64(factor)),
            Health::Failing => Scenario::FAILURE,
        };
        let call = UnderWay {
            client,
            begun,
            tried,
            pick,
            took,
            ok: health != Health::Failing,
        };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.calls[slot] = Some(call);
                slot
            }
            None => {
                self.calls.push(Some(call));
                self.calls.len() - 1
            }
        };
        self.plan(at + took, Event::End(slot));
    }

    fn end(&mut self, slot: usize, at: Duration) {
        let mut call = self.calls[slot].take().expect("it ends once");
        self.free.push(slot);
        call.tried.push(call.pick.index());
        let outcome = if call.ok {
            Outcome::Success(call.took)
        } else {
            // As the client charges it.
            Outcome::Failure(Duration::from_secs(5))
        };
        let client = &self.clients[call.client];
        let random = || self.random.next_u64();
        client
            .outliers
            .finish(&client.nodes, call.pick, outcome, self.start + at, random);
        if !call.ok && call.tried.len() <= self.scenario.retries {
            self.begin(call.client, call.begun, call.tried, at);
            return;
        }
        self.run.calls.push(Call {
            begun: call.begun,
            took: at.as_secs_f64() - call.begun,
            ok: call.ok,
        });
    }
}

/// What a strategy makes of all the scenarios, in figures.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Summary {
    /// p99 with all nodes well, in milliseconds.
    pub healthy_p99: f64,
    /// p99 with one node twenty times slower, as a factor of `healthy_p99`.
    pub slow_p99: f64,
    /// The share of calls that fail while one node of ten fails at once.
    pub failing: f64,
    /// The same with two retries.
    pub failing_retried: f64,
    /// While all fail: the idlest node's calls, as a factor of a fair share.
    pub all_failing_idlest: f64,
    /// While all fail: the busiest node's.
    pub all_failing_busiest: f64,
    /// Seconds after all got well until each node takes at least half of its fair share.
    pub recovery: f64,
    /// The share of calls that fail once all are well again.
    pub recovered: f64,
    /// The busiest second of a node that got well, within 25 seconds of that, as a factor of a fair
    /// share.
    pub stampede: f64,
    /// What it takes half a minute after it got well.
    pub back: f64,
    /// The share of calls that fail while one node of ten flaps.
    pub flapping: f64,
    /// The share of calls that fail while nodes join and leave.
    pub scaling: f64,
    /// The idlest of thirty nodes of which 27 are new, ten seconds after they came.
    pub scaled_idlest: f64,
    /// The busiest of them.
    pub scaled_busiest: f64,
}

impl Summary {
    /// Runs all scenarios.
    #[must_use]
    pub fn of(selector: &dyn Selector, seed: u64) -> Self {
        let warm = Scenario::WARM_UP as f64;
        let ever = f64::INFINITY;
        let run = |scenario| run(selector, scenario, seed);
        let healthy = run(&Scenario::HEALTHY).quantile(0.99, warm, ever);
        let slow = run(&Scenario::SLOW).quantile(0.99, warm, ever);
        let (from, to) = (Scenario::BAD.0 as f64, Scenario::BAD.1 as f64);
        let all_failing = run(&Scenario::ALL_FAILING);
        let (all_failing_busiest, all_failing_idlest) = all_failing.spread(10, from, to);
        // Windows of a second, ten of which begin in each.
        let recovery = (0..)
            .map(|tenth| f64::from(tenth) / 10.0)
            .find(|after| {
                let at = to + after;
                at + 1.0 > Scenario::ALL_FAILING.seconds as f64
                    || all_failing.spread(10, at, at + 1.0).1 >= 0.5
            })
            .expect("the run ends");
        let recovering = run(&Scenario::RECOVERING);
        let stampede = (0..250)
            .map(|tenth| {
                let at = to + f64::from(tenth) / 10.0;
                recovering.part(0, 10, at, at + 1.0)
            })
            .fold(0.0, f64::max);
        let scaling = run(&Scenario::SCALING);
        let (scaled_busiest, scaled_idlest) = scaling.spread(30, 20.0, 30.0);
        Self {
            healthy_p99: healthy * 1000.0,
            slow_p99: slow / healthy,
            failing: run(&Scenario::FAILING).error_rate(warm, ever),
            failing_retried: run(&Scenario::FAILING_RETRIED).error_rate(warm, ever),
            all_failing_idlest,
            all_failing_busiest,
            recovery,
            recovered: all_failing.error_rate(to, ever),
            stampede,
            back: recovering.part(0, 10, to + 30.0, ever),
            flapping: run(&Scenario::FLAPPING).error_rate(warm, ever),
            scaling: scaling.error_rate(0.0, ever),
            scaled_idlest,
            scaled_busiest,
        }
    }

    /// What [`cells`](Self::cells) says, column by column.
    pub const HEADING: [&'static str; 11] = [
        "healthy p99 ms",
        "slow p99",
        "failing",
        "retried",
        "all failing, spread",
        "recovery s",
        "recovered",
        "stampede",
        "back",
        "flapping",
        "scaled, spread",
    ];

    /// The figures for a table.
    #[must_use]
    pub fn cells(&self) -> [String; 11] {
        let percent = |share: f64| format!("{:.2}%", share * 100.0);
        [
            format!("{:.1}", self.healthy_p99),
            format!("{:.2}x", self.slow_p99),
            percent(self.failing),
            percent(self.failing_retried),
            format!(
                "{:.2}-{:.2}x",
                self.all_failing_idlest, self.all_failing_busiest
            ),
            format!("{:.1}", self.recovery),
            percent(self.recovered),
            format!("{:.2}x", self.stampede),
            format!("{:.2}x", self.back),
            percent(self.flapping),
            format!("{:.2}-{:.2}x", self.scaled_idlest, self.scaled_busiest),
        ]
    }
}

/// A table of strategies beside each other, for people.
#[must_use]
pub fn table(rows: &[(&str, Summary)]) -> String {
    let mut lines = vec![{
        let mut line = vec!["strategy".to_owned()];
        line.extend(Summary::HEADING.map(str::to_owned));
        line
    }];
    for (name, summary) in rows {
        let mut line = vec![(*name).to_owned()];
        line.extend(summary.cells());
        lines.push(line);
    }
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max();
    let mut text = String::new();
    for line in &lines {
        let cells = line.iter().enumerate().map(|(column, cell)| {
            let width = width(column).unwrap_or(0);
            format!("{cell:>width$}")
        });
        text.push_str(&cells.collect::<Vec<_>>().join("  "));
        text.push('\n');
    }
    text
}
