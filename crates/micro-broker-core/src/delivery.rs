//! What a handler gets.

use std::fmt;
use std::sync::Arc;

use crate::{Context, Message, Result, async_trait};

/// A message on its way to a handler. Cheap to clone.
#[derive(Clone)]
pub struct Delivery {
    message: Arc<Message>,
    deliveries: u32,
    offset: Option<u64>,
    progress: Progress,
}

impl Delivery {
    /// The message, delivered to its group for the `deliveries`th time, counted from one.
    #[must_use]
    pub fn new(message: Arc<Message>, deliveries: u32, progress: Progress) -> Self {
        Self {
            message,
            deliveries,
            offset: None,
            progress,
        }
    }

    /// Sets the [offset](Self::offset).
    #[must_use]
    pub fn with_offset(mut self, offset: Option<u64>) -> Self {
        self.offset = offset;
        self
    }

    /// The message.
    #[must_use]
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// The message's id.
    #[must_use]
    pub fn id(&self) -> &str {
        self.message.id.as_deref().unwrap_or_default()
    }

    /// How often it was delivered to the group, with this time: 1 at first. After a crash it may
    /// have been more often.
    #[must_use]
    pub fn deliveries(&self) -> u32 {
        self.deliveries
    }

    /// Its place in the topic, which only grows, if the backend [replays](crate::Capabilities::replay).
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        self.offset
    }

    /// Says that the handler is still at work: its acknowledgement deadline begins anew.
    pub fn progress(&self) {
        self.progress.tell();
    }

    /// The same by itself, to be handed on.
    #[must_use]
    pub fn progress_handle(&self) -> Progress {
        self.progress.clone()
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("message", &self.message)
            .field("deliveries", &self.deliveries)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

/// Says that a handler is still at work. Cheap to clone.
#[derive(Clone)]
pub struct Progress(Arc<dyn ProgressSink>);

impl Progress {
    /// Tells this one.
    #[must_use]
    pub fn new(sink: Arc<dyn ProgressSink>) -> Self {
        Self(sink)
    }

    /// The handler's acknowledgement deadline begins anew.
    pub fn tell(&self) {
        self.0.tell();
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}

/// Who is told of a handler's progress; for whoever runs handlers.
pub trait ProgressSink: Send + Sync + 'static {
    /// There was progress.
    fn tell(&self);
}

/// Handles messages. The return value is the acknowledgement.
///
/// It is called concurrently. A call that has not returned by its acknowledgement deadline is dropped,
/// and the message delivered again. What a handler does should bear being done twice: a message comes
/// again if the acknowledgement is lost.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Handles a message. The context has its trace, its deadline and its headers; it is the one to
    /// publish and call with.
    ///
    /// # Errors
    ///
    /// Any error asks for the message again, later; see [`NackExt`](crate::NackExt) for when, and for
    /// never.
    async fn handle(&self, cx: &Context, delivery: &Delivery) -> Result<()>;
}

struct FnHandler<F>(F);

#[async_trait]
impl<F, R> Handler for FnHandler<F>
where
    F: Fn(Context, Delivery) -> R + Send + Sync + 'static,
    R: Future<Output = Result<()>> + Send + 'static,
{
    async fn handle(&self, cx: &Context, delivery: &Delivery) -> Result<()> {
        (self.0)(cx.clone(), delivery.clone()).await
    }
}

/// A handler that is a closure.
pub fn handler<F, R>(handle: F) -> Arc<dyn Handler>
where
    F: Fn(Context, Delivery) -> R + Send + Sync + 'static,
    R: Future<Output = Result<()>> + Send + 'static,
{
    Arc::new(FnHandler(handle))
}

// `Handler` must stay usable as a trait object.
const _: fn(&dyn Handler) = |_| ();
