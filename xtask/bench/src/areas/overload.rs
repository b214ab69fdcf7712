//! A service at three times what it can do: gRPC on loopback, in real time; and what it costs to be
//! admitted where there is room.
//!
//! The handler takes 2 ms under a concurrency limit of 8. What it can do is measured first, by as
//! many callers as may run and wait; then calls come three times as fast, whether or not others have
//! ended.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use micro::limit::{
    Breaker, CircuitBreaker, Concurrency, ConcurrencyLimit, Gradient, Key, PolicyLimits, Rate,
    RateLimit,
};
use micro::transport::{Body, Endpoint, Policies, Policy};
use micro::{Context, ErrorKind, Middleware, Next, Request, Response, Service, async_trait};
use tokio::task::JoinSet;

use crate::alloc::allocations;
use crate::figures::Figure;
use crate::options::Options;
use crate::report::Findings;
use crate::table::Table;
use crate::{Result, clock};

const LIMIT: usize = 8;
const HANDLER: Duration = Duration::from_millis(2);
const OFFERED: f64 = 3.0;

#[derive(Clone, Debug, Default, PartialEq, micro::Message)]
pub(crate) struct Work {
    payload: Bytes,
}

#[micro::service]
pub(crate) trait Worker {
    async fn work(&self, cx: &Context, message: Work) -> micro::Result<Work>;
}

struct Slow;

impl Worker for Slow {
    async fn work(&self, _: &Context, message: Work) -> micro::Result<Work> {
        tokio::time::sleep(HANDLER).await;
        Ok(message)
    }
}

/// Measures.
pub(crate) fn run(options: &Options) -> Result<Findings> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let rounds = runtime.block_on(rounds(options))?;
    let each = |of: fn(&Round) -> f64| rounds.iter().map(of).collect::<Vec<_>>();
    let mut table = Table::new(
        format!("overload: a handler of 2 ms, {LIMIT} at once, {OFFERED} times what it can do"),
        [
            "round",
            "can do /s",
            "offered /s",
            "served /s",
            "goodput %",
            "served p99 ms",
            "refused p50 ms",
            "refused p99 ms",
            "health p99 ms",
        ],
    );
    for (index, round) in rounds.iter().enumerate() {
        table.row(vec![
            (index + 1).to_string(),
            format!("{:.0}", round.peak),
            format!("{:.0}", round.offered),
            format!("{:.0}", round.served),
            format!("{:.1}", round.goodput()),
            format!("{:.2}", round.served_p99),
            format!("{:.2}", round.refused_p50),
            format!("{:.2}", round.refused_p99),
            format!("{:.2}", round.health_p99),
        ]);
    }
    let (admitting, admission) = admission(options)?;
    let mut findings = Findings {
        tables: vec![table, admitting],
        figures: vec![
            Figure::new("overload_goodput", "%", each(Round::goodput)),
            Figure::new(
                "overload_refused_p50",
                "ms",
                each(|round| round.refused_p50),
            ),
            Figure::new(
                "overload_refused_p99",
                "ms",
                each(|round| round.refused_p99),
            ),
            Figure::new("overload_health_p99", "ms", each(|round| round.health_p99)),
            Figure::new(
                "overload_failed",
                "calls",
                each(|round| round.failed as f64),
            ),
        ],
    };
    findings.figures.extend(admission);
    Ok(findings)
}

/// Middleware that does nothing: what a limit costs beyond it is its own.
#[derive(Debug)]
struct Pass;

#[async_trait]
impl Middleware for Pass {
    async fn call(
        &self,
        cx: &Context,
        request: Request,
        next: Next<'_>,
    ) -> micro::Result<Response> {
        next.run(cx, request).await
    }
}

struct End;

#[async_trait]
impl Endpoint for End {
    async fn call(&self, _: &Context, request: Request) -> micro::Result<Response> {
        Ok(Response::new(request.content_type, request.body))
    }
}

/// What a call that is admitted costs in each limit.
fn admission(options: &Options) -> Result<(Table, Vec<Figure>)> {
    let rate = || RateLimit::new(Rate::new(1e9, 1_000_000));
    let wide = Policy::new()
        .with_concurrency(1000, 0)
        .with_rate(1e9, 1_000_000);
    let policies = Policies::new().with_service("worker", wide);
    let adaptive = Concurrency::adaptive(Gradient::default());
    let limits: [(&str, Arc<dyn Middleware>); 6] = [
        ("rate", Arc::new(rate())),
        ("rate_per_method", Arc::new(rate().per(Key::Method))),
        (
            "concurrency",
            Arc::new(ConcurrencyLimit::new(Concurrency::fixed(1000))),
        ),
        ("adaptive", Arc::new(ConcurrencyLimit::new(adaptive))),
        ("circuit", Arc::new(CircuitBreaker::new(Breaker::default()))),
        (
            "policy",
            Arc::new(PolicyLimits::of_service("worker", policies)),
        ),
    ];
    let pass: Arc<dyn Middleware> = Arc::new(Pass);
    let mut table = Table::new(
        "an admitted call, beyond middleware that does nothing",
        ["limit", "ns", "allocations per 1,000 calls"],
    );
    let mut figures = Vec::new();
    for (name, limit) in limits {
        let (mut took, mut made) = (Vec::new(), Vec::new());
        calls(&limit)?;
        for _ in 0..options.pairs {
            let (none, none_made) = calls(&pass)?;
            let (ours, ours_made) = calls(&limit)?;
            took.push((ours - none).max(0.0));
            made.push(ours_made.saturating_sub(none_made) as f64 * 1000.0 / f64::from(CALLS));
        }
        let ns = Figure::new(format!("admit_{name}"), "ns", took);
        let allocations = Figure::new(format!("admit_{name}_allocations"), "allocations", made);
        table.row(vec![
            name.to_owned(),
            format!("{:.1}", ns.median()),
            format!("{:.2}", allocations.median()),
        ]);
        figures.extend([ns, allocations]);
    }
    Ok((table, figures))
}

const CALLS: u32 = 50_000;

/// Nanoseconds per call, and the allocations of all.
fn calls(middleware: &Arc<dyn Middleware>) -> Result<(f64, u64)> {
    let cx = Context::new();
    let path: Arc<str> = "/worker.Worker/Work".into();
    let mut task = std::task::Context::from_waker(std::task::Waker::noop());
    let before = allocations();
    let start = clock::now();
    for _ in 0..CALLS {
        let body = Body::Message(Bytes::new());
        let request = Request::new(Arc::clone(&path), "application/protobuf", body);
        let mut call = Next::new(std::slice::from_ref(middleware), &End).run(&cx, request);
        if !matches!(call.as_mut().poll(&mut task), Poll::Ready(Ok(_))) {
            return Err("a call was not admitted at once".into());
        }
    }
    let took = start.elapsed().as_nanos() as f64 / f64::from(CALLS);
    Ok((took, allocations() - before))
}

/// What one round has shown; rates a second, times in ms.
struct Round {
    peak: f64,
    offered: f64,
    served: f64,
    served_p99: f64,
    refused_p50: f64,
    refused_p99: f64,
    health_p99: f64,
    /// Calls that were neither served nor refused, and health checks that did not answer.
    failed: usize,
}

impl Round {
    fn goodput(&self) -> f64 {
        self.served / self.peak * 100.0
    }
}

async fn rounds(options: &Options) -> Result<Vec<Round>> {
    let name = format!("overload-{}", std::process::id());
    let limit = Arc::new(ConcurrencyLimit::new(Concurrency::fixed(LIMIT)));
    let running = Service::new(&name)
        .middleware(limit)
        .handle(WorkerServer::new(Slow))
        .start()
        .await?;
    let client = Service::new("overload-client").client().await?;
    let callers = Callers {
        worker: WorkerClient::new(client.clone(), &name),
        client,
        name,
    };
    // The first call finds the service.
    callers.work().await.map_err(|kind| format!("{kind:?}"))?;
    let time = Duration::from_secs_f64(options.seconds.max(0.5));
    let mut rounds = Vec::new();
    for _ in 0..options.pairs {
        let peak = callers.closed(2 * LIMIT, time).await;
        rounds.push(callers.open(peak, time).await);
    }
    running.stop().await?;
    Ok(rounds)
}

#[derive(Clone)]
struct Callers {
    worker: WorkerClient,
    client: micro::Client,
    name: String,
}

impl Callers {
    async fn work(&self) -> Result<(), ErrorKind> {
        let cx = Context::new().with_timeout(Duration::from_secs(5));
        let answer = self.worker.work(&cx, Work::default()).await;
        answer.map(|_| ()).map_err(|err| err.kind())
    }

    async fn health(&self) -> bool {
        let cx = Context::new().with_timeout(Duration::from_secs(5));
        let check = "/grpc.health.v1.Health/Check";
        let call = self
            .client
            .call_raw(&self.name, check, "application/protobuf", Bytes::new());
        // SERVING is 1 in the first field.
        call.send(&cx)
            .await
            .is_ok_and(|reply| &*reply == b"\x08\x01")
    }

    /// Each caller begins its next call when the last one has ended: calls served a second.
    async fn closed(&self, callers: usize, time: Duration) -> f64 {
        let start = clock::now();
        let mut all = JoinSet::new();
        for _ in 0..callers {
            let callers = self.clone();
            all.spawn(async move {
                let mut served = 0_u32;
                while start.elapsed() < time {
                    served += u32::from(callers.work().await.is_ok());
                }
                served
            });
        }
        let served: u32 = all.join_all().await.into_iter().sum();
        f64::from(served) / start.elapsed().as_secs_f64()
    }

    /// Calls come at a rate.
    async fn open(&self, peak: f64, time: Duration) -> Round {
        let offered = peak * OFFERED;
        let start = clock::now();
        let mut calls = JoinSet::new();
        let mut checks = JoinSet::new();
        let mut tick = tokio::time::interval(Duration::from_millis(1));
        let (mut made, mut ticks) = (0_u32, 0_u32);
        while start.elapsed() < time {
            tick.tick().await;
            ticks += 1;
            if ticks % 10 == 0 {
                let callers = self.clone();
                checks.spawn(async move {
                    let start = clock::now();
                    (callers.health().await, start.elapsed())
                });
            }
            let due = (start.elapsed().as_secs_f64() * offered) as u32;
            while made < due {
                made += 1;
                let callers = self.clone();
                calls.spawn(async move {
                    let start = clock::now();
                    (callers.work().await, start.elapsed())
                });
            }
        }
        let took = start.elapsed().as_secs_f64();
        let (mut served, mut refused, mut health) = (Vec::new(), Vec::new(), Vec::new());
        let mut failed = 0;
        for (outcome, took) in calls.join_all().await {
            match outcome {
                Ok(()) => served.push(took),
                Err(ErrorKind::ResourceExhausted) => refused.push(took),
                Err(_) => failed += 1,
            }
        }
        for (good, took) in checks.join_all().await {
            failed += usize::from(!good);
            health.push(took);
        }
        Round {
            peak,
            offered: f64::from(made) / took,
            served: served.len() as f64 / took,
            served_p99: quantile(&mut served, 0.99),
            refused_p50: quantile(&mut refused, 0.5),
            refused_p99: quantile(&mut refused, 0.99),
            health_p99: quantile(&mut health, 0.99),
            failed,
        }
    }
}

/// In ms; 0 of nothing.
fn quantile(of: &mut [Duration], share: f64) -> f64 {
    of.sort_unstable();
    let place = (of.len() as f64 * share) as usize;
    let found = of.get(place.min(of.len().saturating_sub(1)));
    found.map_or(0.0, |took| took.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_of_nothing_is_nothing() {
        let mut some: Vec<_> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(quantile(&mut some, 0.99), 100.0);
        assert_eq!(quantile(&mut some, 0.5), 51.0);
        assert_eq!(quantile(&mut [], 0.5), 0.0);
    }
}
