//! Locks on bad days: holders that are killed or stopped, tasks that are aborted, a backend that is
//! killed and restarted.
//!
//! Clients are children ([`client`]) that lock, write, and let go, and tell what came of it. What they
//! write goes to a store of this process ([`resource`]), which keeps the rule of fences. In the end
//! every lock's history is judged ([`judge`]) by `micro_testing::locks`.

mod client;
mod contest;
mod engine;
mod etcd;
mod judge;
mod leader;
mod memory;
mod player;
mod postgres;
mod redis;
mod resource;

use std::time::{Duration, SystemTime};

use micro_core::{Clock as _, FencingToken, Random as _, SeededRandom, SystemClock};

use self::engine::Engine;
use self::etcd::Etcd;
use self::postgres::Postgres;
use self::redis::Redis;
use crate::report::Report;
use crate::{Options, Result};

/// The campaigns, by name.
pub(crate) const NAMES: &[&str] = &["memory", "etcd", "postgres", "redis", "leader"];

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
    over::<Etcd>(options, report)?;
    over::<Postgres>(options, report)?;
    over::<Redis>(options, report)
}

/// The campaigns that want an engine.
fn over<E: Engine>(options: &Options, report: &mut Report) -> Result<()> {
    let (contest, leader) = (options.wants(E::NAME), options.wants("leader"));
    if (contest || leader) && !E::is_installed() {
        report.skip(E::NAME, E::CURE);
        return Ok(());
    }
    if contest {
        eprintln!(
            "clients and an engine that are killed and stopped: {} …",
            E::NAME
        );
        runtime()?.block_on(contest::run::<E>(options, report))?;
    }
    if leader {
        eprintln!("leaders that are killed and stopped: {} …", E::NAME);
        runtime()?.block_on(leader::run::<E>(options, report))?;
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
