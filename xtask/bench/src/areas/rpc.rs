//! The unary echo: every stack, payload size and number of callers, in turns.
//!
//! Server and client of each stack run through the whole measurement, with their connections warm;
//! in each round every stack has one turn, and the one that begins changes from round to round. The
//! ratios compare the turns of one round.

#[cfg(feature = "micro")]
mod beside;
mod rated;

use std::time::Duration;

use crate::Result;
use crate::figures::{Better, Figure, number};
use crate::load::{Cell, Outcome, Turn};
use crate::options::Options;
use crate::process::Child;
use crate::report::Findings;
use crate::table::Table;
use crate::wire;

/// The stack that is ours.
const OURS: &str = "micro";
/// The same without the fast lane.
const PLAIN: &str = "micro-plain";
/// What a call costs at least on the library under both.
const STREAM: &str = "tonic-stream";
/// What it is measured against: what the field uses, and the limit.
const PEERS: [&str; 2] = ["tonic", "mux"];
/// The stacks whose absolute figures are worth a line of their own; the tables have all.
const TOLD: [&str; 3] = [OURS, PLAIN, "tonic"];

/// Measures.
pub(crate) fn run(options: &Options) -> Result<Findings> {
    let mut stacks = options
        .stacks
        .iter()
        .map(|name| Pair::start(name, options))
        .collect::<Result<Vec<_>>>()?;
    let mut findings = Findings::default();
    let mut ratios = Ratios::new(options);
    let mut capacities = Vec::new();
    for &size in &options.sizes {
        for &callers in &options.callers {
            let cell = Cell { size, callers };
            eprintln!("rpc: {} B, {} callers", cell.size, cell.callers);
            let series = rounds(&mut stacks, cell, options)?;
            findings.tables.push(table(cell, &series));
            findings.figures.extend(figures(cell, &series, &mut ratios));
            if cell == rated::CELL {
                capacities = series
                    .iter()
                    .map(|series| series.median(|sample| sample.rate))
                    .collect();
            }
        }
    }
    findings.tables.push(ratios.table);
    rated::run(&mut stacks, &capacities, options, &mut findings)?;
    drop(stacks);
    #[cfg(feature = "micro")]
    if options.stacks.iter().any(|stack| stack == OURS) {
        beside::run(options, &mut findings)?;
    }
    Ok(findings)
}

/// Both processes of a stack.
struct Pair {
    name: String,
    client: Child,
    /// After the client, so that it ends after it.
    server: Child,
}

impl Pair {
    fn start(name: &str, options: &Options) -> Result<Self> {
        let threads = options.threads.to_string();
        let (server, fields) = Child::start(&["serve", name, &threads])?;
        let target: String = wire::field(&fields, "target")?;
        let (client, _) = Child::start(&["load", name, &target, &threads])?;
        Ok(Self {
            name: name.to_owned(),
            client,
            server,
        })
    }

    /// One turn, after a short one that only warms up.
    fn turn(&mut self, turn: Turn) -> Result<Sample> {
        self.run(Turn {
            time: turn.time.mul_f64(0.2).min(Duration::from_millis(200)),
            ..turn
        })?;
        // The server idles at both readings, so what lies between them are the calls of this turn
        // and no others.
        let before = self.server.cost()?;
        let outcome = self.run(turn)?;
        let server = self.server.cost()? - before;
        let calls = outcome.calls as f64;
        Ok(Sample {
            rate: calls / (outcome.elapsed_ns as f64 / 1e9),
            p50: outcome.p50_ns as f64 / 1e3,
            p99: outcome.p99_ns as f64 / 1e3,
            p999: outcome.p999_ns as f64 / 1e3,
            client_cpu: outcome.cost.cpu_ns as f64 / calls / 1e4,
            server_cpu: server.cpu_ns as f64 / calls / 1e4,
            client_allocations: outcome.cost.allocations as f64 / calls,
            server_allocations: server.allocations as f64 / calls,
        })
    }

    fn run(&mut self, turn: Turn) -> Result<Outcome> {
        Outcome::parse(&self.client.ask(&turn.line(), turn.time)?)
    }
}

/// What a turn has shown.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Calls per second.
    rate: f64,
    /// Latencies in µs.
    p50: f64,
    p99: f64,
    p999: f64,
    /// CPU seconds per 100,000 calls, which is CPU ns per call over 10,000.
    client_cpu: f64,
    server_cpu: f64,
    /// Per call.
    client_allocations: f64,
    server_allocations: f64,
}

impl Sample {
    fn cpu(&self) -> f64 {
        self.client_cpu + self.server_cpu
    }

    fn allocations(&self) -> f64 {
        self.client_allocations + self.server_allocations
    }
}

/// One stack's samples of a cell, a round each.
struct Series {
    stack: String,
    samples: Vec<Sample>,
}

impl Series {
    fn each(&self, of: impl Fn(&Sample) -> f64) -> Vec<f64> {
        self.samples.iter().map(of).collect()
    }

    fn median(&self, of: impl Fn(&Sample) -> f64) -> f64 {
        Figure::new(self.stack.as_str(), "", self.each(of)).median()
    }
}

/// Every stack has one turn in each round.
fn rounds(stacks: &mut [Pair], cell: Cell, options: &Options) -> Result<Vec<Series>> {
    let mut series: Vec<Series> = stacks
        .iter()
        .map(|stack| Series {
            stack: stack.name.clone(),
            samples: Vec::new(),
        })
        .collect();
    let turn = Turn {
        cell,
        rate: 0,
        time: Duration::from_secs_f64(options.seconds),
    };
    for round in 0..options.pairs {
        for place in 0..stacks.len() {
            // Another one begins each time, so that none is always the one after a certain other.
            let index = (round + place) % stacks.len();
            let sample = stacks[index]
                .turn(turn)
                .map_err(|error| format!("{} B, {} callers: {error}", cell.size, cell.callers))?;
            series[index].samples.push(sample);
        }
    }
    Ok(series)
}

fn table(cell: Cell, series: &[Series]) -> Table {
    let title = format!(
        "{} B, {} callers (CPU in s per 100,000 calls, allocations per call)",
        cell.size, cell.callers
    );
    let heading = [
        "stack",
        "req/s",
        "p50 µs",
        "p99 µs",
        "p999 µs",
        "CPU client",
        "CPU server",
        "CPU",
        "allocs client",
        "allocs server",
    ];
    let mut table = Table::new(title, heading);
    for stack in series {
        table.row(vec![
            stack.stack.clone(),
            format!("{:.0}", stack.median(|sample| sample.rate)),
            format!("{:.1}", stack.median(|sample| sample.p50)),
            format!("{:.1}", stack.median(|sample| sample.p99)),
            format!("{:.1}", stack.median(|sample| sample.p999)),
            format!("{:.3}", stack.median(|sample| sample.client_cpu)),
            format!("{:.3}", stack.median(|sample| sample.server_cpu)),
            format!("{:.3}", stack.median(Sample::cpu)),
            format!("{:.1}", stack.median(|sample| sample.client_allocations)),
            format!("{:.1}", stack.median(|sample| sample.server_allocations)),
        ]);
    }
    table
}

/// The ratios of ours to the peers that ran.
struct Ratios {
    peers: Vec<&'static str>,
    table: Table,
}

impl Ratios {
    fn new(options: &Options) -> Self {
        let ran = |name: &str| options.stacks.iter().any(|stack| stack == name);
        let peers: Vec<_> = PEERS
            .into_iter()
            .filter(|peer| ran(OURS) && ran(peer))
            .collect();
        let mut heading = vec!["cell".to_owned()];
        for peer in &peers {
            heading.extend(["req/s", "CPU", "p99"].map(|what| format!("{what} / {peer}")));
        }
        let title = format!("{OURS} over its peers: median of the rounds (better quartile)");
        Self {
            peers,
            table: Table::new(title, heading.iter().map(String::as_str)),
        }
    }
}

/// The figures of a cell; its ratios become a row of their table too.
fn figures(cell: Cell, series: &[Series], ratios: &mut Ratios) -> Vec<Figure> {
    let prefix = format!("{}b_{}c", cell.size, cell.callers);
    let find = |name: &str| series.iter().find(|series| series.stack == name);
    let mut figures = Vec::new();
    let mut row = vec![format!("{} B, {}", cell.size, cell.callers)];
    for &peer in &ratios.peers {
        let (Some(ours), Some(theirs)) = (find(OURS), find(peer)) else {
            continue;
        };
        let ratio = |what: &str, of: fn(&Sample) -> f64| {
            Figure::ratio(
                format!("{prefix}_{what}_vs_{peer}"),
                &ours.each(of),
                &theirs.each(of),
            )
        };
        let all = [
            (Better::More, ratio("rps", |sample| sample.rate)),
            (Better::Less, ratio("cpu", Sample::cpu)),
            (Better::Less, ratio("p99", |sample| sample.p99)),
        ];
        for (better, figure) in all {
            row.push(format!(
                "{} ({})",
                number(figure.median()),
                number(figure.better_quartile(better))
            ));
            figures.push(figure);
        }
    }
    if row.len() > 1 {
        ratios.table.row(row);
    }
    if let (Some(plain), Some(tonic)) = (find(PLAIN), find("tonic")) {
        let ratio = |what: &str, of: fn(&Sample) -> f64| {
            let name = format!("{prefix}_plain_{what}_vs_tonic");
            Figure::ratio(name, &plain.each(of), &tonic.each(of))
        };
        figures.push(ratio("rps", |sample| sample.rate));
        figures.push(ratio("cpu", Sample::cpu));
        figures.push(ratio("p99", |sample| sample.p99));
    }
    for (peer, name) in [(STREAM, "stream"), ("mux", "mux")] {
        if let (1, Some(ours), Some(theirs)) = (cell.callers, find(OURS), find(peer)) {
            let p50 = |series: &Series| series.each(|sample| sample.p50);
            let name = format!("{prefix}_p50_vs_{name}");
            figures.push(Figure::ratio(name, &p50(ours), &p50(theirs)));
        }
    }
    for stack in series
        .iter()
        .filter(|series| TOLD.contains(&series.stack.as_str()))
    {
        let mut figure = |what: &str, unit, of: fn(&Sample) -> f64| {
            figures.push(Figure::new(
                format!("{prefix}_{}_{what}", stack.stack.replace('-', "_")),
                unit,
                stack.each(of),
            ));
        };
        figure("rps", "req/s", |sample| sample.rate);
        figure("p99", "us", |sample| sample.p99);
        figure("cpu", "s/100k", Sample::cpu);
        figure("allocs", "allocs/call", Sample::allocations);
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{Command, parse};

    fn sample(rate: f64, cpu: f64) -> Sample {
        Sample {
            rate,
            p50: 1.0,
            p99: 2.0,
            p999: 3.0,
            client_cpu: cpu / 2.0,
            server_cpu: cpu / 2.0,
            client_allocations: 1.0,
            server_allocations: 1.0,
        }
    }

    #[test]
    fn ratios_compare_the_turns_of_one_round() {
        let Ok(Command::Area { mut options, .. }) = parse(&["rpc".into()]) else {
            panic!("a valid line")
        };
        options.stacks = vec!["tonic".into(), OURS.into()];
        let series = [
            Series {
                stack: "tonic".into(),
                samples: vec![sample(10.0, 4.0), sample(20.0, 4.0), sample(40.0, 4.0)],
            },
            Series {
                stack: OURS.into(),
                samples: vec![sample(20.0, 2.0), sample(40.0, 2.0), sample(80.0, 2.0)],
            },
        ];
        let mut ratios = Ratios::new(&options);
        let figures = figures(
            Cell {
                size: 64,
                callers: 16,
            },
            &series,
            &mut ratios,
        );
        let rate = format!("{:?}", figures[0]);
        assert!(
            rate.contains("64b_16c_rps_vs_tonic") && rate.contains("[2.0, 2.0, 2.0]"),
            "{rate}"
        );
        let cpu = format!("{:?}", figures[1]);
        assert!(
            cpu.contains("64b_16c_cpu_vs_tonic") && cpu.contains("[0.5, 0.5, 0.5]"),
            "{cpu}"
        );
        assert!(
            ratios.table.text().contains("64 B, 16"),
            "{}",
            ratios.table.text()
        );
    }
}
