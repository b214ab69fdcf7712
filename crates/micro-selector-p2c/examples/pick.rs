//! Prints what a pick costs: `cargo run --release -p micro-selector-p2c --example pick`.
#![expect(clippy::print_stdout, reason = "it is a program for people")]

use std::hint::black_box;
use std::time::Duration;

use micro_core::{Clock as _, SystemClock};
use micro_selector_core::{Entry, Node, Nodes, Outcome, PickHint, Readiness, Selector as _};
use micro_selector_p2c::P2cSelector;

const PICKS: u32 = 200_000;

fn main() {
    let start = SystemClock.now();
    for (size, ready) in [(10, 10), (100, 100), (10_000, 10_000), (10_000, 10)] {
        let nodes: Nodes = (0..size)
            .map(|i| Entry::new(Node::new(i.to_string(), "10.0.0.1:1"), "v1"))
            .collect();
        for (index, entry) in nodes.iter().enumerate() {
            if index % (size / ready) == 0 {
                entry.state().set_readiness(Readiness::Ready);
            }
            // Each has a latency, as in a fleet that is at work.
            let latency = Duration::from_micros(500 + index as u64 % 700);
            nodes.pick(index).finish(Outcome::Success(latency), start);
        }
        let picks = if ready < size { PICKS / 100 } else { PICKS };
        let mut best = f64::INFINITY;
        for round in 0..5 {
            let begun = SystemClock.now();
            for n in 0..picks {
                let hint = PickHint::new(begun).with_random(u64::from(n) << 8 | round);
                drop(black_box(P2cSelector::new().pick(&nodes, &hint)));
            }
            let took = SystemClock.now().duration_since(begun);
            best = best.min(took.as_nanos() as f64 / f64::from(picks));
        }
        println!("{size:>6} nodes, {ready:>6} ready: {best:>9.1} ns per pick");
    }
}
