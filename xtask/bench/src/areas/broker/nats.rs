//! Messages in JetStream beside `async-nats` by itself: publish with an id, by which the server stores a message
//! once, and its acknowledgement; and a pull consumer with an acknowledgement for each message. That has no
//! retries, no deadlines and no headers.
//!
//! It wants a server: `MICRO_TEST_NATS_URL`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use micro_broker_core::{
    Broker as _, Context, Env, Group, Message, PublishOptions, SubscribeOptions, Topic, handler,
    new_id, url,
};
use micro_broker_nats::{NatsBroker, NatsBrokerConfig, NatsConfig};
use micro_nats::Connection;
use micro_nats::async_nats::jetstream::message::PublishMessage;
use micro_nats::async_nats::jetstream::{self, consumer, stream};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::figures::{Figure, number};
use crate::options::Options;
use crate::report::Findings;
use crate::table::Table;
use crate::{Result, clock};

const BODY: &[u8] = &[7; 64];
/// So many messages are under way at once, when they are published.
const AT_ONCE: usize = 16;
/// So many are asked for and may be handled at once: what the library does by default.
const BATCH: usize = 200;
const MAX_BYTES: u64 = 32 << 20;
/// The stream of the library by itself, and the one of our topic.
const STREAMS: [&str; 2] = ["micro-bench-raw", "micro+bench+messages"];
const SUBJECT: &str = "micro-bench.raw";

pub(super) fn run(options: &Options) -> Result<Findings> {
    let Ok(url) = std::env::var("MICRO_TEST_NATS_URL") else {
        eprintln!(
            "broker: nats is left out, for MICRO_TEST_NATS_URL is not set: cargo xtask services up nats"
        );
        return Ok(Findings::default());
    };
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build()?;
    runtime.block_on(measure(options, &url))
}

async fn measure(options: &Options, url: &str) -> Result<Findings> {
    let messages = if options.quick { 4_000 } else { 40_000 } / AT_ONCE * AT_ONCE;
    let url = url::resolve(url)?;
    let env = Env::new().with_namespace("bench");
    let connection = Connection::open(NatsConfig::from_url(&url)?, env.random(), true)?;
    let deadline = Instant::now() + Duration::from_secs(10);
    let raw = jetstream::new(connection.client(deadline).await?);
    let config = NatsBrokerConfig::from_url(&url)?.with_max_bytes(MAX_BYTES);
    let mut rates: [Vec<f64>; 4] = Default::default();
    for _ in 0..options.pairs {
        // Streams of their own, for none is to find what another left.
        for name in STREAMS {
            let _ = raw.delete_stream(name).await;
        }
        let broker = NatsBroker::open(config.clone(), &env)?;
        let all = [
            by_hand(&raw, &env, messages).await?,
            ours(&broker, messages).await?,
        ];
        for (rates, rate) in rates.iter_mut().zip(all.into_iter().flatten()) {
            rates.push(rate);
        }
    }
    for name in STREAMS {
        let _ = raw.delete_stream(name).await;
    }
    let [raw_publish, raw_consume, publish, consume] = rates;
    let publish_ratio = Figure::ratio("nats_publish_vs_raw", &publish, &raw_publish);
    let consume_ratio = Figure::ratio("nats_consume_vs_raw", &consume, &raw_consume);
    let mut table = Table::new(
        "Messages of 64 bytes in JetStream per second, 16 published at once, 200 consumed",
        ["what", "async-nats", "micro", "ratio"],
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

/// Messages per second, published and consumed.
async fn by_hand(raw: &jetstream::Context, env: &Env, messages: usize) -> Result<[f64; 2]> {
    let config = stream::Config {
        name: STREAMS[0].to_owned(),
        subjects: vec![SUBJECT.to_owned()],
        discard: stream::DiscardPolicy::New,
        max_bytes: MAX_BYTES as i64,
        num_replicas: 1,
        ..stream::Config::default()
    };
    let stream = raw.create_stream(config).await?;
    let published = at_once(messages, |each| {
        let (raw, env) = (raw.clone(), env.clone());
        async move {
            for _ in 0..each {
                let id = new_id(env.clock().wall(), &**env.random());
                let message = PublishMessage::build().payload(BODY.into()).message_id(id);
                raw.send_publish(SUBJECT, message).await?.await?;
            }
            Ok(())
        }
    })
    .await?;
    let config = consumer::pull::Config {
        durable_name: Some("g".to_owned()),
        ..consumer::pull::Config::default()
    };
    let consumer = stream.create_consumer(config).await?;
    let begun = clock::now();
    let mut arriving = consumer.messages().await?;
    for _ in 0..messages {
        let message = arriving.next().await.ok_or("messages end")??;
        message.ack().await?;
    }
    Ok([published, rate(messages, begun.elapsed())])
}

/// The same with the broker.
async fn ours(broker: &NatsBroker, messages: usize) -> Result<[f64; 2]> {
    let (topic, group) = (Topic::new("messages")?, Group::new("g")?);
    let opts = SubscribeOptions::default()
        .with_group(group)
        .with_concurrency(BATCH);
    // The group is there before its messages.
    let nothing = handler(|_, _| std::future::ready(Ok(())));
    let first = broker.subscribe(&topic, opts.clone(), nothing).await?;
    first.stop(Duration::from_secs(5)).await?;
    let published = at_once(messages, |each| {
        let (broker, topic) = (broker.clone(), topic.clone());
        async move {
            for _ in 0..each {
                let message = Message::new(topic.clone(), BODY);
                broker
                    .publish(&Context::new(), message, PublishOptions::default())
                    .await?;
            }
            Ok(())
        }
    })
    .await?;
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
    Ok([published, consumed])
}

/// Messages per second of so many publishers, each a task of its own.
async fn at_once<F>(messages: usize, publish: impl Fn(usize) -> F) -> Result<f64>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let begun = clock::now();
    let all: Vec<_> = (0..AT_ONCE)
        .map(|_| tokio::spawn(publish(messages / AT_ONCE)))
        .collect();
    for one in all {
        one.await??;
    }
    Ok(rate(messages, begun.elapsed()))
}

fn rate(messages: usize, time: Duration) -> f64 {
    messages as f64 / time.as_secs_f64()
}
