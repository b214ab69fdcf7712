//! The children: one that fights for locks, and one that wants to lead.
//!
//! Each line that they say is true when it is said: `acquired <lock> <token> <called> <returned>` and
//! so on, with times in microseconds.

use std::sync::Arc;
use std::time::Duration;

use micro_core::{Env, Error, ErrorKind, FencingToken, SeededRandom};
use micro_sync_core::{Coordinator, Drivers, ElectOptions, Lock, LockOptions};
use micro_sync_etcd::EtcdDriver;
use micro_sync_postgres::PostgresDriver;
use micro_sync_redis::RedisDriver;
use tokio::io::AsyncReadExt as _;
use tokio::time::{Instant, sleep};

use super::resource::Writes;
use super::{LOCKS, TTL, below, now, written};
use crate::Result;

/// How often a holder looks whether time has passed without it.
const TICK: Duration = Duration::from_millis(5);

async fn open(url: &str) -> Result<Arc<dyn Coordinator>> {
    let drivers = Drivers::<dyn Coordinator>::new()
        .with(EtcdDriver::default())
        .with(PostgresDriver::default())
        .with(RedisDriver::default());
    Ok(drivers.open(url, &Env::new()).await?)
}

/// Locks, writes, lets go, until its input ends: `<url> <store> <seed>`.
pub(super) async fn fight(arguments: &[&str]) -> Result<()> {
    let &[url, store, seed] = arguments else {
        return Err("a client wants <url> <store> <seed>".into());
    };
    let coordinator = open(url).await?;
    let mut writes = Writes::connect(store).await?;
    let random = SeededRandom::new(seed.parse()?);
    let mut input = tokio::io::stdin();
    let mut ended = [0];
    loop {
        let name = LOCKS[usize::from(below(&random, 2) == 1)];
        let hold = Duration::from_millis(10 + below(&random, 30));
        let verify = below(&random, 4) == 0;
        let called = now();
        let opts = LockOptions::default().with_ttl(TTL);
        let locked = tokio::select! {
            _ = input.read(&mut ended) => return Ok(()),
            locked = coordinator.lock(name, opts.with_wait(TTL * 4)) => locked,
        };
        let lock = match locked {
            Ok(lock) => lock,
            Err(err) => {
                println!("error {:?}", err.kind());
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        said("acquired", name, lock.token(), called);
        if verify {
            let called = now();
            if lock.verify().await.is_ok() {
                said("verified", name, lock.token(), called);
            }
        }
        writes.write(name, lock.token()).await?;
        stay(&lock, hold).await;
        writes.write(name, lock.token()).await?;
        let (token, called) = (lock.token(), now());
        match lock.release().await {
            Ok(()) => said("released", name, token, called),
            Err(err) => println!("error {:?}", err.kind()),
        }
    }
}

/// Holds the lock for a while. If more than its time has passed from one look to the next, the process was
/// stopped: then it tells what it believes, before it does anything else.
async fn stay(lock: &Lock, hold: Duration) -> bool {
    let begin = Instant::now();
    let mut last = begin;
    while begin.elapsed() < hold {
        sleep(TICK).await;
        if last.elapsed() > TTL {
            println!("woke {} {}", written(lock.token()), lock.is_held());
            return true;
        }
        last = Instant::now();
    }
    false
}

fn said(what: &str, name: &str, token: FencingToken, called: Duration) {
    let (called, returned) = (called.as_micros(), now().as_micros());
    println!("{what} {name} {} {called} {returned}", written(token));
}

/// Campaigns, leads, and campaigns again when it was stopped: `<url> <store>`.
pub(super) async fn lead(arguments: &[&str]) -> Result<()> {
    let &[url, store] = arguments else {
        return Err("a leader wants <url> <store>".into());
    };
    let coordinator = open(url).await?;
    let mut writes = Writes::connect(store).await?;
    loop {
        let called = now();
        let opts = ElectOptions::default().with_ttl(TTL);
        let leadership = coordinator.elect(LOCKS[0], opts).await?;
        let token = leadership.token();
        writes.write(LOCKS[0], token).await?;
        said("acquired", LOCKS[0], token, called);
        if stay(&leadership, Duration::MAX).await {
            println!("late {}", writes.write(LOCKS[0], token).await?);
            let lost: Error = leadership.lost().await;
            println!("lost {}", lost.kind() == ErrorKind::Lost);
        }
    }
}
