//! What a listener of HTTP answers beside calls.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use crate::{BoxFuture, Metadata, Peer};

/// A POST that is no call.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Post {
    /// Path and query: `/?id=7`.
    pub target: String,
    /// The headers, without those of HTTP itself.
    pub headers: Metadata,
    /// Who sends it.
    pub peer: Option<Arc<Peer>>,
    /// The whole body.
    pub body: Bytes,
}

impl Post {
    /// A POST without headers.
    #[must_use]
    pub fn new(target: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self {
            target: target.into(),
            headers: Metadata::new(),
            peer: None,
            body: body.into(),
        }
    }

    /// Sets the headers.
    #[must_use]
    pub fn with_headers(mut self, headers: Metadata) -> Self {
        self.headers = headers;
        self
    }

    /// Sets who sends it.
    #[must_use]
    pub fn with_peer(mut self, peer: Arc<Peer>) -> Self {
        self.peer = Some(peer);
        self
    }
}

/// The answer to a [`Post`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PostReply {
    /// HTTP's status code: 100 to 999.
    pub status: u16,
    /// The headers, without those of HTTP itself.
    pub headers: Metadata,
    /// How to read the body.
    pub content_type: Cow<'static, str>,
    /// The whole body.
    pub body: Bytes,
}

impl PostReply {
    /// An answer in plain text.
    #[must_use]
    pub fn text(status: u16, text: &'static str) -> Self {
        Self {
            status,
            headers: Metadata::new(),
            content_type: Cow::Borrowed("text/plain"),
            body: Bytes::from_static(text.as_bytes()),
        }
    }

    /// Sets the headers.
    #[must_use]
    pub fn with_headers(mut self, headers: Metadata) -> Self {
        self.headers = headers;
        self
    }
}

/// Answers POSTs that are no calls.
pub trait PostHandler: fmt::Debug + Send + Sync + 'static {
    /// The largest body of a POST to this path, in bytes; `None` if nothing is posted to it.
    fn limit(&self, path: &str) -> Option<usize>;

    /// Answers one. The listener drops the future when the peer is gone, and sets it no deadline.
    fn answer(self: Arc<Self>, post: Post) -> BoxFuture<'static, PostReply>;
}

/// A [`PostHandler`] on its way to a listener, which may or may not be one of HTTP. Clones are the same.
#[derive(Clone, Debug)]
pub struct Posts {
    handler: Arc<dyn PostHandler>,
    taken: Arc<AtomicBool>,
}

impl Posts {
    /// To be taken by a listener.
    #[must_use]
    pub fn new(handler: Arc<dyn PostHandler>) -> Self {
        Self {
            handler,
            taken: Arc::default(),
        }
    }

    /// For a listener that will serve them.
    #[must_use]
    pub fn take(&self) -> Arc<dyn PostHandler> {
        self.taken.store(true, Ordering::Release);
        Arc::clone(&self.handler)
    }

    /// Whether a listener serves them.
    #[must_use]
    pub fn are_taken(&self) -> bool {
        self.taken.load(Ordering::Acquire)
    }
}
