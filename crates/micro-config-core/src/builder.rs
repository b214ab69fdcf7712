//! Choosing the sources of a configuration, and starting it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use micro_core::{Env, Error, ErrorKind, Result};
use serde::Serialize;

use crate::config::{Config, Shared};
use crate::expand::Variables;
use crate::keeper::{self, Backoff, Keeper, Preparation, Slot};
use crate::source::LayerStream;
use crate::{Layer, Limits, Rank, Runtime, Source, Unseal, Value, async_trait};

/// The sources of a configuration, and how they are read.
pub struct ConfigBuilder {
    sources: Vec<Chosen>,
    preparation: Preparation,
    env: Env,
    load_timeout: Duration,
    start_timeout: Duration,
}

struct Chosen {
    source: Arc<dyn Source>,
    rank: Rank,
    required: bool,
}

impl ConfigBuilder {
    pub(crate) fn new() -> Self {
        Self {
            sources: Vec::new(),
            preparation: Preparation {
                limits: Limits::default(),
                unseal: None,
                variables: Some(Arc::new(environment)),
            },
            env: Env::new(),
            load_timeout: Duration::from_secs(5),
            start_timeout: Duration::from_secs(10),
        }
    }

    /// Adds a source that must be there at start.
    #[must_use]
    pub fn source(self, source: impl Source) -> Self {
        let source: Arc<dyn Source> = Arc::new(source);
        let rank = source.rank();
        self.add(source, rank, true)
    }

    /// Adds a source that may be away: what stands below it holds until it comes.
    ///
    /// What it says when it is there must be fit all the same: at start an unreadable one is an
    /// error, so that no program runs with defaults that nobody meant.
    #[must_use]
    pub fn optional(self, source: impl Source) -> Self {
        let source: Arc<dyn Source> = Arc::new(source);
        let rank = source.rank();
        self.add(source, rank, false)
    }

    /// Adds a source at a rank of one's own choice.
    #[must_use]
    pub fn source_at(self, rank: Rank, source: impl Source, required: bool) -> Self {
        self.add(Arc::new(source), rank, required)
    }

    fn add(mut self, source: Arc<dyn Source>, rank: Rank, required: bool) -> Self {
        self.sources.push(Chosen {
            source,
            rank,
            required,
        });
        self
    }

    /// Adds what holds if no source says anything, as a value that serializes.
    ///
    /// A type with `#[serde(default)]` does not need it; its defaults are then shown by `explain`.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` if it does not serialize to a map.
    pub fn defaults<T: Serialize + ?Sized>(self, defaults: &T) -> Result<Self> {
        self.fixed(Rank::Defaults, "defaults", defaults)
    }

    /// Adds settings of the program's code.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` if it does not serialize to a map.
    pub fn code<T: Serialize + ?Sized>(self, settings: &T) -> Result<Self> {
        self.fixed(Rank::Code, "code", settings)
    }

    fn fixed<T: Serialize + ?Sized>(
        self,
        rank: Rank,
        name: &'static str,
        value: &T,
    ) -> Result<Self> {
        let layer = Layer::from_value(Value::from_serialize(value)?)?;
        let source = Fixed { name, rank, layer };
        Ok(self.add(Arc::new(source), rank, true))
    }

    /// Opens sealed values (`enc:v1:…`) with this.
    #[must_use]
    pub fn unseal(mut self, unseal: impl Unseal) -> Self {
        self.preparation.unseal = Some(Arc::new(unseal));
        self
    }

    /// Looks `${NAME}` up with this function instead of in the environment.
    #[must_use]
    pub fn variables(
        mut self,
        variables: impl Fn(&str) -> Result<Option<String>> + Send + Sync + 'static,
    ) -> Self {
        self.preparation.variables = Some(Arc::new(variables) as Arc<Variables>);
        self
    }

    /// Leaves `${NAME}` in values as it is.
    #[must_use]
    pub fn without_variables(mut self) -> Self {
        self.preparation.variables = None;
        self
    }

    /// Sets how large a layer may be.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.preparation.limits = limits;
        self
    }

    /// Takes the clock and chance from this.
    #[must_use]
    pub fn env(mut self, env: &Env) -> Self {
        self.env = env.clone();
        self
    }

    /// Sets how long one source may take to answer, at start and when it is opened again; 5 s by
    /// default.
    #[must_use]
    pub fn load_timeout(mut self, timeout: Duration) -> Self {
        self.load_timeout = timeout;
        self
    }

    /// Sets how long [`start`](Self::start) asks a required source again that is away; 10 s by
    /// default.
    #[must_use]
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.start_timeout = timeout;
        self
    }

    /// Reads every source and starts the task that follows them.
    ///
    /// ```
    /// # async fn example() -> micro_config_core::Result<()> {
    /// use micro_config_core::{Config, Runtime};
    ///
    /// let config = Config::builder()
    ///     .start(Runtime::new(tokio::spawn, tokio::time::sleep))
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Dropping the future starts nothing.
    ///
    /// # Errors
    ///
    /// What a source said that is required and stayed away, or whose content is not fit.
    pub async fn start(mut self, runtime: Runtime) -> Result<Config> {
        // The weakest first; within a rank the order in which they were added.
        self.sources.sort_by_key(|chosen| chosen.rank);
        let loads = self
            .sources
            .iter()
            .map(|chosen| self.first(chosen, &runtime));
        let loaded = join_all(loads).await;
        let mut slots = Vec::new();
        for (chosen, outcome) in self.sources.iter().zip(loaded) {
            let mut slot = Slot::new(Arc::clone(&chosen.source), chosen.rank, chosen.required);
            let wall = self.env.clock().wall();
            match outcome {
                Ok(layer) => slot.begin(layer, wall),
                Err(err) if !chosen.required && is_absence(err.kind()) => {
                    slot.fail(&err, &[], wall)
                }
                Err(err) => return Err(err.with_context("source", slot.name())),
            }
            slots.push(slot);
        }
        let (snapshot, status) = keeper::first_state(&slots);
        let shared = Arc::new(Shared::new(snapshot, status));
        let keeper = Keeper {
            shared: Arc::clone(&shared),
            slots,
            preparation: self.preparation,
            env: self.env,
            runtime: runtime.clone(),
            load_timeout: self.load_timeout,
        };
        runtime.spawn(keeper.run().boxed());
        Ok(Config::new(shared, Some(runtime)))
    }

    /// What a source says at start.
    async fn first(&self, chosen: &Chosen, runtime: &Runtime) -> Result<Layer> {
        let mut last = None;
        let mut backoff = Backoff::default();
        let asking = async {
            loop {
                let err = match self.load(chosen, runtime).await {
                    Ok(layer) => return Ok(layer),
                    Err(err) => err,
                };
                if !chosen.required || !is_absence(err.kind()) {
                    return Err(err);
                }
                if last.is_none() {
                    tracing::warn!(source = %chosen.source.describe(), error = %err, "a required source is away; asking again");
                }
                last = Some(err);
                runtime.sleep(backoff.next(&**self.env.random())).await;
            }
        };
        match runtime.within(self.start_timeout, asking).await {
            Some(outcome) => outcome,
            None => Err(match last {
                Some(err) => err.with_context("waited", format_args!("{:?}", self.start_timeout)),
                None => keeper::too_slow(self.start_timeout),
            }),
        }
    }

    async fn load(&self, chosen: &Chosen, runtime: &Runtime) -> Result<Layer> {
        let loading = keeper::unpanicked(chosen.source.load());
        let layer = runtime
            .within(self.load_timeout, loading)
            .await
            .unwrap_or_else(|| Err(keeper::too_slow(self.load_timeout)))?;
        self.preparation.prepare(layer, chosen.rank)
    }
}

/// Kinds that say that a source is not there, as against what it says.
pub(crate) fn is_absence(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::NotFound | ErrorKind::Unavailable | ErrorKind::DeadlineExceeded
    )
}

impl fmt::Debug for ConfigBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sources = self.sources.iter().map(|chosen| chosen.source.describe());
        f.debug_struct("ConfigBuilder")
            .field("sources", &sources.collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// A variable of the process.
fn environment(name: &str) -> Result<Option<String>> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(value)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(Error::invalid_argument("a variable is not UTF-8").with_context("variable", name))
        }
    }
}

/// A source that never changes.
#[derive(Debug)]
struct Fixed {
    name: &'static str,
    rank: Rank,
    layer: Layer,
}

#[async_trait]
impl Source for Fixed {
    fn backend(&self) -> &'static str {
        self.name
    }

    fn describe(&self) -> String {
        self.name.to_owned()
    }

    fn rank(&self) -> Rank {
        self.rank
    }

    async fn load(&self) -> Result<Layer> {
        Ok(self.layer.clone())
    }

    async fn watch(&self) -> Result<LayerStream> {
        Ok(crate::source::constant(self.layer.clone()))
    }
}
