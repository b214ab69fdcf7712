//! Messages in Redis beside its client library by itself: `XADD`, and `XREADGROUP` with an `XACK` for each
//! message. That has no bound, no retries, no order and no deadline.
//!
//! It wants a server: `MICRO_TEST_REDIS_URL`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::try_join_all;
use micro_broker_core::{
    Broker as _, Context, Env, Group, Message, PublishOptions, RemoveOptions, SubscribeOptions,
    Topic, handler, url,
};
use micro_broker_redis::{RedisBroker, RedisBrokerConfig};
use micro_redis::redis::aio::MultiplexedConnection;
use micro_redis::redis::{Client, Cmd, Value, cmd};
use tokio::sync::Notify;

use crate::figures::{Figure, number};
use crate::options::Options;
use crate::report::Findings;
use crate::table::Table;
use crate::{Result, clock};

const BODY: &[u8] = &[7; 64];
/// So many messages are under way at once.
const AT_ONCE: usize = 16;
/// So many are read at once.
const BATCH: usize = 64;
const STREAM: &str = "{micro-bench}:stream";

pub(super) fn run(options: &Options) -> Result<Findings> {
    let Ok(url) = std::env::var("MICRO_TEST_REDIS_URL") else {
        eprintln!(
            "broker: redis is left out, for MICRO_TEST_REDIS_URL is not set: cargo xtask services up redis"
        );
        return Ok(Findings::default());
    };
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build()?;
    runtime.block_on(measure(options, &url))
}

async fn measure(options: &Options, url: &str) -> Result<Findings> {
    let messages = if options.quick { 2_000 } else { 20_000 };
    let mut config = RedisBrokerConfig::from_url(&url::resolve(url)?)?;
    config.prefix = "micro-bench".to_owned();
    config.retain = Duration::ZERO;
    let address = format!("redis://{}/", config.server.endpoint);
    let raw = Client::open(address)?
        .get_multiplexed_async_connection()
        .await?;
    let broker = RedisBroker::open(config, &Env::new()).await?;
    let mut rates: [Vec<f64>; 4] = Default::default();
    for _ in 0..options.pairs {
        let all = [
            by_hand(&raw, messages).await?,
            ours(&broker, messages).await?,
        ];
        for (rates, rate) in rates.iter_mut().zip(all.into_iter().flatten()) {
            rates.push(rate);
        }
    }
    let [raw_publish, raw_consume, publish, consume] = rates;
    let publish_ratio = Figure::ratio("redis_publish_vs_raw", &publish, &raw_publish);
    let consume_ratio = Figure::ratio("redis_consume_vs_raw", &consume, &raw_consume);
    let mut table = Table::new(
        "Messages of 64 bytes in Redis per second, 16 at once",
        ["what", "redis-rs", "micro", "ratio"],
    );
    let median = |name: &str, samples: Vec<f64>| number(Figure::new(name, "/s", samples).median());
    table.row(vec![
        "publish".to_owned(),
        median("raw", raw_publish),
        median("ours", publish),
        number(publish_ratio.median()),
    ]);
    table.row(vec![
        "consume".to_owned(),
        median("raw", raw_consume),
        median("ours", consume),
        number(consume_ratio.median()),
    ]);
    Ok(Findings {
        tables: vec![table],
        figures: vec![publish_ratio, consume_ratio],
    })
}

async fn say<T: micro_redis::redis::FromRedisValue>(
    raw: &MultiplexedConnection,
    command: &Cmd,
) -> Result<T> {
    Ok(command.query_async(&mut raw.clone()).await?)
}

/// Messages per second, published and consumed.
async fn by_hand(raw: &MultiplexedConnection, messages: usize) -> Result<[f64; 2]> {
    say::<Value>(raw, cmd("DEL").arg(STREAM)).await?;
    let mut create = cmd("XGROUP");
    create
        .arg("CREATE")
        .arg(STREAM)
        .arg("g")
        .arg("$")
        .arg("MKSTREAM");
    say::<Value>(raw, &create).await?;
    let begun = clock::now();
    let mut add = cmd("XADD");
    add.arg(STREAM).arg("*").arg("body").arg(BODY);
    try_join_all((0..AT_ONCE).map(async |_| {
        for _ in 0..messages / AT_ONCE {
            say::<Value>(raw, &add).await?;
        }
        Ok::<_, crate::Error>(())
    }))
    .await?;
    let published = rate(messages, begun.elapsed());
    let begun = clock::now();
    let mut read = cmd("XREADGROUP");
    read.arg("GROUP").arg("g").arg("c").arg("COUNT").arg(BATCH);
    read.arg("STREAMS").arg(STREAM).arg(">");
    let mut consumed = 0;
    while consumed < messages / AT_ONCE * AT_ONCE {
        let ids = ids(say(raw, &read).await?)?;
        consumed += ids.len();
        try_join_all(
            ids.iter()
                .map(async |id| say::<Value>(raw, cmd("XACK").arg(STREAM).arg("g").arg(id)).await),
        )
        .await?;
    }
    Ok([published, rate(messages, begun.elapsed())])
}

/// The ids of what was read: `[[stream, [[id, fields], …]]]`.
fn ids(read: Value) -> Result<Vec<String>> {
    type Entry = (String, Vec<Vec<u8>>);
    let streams: Vec<(String, Vec<Entry>)> = micro_redis::redis::from_redis_value(read)?;
    let entries = streams.into_iter().flat_map(|(_, entries)| entries);
    Ok(entries.map(|(id, _)| id).collect())
}

/// The same with the broker.
async fn ours(broker: &RedisBroker, messages: usize) -> Result<[f64; 2]> {
    let (topic, group) = (Topic::new("bench")?, Group::new("g")?);
    let opts = SubscribeOptions::default()
        .with_group(group.clone())
        .with_concurrency(AT_ONCE);
    // The group is there before its messages.
    let nothing = handler(|_, _| std::future::ready(Ok(())));
    let first = broker.subscribe(&topic, opts.clone(), nothing).await?;
    first.stop(Duration::from_secs(5)).await?;
    let messages = messages / AT_ONCE * AT_ONCE;
    let begun = clock::now();
    try_join_all((0..AT_ONCE).map(async |_| {
        for _ in 0..messages / AT_ONCE {
            let message = Message::new(topic.clone(), BODY);
            broker
                .publish(&Context::new(), message, PublishOptions::default())
                .await?;
        }
        Ok::<_, crate::Error>(())
    }))
    .await?;
    let published = rate(messages, begun.elapsed());
    let (handled, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let (count, tell) = (Arc::clone(&handled), Arc::clone(&done));
    let handle = handler(move |_, _| {
        if count.fetch_add(1, Ordering::Relaxed) + 1 == messages {
            tell.notify_one();
        }
        std::future::ready(Ok(()))
    });
    let begun = clock::now();
    let subscription = broker.subscribe(&topic, opts, handle).await?;
    done.notified().await;
    let consumed = rate(messages, begun.elapsed());
    subscription.stop(Duration::from_secs(5)).await?;
    broker
        .remove_group(&topic, &group, RemoveOptions::default())
        .await?;
    Ok([published, consumed])
}

fn rate(messages: usize, time: Duration) -> f64 {
    messages as f64 / time.as_secs_f64()
}
