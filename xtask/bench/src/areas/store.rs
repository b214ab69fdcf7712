//! Stores beside what they stand on: the map in memory, the engines on disk.

mod files;
mod listing;
mod memory;
mod postgres;
mod raw;

use crate::Result;
use crate::options::Options;
use crate::report::Findings;

/// Measures.
pub(crate) fn run(options: &Options) -> Result<Findings> {
    let mut findings = Findings::default();
    type Part = fn(&Options) -> Result<Findings>;
    let parts: [(&str, Part); 4] = [
        ("in memory", memory::run),
        ("in files", files::run),
        ("listings", listing::run),
        ("in PostgreSQL", postgres::run),
    ];
    for (about, run) in parts {
        eprintln!("store: {about}");
        let part = run(options)?;
        findings.tables.extend(part.tables);
        findings.figures.extend(part.figures);
    }
    Ok(findings)
}
