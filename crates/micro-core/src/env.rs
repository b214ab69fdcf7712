//! What a program has open already, for those who open more.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::{Clock, Random, SystemClock, SystemRandom};

/// What a [`Driver`](crate::Driver) may use of the program that opens it.
///
/// It holds one value per interface (`env.get::<dyn Registry>()`), the clock, the source of chance,
/// and the namespace. It is a value, not a global: two of them in one process do not meet.
///
/// ```
/// use std::sync::Arc;
/// use micro_core::Env;
///
/// trait Greeting: Send + Sync { fn text(&self) -> &str; }
/// struct Hello;
/// impl Greeting for Hello { fn text(&self) -> &str { "hello" } }
///
/// let env = Env::new().with::<dyn Greeting>(Arc::new(Hello));
/// assert_eq!(env.get::<dyn Greeting>().unwrap().text(), "hello");
/// ```
#[derive(Clone)]
pub struct Env {
    open: HashMap<TypeId, Arc<dyn Any + Send + Sync>>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    namespace: Arc<str>,
}

impl Env {
    /// Nothing open, the machine's clock and chance, no namespace.
    #[must_use]
    pub fn new() -> Self {
        Self {
            open: HashMap::new(),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            namespace: Arc::from(""),
        }
    }

    /// Adds what is open for the interface `I`, replacing what was.
    #[must_use]
    pub fn with<I: ?Sized + Send + Sync + 'static>(mut self, open: Arc<I>) -> Self {
        self.open.insert(TypeId::of::<I>(), Arc::new(open));
        self
    }

    /// Sets the clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sets the source of chance.
    #[must_use]
    pub fn with_random(mut self, random: Arc<dyn Random>) -> Self {
        self.random = random;
        self
    }

    /// Sets the namespace that separates this fleet from others; `""` is the default one.
    #[must_use]
    pub fn with_namespace(mut self, namespace: &str) -> Self {
        self.namespace = Arc::from(namespace);
        self
    }

    /// What is open for the interface `I`.
    #[must_use]
    pub fn get<I: ?Sized + Send + Sync + 'static>(&self) -> Option<Arc<I>> {
        self.open
            .get(&TypeId::of::<I>())?
            .downcast_ref::<Arc<I>>()
            .cloned()
    }

    /// The clock: its `now` for what this process measures, its `wall` for what other processes
    /// read.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The source of chance.
    #[must_use]
    pub fn random(&self) -> &Arc<dyn Random> {
        &self.random
    }

    /// The namespace; `""` is the default one.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }
}

impl Default for Env {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Env")
            .field("open", &self.open.len())
            .field("clock", &self.clock)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}
