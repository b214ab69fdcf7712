//! Small quick calls beside what could hold them up: large messages, streams, and handlers that
//! sleep, compute or panic. One service in this process, on a runtime of two threads.

use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use bytes::Bytes;
use micro::{Context, Service, Streaming};
use tokio::task::JoinSet;
use tokio::time::Interval;
use tonic::codegen::tokio_stream::Stream;

use crate::figures::Figure;
use crate::options::Options;
use crate::report::Findings;
use crate::table::Table;
use crate::{Result, clock};

/// Quick calls per second; they begin in bunches of a millisecond's.
const QUICK: u32 = 10_000;
/// With its framing it is just within the limit of 4 MiB.
const LARGE: usize = (4 << 20) - 64;
/// Between the end of a large call and the next.
const LARGE_PAUSE: Duration = Duration::from_millis(50);
const STREAMS: usize = 4;
/// What the slow handlers take, each in its way.
const SLOW: Duration = Duration::from_millis(50);
/// Between two calls that compute: one core is theirs for a fifth of the time.
const COMPUTE_PAUSE: Duration = Duration::from_millis(200);
const SLEEPERS: usize = 16;
const PANIC_PAUSE: Duration = Duration::from_millis(10);
const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, Default, PartialEq, micro::Message)]
pub(crate) struct Load {
    payload: Bytes,
}

#[micro::service]
pub(crate) trait Beside {
    async fn echo(&self, cx: &Context, load: Load) -> micro::Result<Load>;
    async fn ticks(&self, cx: &Context, load: Load) -> micro::Result<Streaming<Load>>;
    async fn sleep(&self, cx: &Context, load: Load) -> micro::Result<Load>;
    async fn compute(&self, cx: &Context, load: Load) -> micro::Result<Load>;
    async fn panic(&self, cx: &Context, load: Load) -> micro::Result<Load>;
}

struct All;

impl Beside for All {
    async fn echo(&self, _: &Context, load: Load) -> micro::Result<Load> {
        Ok(load)
    }

    /// 1 KiB each millisecond.
    async fn ticks(&self, _: &Context, _: Load) -> micro::Result<Streaming<Load>> {
        Ok(Streaming::new(Ticks(tokio::time::interval(
            Duration::from_millis(1),
        ))))
    }

    async fn sleep(&self, _: &Context, load: Load) -> micro::Result<Load> {
        tokio::time::sleep(SLOW).await;
        Ok(load)
    }

    async fn compute(&self, _: &Context, load: Load) -> micro::Result<Load> {
        let start = clock::now();
        while start.elapsed() < SLOW {
            std::hint::spin_loop();
        }
        Ok(load)
    }

    async fn panic(&self, _: &Context, _: Load) -> micro::Result<Load> {
        panic!("as the benchmark asked")
    }
}

struct Ticks(Interval);

impl Stream for Ticks {
    type Item = micro::Result<Load>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_tick(cx).map(|_| {
            Some(Ok(Load {
                payload: Bytes::from_static(&[7; 1024]),
            }))
        })
    }
}

/// Measures.
pub(super) fn run(options: &Options, findings: &mut Findings) -> Result<()> {
    eprintln!("rpc: quick calls beside others");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    // The panics are asked for: they need not be told of.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let seen = runtime.block_on(rounds(options));
    std::panic::set_hook(hook);
    let seen = seen?;
    let title =
        format!("64 B, {QUICK} calls per second on one connection, two threads for both ends");
    let mut table = Table::new(title, ["beside", "p50 µs", "p99 µs", "p99 / alone"]);
    let median = |of: &[Round], of_round: fn(&Round) -> f64| {
        Figure::new("", "us", of.iter().map(of_round).collect()).median()
    };
    let alone = median(&seen.alone, |round| round.p99);
    for (what, rounds) in [
        ("nothing", &seen.alone),
        ("calls of 4 MiB and streams", &seen.large),
        ("slow handlers, not known yet", &seen.unknown),
        ("slow handlers, known", &seen.known),
    ] {
        let p99 = median(rounds, |round| round.p99);
        table.row(vec![
            what.to_owned(),
            format!("{:.1}", median(rounds, |round| round.p50)),
            format!("{p99:.1}"),
            format!("{:.2}", p99 / alone),
        ]);
    }
    findings.tables.push(table);
    let p99 = |rounds: &[Round]| rounds.iter().map(|round| round.p99).collect::<Vec<_>>();
    for (name, rounds) in [("large", &seen.large), ("slow", &seen.known)] {
        let name = format!("beside_{name}_p99_vs_alone");
        let figure = Figure::ratio(name, &p99(rounds), &p99(&seen.alone));
        findings.figures.push(figure);
    }
    Ok(())
}

/// The quick calls of a phase, in µs.
struct Round {
    p50: f64,
    p99: f64,
}

#[derive(Default)]
struct Seen {
    alone: Vec<Round>,
    large: Vec<Round>,
    unknown: Vec<Round>,
    known: Vec<Round>,
}

async fn rounds(options: &Options) -> Result<Seen> {
    let name = format!("beside-{}", std::process::id());
    let running = Service::new(&name)
        .handle(BesideServer::new(All))
        .start()
        .await?;
    let client = Service::new("beside-client").client().await?;
    let callers = Callers(BesideClient::new(client, &name));
    // The first call finds the service.
    callers.echo(0).await?;
    let time = Duration::from_secs_f64(options.seconds);
    let mut seen = Seen::default();
    callers.quick(time).await?;
    for _ in 0..options.pairs {
        seen.alone.push(callers.quick(time).await?);
        let large = callers.large();
        seen.large.push(callers.quick(time).await?);
        ended(large).await?;
        let slow = callers.slow();
        // Only once: what is learnt is not forgotten.
        if seen.unknown.is_empty() {
            seen.unknown.push(callers.quick(time).await?);
        }
        seen.known.push(callers.quick(time).await?);
        ended(slow).await?;
    }
    running.stop().await?;
    Ok(seen)
}

/// Ends what ran beside, which must not have ended by itself.
async fn ended(mut others: JoinSet<Result<()>>) -> Result<()> {
    if let Some(ended) = others.try_join_next() {
        ended??;
    }
    others.shutdown().await;
    Ok(())
}

#[derive(Clone)]
struct Callers(BesideClient);

impl Callers {
    fn cx() -> Context {
        Context::new().with_timeout(TIMEOUT)
    }

    async fn echo(&self, size: usize) -> Result<()> {
        let payload = Bytes::from(vec![7; size]);
        let reply = self.0.echo(&Self::cx(), Load { payload }).await?;
        if reply.payload.len() != size {
            return Err("the echo is not what was sent".into());
        }
        Ok(())
    }

    async fn quick(&self, time: Duration) -> Result<Round> {
        let start = clock::now();
        let mut calls = JoinSet::new();
        let mut tick = tokio::time::interval(Duration::from_millis(1));
        let mut made = 0;
        while start.elapsed() < time {
            tick.tick().await;
            let due = (start.elapsed().as_secs_f64() * f64::from(QUICK)) as u32;
            let begin = clock::now();
            for _ in made..due {
                let callers = self.clone();
                calls.spawn(async move {
                    callers.echo(64).await?;
                    Ok::<_, crate::Error>(begin.elapsed())
                });
            }
            made = due;
        }
        let mut took = Vec::new();
        while let Some(call) = calls.join_next().await {
            took.push(call??.as_secs_f64() * 1e6);
        }
        took.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| took.get((took.len() as f64 * share) as usize).copied();
        Ok(Round {
            p50: at(0.5).ok_or("no call was made")?,
            p99: at(0.99).ok_or("no call was made")?,
        })
    }

    /// Calls of 4 MiB one after the other, and streams.
    fn large(&self) -> JoinSet<Result<()>> {
        let mut all = JoinSet::new();
        let callers = self.clone();
        all.spawn(async move {
            loop {
                callers.echo(LARGE).await?;
                tokio::time::sleep(LARGE_PAUSE).await;
            }
        });
        for _ in 0..STREAMS {
            let callers = self.clone();
            all.spawn(async move {
                let mut ticks = callers.0.ticks(&Context::new(), Load::default()).await?;
                while ticks.next().await.transpose()?.is_some() {}
                Err("a stream ended".into())
            });
        }
        all
    }

    fn slow(&self) -> JoinSet<Result<()>> {
        let mut all = JoinSet::new();
        for _ in 0..SLEEPERS {
            let callers = self.clone();
            all.spawn(async move {
                loop {
                    callers.0.sleep(&Self::cx(), Load::default()).await?;
                }
            });
        }
        let callers = self.clone();
        all.spawn(async move {
            loop {
                callers.0.compute(&Self::cx(), Load::default()).await?;
                tokio::time::sleep(COMPUTE_PAUSE).await;
            }
        });
        let callers = self.clone();
        all.spawn(async move {
            loop {
                let outcome = callers.0.panic(&Self::cx(), Load::default()).await;
                if outcome.is_ok() {
                    return Err("a panic is no answer".into());
                }
                tokio::time::sleep(PANIC_PAUSE).await;
            }
        });
        all
    }
}
