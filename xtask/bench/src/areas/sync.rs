//! Locks: in memory, and in engines beside their clients by themselves.

mod etcd;
mod memory;
mod postgres;
mod redis;

use std::sync::Arc;
use std::time::Duration;

use micro_sync_core::{Coordinator, LockOptions};

use crate::options::Options;
use crate::report::Findings;
use crate::{Result, clock};

/// Long enough that nothing is renewed while it is measured.
const TTL: Duration = Duration::from_secs(60);

/// Measures.
pub(crate) fn run(options: &Options) -> Result<Findings> {
    let mut findings = Findings::default();
    type Part = fn(&Options) -> Result<Findings>;
    let parts: [(&str, Part); 4] = [
        ("in memory", memory::run),
        ("in etcd", etcd::run),
        ("in PostgreSQL", postgres::run),
        ("in Redis", redis::run),
    ];
    for (about, run) in parts {
        eprintln!("sync: {about}");
        let part = run(options)?;
        findings.tables.extend(part.tables);
        findings.figures.extend(part.figures);
    }
    Ok(findings)
}

/// The URL of an engine; without it, its part is left out.
fn server(variable: &str, name: &str) -> Option<String> {
    let url = std::env::var(variable).ok();
    if url.is_none() {
        eprintln!(
            "sync: {name} is left out, for {variable} is not set: cargo xtask services up {name}"
        );
    }
    url
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    Ok(builder.worker_threads(2).enable_all().build()?)
}

fn opts() -> LockOptions {
    LockOptions::default().with_ttl(TTL)
}

/// Locks and lets go, one after the other, for so long; how often per second.
async fn alone(coordinator: &Arc<dyn Coordinator>, time: Duration) -> Result<f64> {
    let begun = clock::now();
    let mut count = 0;
    while begun.elapsed() < time {
        let lock = coordinator.lock("bench", opts()).await?;
        lock.release().await?;
        count += 1;
    }
    Ok(f64::from(count) / begun.elapsed().as_secs_f64())
}
