//! Locks on bad days: holders that are killed or stopped, tasks that are aborted, a backend that is
//! killed and restarted.
//!
//! Clients are children ([`client`]) that lock, write, and let go, and tell what came of it. What they
//! write goes to a store of this process ([`resource`]), which keeps the rule of fences. In the end
//! every lock's history is judged ([`judge`]) by `micro_testing::locks`.

mod client;
mod engine;
mod etcd;
mod judge;
mod leader;
mod memory;
mod resource;

use std::time::{Duration, SystemTime};

use micro_core::{Clock as _, FencingToken, Random as _, SeededRandom, SystemClock};

use crate::report::Report;
use crate::{Options, Result};

/// The campaigns, by name.
pub(crate) const NAMES: &[&str] = &["memory", "etcd", "leader"];

/// The locks that are fought for.
const LOCKS: [&str; 2] = ["books", "ledger"];

/// How long the locks of children live without them.
const TTL: Duration = Duration::from_secs(3);

/// Nothing that goes well takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the campaigns, one after the other.
pub(crate) fn run(options: &Options, report: &mut Report) -> Result<()> {
    if options.wants("memory") {
        eprintln!("tasks that are aborted …");
        runtime()?.block_on(memory::run(options, report))?;
    }
    if !(options.wants("etcd") || options.wants("leader")) {
        return Ok(());
    }
    if !engine::is_installed() {
        report.skip("etcd", "etcd is not installed; apt-get install etcd-server");
        return Ok(());
    }
    if options.wants("etcd") {
        eprintln!("clients and an etcd that are killed and stopped …");
        runtime()?.block_on(etcd::run(options, report))?;
    }
    if options.wants("leader") {
        eprintln!("leaders that are killed and stopped …");
        runtime()?.block_on(leader::run(options, report))?;
    }
    Ok(())
}

/// What a child does, by its role.
pub(crate) fn play(role: &str, arguments: &[&str]) -> Result<()> {
    match role {
        "client" => runtime()?.block_on(client::fight(arguments)),
        "leader" => runtime()?.block_on(client::lead(arguments)),
        _ => Err(format!("there is no role '{role}'").into()),
    }
}

/// A runtime with as many threads as the machine has.
fn runtime() -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    Ok(builder.enable_all().build()?)
}

/// The time that all processes of the machine share: its wall clock, which nobody sets meanwhile.
fn now() -> Duration {
    let since = SystemClock.wall().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default()
}

/// A number below this one.
fn below(random: &SeededRandom, most: u64) -> u64 {
    random.next_u64() % most
}

/// A token as children write it.
fn written(token: FencingToken) -> String {
    format!("{}.{}", token.epoch, token.seq)
}

/// The token that was written so.
fn read(text: &str) -> Result<FencingToken> {
    let (epoch, seq) = text.split_once('.').ok_or("no token")?;
    Ok(FencingToken::new(epoch.parse()?, seq.parse()?))
}
