//! Discovery on bad days.

mod etcd;
mod herd;
mod mdns;
mod net;
mod storm;

use crate::report::Report;
use crate::{Options, Result};

/// The campaigns, by name.
pub(crate) const NAMES: &[&str] = &["herd", "storm", "etcd", "mdns"];

/// Runs the campaigns, one after the other.
pub(crate) fn run(options: &Options, report: &mut Report) -> Result<()> {
    if options.wants("herd") {
        eprintln!("300 clients and a registry that restarts …");
        herd::run(options, report)?;
    }
    if options.wants("storm") {
        eprintln!("a backend that fails every call …");
        storm::run(options, report)?;
    }
    if options.wants("etcd") {
        eprintln!("an etcd that is killed, under load …");
        etcd::run(options, report)?;
    }
    if options.wants("mdns") {
        eprintln!("two hosts and the network between them …");
        mdns::run(options, report)?;
    }
    Ok(())
}

/// What the children of a campaign do.
pub(crate) fn play(role: &str, arguments: &[&str]) -> Result<()> {
    match role {
        "mdns" => mdns::play(arguments),
        _ => Err(format!("there is no role '{role}'").into()),
    }
}

/// A runtime with as many threads as the machine has.
fn runtime() -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    Ok(builder.enable_all().build()?)
}

/// A runtime whose time only passes when nothing is to be done.
fn paused() -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    Ok(builder.enable_all().start_paused(true).build()?)
}
