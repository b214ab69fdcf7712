//! The stacks at rates instead of callers: calls begin at random moments, whatever becomes of those
//! before.

use std::time::Duration;

use super::{OURS, Pair, STREAM};
use crate::Result;
use crate::figures::Figure;
use crate::load::{Cell, Turn};
use crate::options::Options;
use crate::report::Findings;
use crate::table::Table;

/// What is called, and by how many callers the capacities are told that the rates follow from.
pub(super) const CELL: Cell = Cell {
    size: 64,
    callers: 64,
};

/// The latencies of one stack in µs, by round; none where it did not keep up.
type Seen = Vec<Option<(f64, f64)>>;

/// At half of what tonic takes, and at half of what each stack takes itself: Poisson arrivals.
pub(super) fn run(
    stacks: &mut [Pair],
    capacities: &[f64],
    options: &Options,
    findings: &mut Findings,
) -> Result<()> {
    let Some(tonic) = stacks.iter().position(|stack| stack.name == "tonic") else {
        return Ok(());
    };
    let Some(common) = capacities.get(tonic) else {
        return Ok(());
    };
    let halves = |capacities: &[f64]| capacities.iter().map(|rate| rate / 2.0).collect::<Vec<_>>();
    let rates = halves(&vec![*common; stacks.len()]);
    let seen = rounds(stacks, &rates, options);
    findings
        .tables
        .push(table("tonic's", stacks, &rates, &seen));
    if let Some(ours) = stacks.iter().position(|stack| stack.name == OURS) {
        findings.figures.extend(ratio(&seen[ours], &seen[tonic])?);
    }
    let rates = halves(capacities);
    let seen = rounds(stacks, &rates, options);
    findings
        .tables
        .push(table("its own", stacks, &rates, &seen));
    Ok(())
}

fn rounds(stacks: &mut [Pair], rates: &[f64], options: &Options) -> Vec<Seen> {
    let mut seen = vec![Vec::new(); stacks.len()];
    for round in 0..options.pairs {
        for place in 0..stacks.len() {
            let index = (round + place) % stacks.len();
            let stack = &mut stacks[index];
            // Its clones are callers with a stream each, and no calls.
            if stack.name == STREAM {
                continue;
            }
            eprintln!(
                "rpc: {} at {:.0} calls per second",
                stack.name, rates[index]
            );
            let outcome = stack.run(Turn {
                cell: CELL,
                rate: rates[index] as u64,
                time: Duration::from_secs_f64(options.seconds),
            });
            if let Err(error) = &outcome {
                eprintln!("rpc: {}: {error}", stack.name);
            }
            let us = |ns: u64| ns as f64 / 1e3;
            seen[index].push(outcome.ok().map(|seen| (us(seen.p50_ns), us(seen.p99_ns))));
        }
    }
    seen
}

fn table(whose: &str, stacks: &[Pair], rates: &[f64], seen: &[Seen]) -> Table {
    let title = format!("{} B at half of {whose} capacity", CELL.size);
    let mut table = Table::new(title, ["stack", "req/s", "p50 µs", "p99 µs"]);
    for ((stack, rate), samples) in stacks.iter().zip(rates).zip(seen) {
        let (p50, p99): (Vec<_>, Vec<_>) = samples.iter().flatten().copied().unzip();
        if p50.is_empty() {
            continue;
        }
        let median = |samples| Figure::new(whose, "us", samples).median();
        table.row(vec![
            stack.name.clone(),
            format!("{rate:.0}"),
            format!("{:.1}", median(p50)),
            format!("{:.1}", median(p99)),
        ]);
    }
    table
}

/// The p99 of ours over tonic's, where that kept up.
fn ratio(ours: &Seen, theirs: &Seen) -> Result<Option<Figure>> {
    let (mut our_p99, mut their_p99) = (Vec::new(), Vec::new());
    for (ours, theirs) in ours.iter().zip(theirs) {
        // A figure without the rounds that went badly would be a lie.
        let ours = ours.ok_or("micro does not keep up with half of tonic's capacity")?;
        if let Some(theirs) = theirs {
            our_p99.push(ours.1);
            their_p99.push(theirs.1);
        }
    }
    let any = !our_p99.is_empty();
    Ok(any.then(|| Figure::ratio("64b_common_p99_vs_tonic", &our_p99, &their_p99)))
}
