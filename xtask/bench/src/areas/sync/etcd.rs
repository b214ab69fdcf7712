//! Locks in etcd beside the same four requests, one after the other, without a guard; and what it
//! takes to hand a lock from one of many to the next.
//!
//! It wants a server that nobody else asks meanwhile: `MICRO_TEST_ETCD_URL`.

use std::sync::Arc;
use std::time::Duration;

use micro_core::{Env, SystemRandom, url};
use micro_etcd::{Client, Compare, Keys, Op, RangeOptions, Txn};
use micro_sync_core::Coordinator;
use micro_sync_etcd::{EtcdCoordinator, EtcdSyncConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::{TTL, alone, opts, runtime, server};
use crate::figures::{Figure, number};
use crate::options::Options;
use crate::report::Findings;
use crate::table::Table;
use crate::{Result, clock};

const WAITERS: usize = 64;

pub(super) fn run(options: &Options) -> Result<Findings> {
    match server("MICRO_TEST_ETCD_URL", "etcd") {
        Some(url) => runtime()?.block_on(measure(options, &url)),
        None => Ok(Findings::default()),
    }
}

async fn measure(options: &Options, url: &str) -> Result<Findings> {
    let url = url::resolve(url)?;
    let mut config = EtcdSyncConfig::from_url(&url)?;
    config.prefix = format!("/micro/bench/sync/{}/", std::process::id());
    let raw = Client::new(config.etcd.clone(), Arc::new(SystemRandom))?;
    let endpoint = config.etcd.endpoints.first().ok_or("there is no server")?;
    let endpoint = endpoint.clone();
    let ours: Arc<dyn Coordinator> = Arc::new(EtcdCoordinator::open(config, &Env::new())?);
    let time = Duration::from_secs_f64(options.seconds);
    let (mut theirs, mut our) = (Vec::new(), Vec::new());
    for _ in 0..options.pairs {
        theirs.push(by_hand(&raw, time).await?);
        our.push(alone(&ours, time).await?);
    }
    let ratio = Figure::ratio("etcd_lock_vs_raw", &our, &theirs);
    let mut table = Table::new(
        "A lock in etcd, had and let go of, per second",
        ["the requests by hand", "micro", "ratio"],
    );
    table.row(vec![
        number(Figure::new("theirs", "1/s", theirs).median()),
        number(Figure::new("ours", "1/s", our).median()),
        number(ratio.median()),
    ]);
    let (mut requests, mut took) = (Vec::new(), Vec::new());
    for _ in 0..options.pairs {
        let (each, ms) = hand_over(&ours, &endpoint).await?;
        requests.push(each);
        took.push(ms);
    }
    let requests = Figure::new("etcd_handover_requests", "requests", requests);
    let took = Figure::new("etcd_handover", "ms", took);
    let mut queue = Table::new(
        "A lock in etcd that 64 wait for, per hand-over",
        ["requests", "ms"],
    );
    queue.row(vec![number(requests.median()), number(took.median())]);
    Ok(Findings {
        tables: vec![table, queue],
        figures: vec![ratio, requests, took],
    })
}

/// A lease, the key with a look at the queue, a look whether it is still there, and the lease's end.
async fn by_hand(raw: &Client, time: Duration) -> Result<f64> {
    let keys = format!("/micro/bench/raw/{}/", std::process::id());
    let look = RangeOptions::default().with_keys_only(true);
    let begun = clock::now();
    let mut count = 0;
    while begun.elapsed() < time {
        let lease = raw.lease_grant(TTL).await?.id;
        let key = format!("{keys}{lease:x}");
        let txn = Txn::new()
            .when(Compare::create_revision(key.clone(), 0))
            .then(Op::put(key.clone(), "", lease))
            .then(Op::range(Keys::prefix(keys.clone()), &look));
        raw.txn(txn).await?;
        raw.get(key).await?.ok_or("the key is gone")?;
        raw.lease_revoke(lease).await?;
        count += 1;
    }
    Ok(f64::from(count) / begun.elapsed().as_secs_f64())
}

/// Requests and milliseconds for each time that the lock passes from one to the next.
async fn hand_over(ours: &Arc<dyn Coordinator>, endpoint: &str) -> Result<(f64, f64)> {
    let held = ours.lock("queue", opts()).await?;
    let before = requests(endpoint).await?;
    let waiters: Vec<_> = (0..WAITERS)
        .map(|_| {
            let ours = Arc::clone(ours);
            tokio::spawn(async move {
                let lock = ours.lock("queue", opts()).await?;
                lock.release().await
            })
        })
        .collect();
    // A lease, the key and the watch of the one before: then they wait.
    let begun = clock::now();
    while requests(endpoint).await? - before < (WAITERS * 3) as f64 {
        if begun.elapsed() > Duration::from_secs(30) {
            return Err("the waiters do not come in".into());
        }
        sleep(Duration::from_millis(20)).await;
    }
    sleep(Duration::from_millis(300)).await;
    let queued = requests(endpoint).await?;
    let begun = clock::now();
    held.release().await?;
    for waiter in waiters {
        waiter.await??;
    }
    let took = begun.elapsed().as_secs_f64() * 1000.0;
    let asked = requests(endpoint).await? - queued;
    Ok((asked / WAITERS as f64, took / WAITERS as f64))
}

/// How many requests etcd has answered, but those that keep leases alive.
async fn requests(endpoint: &str) -> Result<f64> {
    let mut tcp = TcpStream::connect(endpoint).await?;
    tcp.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
    let mut text = String::new();
    tcp.read_to_string(&mut text).await?;
    let mut sum = 0.0;
    for line in text.lines() {
        let Some(rest) = line.strip_prefix("grpc_server_started_total{") else {
            continue;
        };
        if let Some((labels, count)) = rest.split_once("} ")
            && !labels.contains("LeaseKeepAlive")
        {
            sum += count.parse::<f64>()?;
        }
    }
    Ok(sum)
}
