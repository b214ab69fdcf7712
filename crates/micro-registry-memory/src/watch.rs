//! Watching: a bounded queue per watcher, and a timer for what expires unseen.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_core::Stream;
use micro_registry_core::{Error, Event, Result};
use tokio::time::Sleep;

use crate::registry::Shared;

/// Expiry is announced at most this much late, even if the clock is moved by hand and tokio's is not.
const LONGEST_SLEEP: Duration = Duration::from_millis(500);

/// All watchers of a directory.
#[derive(Default)]
pub(crate) struct Watchers {
    next: u64,
    queues: BTreeMap<u64, Queue>,
    /// Of those to be woken once the directory is unlocked.
    wakers: Vec<Waker>,
}

struct Queue {
    only: Option<String>,
    room: usize,
    events: VecDeque<Event>,
    /// How many events found no room; the watch ends with them.
    missed: u64,
    waker: Option<Waker>,
}

/// What the next poll of a watch finds.
enum Found {
    Event(Event),
    Missed(u64),
    Nothing,
}

impl Watchers {
    pub(crate) fn add(&mut self, only: Option<String>, room: usize) -> u64 {
        let id = self.next;
        self.next += 1;
        let queue = Queue {
            only,
            room,
            events: VecDeque::new(),
            missed: 0,
            waker: None,
        };
        self.queues.insert(id, queue);
        id
    }

    pub(crate) fn len(&self) -> usize {
        self.queues.len()
    }

    /// Gives an event to those whom it concerns.
    pub(crate) fn tell(&mut self, event: &Event) {
        for queue in self.queues.values_mut() {
            let concerned = queue
                .only
                .as_ref()
                .is_none_or(|name| *name == event.service.name);
            if !concerned {
                continue;
            }
            // After a gap nothing more is of use: the watcher has to list again.
            if queue.missed > 0 || queue.events.len() >= queue.room {
                queue.missed += 1;
            } else {
                queue.events.push_back(event.clone());
            }
            self.wakers.extend(queue.waker.take());
        }
    }

    pub(crate) fn wake_all(&mut self) {
        let queues = self.queues.values_mut();
        self.wakers
            .extend(queues.filter_map(|queue| queue.waker.take()));
    }

    pub(crate) fn take_wakers(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.wakers)
    }

    fn poll(&mut self, id: u64, waker: &Waker) -> Found {
        let Some(queue) = self.queues.get_mut(&id) else {
            return Found::Nothing;
        };
        if let Some(event) = queue.events.pop_front() {
            return Found::Event(event);
        }
        if queue.missed > 0 {
            return Found::Missed(queue.missed);
        }
        queue.waker = Some(waker.clone());
        Found::Nothing
    }
}

/// The stream that a watch returns. Dropping it ends the watch.
pub(crate) struct Watch {
    shared: Arc<Shared>,
    id: Option<u64>,
    /// Until something expires. There is no task: the watcher itself looks.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Watch {
    pub(crate) fn new(shared: Arc<Shared>, id: u64) -> Self {
        Self {
            shared,
            id: Some(id),
            sleep: None,
        }
    }

    fn end(&mut self) {
        if let Some(id) = self.id.take() {
            self.shared.lock().watchers.queues.remove(&id);
        }
    }
}

impl Stream for Watch {
    type Item = Result<Event>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Event>>> {
        loop {
            let Some(id) = self.id else {
                return Poll::Ready(None);
            };
            let (found, wait) = self.shared.now(|directory, now| {
                let found = directory.watchers.poll(id, cx.waker());
                let wait = directory.next_expiry().map(|next| next.duration_since(now));
                (found, wait)
            });
            match found {
                Found::Event(event) => return Poll::Ready(Some(Ok(event))),
                Found::Missed(missed) => {
                    self.end();
                    return Poll::Ready(Some(Err(fell_behind(missed))));
                }
                Found::Nothing => {}
            }
            // Without a runtime there are no timers; readers then find what expired.
            self.sleep = match (wait, tokio::runtime::Handle::try_current()) {
                (Some(wait), Ok(_)) => Some(Box::pin(tokio::time::sleep(wait.min(LONGEST_SLEEP)))),
                _ => None,
            };
            match &mut self.sleep {
                Some(sleep) => std::task::ready!(sleep.as_mut().poll(cx)),
                None => return Poll::Pending,
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

fn fell_behind(missed: u64) -> Error {
    Error::unavailable("the watch fell behind; list again, then watch again")
        .with_operation("registry.watch")
        .with_context("missed", missed)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use futures_util::{FutureExt as _, StreamExt as _};
    use micro_core::{Clock, SystemClock};
    use micro_registry_core::{
        EventKind, Node, RegisterOptions, Registry as _, RegistryExt as _, Service, WatchOptions,
    };

    use super::*;
    use crate::{MemoryConfig, MemoryRegistry};

    /// Follows tokio's clock, which the tests pause.
    #[derive(Debug)]
    struct Paused;

    impl Clock for Paused {
        fn now(&self) -> Instant {
            tokio::time::Instant::now().into_std()
        }

        fn wall(&self) -> std::time::SystemTime {
            std::time::UNIX_EPOCH
        }
    }

    fn node(address: &str) -> Service {
        Service::new("greeter", "v1").with_node(Node::new("a", address))
    }

    #[tokio::test]
    async fn a_slow_watcher_gets_what_fits_then_an_error_then_the_end() {
        let config = MemoryConfig::default().with_watch_buffer(2);
        let registry = MemoryRegistry::with_config(config, Arc::new(SystemClock));
        let mut watch = registry.watch(WatchOptions::default()).await.unwrap();
        for port in 1..=5 {
            let service = node(&format!("127.0.0.1:{port}"));
            registry
                .register(&service, RegisterOptions::default())
                .await
                .unwrap();
        }
        assert_eq!(watch.next().await.unwrap().unwrap().kind, EventKind::Create);
        assert_eq!(watch.next().await.unwrap().unwrap().kind, EventKind::Update);
        let err = watch.next().await.unwrap().unwrap_err();
        assert!(err.to_string().contains("missed: 3"), "{err}");
        assert!(watch.next().await.is_none());
        assert!(watch.next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn expiry_follows_the_clock_and_needs_no_reader() {
        let registry = MemoryRegistry::with_clock(Arc::new(Paused));
        let mut watch = registry.watch(WatchOptions::default()).await.unwrap();
        let opts = RegisterOptions::default().with_ttl(Duration::from_secs(30));
        let start = tokio::time::Instant::now();
        registry
            .register(&node("127.0.0.1:1"), opts.clone())
            .await
            .unwrap();
        watch.next().await.unwrap().unwrap();
        // A refresh moves the end.
        tokio::time::sleep(Duration::from_secs(20)).await;
        registry.register(&node("127.0.0.1:1"), opts).await.unwrap();
        let event = watch.next().await.unwrap().unwrap();
        assert_eq!(
            (event.kind, event.service.nodes.len()),
            (EventKind::Delete, 1)
        );
        let after = start.elapsed();
        assert!(
            (Duration::from_secs(50)..Duration::from_secs(51)).contains(&after),
            "{after:?}"
        );
        assert!(registry.get("greeter").await.is_err());
    }

    #[test]
    fn a_watch_needs_no_runtime() {
        let registry = MemoryRegistry::new();
        let mut watch = registry
            .watch(WatchOptions::default())
            .now_or_never()
            .unwrap()
            .unwrap();
        assert!(watch.next().now_or_never().is_none());
        let opts = RegisterOptions::default().with_ttl(Duration::from_nanos(1));
        registry
            .register(&node("127.0.0.1:1"), opts)
            .now_or_never()
            .unwrap()
            .unwrap();
        let mut kinds = Vec::new();
        while let Some(event) = watch.next().now_or_never() {
            kinds.push(event.unwrap().unwrap().kind);
        }
        assert_eq!(kinds, [EventKind::Create, EventKind::Delete]);
    }

    #[tokio::test]
    async fn a_dropped_watch_leaves_nothing_behind() {
        let registry = MemoryRegistry::new();
        let kept = registry.watch(WatchOptions::default()).await.unwrap();
        for _ in 0..10 {
            drop(registry.watch(WatchOptions::default()).await.unwrap());
        }
        let text = format!("{registry:?}");
        assert!(text.contains("watchers: 1"), "{text}");
        drop(kept);
        let text = format!("{registry:?}");
        assert!(text.contains("watchers: 0"), "{text}");
    }
}
