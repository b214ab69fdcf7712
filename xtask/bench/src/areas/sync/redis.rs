//! Locks in Redis beside the client library by itself: the usual `SET NX PX`, and the script that deletes the
//! key if it is still ours. It has no token, no queue, and nobody renews it.
//!
//! It wants a server: `MICRO_TEST_REDIS_URL`.

use std::sync::Arc;
use std::time::Duration;

use micro_core::{Env, url};
use micro_redis::redis::aio::MultiplexedConnection;
use micro_redis::redis::{Client, Script, Value, cmd};
use micro_sync_core::Coordinator;
use micro_sync_redis::{RedisCoordinator, RedisSyncConfig};

use super::{TTL, alone, runtime, server};
use crate::figures::{Figure, number};
use crate::options::Options;
use crate::report::Findings;
use crate::table::Table;
use crate::{Result, clock};

const END: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";

pub(super) fn run(options: &Options) -> Result<Findings> {
    match server("MICRO_TEST_REDIS_URL", "redis") {
        Some(url) => runtime()?.block_on(measure(options, &url)),
        None => Ok(Findings::default()),
    }
}

async fn measure(options: &Options, url: &str) -> Result<Findings> {
    let config = RedisSyncConfig::from_url(&url::resolve(url)?)?;
    let address = format!("redis://{}/", config.server.endpoint);
    let raw = Client::open(address)?
        .get_multiplexed_async_connection()
        .await?;
    let env = Env::new().with_namespace("bench");
    let ours: Arc<dyn Coordinator> = Arc::new(RedisCoordinator::open(config, &env)?);
    let time = Duration::from_secs_f64(options.seconds);
    let (mut theirs, mut our) = (Vec::new(), Vec::new());
    for _ in 0..options.pairs {
        theirs.push(by_hand(raw.clone(), time).await?);
        our.push(alone(&ours, time).await?);
    }
    let ratio = Figure::ratio("redis_lock_vs_raw", &our, &theirs);
    let mut table = Table::new(
        "A lock in Redis, had and let go of, per second",
        ["SET NX PX, without a token", "micro", "ratio"],
    );
    table.row(vec![
        number(Figure::new("theirs", "1/s", theirs).median()),
        number(Figure::new("ours", "1/s", our).median()),
        number(ratio.median()),
    ]);
    Ok(Findings {
        tables: vec![table],
        figures: vec![ratio],
    })
}

async fn by_hand(mut raw: MultiplexedConnection, time: Duration) -> Result<f64> {
    let end = Script::new(END);
    let ttl = u64::try_from(TTL.as_millis())?;
    let begun = clock::now();
    let mut count = 0;
    while begun.elapsed() < time {
        let owner = format!("{count:032x}");
        let mut set = cmd("SET");
        set.arg("{micro-bench}:lock").arg(&owner);
        set.arg("NX").arg("PX").arg(ttl);
        let taken: Value = set.query_async(&mut raw).await?;
        if taken != Value::Okay {
            return Err("another has it".into());
        }
        let ended: u32 = end
            .key("{micro-bench}:lock")
            .arg(&owner)
            .invoke_async(&mut raw)
            .await?;
        if ended != 1 {
            return Err("it was not ours".into());
        }
        count += 1;
    }
    Ok(f64::from(count) / begun.elapsed().as_secs_f64())
}
