//! What balancing promises, on a fleet in simulated time, beside simpler strategies.
#![expect(clippy::print_stdout, reason = "the table is for people")]

use std::sync::Arc;
use std::time::Duration;

use micro_conformance::selector::simulation::{Summary, table};
use micro_selector_core::{Balance, Ejection, Selector};
use micro_selector_p2c::P2cSelector;
use micro_selector_random::RandomSelector;
use micro_selector_roundrobin::RoundRobinSelector;

/// `MICRO_SEED` replays a run.
fn seed() -> u64 {
    let given = std::env::var("MICRO_SEED").ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(4)
}

#[test]
fn p2c_keeps_its_promises_on_bad_days() {
    let seed = seed();
    let plain = Balance::new()
        .with_ejection(Ejection::off())
        .with_slow_start(Duration::ZERO);
    let policies: [(&str, Arc<dyn Selector>); 5] = [
        ("p2c", Arc::new(P2cSelector::new())),
        ("random", Arc::new(RandomSelector::new())),
        ("round robin", Arc::new(RoundRobinSelector::new())),
        (
            "random, nobody ejected",
            Arc::new(RandomSelector::new().with_balance(plain.clone())),
        ),
        (
            "round robin, nobody ejected",
            Arc::new(RoundRobinSelector::new().with_balance(plain)),
        ),
    ];
    let rows: Vec<(&str, Summary)> = std::thread::scope(|scope| {
        let of = |(name, selector): &(&'static str, Arc<dyn Selector>)| {
            let (name, selector) = (*name, Arc::clone(selector));
            scope.spawn(move || (name, Summary::of(&*selector, seed)))
        };
        let threads: Vec<_> = policies.iter().map(of).collect();
        let rows = threads.into_iter().map(|thread| thread.join());
        rows.map(|row| row.expect("no run fails")).collect()
    });
    println!("MICRO_SEED={seed}\n{}", table(&rows));

    for (name, summary) in &rows[..3] {
        let of = format!("{name}, seed {seed}: {summary:?}");
        // All of them eject: a node that fails at once costs its first failures and its probes.
        assert!(summary.failing < 0.005, "{of}");
        assert!(summary.failing_retried <= 0.0, "{of}");
        assert!(summary.flapping < 0.01, "{of}");
        // If all fail, it is not the nodes: they are all tried, and all are there at once when it
        // is over.
        assert!(summary.all_failing_idlest >= 0.5, "{of}");
        assert!(summary.all_failing_busiest <= 1.5, "{of}");
        assert!(summary.recovery <= 5.0 * 1.25, "{of}");
        assert!(summary.recovered <= 0.0, "{of}");
        // One that got well is not overrun, and in the end is one of all.
        assert!(summary.stampede <= 1.5, "{of}");
        assert!((0.7..1.3).contains(&summary.back), "{of}");
        assert!(summary.scaling <= 0.0, "{of}");
        assert!(summary.scaled_idlest >= 0.6, "{of}");
        assert!(summary.scaled_busiest <= 1.5, "{of}");
    }
    let p2c = &rows[0].1;
    assert!(p2c.slow_p99 <= 1.2, "seed {seed}: {p2c:?}");
    // The same fleet without all that: it is bad enough to show something.
    for (name, summary) in &rows[3..] {
        let of = format!("{name}, seed {seed}: {summary:?}");
        assert!((0.08..0.12).contains(&summary.failing), "{of}");
        assert!(summary.slow_p99 > 5.0, "{of}");
        assert!(summary.flapping > 0.04, "{of}");
    }
}
