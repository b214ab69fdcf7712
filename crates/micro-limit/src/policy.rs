//! The limits of the policies.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use micro_core::{Context, Live, Result, async_trait};
use micro_transport_core::{Effective, LimitPolicy, Middleware, Next, Policies, Request, Response};

use crate::bucket::{Bucket, Epoch, Pace};
use crate::gate::{Gate, Waiting};
use crate::held::hold;
use crate::passes_first;
use crate::rate::refused;
use crate::table::Table;

/// Keeps the limits of [`Policies`], per service and method, as they change.
///
/// A limit that a method states is that method's own; one that its service or the default states is
/// shared by the methods of the service that state none. What is counted survives a change of the
/// policies: a new limit holds for the calls already in flight too.
pub struct PolicyLimits {
    policies: Live<Policies>,
    /// The service that is served; a client's requests name theirs.
    service: Option<Arc<str>>,
    epoch: Epoch,
    states: Table<State>,
}

#[derive(Debug)]
struct State {
    gate: Arc<Gate>,
    bucket: Bucket,
}

impl State {
    fn new() -> Self {
        Self {
            gate: Arc::new(Gate::new(usize::MAX)),
            bucket: Bucket::default(),
        }
    }
}

/// The most services and methods with limits; calls of further ones are not limited.
const MOST: usize = 4096;

impl PolicyLimits {
    /// Limits the calls that a client makes, by the service that they go to.
    #[must_use]
    pub fn new(policies: impl Into<Live<Policies>>) -> Self {
        Self {
            policies: policies.into(),
            service: None,
            epoch: Epoch::new(),
            states: Table::new(MOST),
        }
    }

    /// Limits the calls that a server of this service answers.
    #[must_use]
    pub fn of_service(service: impl Into<Arc<str>>, policies: impl Into<Live<Policies>>) -> Self {
        let mut limits = Self::new(policies);
        limits.service = Some(service.into());
        limits
    }

    fn state(&self, service: &str, path: &str, own: bool) -> Option<Arc<State>> {
        let method = if own { path } else { "" };
        self.states.get((service, method), State::new)
    }
}

fn waiting(limits: &LimitPolicy, concurrency: usize) -> Waiting {
    Waiting {
        most: limits.queue.map_or(concurrency, |queue| queue as usize),
        wait: Duration::from_millis(100),
        target: Duration::from_millis(3),
        interval: Duration::from_millis(100),
    }
}

#[async_trait]
impl Middleware for PolicyLimits {
    async fn call(&self, cx: &Context, request: Request, next: Next<'_>) -> Result<Response> {
        let service = self.service.as_ref().or(request.service.as_ref());
        let service = service.map_or("", |service| service);
        let found: Option<Effective> = self.policies.get().of(service, &request.path).copied();
        let limits = found.map(|found| found.policy.limits);
        let stated = limits.filter(|limits| limits.concurrency.is_some() || limits.rate.is_some());
        let (Some(found), Some(limits)) = (found, stated) else {
            return next.run(cx, request).await;
        };
        if passes_first(&request.path) {
            return next.run(cx, request).await;
        }
        if let Some(rate) = limits.rate
            && let Some(state) = self.state(service, &request.path, found.own_rate)
        {
            let burst = limits.burst.unwrap_or((rate / 10.0).ceil() as u32);
            let now = self.epoch.nanos(cx.now());
            let taken = state.bucket.take(Pace::new(rate, burst), now);
            taken.map_err(|wait| refused(rate, wait))?;
        }
        let Some(concurrency) = limits.concurrency else {
            return next.run(cx, request).await;
        };
        let Some(state) = self.state(service, &request.path, found.own_concurrency) else {
            return next.run(cx, request).await;
        };
        let concurrency = concurrency.max(1) as usize;
        state.gate.set_limit(concurrency);
        let permit = state.gate.enter(cx, waiting(&limits, concurrency)).await?;
        hold(next.run(cx, request).await, permit)
    }
}

impl fmt::Debug for PolicyLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicyLimits")
            .field("policies", &self.policies)
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}
