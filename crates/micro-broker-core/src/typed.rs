//! Values instead of bytes.

use std::fmt;
use std::sync::Arc;

use micro_codec_core::{Codec, Codecs, Shape};

use crate::{
    Broker, Context, Delivery, Handler, Message, NackExt as _, PublishOptions, Receipt, Result,
    Topic, async_trait,
};

/// Publishes values of one type to one topic. Cheap to clone.
///
/// `micro`'s services make them: `service.publisher::<Order>("shop.orders")`.
pub struct Publisher<T> {
    broker: Arc<dyn Broker>,
    topic: Topic,
    codec: Arc<dyn Codec>,
    shape: Shape<T>,
}

impl<T> Publisher<T> {
    /// Publishes to `topic` what `codec` makes of a value; `shape!(T)` of `micro-codec-core` is the shape.
    #[must_use]
    pub fn new(
        broker: Arc<dyn Broker>,
        topic: Topic,
        codec: Arc<dyn Codec>,
        shape: Shape<T>,
    ) -> Self {
        Self {
            broker,
            topic,
            codec,
            shape,
        }
    }

    /// Encodes by another codec.
    #[must_use]
    pub fn with_codec(mut self, codec: Arc<dyn Codec>) -> Self {
        self.codec = codec;
        self
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// The message of a value, to be given a key or headers before it is [sent](Self::send).
    ///
    /// # Errors
    ///
    /// What the codec says of the value.
    pub fn message(&self, value: &T) -> Result<Message> {
        let body = self.shape.to_bytes(value, &*self.codec)?;
        Ok(Message::new(self.topic.clone(), body).with_content_type(self.codec.content_type()))
    }

    /// Publishes a value.
    ///
    /// # Errors
    ///
    /// Those of [`message`](Self::message) and [`Broker::publish`].
    pub fn publish<'a>(
        &'a self,
        cx: &'a Context,
        value: &T,
    ) -> impl Future<Output = Result<Receipt>> + Send + use<'a, T> {
        // Before the first await: `value` need not be `Sync`.
        let message = self.message(value);
        let broker = &self.broker;
        async move {
            broker
                .publish(cx, message?, PublishOptions::default())
                .await
        }
    }

    /// Publishes a message that [`message`](Self::message) made.
    ///
    /// # Errors
    ///
    /// Those of [`Broker::publish`].
    pub fn send<'a>(
        &'a self,
        cx: &'a Context,
        message: Message,
        opts: PublishOptions,
    ) -> impl Future<Output = Result<Receipt>> + Send + use<'a, T> {
        let broker = &self.broker;
        async move { broker.publish(cx, message, opts).await }
    }
}

impl<T> Clone for Publisher<T> {
    fn clone(&self) -> Self {
        Self {
            broker: Arc::clone(&self.broker),
            topic: self.topic.clone(),
            codec: Arc::clone(&self.codec),
            shape: self.shape,
        }
    }
}

impl<T> fmt::Debug for Publisher<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher")
            .field("backend", &self.broker.backend())
            .field("topic", &self.topic)
            .field("content_type", &self.codec.content_type())
            .finish()
    }
}

/// A handler of values. A body that is none of `T`, or whose content type is not among the codecs, is a
/// dead letter at once: it would be none the next time.
pub fn typed<T, F, R>(codecs: Codecs, shape: Shape<T>, handle: F) -> Arc<dyn Handler>
where
    T: Send + 'static,
    F: Fn(Context, T, Delivery) -> R + Send + Sync + 'static,
    R: Future<Output = Result<()>> + Send + 'static,
{
    Arc::new(Typed {
        codecs,
        shape,
        handle,
    })
}

struct Typed<T, F> {
    codecs: Codecs,
    shape: Shape<T>,
    handle: F,
}

#[async_trait]
impl<T, F, R> Handler for Typed<T, F>
where
    T: Send + 'static,
    F: Fn(Context, T, Delivery) -> R + Send + Sync + 'static,
    R: Future<Output = Result<()>> + Send + 'static,
{
    async fn handle(&self, cx: &Context, delivery: &Delivery) -> Result<()> {
        let message = delivery.message();
        let value = self
            .codecs
            .get(&message.content_type)
            .and_then(|codec| self.shape.decode(&**codec, message.body.clone()))
            .map_err(|err| err.reject())?;
        (self.handle)(cx.clone(), value, delivery.clone()).await
    }
}
