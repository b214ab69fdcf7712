//! Configuration: what reading a live value costs, and how soon a change of a file shows.

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use micro_config_core::{Config, Live, Runtime};
use micro_config_file::{FileConfig, FileSource};

use crate::Result;
use crate::alloc::allocations;
use crate::clock;
use crate::figures::{Figure, number};
use crate::options::Options;
use crate::report::Findings;
use crate::table::Table;

/// The debounce that files have by default.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// No change takes so long.
const PATIENCE: Duration = Duration::from_secs(10);

/// Measures.
pub(crate) fn run(options: &Options) -> Result<Findings> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("app.toml");
    replace(&path, 0)?;
    let config = runtime.block_on(
        Config::builder()
            .source(FileSource::with_config(
                FileConfig::new(&path).with_debounce(DEBOUNCE),
            ))
            .start(Runtime::new(tokio::spawn, tokio::time::sleep)),
    );
    let config = config.map_err(|err| err.to_string())?;
    let live = config.live::<u64>("n").map_err(|err| err.to_string())?;
    eprintln!("config: reads");
    let mut findings = reads(&live, options);
    eprintln!("config: changes of a file");
    let changes = runtime.block_on(changes(&path, &live, options))?;
    findings.tables.extend(changes.tables);
    findings.figures.extend(changes.figures);
    runtime.block_on(config.close());
    Ok(findings)
}

/// A live value beside what it is made of.
fn reads(live: &Live<u64>, options: &Options) -> Findings {
    let bare = ArcSwap::from(Arc::new(0_u64));
    let least = || {
        black_box(**black_box(&bare).load());
    };
    let ours = || {
        black_box(*black_box(live).get());
    };
    let kept = || {
        black_box(black_box(live).get_arc());
    };
    let (mut least_ns, mut ours_ns, mut kept_ns) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.pairs {
        least_ns.push(best_of(&least));
        ours_ns.push(best_of(&ours));
        kept_ns.push(best_of(&kept));
    }
    let before = allocations();
    for _ in 0..1_000 {
        ours();
    }
    let made = (allocations() - before) as f64;
    let figures = vec![
        Figure::ratio("get_vs_load", &ours_ns, &least_ns),
        Figure::new("get", "ns", ours_ns),
        Figure::new("load", "ns", least_ns),
        Figure::new("get_arc", "ns", kept_ns),
        Figure::new("get_allocations", "allocations", vec![made]),
    ];
    let mut table = Table::new("Reading a live value, ns", ["what", "ns"]);
    for (name, figure) in [
        ("ArcSwap::load", &figures[2]),
        ("Live::get of a view", &figures[1]),
        ("Live::get_arc of a view", &figures[3]),
    ] {
        table.row(vec![name.to_owned(), number(figure.median())]);
    }
    Findings {
        tables: vec![table],
        figures,
    }
}

/// From the end of the write until the view has the new value.
async fn changes(path: &Path, live: &Live<u64>, options: &Options) -> Result<Findings> {
    let each = if options.quick { 3 } else { 20 };
    let mut figures = Vec::new();
    let mut table = Table::new(
        format!(
            "A change of a file becomes visible, ms, with a debounce of {} ms",
            DEBOUNCE.as_millis()
        ),
        ["how it was written", "p50", "p99"],
    );
    let mut n = 0;
    for (name, about, write) in [
        (
            "renamed",
            "renamed over it",
            replace as fn(&Path, u64) -> Result<()>,
        ),
        ("written", "written in place and closed", write),
    ] {
        let (mut p50, mut p99) = (Vec::new(), Vec::new());
        for _ in 0..options.pairs {
            let mut took = Vec::new();
            for _ in 0..each {
                n += 1;
                let mut changes = live.changes();
                write(path, n)?;
                let begun = clock::now();
                let seen = async {
                    while *live.get() != n {
                        changes.changed().await;
                    }
                };
                if tokio::time::timeout(PATIENCE, seen).await.is_err() {
                    return Err(format!("a change was not seen within {PATIENCE:?}").into());
                }
                took.push(begun.elapsed().as_secs_f64() * 1e3);
            }
            took.sort_by(f64::total_cmp);
            p50.push(took[took.len() / 2]);
            p99.push(took[(took.len() * 99).div_ceil(100) - 1]);
        }
        let (p50, p99) = (
            Figure::new(format!("visible_{name}_p50"), "ms", p50),
            Figure::new(format!("visible_{name}_p99"), "ms", p99),
        );
        table.row(vec![
            about.to_owned(),
            number(p50.median()),
            number(p99.median()),
        ]);
        figures.extend([p50, p99]);
    }
    Ok(Findings {
        tables: vec![table],
        figures,
    })
}

fn replace(path: &Path, n: u64) -> Result<()> {
    let next = path.with_extension("next");
    fs::write(&next, format!("n = {n}\n"))?;
    fs::rename(next, path)?;
    Ok(())
}

fn write(path: &Path, n: u64) -> Result<()> {
    fs::write(path, format!("n = {n}\n"))?;
    Ok(())
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
