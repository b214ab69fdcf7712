//! The source of this crate.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use micro_config_core::{
    Env, Error, ErrorKind, Layer, LayerStream, Rank, Result, Source, Value, async_trait, path,
};
use micro_core::Random;
use micro_etcd::{Client, Keys, Position, Watch, WatchEvent};
use tokio::time::sleep;

use crate::EtcdSourceConfig;

/// A pause of full jitter before everything is read anew, doubled with each failure: a fleet that
/// lost the same history does not ask for all of it at once.
const REREAD: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// More keys than this are no configuration.
const KEYS_AT_MOST: usize = 10_000;

/// Reading again after a compaction in between ends after so many times.
const TRIES: usize = 3;

/// The keys below a prefix in etcd.
#[derive(Clone, Debug)]
pub struct EtcdConfigSource(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    client: Client,
    config: EtcdSourceConfig,
    prefix: String,
    random: Arc<dyn Random>,
}

impl EtcdConfigSource {
    /// A source that is not connected yet.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for what does not go together.
    pub fn new(config: EtcdSourceConfig) -> Result<Self> {
        Self::open(config, &Env::new())
    }

    /// The same with a program's namespace and chance.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for what does not go together.
    pub fn open(config: EtcdSourceConfig, env: &Env) -> Result<Self> {
        config.check()?;
        let mut prefix = format!("{}/", config.prefix.trim_end_matches('/'));
        if !env.namespace().is_empty() {
            prefix = format!("{prefix}{}/", env.namespace());
        }
        let random = Arc::clone(env.random());
        let client = Client::new(config.etcd.clone(), Arc::clone(&random))?;
        Ok(Self(Arc::new(Shared {
            client,
            config,
            prefix,
            random,
        })))
    }
}

impl Shared {
    fn keys(&self) -> Keys {
        Keys::prefix(self.prefix.clone())
    }

    /// Everything as of one revision. The inner error is what is wrong with the content.
    async fn read(&self) -> Result<(Result<Layer>, Position)> {
        let mut tries = 0;
        loop {
            match self.scan().await {
                // What was being read was compacted away: it is old.
                Err(err) if err.kind() == ErrorKind::OutOfRange && tries < TRIES => tries += 1,
                outcome => return outcome,
            }
        }
    }

    async fn scan(&self) -> Result<(Result<Layer>, Position)> {
        let mut left = Some(self.config.max_bytes);
        let mut entries = Vec::new();
        let position = self
            .client
            .scan(self.keys(), |entry| {
                let size = entry.key.len() + entry.value.len();
                left = left
                    .and_then(|left| left.checked_sub(size))
                    .filter(|_| entries.len() < KEYS_AT_MOST);
                // What is too much is counted out and not kept: the revision is wanted all the same.
                if left.is_some() {
                    entries.push((entry.key, entry.value));
                }
                Ok(())
            })
            .await?;
        if left.is_none() {
            let err = Error::resource_exhausted(
                "etcd holds too much for a configuration; raise max_bytes if it is meant",
            )
            .with_operation("config.etcd")
            .with_context("limit", self.config.max_bytes);
            return Ok((Err(err), position));
        }
        let mut layer = Layer::new();
        let outcome = entries
            .iter()
            .try_for_each(|(key, value)| self.put(&mut layer, key, value));
        Ok((outcome.map(|()| layer), position))
    }

    fn put(&self, layer: &mut Layer, key: &[u8], value: &[u8]) -> Result<()> {
        let shown = String::from_utf8_lossy(key);
        let wrong = |err: Error| {
            err.with_operation("config.etcd")
                .with_context("place", shown.escape_debug())
        };
        let name = std::str::from_utf8(key)
            .ok()
            .and_then(|key| key.strip_prefix(self.prefix.as_str()))
            .ok_or_else(|| wrong(Error::invalid_argument("a key is not UTF-8")))?;
        let keys: Vec<String> = name
            .split('/')
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect();
        // The key of the prefix itself is a folder in the eyes of some tools.
        if keys.is_empty() {
            return Ok(());
        }
        let at = path::join(&keys);
        let value = read_value(value).map_err(|err| wrong(err.with_context("key", &at)))?;
        layer.replace_keys(&keys, value).map_err(wrong)?;
        layer.add_place(at, &*shown);
        Ok(())
    }
}

fn read_value(bytes: &[u8]) -> Result<Value> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| Error::invalid_argument("the value is not UTF-8"))?;
    match serde_json::from_str(text) {
        Ok(value) => Ok(value),
        Err(err) if text.trim_start().starts_with(['{', '[', '"']) => {
            let message = err.to_string();
            let message = message.split(" at line ").next().unwrap_or_default();
            Err(
                Error::invalid_argument(format!("the value is no JSON: {message}"))
                    .with_context("line", err.line()),
            )
        }
        Err(_) => Ok(Value::Word(text.to_owned())),
    }
}

#[async_trait]
impl Source for EtcdConfigSource {
    fn backend(&self) -> &'static str {
        crate::SCHEME
    }

    fn describe(&self) -> String {
        format!("etcd {}", self.0.prefix.escape_debug())
    }

    fn rank(&self) -> Rank {
        Rank::Remote
    }

    async fn load(&self) -> Result<Layer> {
        let (content, _) = self.0.read().await?;
        content
    }

    async fn watch(&self) -> Result<LayerStream> {
        let watcher = Watcher {
            shared: Arc::clone(&self.0),
            watch: None,
            revision: 0,
            stale: true,
            rewound: false,
            pause: None,
        };
        Ok(Box::pin(stream::unfold(watcher, async |mut watcher| {
            Some((watcher.next().await, watcher))
        })))
    }
}

struct Watcher {
    shared: Arc<Shared>,
    watch: Option<Watch>,
    /// As of which everything was read last.
    revision: i64,
    /// Something has changed since.
    stale: bool,
    /// etcd's history is another one than that of what was read.
    rewound: bool,
    /// The longest pause before the next reading.
    pause: Option<Duration>,
}

impl Watcher {
    async fn next(&mut self) -> Result<Layer> {
        loop {
            if self.stale {
                return self.read().await;
            }
            let Some(watch) = &mut self.watch else {
                self.stale = true;
                continue;
            };
            match watch.next().await {
                // Of what was read already the watch may tell later.
                Ok(WatchEvent::Changes(changes)) => {
                    self.stale = changes.iter().any(|change| change.revision > self.revision);
                }
                Ok(WatchEvent::Compacted { revision }) => {
                    tracing::debug!(
                        revision,
                        "changes were compacted away; everything is read anew"
                    );
                    self.begin_anew();
                }
                Ok(WatchEvent::Rewound(Position { revision, .. })) => {
                    tracing::warn!(
                        revision,
                        "etcd's history is another one; everything is read anew"
                    );
                    self.rewound = true;
                    self.begin_anew();
                }
                Ok(_) => {}
                Err(err) => {
                    self.begin_anew();
                    return Err(err);
                }
            }
        }
    }

    fn begin_anew(&mut self) {
        self.watch = None;
        self.stale = true;
        self.pause.get_or_insert(REREAD.0);
    }

    /// Reads everything. A failure is told, and the next call tries again after a pause.
    async fn read(&mut self) -> Result<Layer> {
        if let Some(most) = self.pause {
            let most = most.as_micros() as u64;
            sleep(Duration::from_micros(self.shared.random.next_u64() % most)).await;
        }
        let (content, position) = match self.shared.read().await {
            Ok(read) => read,
            Err(err) => {
                let longer = self.pause.map_or(REREAD.0, |pause| pause * 2);
                self.pause = Some(longer.min(REREAD.1));
                return Err(err);
            }
        };
        self.pause = None;
        self.stale = false;
        self.revision = position.revision;
        if self.watch.is_none() {
            let keys = self.shared.keys();
            self.watch = Some(self.shared.client.watch(keys, position));
        }
        let is_empty = content.as_ref().is_ok_and(|layer| layer.root().is_empty());
        if self.rewound && is_empty {
            return Err(Error::not_found(
                "etcd has lost its history, and holds no configuration any more",
            )
            .with_operation("config.etcd"));
        }
        self.rewound = false;
        content
    }
}
