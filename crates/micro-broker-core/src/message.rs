//! What is published.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use crate::{Error, Group, Metadata, Result, Topic, TraceContext};

/// A message: a body, and what travels with it.
///
/// [`prepare`](crate::prepare) says what is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message {
    /// Where it goes.
    pub topic: Topic,
    /// Its name among the topic's messages: 1 to [`MAX_ID`](crate::MAX_ID) characters of printable ASCII.
    /// Without one, `publish` gives it a UUID of version 7 (RFC 9562).
    pub id: Option<Arc<str>>,
    /// What it is about: messages of one key are handled in order. 1 to
    /// [`MAX_KEY`](crate::MAX_KEY) characters of printable ASCII.
    pub key: Option<Arc<str>>,
    /// How to read the body.
    pub content_type: Cow<'static, str>,
    /// The publisher's headers. Each name has one value; `traceparent` and what begins with `micro-`
    /// belong to the broker.
    pub metadata: Metadata,
    /// The content.
    pub body: Bytes,
    /// Until when it is of use: a handler's context ends then, and one that was not handled by
    /// then is a dead letter. To the millisecond.
    pub deadline: Option<SystemTime>,
    /// The trace it belongs to; that of the context it is published with if there is none.
    pub trace: Option<TraceContext>,
    /// When it was published, by the publisher's clock, to the millisecond. Set by `publish`.
    pub time: Option<SystemTime>,
    /// How many messages led to it, each published by the handler of the one before. Set by `publish`.
    pub hops: u8,
    /// Why nobody could handle it, if it stands in a dead-letter topic.
    pub dead_letter: Option<Box<DeadLetter>>,
}

impl Message {
    /// A message of bytes.
    #[must_use]
    pub fn new(topic: Topic, body: impl Into<Bytes>) -> Self {
        Self {
            topic,
            id: None,
            key: None,
            content_type: Cow::Borrowed("application/octet-stream"),
            metadata: Metadata::new(),
            body: body.into(),
            deadline: None,
            trace: None,
            time: None,
            hops: 0,
            dead_letter: None,
        }
    }

    /// Sets [`id`](Self::id): published again under the same id, it is the same message.
    #[must_use]
    pub fn with_id(mut self, id: impl Into<Arc<str>>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Sets [`key`](Self::key).
    #[must_use]
    pub fn with_key(mut self, key: impl Into<Arc<str>>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets [`content_type`](Self::content_type).
    #[must_use]
    pub fn with_content_type(mut self, content_type: impl Into<Cow<'static, str>>) -> Self {
        self.content_type = content_type.into();
        self
    }

    /// Sets a header.
    ///
    /// # Errors
    ///
    /// Those of [`Metadata::insert`].
    pub fn with_metadata(mut self, name: &str, value: impl AsRef<[u8]>) -> Result<Self> {
        self.metadata.insert(name, value)?;
        Ok(self)
    }

    /// Sets [`deadline`](Self::deadline).
    #[must_use]
    pub fn with_deadline(mut self, deadline: SystemTime) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Sets [`trace`](Self::trace).
    #[must_use]
    pub fn with_trace(mut self, trace: TraceContext) -> Self {
        self.trace = Some(trace);
        self
    }

    /// The message as a dead letter: what it was stays, the deadline aside, which would make it one
    /// again.
    #[must_use]
    pub fn into_dead_letter(mut self, to: Topic, dead: DeadLetter) -> Self {
        self.topic = to;
        self.deadline = None;
        self.dead_letter = Some(Box::new(dead));
        self
    }
}

/// Why nobody could handle a message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The topic it was published to.
    pub topic: Topic,
    /// The group whose handlers could not.
    pub group: Option<Group>,
    /// What the last of them said: kind and message of its error, at most 512 characters of printable
    /// ASCII.
    pub reason: String,
    /// How often it was delivered to the group.
    pub deliveries: u32,
}

impl DeadLetter {
    /// What becomes of a message after this error.
    #[must_use]
    pub fn new(topic: Topic, group: Option<Group>, error: &Error, deliveries: u32) -> Self {
        // Kind and message travel, as they do between services; operation, context and cause stay.
        let reason = format!("{}: {}", error.kind().name(), error.message());
        let plain = |c: char| if matches!(c, ' '..='~') { c } else { '?' };
        Self {
            topic,
            group,
            reason: reason.chars().take(512).map(plain).collect(),
            deliveries,
        }
    }

    /// What a header said.
    pub(crate) fn read(topic: Topic, group: Option<Group>, reason: &str, deliveries: u32) -> Self {
        let reason = reason.chars().take(512).collect();
        Self {
            topic,
            group,
            reason,
            deliveries,
        }
    }
}
