//! The handle to a configuration.

use std::any::TypeId;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use micro_core::{Error, ErrorKind, Live, LiveWriter, Result};
use serde::de::DeserializeOwned;

use crate::builder::ConfigBuilder;
use crate::snapshot::{Origin, Snapshot, scrub};
use crate::view::{Rejection, TypedView, View, ViewOptions, live_of, read_checked};
use crate::{Layer, Rank, Refusal, Runtime, Status, Value, path};

/// More views than this are a program that makes one per call.
const VIEWS_AT_MOST: usize = 10_000;

/// How long [`Config::close`] waits for the task.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// One configuration, merged of several sources, that follows them.
///
/// Clones are handles to the same configuration. When the last one is dropped, the task that keeps
/// it fresh ends, and the views keep their last value.
///
/// Reading never waits and never sees half a change.
#[derive(Clone)]
pub struct Config(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

/// What the handles and the task have in common.
pub(crate) struct Shared {
    pub(crate) snapshot: Live<Snapshot>,
    pub(crate) writer: LiveWriter<Snapshot>,
    pub(crate) status: LiveWriter<Status>,
    pub(crate) views: Mutex<Vec<Arc<dyn View>>>,
    /// Paths that were read as secrets.
    pub(crate) secrets: Mutex<BTreeSet<String>>,
    pub(crate) stop: Stop,
}

/// Tells the task to end.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    stopped: AtomicBool,
    waker: AtomicWaker,
}

impl Stop {
    fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Waits for it; only one task does.
    pub(crate) async fn stopped(&self) {
        std::future::poll_fn(|cx| {
            self.waker.register(cx.waker());
            match self.stopped.load(Ordering::Acquire) {
                true => std::task::Poll::Ready(()),
                false => std::task::Poll::Pending,
            }
        })
        .await;
    }
}

impl Shared {
    pub(crate) fn new(snapshot: Snapshot, status: Status) -> Self {
        let (writer, live) = Live::channel(snapshot);
        Self {
            snapshot: live,
            writer,
            status: Live::channel(status).0,
            views: Mutex::default(),
            secrets: Mutex::default(),
            stop: Stop::default(),
        }
    }

    pub(crate) fn views(&self) -> MutexGuard<'_, Vec<Arc<dyn View>>> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn secrets(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.stop.stop();
    }
}

impl Config {
    /// Begins a configuration without sources.
    #[must_use]
    pub fn builder() -> ConfigBuilder {
        ConfigBuilder::new()
    }

    /// A configuration that never changes and needs no runtime: for tests, and for those who
    /// have no sources.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` if the value is not a map.
    pub fn constant(value: Value) -> Result<Self> {
        let origin = Arc::new(Origin {
            name: "code".to_owned(),
            rank: Rank::Code,
            required: true,
        });
        let layer = Arc::new(Layer::from_value(value)?);
        let snapshot = Snapshot::new(1, vec![(origin, Some(layer))]);
        let status = Status {
            version: 1,
            ..Status::default()
        };
        Ok(Self::new(Arc::new(Shared::new(snapshot, status)), None))
    }

    pub(crate) fn new(shared: Arc<Shared>, runtime: Option<Runtime>) -> Self {
        Self(Arc::new(Handle { shared, runtime }))
    }

    /// The value at a path now, as a `T`; `""` is the whole configuration.
    ///
    /// What no source has is filled by the type's own defaults, as far as it has them.
    ///
    /// # Errors
    ///
    /// `NotFound` if it, or a part that must be there, is in no source; `InvalidArgument` if it is
    /// no `T`. Both name the key, the source and the place, and no text of the configuration.
    pub fn get<T: DeserializeOwned>(&self, at: &str) -> Result<T> {
        let snapshot = self.0.shared.snapshot.get();
        self.read(&snapshot, &path::split(at), &ViewOptions::new())
    }

    /// The value at a path now, or `default` if no source has it.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` if it is there and no `T`.
    pub fn get_or<T: DeserializeOwned>(&self, at: &str, default: T) -> Result<T> {
        let snapshot = self.0.shared.snapshot.get();
        let keys = path::split(at);
        match snapshot.tree.at_keys(&keys) {
            None | Some(Value::Null) => Ok(default),
            Some(_) => self.read(&snapshot, &keys, &ViewOptions::new()),
        }
    }

    /// The value at a path now, as it stands in the merged configuration.
    #[must_use]
    pub fn value(&self, at: &str) -> Option<Value> {
        self.0.shared.snapshot.get().tree.at(at).cloned()
    }

    /// A view of a path that follows it: always a whole, readable `T`, the last good one.
    ///
    /// Make a view once and clone it; the configuration keeps it for as long as it lives. The same
    /// path and type give the same view.
    ///
    /// A new state of a source that would make any view unreadable is refused as a whole, so that
    /// the views never disagree about which state is in force; see [`refusals`](Self::refusals).
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get): a view begins with a good value.
    pub fn live<T: DeserializeOwned + Send + Sync + 'static>(&self, at: &str) -> Result<Live<T>> {
        self.live_with(at, ViewOptions::new())
    }

    /// A view with a check of its values, or one that refuses unknown keys; see
    /// [`live`](Self::live).
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get), and `InvalidArgument` if the check does not accept the present
    /// value; `ResourceExhausted` if the program makes more than 10,000 views.
    pub fn live_with<T: DeserializeOwned + Send + Sync + 'static>(
        &self,
        at: &str,
        options: ViewOptions<T>,
    ) -> Result<Live<T>> {
        let shared = &self.0.shared;
        let keys = path::split(at);
        loop {
            let snapshot = shared.snapshot.get_arc();
            // Without the lock: a check may use the configuration.
            let value = self.read(&snapshot, &keys, &options)?;
            let mut views = shared.views();
            if options.check.is_none() {
                let known = views
                    .iter()
                    .find(|view| view.is(TypeId::of::<T>(), &keys, options.strict))
                    .and_then(|view| live_of(&**view));
                if let Some(known) = known {
                    return Ok(known);
                }
            }
            // Changes are committed under this lock: what was read is still in force.
            if shared.snapshot.get().version != snapshot.version {
                continue;
            }
            if views.len() >= VIEWS_AT_MOST {
                return Err(Error::resource_exhausted(
                    "too many views: make one once and clone it",
                )
                .with_operation("config.live")
                .with_context("limit", VIEWS_AT_MOST));
            }
            let (writer, live) = Live::channel(value);
            views.push(Arc::new(TypedView {
                keys,
                options,
                writer,
            }));
            return Ok(live);
        }
    }

    fn read<T: DeserializeOwned>(
        &self,
        snapshot: &Snapshot,
        keys: &[String],
        options: &ViewOptions<T>,
    ) -> Result<T> {
        let mut secrets = BTreeSet::new();
        let outcome = read_checked(snapshot.tree.at_keys(keys), keys, options, &mut secrets);
        let known = {
            let mut known = self.0.shared.secrets();
            known.append(&mut secrets);
            outcome.is_err().then(|| known.clone())
        };
        outcome.map_err(|rejection| refused(snapshot, rejection, &known.unwrap_or_default()))
    }

    /// Which sources say something of a path, the strongest first.
    #[must_use]
    pub fn explain(&self, at: &str) -> Explanation {
        let snapshot = self.0.shared.snapshot.get_arc();
        let secrets = self.0.shared.secrets().clone();
        let keys = path::split(at);
        // As keys are known here, however the caller writes them.
        let known_as = path::join(&keys);
        let mut found = Vec::new();
        let mut hidden = false;
        for (origin, layer) in snapshot.layers.iter().rev() {
            let Some(layer) = layer else { continue };
            // A value above the path hides it as well.
            let above = (1..keys.len()).find_map(|count| {
                let value = layer.get_keys(&keys[..count])?;
                (!matches!(value, Value::Map(_) | Value::List(_))).then_some((count, value))
            });
            let root;
            let (at, value) = match above {
                Some((count, value)) => (path::join(&keys[..count]), value),
                None if keys.is_empty() => {
                    root = Value::Map(layer.root().clone());
                    (String::new(), &root)
                }
                None => match layer.get_keys(&keys) {
                    Some(value) => (known_as.clone(), value),
                    None => continue,
                },
            };
            found.push(Found {
                source: origin.name.clone(),
                rank: origin.rank,
                place: layer.place(&at).map(str::to_owned),
                value: shown(&at, value, &secrets),
                in_force: !hidden,
            });
            hidden |= !matches!(value, Value::Map(_));
        }
        Explanation {
            path: at.to_owned(),
            found,
        }
    }

    /// How the sources are, now and as it changes.
    #[must_use]
    pub fn status(&self) -> Live<Status> {
        self.0.shared.status.live()
    }

    /// What is refused at present: for each, the last good state is in force. Empty is good.
    #[must_use]
    pub fn refusals(&self) -> Vec<Refusal> {
        let status = self.0.shared.status.live();
        let status = status.get();
        status
            .sources
            .iter()
            .filter_map(|source| source.refusal.clone())
            .collect()
    }

    /// Grows by one with every change that was taken over.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.0.shared.snapshot.get().version
    }

    /// Ends the task that keeps it fresh, and waits until it is gone, for at most five seconds.
    ///
    /// Everything can be read afterwards as before; it does not change any more. Dropping the
    /// future leaves the task to end by itself.
    pub async fn close(&self) {
        self.0.shared.stop.stop();
        let Some(runtime) = &self.0.runtime else {
            return;
        };
        let status = self.status();
        let mut changes = status.changes();
        let closed = async {
            while !status.get().closed {
                changes.changed().await;
            }
        };
        if runtime.within(CLOSE_TIMEOUT, closed).await.is_none() {
            tracing::warn!(
                "the task of the configuration does not end: a source or a check blocks it"
            );
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let snapshot = self.0.shared.snapshot.get_arc();
        let sources = snapshot.layers.iter().map(|(origin, _)| &origin.name);
        f.debug_struct("Config")
            .field("version", &snapshot.version)
            .field("sources", &sources.collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// The error for a value that is not what was asked for.
fn refused(snapshot: &Snapshot, rejection: Rejection, secrets: &BTreeSet<String>) -> Error {
    let kind = match rejection.missing {
        true => ErrorKind::NotFound,
        false => ErrorKind::InvalidArgument,
    };
    let reason = scrub(rejection.reason, &snapshot.secret_texts(secrets));
    let mut err = Error::new(kind, reason)
        .with_operation("config.read")
        .with_context("key", &rejection.path);
    if let Some((origin, place)) = snapshot.source_of(&rejection.path) {
        err = err.with_context("source", &origin.name);
        if let Some(place) = place {
            err = err.with_context("place", place);
        }
    }
    err
}

/// Keys whose values are not shown, whatever their source thinks of them.
const SECRET_WORDS: &[&str] = &[
    "password",
    "passwd",
    "secret",
    "token",
    "credential",
    "apikey",
    "api_key",
    "private_key",
];

fn shown(at: &str, value: &Value, secrets: &BTreeSet<String>) -> String {
    let named_so = path::split(at).iter().any(|key| {
        let key = key.to_ascii_lowercase().replace('-', "_");
        SECRET_WORDS.iter().any(|word| key.contains(word))
    });
    let is_leaf = !matches!(value, Value::Map(_) | Value::List(_));
    if is_leaf && (named_so || secrets.contains(at)) {
        return "***".to_owned();
    }
    value.to_string()
}

/// What [`Config::explain`] found; it prints as a small table.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Explanation {
    /// The path that was asked for.
    pub path: String,
    /// What the sources say, the strongest first.
    pub found: Vec<Found>,
}

/// What one source says of a path.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Found {
    /// Which source.
    pub source: String,
    /// How strong it is.
    pub rank: Rank,
    /// Where it stands in the source: `line 3`, `variable APP_PORT`.
    pub place: Option<String>,
    /// What it says; `***` for a secret.
    pub value: String,
    /// Whether it counts: nothing stronger hides it. Of maps several count.
    pub in_force: bool,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.found.is_empty() {
            return write!(f, "{}: no source has it", self.path);
        }
        write!(f, "{}:", self.path)?;
        for found in &self.found {
            let mark = if found.in_force { '*' } else { ' ' };
            write!(
                f,
                "\n{mark} {:<8} {}  {}",
                found.rank.to_string(),
                found.value,
                found.source
            )?;
            if let Some(place) = &found.place {
                write!(f, ", {place}")?;
            }
        }
        Ok(())
    }
}
