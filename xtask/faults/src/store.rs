//! Stores on bad days: killed, cut off from power, on disks that fail, with bits that change.
//!
//! All campaigns keep one ledger: what each writer does is known from the seed ([`ledger`]), so what
//! must be there after any number of acknowledged steps is known too. A child writes and tells what
//! was acknowledged ([`writer`]), the campaign breaks something, and another child opens what is left
//! and compares ([`checker`]). Both are children, so that a panic, an abort or a hang is seen from
//! outside and counted.

mod bits;
mod checker;
mod disk;
mod expiry;
mod kill;
mod ledger;
mod mount;
pub(crate) mod postgres;
mod power;
mod rounds;
mod writer;

use std::path::Path;
use std::sync::Arc;

use micro_store_core::{Drivers, Env, Store};
use micro_store_redb::RedbDriver;
use micro_store_sled::SledDriver;

use crate::report::Report;
use crate::{Options, Result};

/// The campaigns, by name.
pub(crate) const NAMES: &[&str] = &["kill", "power", "disk", "bits", "expiry", "postgres"];

/// The engines that keep a store in a directory, by their URL schemes.
const ENGINES: &[&str] = &["redb", "sled"];

/// Runs the campaigns, one after the other.
pub(crate) fn run(options: &Options, report: &mut Report) -> Result<()> {
    if options.wants("kill") {
        eprintln!("a process that is killed …");
        kill::run(options, report)?;
    }
    if options.wants("power") {
        eprintln!("a disk whose power is cut …");
        power::run(options, report)?;
    }
    if options.wants("disk") {
        eprintln!("a disk that fails, and one that is full …");
        disk::run(options, report)?;
    }
    if options.wants("bits") {
        eprintln!("a disk that changes bits …");
        bits::run(options, report)?;
    }
    if options.wants("expiry") {
        eprintln!("records that expire while others take their places …");
        expiry::run(options, report)?;
    }
    if options.wants("postgres") {
        eprintln!("a PostgreSQL that is killed …");
        postgres::run(options, report)?;
    }
    Ok(())
}

/// What a child does, by its role.
pub(crate) fn play(role: &str, arguments: &[&str]) -> Result<()> {
    match role {
        "write" => writer::play(arguments),
        "check" => checker::play(arguments),
        "power" => power::play(arguments),
        "full" => disk::play(arguments),
        _ => Err(format!("there is no role '{role}'").into()),
    }
}

/// The engine of that name.
fn engine(name: &str) -> Result<&'static str> {
    let found = ENGINES.iter().find(|engine| **engine == name);
    Ok(found.ok_or("there is no such engine")?)
}

/// Opens the store of a directory.
async fn open(engine: &str, directory: &Path, query: &str) -> micro_core::Result<Arc<dyn Store>> {
    let drivers = Drivers::<dyn Store>::new()
        .with(RedbDriver::new())
        .with(SledDriver::new());
    let url = format!("{engine}:{}{query}", directory.display());
    drivers.open(&url, &Env::new()).await
}

/// A runtime with as many threads as the machine has.
fn runtime() -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    Ok(builder.enable_all().build()?)
}
