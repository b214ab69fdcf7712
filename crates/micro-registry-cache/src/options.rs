//! What can be chosen about a resolver.

use std::sync::Arc;
use std::time::Duration;

use micro_core::{Clock, Env, Random, SystemClock, SystemRandom};

const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The settings of a [`Resolver`](crate::Resolver).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ResolverOptions {
    /// How often the registry is asked although its watch reports nothing, less up to a fifth: 30 s.
    pub ttl: Duration,
    /// How long it is remembered that a service has no nodes: 1 s.
    pub negative_ttl: Duration,
    /// How long the last known nodes are kept when the registry suddenly knows none: 30 s.
    pub empty_grace: Duration,
    /// How long one question to the registry may take: 5 s.
    pub request_timeout: Duration,
    /// After how long a service that nobody holds or asks for is forgotten: 10 min.
    pub idle: Duration,
    /// How many services are resolved at once: 1024.
    pub max_services: usize,
    /// The namespace, for the text of errors.
    pub namespace: String,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where jitter comes from.
    pub random: Arc<dyn Random>,
}

impl Default for ResolverOptions {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(30),
            negative_ttl: Duration::from_secs(1),
            empty_grace: Duration::from_secs(30),
            request_timeout: Duration::from_secs(5),
            idle: Duration::from_secs(600),
            max_services: 1024,
            namespace: String::new(),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
        }
    }
}

impl ResolverOptions {
    /// The defaults, with clock, chance and namespace of `env`.
    #[must_use]
    pub fn from_env(env: &Env) -> Self {
        Self {
            namespace: env.namespace().to_owned(),
            clock: Arc::clone(env.clock()),
            random: Arc::clone(env.random()),
            ..Self::default()
        }
    }

    /// Sets [`ttl`](Self::ttl).
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets [`negative_ttl`](Self::negative_ttl).
    #[must_use]
    pub fn with_negative_ttl(mut self, negative_ttl: Duration) -> Self {
        self.negative_ttl = negative_ttl;
        self
    }

    /// Sets [`empty_grace`](Self::empty_grace).
    #[must_use]
    pub fn with_empty_grace(mut self, empty_grace: Duration) -> Self {
        self.empty_grace = empty_grace;
        self
    }

    /// Sets [`request_timeout`](Self::request_timeout).
    #[must_use]
    pub fn with_request_timeout(mut self, request_timeout: Duration) -> Self {
        self.request_timeout = request_timeout;
        self
    }

    /// Sets [`idle`](Self::idle).
    #[must_use]
    pub fn with_idle(mut self, idle: Duration) -> Self {
        self.idle = idle;
        self
    }

    /// Sets [`max_services`](Self::max_services).
    #[must_use]
    pub fn with_max_services(mut self, max_services: usize) -> Self {
        self.max_services = max_services;
        self
    }

    /// Sets [`namespace`](Self::namespace).
    #[must_use]
    pub fn with_namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Sets [`clock`](Self::clock).
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sets [`random`](Self::random).
    #[must_use]
    pub fn with_random(mut self, random: Arc<dyn Random>) -> Self {
        self.random = random;
        self
    }

    /// A share of `whole`, by chance between `from` and 1.
    pub(crate) fn jitter(&self, whole: Duration, from: f64) -> Duration {
        #[expect(
            clippy::cast_precision_loss,
            reason = "53 bits are what a double holds"
        )]
        let share = (self.random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        // Nobody waits longer than a year, and a product must not overflow.
        whole.min(YEAR).mul_f64(from + (1.0 - from) * share)
    }
}
