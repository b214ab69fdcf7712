//! Messages on bad days: publishers, consumers and what lies between them are killed, again and again.
//!
//! Publishers and consumers are children ([`roles`]), which say what they do, as they do it. In the end
//! what was acknowledged is compared with what arrived ([`judge`]).

mod campaign;
mod child;
mod engine;
mod judge;
mod roles;

use std::time::Duration;

use self::engine::{Engine, Kind};
use crate::report::Report;
use crate::{Options, Result};

/// The campaigns, by name.
pub(crate) const NAMES: &[&str] = &["http", "nats", "redis", "rabbitmq"];

/// So many publish, and so many consume as one group.
const PUBLISHERS: usize = 4;
const CONSUMERS: usize = 4;

/// Nothing that goes well takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the campaigns, one after the other.
pub(crate) fn run(options: &Options, report: &mut Report) -> Result<()> {
    for kind in Kind::ALL {
        if !options.wants(kind.name()) {
            continue;
        }
        if let Some(reason) = kind.is_missing() {
            report.skip(kind.name(), reason);
            continue;
        }
        eprintln!("{} …", kind.about());
        runtime()?.block_on(async {
            let engine = Engine::start(kind).await?;
            campaign::run(engine, options, report).await
        })?;
    }
    Ok(())
}

/// What a child does, by its role.
pub(crate) fn play(role: &str, arguments: &[&str]) -> Result<()> {
    runtime()?.block_on(roles::play(role, arguments))
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    Ok(builder.enable_all().build()?)
}
