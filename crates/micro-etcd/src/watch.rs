//! Watches, which outlive their connections.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use micro_core::{ErrorKind, Result};
use prost::Message as _;
use tokio::time::{Instant, sleep_until};

use crate::client::{Client, Rpc, pause};
use crate::error::{Cure, Failure};
use crate::etcdserverpb::watch_request::RequestUnion;
use crate::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use crate::kv::{KeyValue, Keys, Position};
use crate::link::Stream;
use crate::mvccpb::Event;
use crate::mvccpb::event::EventType;

/// Full jitter before a watch that broke is opened again, doubled with each failure.
const REOPEN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// A new token is tried so often before a refusal is believed.
const RENEWALS: u32 = 2;

const WATCH: Rpc = Rpc {
    path: "/etcdserverpb.Watch/Watch",
    operation: "etcd.watch",
};

/// A change of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// The key.
    pub key: Bytes,
    /// When it was changed.
    pub revision: i64,
    /// What it is now; `None` if it was deleted, or its lease ended.
    pub now: Option<KeyValue>,
}

impl Change {
    /// A change, for tests of what reads them.
    #[must_use]
    pub fn new(key: impl Into<Bytes>, revision: i64, now: Option<KeyValue>) -> Self {
        Self {
            key: key.into(),
            revision,
            now,
        }
    }
}

/// What a watch reports.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WatchEvent {
    /// Changes, in the order in which they were made; each is reported once.
    Changes(Vec<Change>),
    /// There was none up to this revision. Comes every ten minutes (`etcd`'s default) of silence.
    Progress(i64),
    /// The changes from where the watch stands were compacted away: read everything, then watch
    /// from there. The watch is over.
    Compacted {
        /// The first revision that is still kept.
        revision: i64,
    },
    /// etcd is not where it was: its history is shorter than what was seen of it, as when it lost
    /// its data, or a member that lags behind answers. Read everything, then watch from there. The
    /// watch is over.
    Rewound(Position),
}

/// Changes of some keys, from a revision on.
///
/// When the connection breaks it is opened again, at the revision where it stopped, and misses
/// nothing: what cannot be reported any more is [`Compacted`](WatchEvent::Compacted) or
/// [`Rewound`](WatchEvent::Rewound). A watch that is not read holds at most a quarter of a megabyte
/// here; the rest waits in etcd. Dropping it ends it.
pub struct Watch {
    client: Client,
    keys: Keys,
    /// The revision to be reported next; 0 is the first one that etcd makes.
    next: i64,
    /// So many changes of the revision `next` were reported already: it came in parts.
    part: usize,
    /// So many of them will come once more on the stream that is open.
    skip: usize,
    /// As far as we know etcd's history to go.
    known: Position,
    stream: Option<Stream>,
    failures: u32,
    /// So many times a new token was tried since the last success.
    renewed: u32,
    not_before: Option<Instant>,
    over: bool,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("keys", &self.keys)
            .field("next", &self.next)
            .field("open", &self.stream.is_some())
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Watches keys for changes after `since`, which is where in the history they were read.
    ///
    /// Nothing is sent before the first [`next`](Watch::next), and nothing is missed meanwhile.
    #[must_use]
    pub fn watch(&self, keys: Keys, since: Position) -> Watch {
        Watch {
            client: self.clone(),
            keys,
            next: since.revision.saturating_add(1),
            part: 0,
            skip: 0,
            known: since,
            stream: None,
            failures: 0,
            renewed: 0,
            not_before: None,
            over: false,
        }
    }
}

impl Watch {
    /// The next event. Waits through outages, however long. Dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` and `Unauthenticated`; `FailedPrecondition` after the end.
    pub async fn next(&mut self) -> Result<WatchEvent> {
        loop {
            if self.over {
                return Err(micro_core::Error::new(
                    ErrorKind::FailedPrecondition,
                    "this watch is over; read everything and begin another one",
                )
                .with_operation(WATCH.operation));
            }
            let answer = match self.answer().await {
                Ok(answer) => answer,
                Err(failure) => {
                    self.failed(failure)?;
                    continue;
                }
            };
            if let Some(event) = self.take(answer)? {
                return Ok(event);
            }
        }
    }

    async fn answer(&mut self) -> Result<WatchResponse, Failure> {
        if self.stream.is_none() {
            if let Some(at) = self.not_before {
                sleep_until(at).await;
            }
            let create = WatchCreateRequest {
                key: self.keys.from.clone(),
                range_end: self.keys.to.clone(),
                start_revision: self.next,
                progress_notify: true,
                fragment: true,
                ..WatchCreateRequest::default()
            };
            let request = WatchRequest {
                request_union: Some(RequestUnion::CreateRequest(create)),
            };
            self.stream = Some(self.client.stream(&WATCH, &request).await?);
            self.skip = self.part;
        }
        let Some(stream) = &mut self.stream else {
            return Err(Failure::Foreign("there is no stream"));
        };
        let message = match stream.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return Err(Failure::link("etcd ended the watch", "no reason given")),
            Err(failure) => return Err(failure),
        };
        WatchResponse::decode(message)
            .map_err(|_| Failure::Foreign("the answer is no message of etcd's"))
    }

    /// The stream is lost; an error if another one would be no better.
    fn failed(&mut self, failure: Failure) -> Result<()> {
        if let Some(stream) = self.stream.take() {
            self.client.judge_stream(&stream, &failure);
        }
        let again = match failure.cure() {
            Cure::Again => true,
            Cure::Token => self.may_renew(),
            // What answers may be a proxy whose etcd is away.
            Cure::None => matches!(failure, Failure::Foreign(_)),
        };
        if !again {
            self.over = true;
            return Err(failure.into_error(WATCH.operation, false));
        }
        tracing::debug!(?failure, "a watch of etcd broke and is opened again");
        self.wait();
        Ok(())
    }

    /// Whether a new token may help: there is a user, and it was not tried in vain.
    fn may_renew(&mut self) -> bool {
        self.renewed += 1;
        self.client.config().username.is_some() && self.renewed <= RENEWALS
    }

    fn wait(&mut self) {
        let wait = pause(self.client.random(), REOPEN, self.failures);
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(Instant::now() + wait);
    }

    /// What an answer means; `None` if nothing to anybody else.
    fn take(&mut self, answer: WatchResponse) -> Result<Option<WatchEvent>> {
        let position = Position::from(answer.header);
        if answer.canceled {
            self.stream = None;
            return self.canceled(&answer);
        }
        if answer.created {
            (self.failures, self.renewed) = (0, 0);
            self.client.answered();
            if self.is_rewound(position) {
                self.over = true;
                self.stream = None;
                return Ok(Some(WatchEvent::Rewound(position)));
            }
            self.known = position;
            return Ok(None);
        }
        if position.revision >= self.known.revision {
            self.known = position;
        }
        if answer.events.is_empty() {
            if answer.fragment {
                return Ok(None);
            }
            self.advance(position.revision);
            return Ok(Some(WatchEvent::Progress(position.revision)));
        }
        let last = answer
            .events
            .iter()
            .filter_map(|event| Some(event.kv.as_ref()?.mod_revision));
        let last = last.max().unwrap_or_default();
        let changes = self.fresh(answer.events);
        if !answer.fragment {
            self.advance(last);
        }
        Ok((!changes.is_empty()).then_some(WatchEvent::Changes(changes)))
    }

    /// Everything up to a revision was reported.
    fn advance(&mut self, revision: i64) {
        if revision >= self.next {
            self.next = revision.saturating_add(1);
            (self.part, self.skip) = (0, 0);
        }
    }

    /// The changes that were not reported yet. A large revision comes in parts, and a stream that
    /// is opened within one gets all of it again.
    fn fresh(&mut self, events: Vec<Event>) -> Vec<Change> {
        let mut changes = Vec::with_capacity(events.len());
        for event in events {
            let deleted = event.r#type() == EventType::Delete;
            let Some(raw) = event.kv else { continue };
            let revision = raw.mod_revision;
            if revision < self.next {
                continue;
            }
            if revision > self.next {
                (self.next, self.part, self.skip) = (revision, 0, 0);
            }
            if self.skip > 0 {
                self.skip -= 1;
                continue;
            }
            self.part += 1;
            changes.push(Change {
                key: raw.key.clone(),
                revision,
                now: (!deleted).then(|| raw.into()),
            });
        }
        changes
    }

    /// etcd ended the watch and says why.
    fn canceled(&mut self, answer: &WatchResponse) -> Result<Option<WatchEvent>> {
        if answer.compact_revision != 0 {
            self.over = true;
            return Ok(Some(WatchEvent::Compacted {
                revision: answer.compact_revision,
            }));
        }
        let reason = &answer.cancel_reason;
        // etcd 3.4 says so of a token that it does not know, too.
        let denied = reason.contains("permission denied") || reason.contains("auth token");
        if denied && !self.may_renew() {
            self.over = true;
            let failure = Failure::Status {
                code: ErrorKind::PermissionDenied.code(),
                message: reason.clone(),
            };
            return Err(failure.into_error(WATCH.operation, false));
        }
        if denied {
            self.client.forget_token();
        }
        let shown: String = reason
            .chars()
            .take(200)
            .flat_map(char::escape_debug)
            .collect();
        tracing::debug!(reason = shown, "etcd ended a watch; it is opened again");
        self.wait();
        Ok(None)
    }

    /// Whether the history is another one than we know, or is only known in part over there.
    fn is_rewound(&self, now: Position) -> bool {
        let known = self.known;
        now.revision < known.revision
            || now.term < known.term
            || known.cluster != 0 && now.cluster != known.cluster
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use micro_core::SeededRandom;

    use super::*;
    use crate::EtcdConfig;
    use crate::etcdserverpb::ResponseHeader;
    use crate::mvccpb;

    fn watch(since: i64) -> Watch {
        let client = Client::new(EtcdConfig::default(), Arc::new(SeededRandom::new(1))).unwrap();
        let since = Position {
            revision: since,
            term: 2,
            cluster: 7,
        };
        client.watch(Keys::prefix("a/"), since)
    }

    fn header(revision: i64, raft_term: u64, cluster_id: u64) -> Option<ResponseHeader> {
        Some(ResponseHeader {
            cluster_id,
            raft_term,
            revision,
            member_id: 1,
        })
    }

    fn answer(fragment: bool, events: &[(&'static str, i64)]) -> WatchResponse {
        let event = |(key, revision): &(&'static str, i64)| Event {
            kv: Some(mvccpb::KeyValue {
                key: Bytes::from_static(key.as_bytes()),
                mod_revision: *revision,
                ..mvccpb::KeyValue::default()
            }),
            ..Event::default()
        };
        WatchResponse {
            header: header(100, 2, 7),
            fragment,
            events: events.iter().map(event).collect(),
            ..WatchResponse::default()
        }
    }

    fn seen(watch: &mut Watch, answer: WatchResponse) -> Vec<(String, i64)> {
        let Some(WatchEvent::Changes(changes)) = watch.take(answer).unwrap() else {
            return Vec::new();
        };
        let name = |change: Change| {
            (
                String::from_utf8(change.key.to_vec()).unwrap(),
                change.revision,
            )
        };
        changes.into_iter().map(name).collect()
    }

    #[test]
    fn a_revision_that_came_in_part_is_not_reported_twice() {
        let mut watch = watch(9);
        let first = seen(
            &mut watch,
            answer(true, &[("a/1", 10), ("a/1", 12), ("a/2", 12)]),
        );
        assert_eq!(first.len(), 3);
        // The stream breaks, and the next one begins at the revision that is not complete.
        assert_eq!((watch.next, watch.part), (12, 2));
        watch.skip = watch.part;
        let rest = seen(&mut watch, answer(true, &[("a/1", 12)]));
        assert!(rest.is_empty());
        let rest = seen(
            &mut watch,
            answer(false, &[("a/2", 12), ("a/3", 12), ("a/1", 13)]),
        );
        assert_eq!(rest, [("a/3".to_owned(), 12), ("a/1".to_owned(), 13)]);
        assert_eq!((watch.next, watch.part, watch.skip), (14, 0, 0));
        // What is older is a replay.
        assert!(seen(&mut watch, answer(false, &[("a/1", 13)])).is_empty());
    }

    #[test]
    fn a_history_that_is_not_the_one_we_know_is_noticed() {
        for (now, rewound) in [
            (header(9, 2, 7), false),
            (header(50, 3, 7), false),
            (header(8, 2, 7), true),
            (header(50, 1, 7), true),
            (header(50, 2, 8), true),
        ] {
            let mut watch = watch(9);
            let created = WatchResponse {
                header: now,
                created: true,
                ..WatchResponse::default()
            };
            let event = watch.take(created).unwrap();
            assert_eq!(event.is_some(), rewound, "{now:?}");
            assert_eq!(watch.over, rewound);
        }
    }

    #[test]
    fn compaction_ends_it_and_progress_moves_it() {
        let mut watch = watch(9);
        let event = watch.take(answer(false, &[])).unwrap();
        assert_eq!(event, Some(WatchEvent::Progress(100)));
        assert_eq!(watch.next, 101);
        let compacted = WatchResponse {
            canceled: true,
            compact_revision: 200,
            ..WatchResponse::default()
        };
        let event = watch.take(compacted).unwrap();
        assert_eq!(event, Some(WatchEvent::Compacted { revision: 200 }));
        assert!(watch.over);
    }
}
