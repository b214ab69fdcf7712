//! Discovery and balancing: fleets in simulated time, and what finding a node costs a call.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use micro_conformance::selector::simulation::{Scenario, Summary};
use micro_registry_cache::{Resolved, Resolver, ResolverOptions};
use micro_registry_memory::MemoryRegistry;
use micro_selector_core::{
    Balance, Dice, Ejection, Entry, Node, Nodes, Outcome, PickHint, Readiness, Selector,
};
use micro_selector_hash::HashSelector;
use micro_selector_p2c::P2cSelector;
use micro_selector_random::RandomSelector;
use micro_selector_roundrobin::RoundRobinSelector;

use crate::Result;
use crate::alloc::allocations;
use crate::clock;
use crate::figures::{Figure, number};
use crate::options::Options;
use crate::report::Findings;
use crate::table::Table;

type Part = fn(&Options) -> Result<Findings>;

/// Measures, one part after the other.
pub(crate) fn run(options: &Options) -> Result<Findings> {
    let parts: &[(&str, Part)] = &[
        ("fleets in simulated time", simulated),
        ("picks", picks),
        ("cached resolution", resolution),
        #[cfg(feature = "micro")]
        ("overload", super::overload::run),
    ];
    let mut findings = Findings::default();
    for (name, part) in parts {
        eprintln!("discovery: {name}");
        let found = part(options)?;
        findings.tables.extend(found.tables);
        findings.figures.extend(found.figures);
    }
    Ok(findings)
}

/// The gate of `micro-selector-p2c`, with one seed per round.
fn simulated(options: &Options) -> Result<Findings> {
    let plain = || {
        Balance::new()
            .with_ejection(Ejection::off())
            .with_slow_start(Duration::ZERO)
    };
    let policies: [(&str, Arc<dyn Selector>); 6] = [
        ("p2c", Arc::new(P2cSelector::new())),
        ("random", Arc::new(RandomSelector::new())),
        ("round robin", Arc::new(RoundRobinSelector::new())),
        (
            "p2c, nobody ejected",
            Arc::new(P2cSelector::new().with_balance(plain())),
        ),
        (
            "random, nobody ejected",
            Arc::new(RandomSelector::new().with_balance(plain())),
        ),
        (
            "round robin, nobody ejected",
            Arc::new(RoundRobinSelector::new().with_balance(plain())),
        ),
    ];
    let title = format!(
        "Ten nodes in simulated time: {} clients, {} calls/s, {} ms each",
        Scenario::CLIENTS,
        Scenario::RATE,
        Scenario::SERVICE.as_millis()
    );
    let mut heading = vec!["strategy (seed 1)"];
    heading.extend(Summary::HEADING);
    let mut table = Table::new(title, heading);
    let mut figures = Vec::new();
    for (name, selector) in &policies {
        let ours = *name == "p2c";
        // Goals are for what is shipped; the others stand beside it.
        let seeds = if ours { options.pairs as u64 } else { 1 };
        let runs: Vec<Summary> = (1..=seeds)
            .map(|seed| Summary::of(&**selector, seed))
            .collect();
        let mut row = vec![(*name).to_owned()];
        row.extend(runs[0].cells());
        table.row(row);
        if ours {
            let mut figure = |name, unit, of: fn(&Summary) -> f64| {
                figures.push(Figure::new(name, unit, runs.iter().map(of).collect()));
            };
            figure("slow_p99_vs_healthy", "ratio", |run| run.slow_p99);
            figure("failing_errors", "%", |run| run.failing * 100.0);
            figure("failing_retried_errors", "%", |run| {
                run.failing_retried * 100.0
            });
            figure("all_failing_idlest", "ratio", |run| run.all_failing_idlest);
            figure("recovery", "s", |run| run.recovery);
            figure("recovered_errors", "%", |run| run.recovered * 100.0);
            figure("stampede", "ratio", |run| run.stampede);
            figure("flapping_errors", "%", |run| run.flapping * 100.0);
            figure("scaling_errors", "%", |run| run.scaling * 100.0);
        } else if *name == "random, nobody ejected" {
            let errors = vec![runs[0].failing * 100.0];
            figures.push(Figure::new("failing_errors_random", "%", errors));
        }
    }
    Ok(Findings {
        tables: vec![table],
        figures,
    })
}

/// A set of nodes that a pick is measured on.
struct Set {
    name: &'static str,
    figure: &'static str,
    nodes: Nodes,
}

/// `n` nodes at work, of which one in `ready_of` takes calls.
fn fleet(n: usize, ready_of: usize, now: Instant) -> Nodes {
    let nodes: Nodes = (0..n)
        .map(|i| Entry::new(Node::new(i.to_string(), "10.0.0.1:1"), "v1"))
        .collect();
    for (index, entry) in nodes.iter().enumerate() {
        if index % ready_of == 0 {
            entry.state().set_readiness(Readiness::Ready);
        }
        let latency = Duration::from_micros(500 + index as u64 % 700);
        nodes.pick(index).finish(Outcome::Success(latency), now);
    }
    nodes
}

fn picks(options: &Options) -> Result<Findings> {
    let now = clock::now();
    let sets = [
        Set {
            name: "100 nodes",
            figure: "100",
            nodes: fleet(100, 1, now),
        },
        Set {
            name: "10,000 nodes",
            figure: "10k",
            nodes: fleet(10_000, 1, now),
        },
        Set {
            // What a client offers by default: 10 of its 50 are ready.
            name: "10,000 nodes, 50 in use, 10 ready",
            figure: "10k_subset_sparse",
            nodes: fleet(10_000, 5, now).first(50),
        },
        Set {
            name: "10,000 nodes, no subset, 10 ready",
            figure: "10k_sparse",
            nodes: fleet(10_000, 1_000, now),
        },
    ];
    let selectors: [&dyn Selector; 4] = [
        &P2cSelector::new(),
        &RandomSelector::new(),
        &RoundRobinSelector::new(),
        &HashSelector::new(),
    ];
    let mut heading = vec!["strategy"];
    heading.extend(sets.iter().map(|set| set.name));
    let mut table = Table::new("ns per pick, with the end of the call", heading);
    let mut figures = Vec::new();
    for selector in selectors {
        let mut row = vec![selector.backend().to_owned()];
        for set in &sets {
            let mut times = Vec::new();
            let mut made = Vec::new();
            // So many that a round takes some milliseconds, whatever one costs.
            let (one, _) = time(selector, &set.nodes, now, 100);
            let n = (4e6 / one.max(1.0)).clamp(100.0, 50_000.0) as u64;
            for _ in 0..options.pairs {
                // The best of a few: whatever disturbs only adds.
                let tries = (0..5).map(|_| time(selector, &set.nodes, now, n));
                let best = tries.fold((f64::INFINITY, 0), |best, next| {
                    (best.0.min(next.0), best.1 + next.1)
                });
                times.push(best.0);
                made.push(best.1 as f64 / (5 * n) as f64);
            }
            let ns = Figure::new(format!("pick_{}", set.figure), "ns", times);
            row.push(number(ns.median()));
            if selector.backend() == "p2c" {
                let name = format!("pick_{}_allocations", set.figure);
                figures.push(ns);
                figures.push(Figure::new(name, "allocations", made));
            }
        }
        table.row(row);
    }
    Ok(Findings {
        tables: vec![table],
        figures,
    })
}

/// Nanoseconds per pick, and the allocations of all.
fn time(selector: &dyn Selector, nodes: &Nodes, now: Instant, n: u64) -> (f64, u64) {
    let mut dice: Dice = PickHint::new(now).with_random(n).dice();
    let before = allocations();
    let begun = clock::now();
    for _ in 0..n {
        let random = dice.roll();
        let hint = PickHint::new(now)
            .with_random(random)
            .with_key(Some(random));
        drop(black_box(selector.pick(black_box(nodes), &hint)));
    }
    let took = begun.elapsed().as_nanos() as f64 / n as f64;
    (took, allocations() - before)
}

/// What a client does to find the nodes of a service that it knows, step by step as `micro-client`
/// does it, beside the least that it could do.
struct Known {
    services: ArcSwap<HashMap<Arc<str>, Arc<Service>>>,
}

struct Service {
    resolved: Arc<Resolved>,
    version: AtomicU64,
    built: ArcSwap<Nodes>,
}

const SERVICES: usize = 20;

impl Known {
    /// The resolver's part alone: from a name to its snapshot.
    fn snapshot(&self, name: &str) -> u64 {
        self.services.load()[name].resolved.snapshot().revision
    }

    fn nodes(&self, name: &str) -> usize {
        let services = self.services.load();
        let service = Arc::clone(&services[name]);
        drop(services);
        let version = service.version.load(Ordering::Acquire);
        assert_eq!(version, service.resolved.version());
        service.built.load().len()
    }
}

fn resolution(options: &Options) -> Result<Findings> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let _inside = runtime.enter();
    let resolver = Resolver::new(
        Arc::new(MemoryRegistry::new()),
        ResolverOptions::default().with_max_services(2 * SERVICES),
    );
    let names: Vec<Arc<str>> = (0..SERVICES)
        .map(|i| Arc::from(format!("service-{i}")))
        .collect();
    let mut services = HashMap::new();
    for name in &names {
        let resolved = resolver.service(name).map_err(|err| err.to_string())?;
        let service = Service {
            version: AtomicU64::new(resolved.version()),
            resolved,
            built: ArcSwap::from_pointee(Nodes::default()),
        };
        services.insert(Arc::clone(name), Arc::new(service));
    }
    let known = Known {
        services: ArcSwap::from_pointee(services),
    };
    let least = || {
        let services = known.services.load();
        let found = black_box(&services).get(black_box(&*names[7]));
        black_box(found.is_some());
    };
    let ours = || {
        black_box(black_box(&known).nodes(black_box(&names[7])));
    };
    let part = || {
        black_box(black_box(&known).snapshot(black_box(&names[7])));
    };
    let (mut theirs_ns, mut ours_ns, mut part_ns) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.pairs {
        theirs_ns.push(best_of(&least));
        ours_ns.push(best_of(&ours));
        part_ns.push(best_of(&part));
    }
    let before = allocations();
    ours();
    let made = (allocations() - before) as f64;
    let mut table = Table::new("Cached resolution, ns", ["what", "ns"]);
    let figures = vec![
        Figure::ratio("resolution_vs_load_and_lookup", &ours_ns, &theirs_ns),
        Figure::new("resolution", "ns", ours_ns),
        Figure::new("resolution_load_and_lookup", "ns", theirs_ns),
        Figure::new("resolution_snapshot", "ns", part_ns),
        Figure::new("resolution_allocations", "allocations", vec![made]),
    ];
    for (name, figure) in [
        ("ArcSwap::load and one map lookup", &figures[2]),
        ("from a name to its snapshot", &figures[3]),
        (
            "what a client does: entry, nodes, are they current",
            &figures[1],
        ),
    ] {
        table.row(vec![name.to_owned(), number(figure.median())]);
    }
    Ok(Findings {
        tables: vec![table],
        figures,
    })
}

/// The best of some batches, in ns: whatever disturbs only adds.
fn best_of(what: &dyn Fn()) -> f64 {
    const BATCH: u32 = 10_000;
    (0..20)
        .map(|_| {
            let begun = clock::now();
            for _ in 0..BATCH {
                what();
            }
            begun.elapsed().as_nanos() as f64 / f64::from(BATCH)
        })
        .fold(f64::INFINITY, f64::min)
}
