//! Watches: the slices as they are, compared with how they were.
//!
//! LIST, then WATCH from that version on; when the server no longer knows the version (410 Gone),
//! LIST again. Since the whole state is compared, nothing that lasts is missed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use micro_core::{Error, ErrorKind};
use micro_http::Lines;
use micro_registry_core::{Event, Result};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::api;
use crate::registry::Shared;
use crate::slice::Slice;
use crate::view::{Change, View};

/// How often it is looked for registrations that are over.
const TICK: Duration = Duration::from_millis(500);
/// The pause before a watch is made anew, times 1 to 2; more with every failure.
const PAUSE: Duration = Duration::from_millis(100);
/// After so many failures in a row the watch ends with the last of them.
const FAILURES: u32 = 3;
/// So many lines that came together are taken before it is looked at what they changed.
const AT_ONCE: usize = 1000;
/// A watch that ends sooner is a failure.
const SHORT: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "type")]
    kind: String,
    object: Value,
}

pub(crate) struct Watch {
    shared: Arc<Shared>,
    only: Option<String>,
    slices: BTreeMap<String, Slice>,
    view: View,
    pending: VecDeque<Change>,
    version: String,
    lines: Option<Lines>,
    began: Instant,
    failures: u32,
}

impl Watch {
    pub(crate) async fn begin(shared: Arc<Shared>, only: Option<String>) -> Result<Self> {
        let mut watch = Self {
            shared,
            only,
            slices: BTreeMap::new(),
            view: View::default(),
            pending: VecDeque::new(),
            version: String::new(),
            lines: None,
            began: Instant::now(),
            failures: 0,
        };
        watch.list().await?;
        // What was there before is no change.
        watch.pending.clear();
        Ok(watch)
    }

    pub(crate) async fn next(&mut self) -> Result<Event> {
        loop {
            if let Some(change) = self.pending.pop_front() {
                return Ok(change.event());
            }
            let Some(lines) = &mut self.lines else {
                self.connect().await?;
                continue;
            };
            let expiring = self.slices.values().any(|slice| {
                slice
                    .registration()
                    .is_some_and(|one| one.expires.is_some())
            });
            let line = tokio::select! {
                line = lines.next() => Some(line),
                () = sleep(TICK), if expiring => None,
            };
            match line {
                None => self.look(),
                Some(Ok(Some(line))) => {
                    if self.take(&line).await? {
                        self.take_more().await?;
                        self.look();
                    }
                }
                Some(Ok(None) | Err(_)) => {
                    self.lines = None;
                    if self.began.elapsed() < SHORT {
                        let message = "the API server ends watches as soon as they begin";
                        self.failed(Error::unavailable(message)).await?;
                    } else {
                        self.failures = 0;
                    }
                }
            }
        }
    }

    async fn connect(&mut self) -> Result<()> {
        self.began = Instant::now();
        let selector = self.shared.selector(self.only.as_deref());
        let wait = self.shared.wait();
        let api = &self.shared.api;
        match api.watch(selector.as_deref(), &self.version, wait).await {
            Ok(lines) => self.lines = Some(lines),
            // The server no longer knows what came after that version.
            Err(err) if err.kind() == ErrorKind::OutOfRange => self.list().await?,
            Err(err) => self.failed(err).await?,
        }
        Ok(())
    }

    /// Waits before the next try, or gives up: whoever watches then knows that it is blind.
    async fn failed(&mut self, err: Error) -> Result<()> {
        self.failures += 1;
        if self.failures >= FAILURES || !err.is_retryable() {
            return Err(err);
        }
        let jitter = self.shared.jitter();
        sleep(PAUSE.mul_f64(1.0 + jitter) * 2u32.pow(self.failures - 1)).await;
        Ok(())
    }

    async fn list(&mut self) -> Result<()> {
        self.lines = None;
        let selector = self.shared.selector(self.only.as_deref());
        let listed = self.shared.api.list(selector.as_deref()).await?;
        self.version = listed.version;
        self.slices = listed
            .slices
            .into_iter()
            .map(|slice| (slice.metadata.name.clone(), slice))
            .collect();
        self.look();
        Ok(())
    }

    /// Takes what came with a change: all is looked at once for many.
    async fn take_more(&mut self) -> Result<()> {
        for _ in 0..AT_ONCE {
            let Some(lines) = &mut self.lines else {
                return Ok(());
            };
            let Some(Ok(Some(line))) = lines.next().now_or_never() else {
                // How it ended is asked again by whoever waits.
                return Ok(());
            };
            self.take(&line).await?;
        }
        Ok(())
    }

    /// Takes a line; whether it changed a slice.
    async fn take(&mut self, line: &[u8]) -> Result<bool> {
        let Ok(line) = serde_json::from_slice::<Line>(line) else {
            tracing::warn!("a line of a watch cannot be read; the list is read again");
            self.list().await?;
            let err = Error::unavailable("the API server's watch cannot be read");
            return self.failed(err).await.map(|()| false);
        };
        if line.kind == "ERROR" {
            let code = line.object["code"].as_u64();
            self.list().await?;
            // 410: the version is no longer known, and reading the list was the cure.
            if code == Some(410) {
                return Ok(false);
            }
            let err = Error::unavailable("the API server ended a watch with an error");
            return self.failed(err).await.map(|()| false);
        }
        self.failures = 0;
        let meta = &line.object["metadata"];
        if let Some(version) = meta["resourceVersion"].as_str() {
            version.clone_into(&mut self.version);
        }
        let name = meta["name"].as_str().unwrap_or_default().to_owned();
        match &*line.kind {
            "ADDED" | "MODIFIED" => match api::parse(line.object) {
                Some(slice) => {
                    self.slices.insert(name, slice);
                }
                None => {
                    self.slices.remove(&name);
                }
            },
            "DELETED" => {
                self.slices.remove(&name);
            }
            // A bookmark: only the version.
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn look(&mut self) {
        let view = self.shared.view(self.slices.values(), self.only.as_deref());
        self.pending.extend(self.view.changes(&view));
        self.view = view;
    }
}
