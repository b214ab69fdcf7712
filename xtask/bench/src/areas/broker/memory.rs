//! One topic and one group in memory, on one core.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use hdrhistogram::Histogram;
use micro_broker_core::{
    Broker as _, Context, ErrorKind, Group, Message, PublishOptions, SubscribeOptions, Topic,
    handler,
};
use micro_broker_memory::MemoryBroker;
use tokio::sync::{Notify, mpsc};

use crate::cost::{self, Side};
use crate::figures::{Figure, number};
use crate::options::Options;
use crate::report::Findings;
use crate::table::Table;
use crate::{Result, clock};

const BODY: &[u8] = &[7; 64];

/// Every so many-th message carries its time.
const TIMED: usize = 64;

pub(super) fn run(options: &Options) -> Result<Findings> {
    let messages = if options.quick { 50_000 } else { 500_000 };
    let rounds = options.pairs;
    // A thread of its own, which is kept on one core with its runtime.
    let measured = std::thread::spawn(move || -> Result<_> {
        cost::pin(Side::Server)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        let (mut channel, mut broker, mut p99) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            channel.push(runtime.block_on(through_channel(messages))?);
            let (rate, late) = runtime.block_on(through_broker(messages))?;
            broker.push(rate);
            p99.push(late);
        }
        Ok((channel, broker, p99))
    });
    let (channel, broker, p99) = measured.join().map_err(|_| "the measurement panicked")??;
    let figures = vec![
        Figure::new("memory_messages", "/s", broker.clone()),
        Figure::new("memory_p99", "us", p99),
        Figure::ratio("memory_vs_channel", &broker, &channel),
        Figure::new("memory_channel_messages", "/s", channel),
    ];
    let mut table = Table::new(
        "Messages of 64 bytes in memory, one topic, one group, one core",
        [
            "what",
            "messages/s",
            "p99 us from publish to handler, saturated",
        ],
    );
    let row = |name: &str, rate: &Figure, late: String| {
        vec![name.to_owned(), number(rate.median()), late]
    };
    table.row(row("tokio channel of 10,000", &figures[3], "-".to_owned()));
    table.row(row("micro", &figures[0], number(figures[1].median())));
    Ok(Findings {
        tables: vec![table],
        figures,
    })
}

fn rate(messages: usize, begun: Instant) -> f64 {
    messages as f64 / begun.elapsed().as_secs_f64()
}

/// Messages per second through what a program without a broker would use.
async fn through_channel(messages: usize) -> Result<f64> {
    let (sender, mut receiver) = mpsc::channel::<Bytes>(10_000);
    let begun = clock::now();
    let received = tokio::spawn(async move {
        let mut count = 0;
        while receiver.recv().await.is_some() {
            count += 1;
        }
        count
    });
    for _ in 0..messages {
        sender.send(Bytes::from_static(BODY)).await?;
    }
    drop(sender);
    if received.await? != messages {
        return Err("the channel has lost some".into());
    }
    Ok(rate(messages, begun))
}

/// Messages per second, and the 99th percentile of their times in us.
async fn through_broker(messages: usize) -> Result<(f64, f64)> {
    let broker = MemoryBroker::new();
    let topic = Topic::new("orders")?;
    let (count, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let (tell, mut times) = mpsc::unbounded_channel();
    let begun = clock::now();
    let (counted, told) = (Arc::clone(&count), Arc::clone(&done));
    let handle = handler(move |_, delivery| {
        let body = &delivery.message().body;
        if let Some(sent) = body.first_chunk().filter(|_| body.len() == 8) {
            let late = begun.elapsed().as_nanos() as u64 - u64::from_ne_bytes(*sent);
            let _ = tell.send(late);
        }
        if counted.fetch_add(1, Ordering::Relaxed) + 1 == messages {
            told.notify_one();
        }
        std::future::ready(Ok(()))
    });
    let opts = SubscribeOptions::default().with_group(Group::new("g")?);
    let subscription = broker.subscribe(&topic, opts, handle).await?;
    let cx = Context::new();
    let start = clock::now();
    for i in 0..messages {
        let body = if i % TIMED == 0 {
            let now = begun.elapsed().as_nanos() as u64;
            Bytes::copy_from_slice(&now.to_ne_bytes())
        } else {
            Bytes::from_static(BODY)
        };
        loop {
            let message = Message::new(topic.clone(), body.clone());
            match broker
                .publish(&cx, message, PublishOptions::default())
                .await
            {
                Ok(_) => break,
                Err(err) if err.kind() == ErrorKind::ResourceExhausted => {
                    tokio::task::yield_now().await;
                }
                Err(err) => return Err(err.into()),
            }
        }
        // A publisher that never waits would have the thread for itself.
        if i % 64 == 63 {
            tokio::task::yield_now().await;
        }
    }
    done.notified().await;
    let rate = rate(messages, start);
    drop((subscription, broker));
    let mut all = Histogram::<u64>::new(3)?;
    while let Ok(late) = times.try_recv() {
        all.record(late)?;
    }
    Ok((rate, all.value_at_quantile(0.99) as f64 / 1e3))
}
