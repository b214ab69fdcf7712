//! How calls are made and admitted, per service and method, changeable while running.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use crate::{Error, Result};

/// How calls are made (timeout, retries, hedges) and how many are admitted (limits): a default, and
/// what differs per service and per method.
///
/// It is taken as `impl Into<Live<Policies>>` and read once per call. What a method's policy leaves
/// open its service's says, then the default, then the options of the client; what a single call
/// says outweighs them all.
///
/// It can be read from configuration. Durations are text with a unit (`250ms`, `1.5s`, `2m`):
///
/// ```
/// use std::time::Duration;
/// use micro_transport_core::{HedgeDelay, Policies};
///
/// let policies: Policies = serde_json::from_str(r#"{
///     "budget": { "share": 0.2, "per_second": 10 },
///     "default": { "timeout": "2s", "retry": { "attempts": 3, "backoff": "20ms" } },
///     "services": {
///         "greeter": {
///             "timeout": "1s",
///             "limits": { "concurrency": 64, "queue": 16, "rate": 1000, "burst": 100 },
///             "methods": {
///                 "Greeter.Hello": { "timeout": "250ms", "hedge": { "delay": "p95" } }
///             }
///         }
///     }
/// }"#)?;
/// let hello = policies.of("greeter", "/greeter.Greeter/Hello").unwrap();
/// assert_eq!(hello.policy.timeout, Some(Duration::from_millis(250)));
/// assert_eq!(hello.policy.retry.attempts, Some(3));
/// assert_eq!(hello.policy.hedge.delay, Some(HedgeDelay::P95));
/// # Ok::<(), serde_json::Error>(())
/// ```
///
/// A mistake is an error that names its place:
///
/// ```
/// # use micro_transport_core::Policies;
/// let err = serde_json::from_str::<Policies>(r#"{"default": {"timeout": "2 weeks"}}"#).unwrap_err();
/// assert!(err.to_string().starts_with("default.timeout is a duration such as '250ms'"));
/// ```
#[derive(Clone, Default)]
pub struct Policies {
    budget: BudgetPolicy,
    /// `None` if nothing is said.
    default: Option<Effective>,
    services: HashMap<Box<str>, Service>,
    stated: Stated,
}

/// What was said, before the levels were laid over each other.
#[derive(Clone, Debug, Default, PartialEq)]
struct Stated {
    default: Policy,
    services: BTreeMap<String, (Policy, BTreeMap<String, Policy>)>,
}

#[derive(Clone)]
struct Service {
    effective: Effective,
    /// Sorted by contract and method.
    methods: Vec<(Box<str>, Box<str>, Effective)>,
}

/// What holds for the calls of one method: every level laid over the one below.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Effective {
    /// The values.
    pub policy: Policy,
    /// Whether the method itself states the concurrency: then it is the method's own, else it is
    /// shared by the methods of the service that state none.
    pub own_concurrency: bool,
    /// The same for the rate.
    pub own_rate: bool,
}

/// One level of [`Policies`]: what is `None` is said by the level below.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Policy {
    /// The time for a call, if the context's deadline is not earlier. More than 0, at most a day.
    /// It does not apply to calls that send a stream.
    pub timeout: Option<Duration>,
    /// When calls are made again.
    pub retry: RetryPolicy,
    /// When calls are made twice at the same time.
    pub hedge: HedgePolicy,
    /// How many calls are admitted.
    pub limits: LimitPolicy,
}

/// When a call is made again, on another node while there is one.
///
/// What provably never ran is made again whatever its method. What may have run is made again only
/// if the method is idempotent, the error may pass, no other hop has repeated it and the budget
/// allows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// The most attempts, the first one included: 1 to 5 (gRFC A6 has the same bound). 1 turns
    /// retries off.
    pub attempts: Option<u32>,
    /// The pause before the second repetition, doubled for each further one; a random half of it is
    /// left out. The first one is made at once. More than 0, at most a minute. Default 20 ms.
    pub backoff: Option<Duration>,
    /// The longest pause. Default 1 s.
    pub max_backoff: Option<Duration>,
}

/// When an idempotent call is made on another node as well, because the first one is slow: the
/// answer that comes first counts, the other call is cancelled.
///
/// Off until a delay is given. Hedges come out of the same budget as retries.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct HedgePolicy {
    /// How long the attempts so far have before one more begins.
    pub delay: Option<HedgeDelay>,
    /// The most attempts at once, the first one included: 1 to 5. Default 2; 1 turns hedging off.
    pub attempts: Option<u32>,
}

/// How long a call has before it is hedged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HedgeDelay {
    /// A fixed time. More than 0, at most a minute.
    After(Duration),
    /// What 95 % of the method's calls took lately.
    P95,
    /// What 99 % of the method's calls took lately.
    P99,
}

/// How many calls are admitted: enforced by `micro-limit`'s `PolicyLimits` on either side.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct LimitPolicy {
    /// The most calls at once, at least 1.
    pub concurrency: Option<u32>,
    /// How many more may wait for their turn. Default: as many as may run.
    pub queue: Option<u32>,
    /// The most calls a second, more than 0.
    pub rate: Option<f64>,
    /// How many calls may come at once after a pause, at least 1. Default: a tenth of a second's
    /// worth.
    pub burst: Option<u32>,
}

/// How many repetitions and hedges a client may make of calls that may have run, all services
/// together: a budget per service would not help the one backend that all of them end at.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct BudgetPolicy {
    /// As a share of the calls made, 0 to 1. Default 0.2.
    pub share: f64,
    /// And so many a second, 0 to 1,000,000. Default 10.
    pub per_second: f64,
}

impl Default for BudgetPolicy {
    fn default() -> Self {
        Self {
            share: 0.2,
            per_second: 10.0,
        }
    }
}

impl BudgetPolicy {
    /// A budget of a share of the calls, and so many a second.
    #[must_use]
    pub const fn new(share: f64, per_second: f64) -> Self {
        Self { share, per_second }
    }
}

impl HedgePolicy {
    /// One more attempt after `delay`.
    #[must_use]
    pub const fn new(delay: HedgeDelay) -> Self {
        Self {
            delay: Some(delay),
            attempts: None,
        }
    }
}

impl Policy {
    /// A policy that leaves everything to the level below.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`timeout`](Self::timeout).
    #[must_use]
    pub const fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sets [`RetryPolicy::attempts`].
    #[must_use]
    pub const fn with_attempts(mut self, attempts: u32) -> Self {
        self.retry.attempts = Some(attempts);
        self
    }

    /// Sets [`RetryPolicy::backoff`] and [`RetryPolicy::max_backoff`].
    #[must_use]
    pub const fn with_backoff(mut self, first: Duration, most: Duration) -> Self {
        self.retry.backoff = Some(first);
        self.retry.max_backoff = Some(most);
        self
    }

    /// Sets [`hedge`](Self::hedge).
    #[must_use]
    pub const fn with_hedge(mut self, hedge: HedgePolicy) -> Self {
        self.hedge = hedge;
        self
    }

    /// Sets [`LimitPolicy::concurrency`] and [`LimitPolicy::queue`].
    #[must_use]
    pub const fn with_concurrency(mut self, most: u32, queue: u32) -> Self {
        self.limits.concurrency = Some(most);
        self.limits.queue = Some(queue);
        self
    }

    /// Sets [`LimitPolicy::rate`] and [`LimitPolicy::burst`].
    #[must_use]
    pub const fn with_rate(mut self, per_second: f64, burst: u32) -> Self {
        self.limits.rate = Some(per_second);
        self.limits.burst = Some(burst);
        self
    }

    /// What this level says, and where it says nothing the one below.
    fn over(self, below: Self) -> Self {
        let (retry, hedge, limits) = (below.retry, below.hedge, below.limits);
        Self {
            timeout: self.timeout.or(below.timeout),
            retry: RetryPolicy {
                attempts: self.retry.attempts.or(retry.attempts),
                backoff: self.retry.backoff.or(retry.backoff),
                max_backoff: self.retry.max_backoff.or(retry.max_backoff),
            },
            hedge: HedgePolicy {
                delay: self.hedge.delay.or(hedge.delay),
                attempts: self.hedge.attempts.or(hedge.attempts),
            },
            limits: LimitPolicy {
                concurrency: self.limits.concurrency.or(limits.concurrency),
                queue: self.limits.queue.or(limits.queue),
                rate: self.limits.rate.or(limits.rate),
                burst: self.limits.burst.or(limits.burst),
            },
        }
    }

    fn check(&self, at: &dyn fmt::Display) -> Result<()> {
        let wrong = |what: &str| {
            Err(Error::invalid_argument(format!("{at}.{what}")).with_operation("policies.check"))
        };
        let span = |value: Option<Duration>, most: u64| {
            value.is_none_or(|value| !value.is_zero() && value <= Duration::from_secs(most))
        };
        let count = |value: Option<u32>| value.is_none_or(|value| (1..=5).contains(&value));
        if !span(self.timeout, 86_400) {
            return wrong("timeout is more than 0 and at most 24h");
        }
        if !count(self.retry.attempts) {
            return wrong("retry.attempts is 1 to 5, the first attempt included");
        }
        if !span(self.retry.backoff, 60) {
            return wrong("retry.backoff is more than 0 and at most 1m");
        }
        if !span(self.retry.max_backoff, 60) {
            return wrong("retry.max_backoff is more than 0 and at most 1m");
        }
        if !count(self.hedge.attempts) {
            return wrong("hedge.attempts is 1 to 5, the first attempt included");
        }
        if let Some(HedgeDelay::After(delay)) = self.hedge.delay
            && !span(Some(delay), 60)
        {
            return wrong("hedge.delay is more than 0 and at most 1m, or p95 or p99");
        }
        if self.limits.concurrency == Some(0) {
            return wrong("limits.concurrency is at least 1");
        }
        if !self
            .limits
            .rate
            .is_none_or(|rate| rate.is_finite() && rate > 0.0 && rate <= 1e9)
        {
            return wrong("limits.rate is more than 0 and at most 1e9");
        }
        if self.limits.burst == Some(0) {
            return wrong("limits.burst is at least 1");
        }
        Ok(())
    }
}

impl Policies {
    /// No policies: the client's options hold for everything.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the budget of repetitions and hedges.
    #[must_use]
    pub fn with_budget(mut self, budget: BudgetPolicy) -> Self {
        self.budget = budget;
        self
    }

    /// Sets what holds where a service and method say nothing else.
    #[must_use]
    pub fn with_default(mut self, policy: Policy) -> Self {
        self.stated.default = policy;
        self.lay()
    }

    /// Sets the policy of a service, by its registry name.
    #[must_use]
    pub fn with_service(mut self, service: impl Into<String>, policy: Policy) -> Self {
        let services = &mut self.stated.services;
        services.entry(service.into()).or_default().0 = policy;
        self.lay()
    }

    /// Sets the policy of a method: `Contract.Method`, as `Greeter.Hello`.
    #[must_use]
    pub fn with_method(
        mut self,
        service: impl Into<String>,
        method: impl Into<String>,
        policy: Policy,
    ) -> Self {
        let services = &mut self.stated.services;
        let methods = &mut services.entry(service.into()).or_default().1;
        methods.insert(method.into(), policy);
        self.lay()
    }

    /// The budget of repetitions and hedges.
    #[must_use]
    pub fn budget(&self) -> BudgetPolicy {
        self.budget
    }

    /// What holds for the calls of a method: one look-up of the service, and a binary search among
    /// the methods that have a policy of their own. Allocates nothing.
    ///
    /// The method is found by the last part of its contract's name and its own. `None` if nothing
    /// is said of it at any level.
    #[must_use]
    pub fn of(&self, service: &str, path: &str) -> Option<&Effective> {
        let service = match self.services.get(service) {
            Some(service) => service,
            None => return self.default.as_ref(),
        };
        if !service.methods.is_empty()
            && let Some((contract, method)) = path.rsplit_once('/')
        {
            let contract = contract.rsplit(['.', '/']).next().unwrap_or(contract);
            let found = service
                .methods
                .binary_search_by(|(c, m, _)| (&**c, &**m).cmp(&(contract, method)));
            if let Ok(index) = found {
                return Some(&service.methods[index].2);
            }
        }
        Some(&service.effective)
    }

    /// These policies over others: what they leave open, `below` says, level by level. A method that
    /// `below` names keeps what it says there, even if these policies say something more general.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use micro_transport_core::{Policies, Policy};
    ///
    /// let below = Policies::new().with_default(Policy::new().with_attempts(2));
    /// let above = Policies::new().with_default(Policy::new().with_timeout(Duration::from_secs(1)));
    /// let both = above.over(&below);
    /// let policy = both.of("greeter", "/greeter.Greeter/Hello").unwrap().policy;
    /// assert_eq!((policy.timeout, policy.retry.attempts), (Some(Duration::from_secs(1)), Some(2)));
    /// ```
    #[must_use]
    pub fn over(&self, below: &Self) -> Self {
        let mut both = below.clone();
        if self.budget != BudgetPolicy::default() {
            both.budget = self.budget;
        }
        let stated = &mut both.stated;
        stated.default = self.stated.default.over(stated.default);
        for (name, (policy, methods)) in &self.stated.services {
            let under = stated.services.entry(name.clone()).or_default();
            under.0 = policy.over(under.0);
            for (name, policy) in methods {
                let under = under.1.entry(name.clone()).or_default();
                *under = policy.over(*under);
            }
        }
        both.lay()
    }

    /// Refuses values out of range.
    ///
    /// Reading from configuration does this by itself. Values set in code that were not checked are
    /// brought into their range where they are used.
    ///
    /// # Errors
    ///
    /// `InvalidArgument`, which names the place: `services.greeter.retry.attempts is 1 to 5`.
    pub fn check(&self) -> Result<()> {
        let BudgetPolicy { share, per_second } = self.budget;
        let wrong =
            |what: String| Err(Error::invalid_argument(what).with_operation("policies.check"));
        if !(0.0..=1.0).contains(&share) {
            return wrong("budget.share is 0 to 1".to_owned());
        }
        if !(0.0..=1e6).contains(&per_second) {
            return wrong("budget.per_second is 0 to 1000000".to_owned());
        }
        self.stated.default.check(&"default")?;
        for (name, (policy, methods)) in &self.stated.services {
            if name.is_empty() {
                return wrong("services has an entry without a name".to_owned());
            }
            let at = format!("services.{name}");
            policy.check(&at)?;
            for (method, policy) in methods {
                let at = format!("{at}.methods.{method}");
                if split(method).is_none() {
                    return wrong(format!("{at} is named Contract.Method, as Greeter.Hello"));
                }
                policy.check(&at)?;
            }
        }
        Ok(())
    }

    /// Lays the levels over each other.
    fn lay(mut self) -> Self {
        let default = self.stated.default;
        self.default = (default != Policy::default()).then_some(Effective {
            policy: default,
            ..Effective::default()
        });
        self.services.clear();
        for (name, (policy, methods)) in &self.stated.services {
            let service = policy.over(default);
            let mut laid: Vec<_> = methods
                .iter()
                .filter_map(|(name, method)| {
                    let (contract, name) = split(name)?;
                    let effective = Effective {
                        policy: method.over(service),
                        own_concurrency: method.limits.concurrency.is_some(),
                        own_rate: method.limits.rate.is_some(),
                    };
                    Some((contract.into(), name.into(), effective))
                })
                .collect();
            laid.sort_by(|a: &(Box<str>, Box<str>, _), b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
            let effective = Effective {
                policy: service,
                ..Effective::default()
            };
            let service = Service {
                effective,
                methods: laid,
            };
            self.services.insert(name.as_str().into(), service);
        }
        self
    }
}

/// Contract and method of `Contract.Method`.
fn split(name: &str) -> Option<(&str, &str)> {
    let (contract, method) = name.split_once('.')?;
    let named = |part: &str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    (named(contract) && named(method)).then_some((contract, method))
}

impl PartialEq for Policies {
    fn eq(&self, other: &Self) -> bool {
        self.budget == other.budget && self.stated == other.stated
    }
}

impl fmt::Debug for Policies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policies")
            .field("budget", &self.budget)
            .field("default", &self.stated.default)
            .field("services", &self.stated.services)
            .finish()
    }
}

/// As configuration has it. Durations stay text until their place is known.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawPolicies {
    budget: RawBudget,
    default: RawPolicy,
    services: BTreeMap<String, RawService>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawBudget {
    share: Option<f64>,
    per_second: Option<f64>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawPolicy {
    timeout: Option<String>,
    retry: RawRetry,
    hedge: RawHedge,
    limits: RawLimits,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawService {
    timeout: Option<String>,
    retry: RawRetry,
    hedge: RawHedge,
    limits: RawLimits,
    methods: BTreeMap<String, RawPolicy>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawRetry {
    attempts: Option<u32>,
    backoff: Option<String>,
    max_backoff: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawHedge {
    delay: Option<String>,
    attempts: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawLimits {
    concurrency: Option<u32>,
    queue: Option<u32>,
    rate: Option<f64>,
    burst: Option<u32>,
}

impl RawPolicy {
    fn read(self, at: &str) -> Result<Policy> {
        let span = |name: &str, text: Option<String>| {
            text.map(|text| duration(&text).ok_or_else(|| no_duration(at, name, "", &text)))
                .transpose()
        };
        Ok(Policy {
            timeout: span("timeout", self.timeout)?,
            retry: RetryPolicy {
                attempts: self.retry.attempts,
                backoff: span("retry.backoff", self.retry.backoff)?,
                max_backoff: span("retry.max_backoff", self.retry.max_backoff)?,
            },
            hedge: HedgePolicy {
                delay: match self.hedge.delay.as_deref() {
                    None => None,
                    Some("p95") => Some(HedgeDelay::P95),
                    Some("p99") => Some(HedgeDelay::P99),
                    Some(text) => Some(HedgeDelay::After(duration(text).ok_or_else(|| {
                        no_duration(at, "hedge.delay", ", or 'p95' or 'p99'", text)
                    })?)),
                },
                attempts: self.hedge.attempts,
            },
            limits: LimitPolicy {
                concurrency: self.limits.concurrency,
                queue: self.limits.queue,
                rate: self.limits.rate,
                burst: self.limits.burst,
            },
        })
    }
}

impl TryFrom<RawPolicies> for Policies {
    type Error = Error;

    fn try_from(raw: RawPolicies) -> Result<Self> {
        let budget = BudgetPolicy::default();
        let mut policies = Self {
            budget: BudgetPolicy {
                share: raw.budget.share.unwrap_or(budget.share),
                per_second: raw.budget.per_second.unwrap_or(budget.per_second),
            },
            ..Self::default()
        };
        policies.stated.default = raw.default.read("default")?;
        for (name, service) in raw.services {
            let at = format!("services.{name}");
            let mut methods = BTreeMap::new();
            for (method, policy) in service.methods {
                let policy = policy.read(&format!("{at}.methods.{method}"))?;
                methods.insert(method, policy);
            }
            let policy = RawPolicy {
                timeout: service.timeout,
                retry: service.retry,
                hedge: service.hedge,
                limits: service.limits,
            };
            let policy = policy.read(&at)?;
            policies.stated.services.insert(name, (policy, methods));
        }
        policies.check()?;
        Ok(policies.lay())
    }
}

impl<'de> Deserialize<'de> for Policies {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let raw = RawPolicies::deserialize(deserializer)?;
        Self::try_from(raw).map_err(|err| serde::de::Error::custom(err.message()))
    }
}

fn no_duration(at: &str, name: &str, or: &str, text: &str) -> Error {
    let shown: String = text.chars().take(40).flat_map(char::escape_debug).collect();
    Error::invalid_argument(format!(
        "{at}.{name} is a duration such as '250ms', '1.5s' or '2m'{or}, not '{shown}'"
    ))
    .with_operation("policies.read")
}

/// A duration as text: a number and `ns`, `us`, `ms`, `s`, `m` or `h`.
fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let unit = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let seconds = match text[unit..].trim_start() {
        "ns" => 1e-9,
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    let number: f64 = text[..unit].parse().ok()?;
    // A whole number of nanoseconds: 0.001 is not exactly a millisecond.
    let nanos = (number * seconds * 1e9).round();
    (nanos < 1e18).then(|| Duration::from_nanos(nanos as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn read(json: &str) -> std::result::Result<Policies, String> {
        serde_json::from_str(json).map_err(|err| err.to_string())
    }

    #[test]
    fn a_method_outweighs_its_service_and_that_the_default() {
        let policies = Policies::new()
            .with_default(
                Policy::new()
                    .with_timeout(Duration::from_secs(3))
                    .with_attempts(2)
                    .with_concurrency(8, 2),
            )
            .with_service("a", Policy::new().with_timeout(Duration::from_secs(2)))
            .with_method(
                "a",
                "A.X",
                Policy::new()
                    .with_timeout(Duration::from_secs(1))
                    .with_rate(5.0, 1),
            );
        policies.check().unwrap();
        let of = |service, path| *policies.of(service, path).unwrap();
        for (service, path, seconds) in [
            ("a", "/a.A/X", 1),
            ("a", "/other.package.A/X", 1),
            ("a", "/A/X", 1),
            ("a", "/a.A/Y", 2),
            ("a", "/a.B/X", 2),
            ("a", "nonsense", 2),
            ("b", "/a.A/X", 3),
        ] {
            let found = of(service, path);
            let timeout = Some(Duration::from_secs(seconds));
            assert_eq!(found.policy.timeout, timeout, "{service} {path}");
            assert_eq!(found.policy.retry.attempts, Some(2));
        }
        let x = of("a", "/a.A/X");
        assert!(x.own_rate && !x.own_concurrency);
        assert_eq!(x.policy.limits.concurrency, Some(8));
    }

    #[test]
    fn nothing_said_is_nothing() {
        assert_eq!(Policies::new().of("a", "/a.A/X"), None);
        assert_eq!(read("{}").unwrap(), Policies::new());
        let other = Policies::new().with_service("b", Policy::new());
        assert_eq!(other.of("a", "/a.A/X"), None);
    }

    #[test]
    fn a_mistake_names_its_place() {
        for (json, message) in [
            (
                r#"{"default":{"timeout":"0s"}}"#,
                "default.timeout is more than 0",
            ),
            (
                r#"{"default":{"timeout":"25h"}}"#,
                "default.timeout is more than 0 and at most 24h",
            ),
            (
                r#"{"default":{"timeout":"soon"}}"#,
                "default.timeout is a duration",
            ),
            (
                r#"{"default":{"timeout":""}}"#,
                "default.timeout is a duration",
            ),
            (
                r#"{"default":{"timeout":"-1s"}}"#,
                "default.timeout is a duration",
            ),
            (
                r#"{"default":{"timeout":"1e3s"}}"#,
                "default.timeout is a duration",
            ),
            (
                r#"{"services":{"a":{"retry":{"attempts":6}}}}"#,
                "services.a.retry.attempts is 1 to 5",
            ),
            (
                r#"{"services":{"a":{"methods":{"A.X":{"retry":{"backoff":"1"}}}}}}"#,
                "services.a.methods.A.X.retry.backoff is a duration",
            ),
            (
                r#"{"services":{"a":{"methods":{"X":{}}}}}"#,
                "services.a.methods.X is named Contract.Method",
            ),
            (
                r#"{"services":{"a":{"methods":{"/a.A/X":{}}}}}"#,
                "services.a.methods./a.A/X is named Contract.Method",
            ),
            (
                r#"{"services":{"":{}}}"#,
                "services has an entry without a name",
            ),
            (
                r#"{"default":{"hedge":{"delay":"p50"}}}"#,
                "default.hedge.delay is a duration such as",
            ),
            (
                r#"{"default":{"hedge":{"attempts":0}}}"#,
                "default.hedge.attempts is 1 to 5",
            ),
            (
                r#"{"default":{"limits":{"concurrency":0}}}"#,
                "default.limits.concurrency is at least 1",
            ),
            (
                r#"{"default":{"limits":{"rate":0}}}"#,
                "default.limits.rate is more than 0",
            ),
            (
                r#"{"default":{"limits":{"rate":-1}}}"#,
                "default.limits.rate is more than 0",
            ),
            (
                r#"{"default":{"limits":{"burst":0}}}"#,
                "default.limits.burst is at least 1",
            ),
            (r#"{"budget":{"share":1.5}}"#, "budget.share is 0 to 1"),
            (
                r#"{"budget":{"per_second":-1}}"#,
                "budget.per_second is 0 to 1000000",
            ),
            (r#"{"default":{"timout":"1s"}}"#, "unknown field `timout`"),
            (
                r#"{"services":{"a":{"retry":{"budget":1}}}}"#,
                "unknown field `budget`",
            ),
        ] {
            let err = read(json).unwrap_err();
            assert!(err.starts_with(message), "{json}: {err}");
        }
        let unchecked = Policies::new().with_budget(BudgetPolicy::new(f64::NAN, 1.0));
        assert_eq!(
            unchecked.check().unwrap_err().kind(),
            ErrorKind::InvalidArgument
        );
        let unchecked = Policies::new().with_default(Policy::new().with_rate(f64::NAN, 1));
        assert_eq!(
            unchecked.check().unwrap_err().kind(),
            ErrorKind::InvalidArgument
        );
    }

    #[test]
    fn durations_have_a_unit() {
        for (text, nanos) in [
            ("250ms", 250_000_000),
            ("1.5s", 1_500_000_000),
            ("2m", 120_000_000_000),
            ("1h", 3_600_000_000_000),
            ("10us", 10_000),
            ("7ns", 7),
            (" 1 s ", 1_000_000_000),
        ] {
            assert_eq!(duration(text), Some(Duration::from_nanos(nanos)), "{text}");
        }
        for text in [
            "",
            "1",
            "s",
            "1.2.3s",
            "1d",
            "1s1",
            "99999999999999h",
            "-1s",
        ] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}
