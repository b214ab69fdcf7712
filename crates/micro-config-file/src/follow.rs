//! The task that follows a file.
//!
//! It compares the content itself, and takes events only as a hint of when to look. A content is
//! taken over when it has rested: for the debounce if its writer has closed or renamed it, for the
//! longer settle time if nobody says so.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use micro_config_core::{Error, Layer, LayerStream, Result};
use micro_core::Clock;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, spawn_blocking};
use tokio::time::{Instant, sleep, timeout};

use crate::FileConfig;
use crate::content::{Look, look};
use crate::events::Events;
use crate::format::parse;

/// Who keeps a file open for writing and lets it rest for so long is not waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Events of a swarm come within a twentieth of this, or of a shorter debounce.
const SWARM: Duration = Duration::from_millis(200);

/// Looks at the path on a thread of its own: a disk may be slow, and a network's slower.
async fn look_at(config: &Arc<FileConfig>) -> Result<Look> {
    let config = Arc::clone(config);
    spawn_blocking(move || look(&config))
        .await
        .map_err(|_| stopped())
}

fn stopped() -> Error {
    Error::cancelled("the program ends")
}

async fn parsed(config: &Arc<FileConfig>, look: &Arc<Look>) -> Result<Layer> {
    let (config, look) = (Arc::clone(config), Arc::clone(look));
    let parsing = spawn_blocking(move || match &look.outcome {
        Ok(content) => parse(content, &config),
        Err(err) => Err(again(err)),
    });
    // A panic within a parser of others is one refused file.
    parsing
        .await
        .unwrap_or_else(|_| Err(Error::internal("reading the file panicked")))
}

/// Errors cannot be cloned; the cause is in the message.
fn again(err: &Error) -> Error {
    let mut copy = Error::new(err.kind(), err.message().to_owned())
        .with_operation(err.operation())
        .with_retryable(err.is_retryable());
    for (key, value) in err.context() {
        copy = copy.with_context(key, value);
    }
    copy
}

/// How long the content has rested already, as its time says.
fn rested(look: &Look, config: &FileConfig, clock: &dyn Clock) -> Duration {
    if look.whole {
        return config.settle;
    }
    let Some(written) = look.written else {
        return config.settle;
    };
    match clock.wall().duration_since(written) {
        Ok(age) => age.min(config.settle),
        // A time in the future says nothing; one just ahead is a matter of clocks.
        Err(ahead) if ahead.duration() > config.settle => config.settle,
        Err(_) => Duration::ZERO,
    }
}

/// Reads the content once it has rested.
pub(crate) async fn load(config: Arc<FileConfig>, clock: Arc<dyn Clock>) -> Result<Layer> {
    let mut now = look_at(&config).await?;
    let mut left = match now.outcome {
        Ok(_) => config.settle - rested(&now, &config, &*clock),
        Err(_) => Duration::ZERO,
    };
    while !left.is_zero() {
        sleep(left).await;
        let next = look_at(&config).await?;
        left = match next.same(&now) {
            true => Duration::ZERO,
            false => config.settle,
        };
        now = next;
    }
    parsed(&config, &Arc::new(now)).await
}

/// The newest state, for one reader.
#[derive(Default)]
struct Slot {
    newest: Mutex<(Option<Result<Layer>>, bool)>,
    wake: Notify,
}

impl Slot {
    fn put(&self, state: Result<Layer>) {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).0 = Some(state);
        self.wake.notify_one();
    }

    async fn take(&self) -> Option<Result<Layer>> {
        loop {
            {
                let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(state) = newest.0.take() {
                    return Some(state);
                }
                if newest.1 {
                    return None;
                }
            }
            self.wake.notified().await;
        }
    }
}

/// Ends the stream with the task.
struct End(Arc<Slot>);

impl Drop for End {
    fn drop(&mut self) {
        self.0
            .newest
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .1 = true;
        self.0.wake.notify_one();
    }
}

/// Ends the task with the stream.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The states of the path from now on.
pub(crate) fn watch(config: Arc<FileConfig>, clock: Arc<dyn Clock>) -> LayerStream {
    let slot = Arc::new(Slot::default());
    let end = End(Arc::clone(&slot));
    let task = tokio::spawn(async move {
        // `None`: the runtime ends.
        let _ = follow(config, clock, &end.0).await;
    });
    let task = Task(task.abort_handle());
    Box::pin(futures_util::stream::unfold(
        (slot, task),
        |(slot, task)| async move { slot.take().await.map(|state| (state, (slot, task))) },
    ))
}

async fn follow(config: Arc<FileConfig>, clock: Arc<dyn Clock>, slot: &Slot) -> Option<()> {
    let wanted = config.events;
    let mut events = spawn_blocking(move || Events::new(wanted)).await.ok()?;
    let seen = Arc::clone(events.seen());
    let mut current: Option<Arc<Look>> = None;
    let mut since = Instant::now();
    // What was finished before counts for what was taken over then.
    let mut past = 0;
    let mut published: Option<(Arc<Look>, Option<String>)> = None;
    loop {
        let finished = seen.finished();
        // First the events, then the look: a change in between is told of.
        let behind = Arc::clone(&config);
        let (look, back) = spawn_blocking(move || {
            events.follow(&behind.path);
            (look(&behind), events)
        })
        .await
        .ok()?;
        events = back;
        let now = Instant::now();
        match &current {
            Some(known) if known.same(&look) => {}
            known => {
                since = match known {
                    // Who was there before us has not been seen to write.
                    None => now
                        .checked_sub(rested(&look, &config, &*clock))
                        .unwrap_or(now),
                    Some(_) => now,
                };
                current = Some(Arc::new(look));
            }
        }
        let current = current.as_ref()?;
        let note = events.trouble().map(|trouble| {
            format!(
                "changes are found by looking every {:?}: {trouble}",
                config.poll
            )
        });
        let is_new = published
            .as_ref()
            .is_none_or(|(known, said)| !known.same(current) || *said != note);
        let mut wait = config.poll;
        if is_new {
            let need = match &current.outcome {
                _ if seen.is_open() => PATIENCE,
                Ok(_) if current.whole || seen.finished() != past => config.debounce,
                _ => config.settle,
            };
            // At the beginning there is nothing to keep: what is wrong is said at once.
            let first_error = published.is_none() && current.outcome.is_err();
            let left = need.saturating_sub(now - since);
            if left.is_zero() || first_error {
                let layer = parsed(&config, current).await;
                if let Some(note) = &note
                    && published
                        .as_ref()
                        .is_none_or(|(_, said)| said.as_ref() != Some(note))
                {
                    tracing::warn!(path = %config.path.display(), "{note}");
                }
                slot.put(match &note {
                    Some(note) => layer.map(|layer| layer.with_note(note.as_str())),
                    None => layer,
                });
                past = finished;
                published = Some((Arc::clone(current), note));
            } else {
                wait = left.min(config.poll);
            }
        } else {
            past = finished;
        }
        if timeout(wait, seen.wake.notified()).await.is_ok() {
            // Events come in swarms; one look is enough for all of them.
            sleep(config.debounce.min(SWARM) / 20).await;
        }
    }
}
