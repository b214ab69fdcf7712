//! How programs subscribe and publish.

use std::sync::Arc;

use micro_broker_core::{Broker, Delivery, Handler, Publisher, SubscribeOptions, Topic};
use micro_codec_core::Shape;
use micro_core::{Context, Result};
use micro_outbox::Outbox;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Wanted;
use crate::backends::Backends;
use crate::{Client, Running, Service};

impl Backends {
    async fn publisher<T>(&self, topic: &str, shape: Shape<T>) -> Result<Publisher<T>> {
        let topic = Topic::new(topic).map_err(|err| err.with_operation("service.publisher"))?;
        let content_type = match (shape.is_raw(), shape.has_proto()) {
            (true, _) => "application/octet-stream",
            (false, true) => "application/protobuf",
            (false, false) => "application/json",
        };
        let codec = Arc::clone(self.codecs().get(content_type)?);
        Ok(Publisher::new(self.broker().await?, topic, codec, shape))
    }
}

impl Service {
    /// Handles the messages of a topic. Payloads are read by the codec of their content type; what the
    /// handler returns is the acknowledgement: an `Err` brings the message again, and after
    /// [`max_deliveries`](SubscribeOptions::max_deliveries) it is a dead letter.
    ///
    /// Without a group, the service's name is one: of all its nodes, one handles each message.
    /// [`with_broadcast`](SubscribeOptions::with_broadcast) hands each message to every node. The
    /// service's [`middleware`](Self::middleware) stands around the handler, and sees a call of the path
    /// `/<service>/<topic>` without a peer. A stop takes no new message, and waits for the handlers.
    ///
    /// The payload is what serde makes of it; [`subscribe_as`](Self::subscribe_as) takes protobuf, too. A
    /// topic or an option that is none, and a broker that refuses the subscription, end the start.
    ///
    /// ```no_run
    /// use micro::broker::SubscribeOptions;
    ///
    /// #[derive(serde::Serialize, serde::Deserialize)]
    /// struct Order { id: u64 }
    ///
    /// # async fn f() -> micro::Result<()> {
    /// micro::Service::new("mailer")
    ///     .subscribe("shop.orders", SubscribeOptions::default(), |_cx, order: Order, _delivery| async move {
    ///         println!("a mail about {}", order.id);
    ///         Ok(())
    ///     })
    ///     .run()
    ///     .await
    /// # }
    /// ```
    #[must_use]
    pub fn subscribe<T, F, R>(self, topic: &str, opts: SubscribeOptions, handle: F) -> Self
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        F: Fn(Context, T, Delivery) -> R + Send + Sync + 'static,
        R: Future<Output = Result<()>> + Send + 'static,
    {
        self.subscribe_as(topic, opts, Shape::serde(), handle)
    }

    /// [`subscribe`](Self::subscribe) to payloads of a shape: `codec::shape!(Order)` finds that of a type
    /// which derives [`Message`](crate::Message), or was made of a `.proto`.
    #[must_use]
    pub fn subscribe_as<T, F, R>(
        mut self,
        topic: &str,
        opts: SubscribeOptions,
        shape: Shape<T>,
        handle: F,
    ) -> Self
    where
        T: Send + 'static,
        F: Fn(Context, T, Delivery) -> R + Send + Sync + 'static,
        R: Future<Output = Result<()>> + Send + 'static,
    {
        self.subscriptions
            .push(Wanted::typed(topic, opts, shape, handle));
        self
    }

    /// [`subscribe`](Self::subscribe) to messages as they are: with `broker::handler`, or one's own.
    #[must_use]
    pub fn subscribe_raw(
        mut self,
        topic: &str,
        opts: SubscribeOptions,
        handler: Arc<dyn Handler>,
    ) -> Self {
        self.subscriptions.push(Wanted::raw(topic, opts, handler));
        self
    }

    /// Publishes values to a topic, as JSON; the broker is opened now if it is not yet.
    ///
    /// # Errors
    ///
    /// As [`client`](Self::client), and `InvalidArgument` for a topic that is none.
    pub async fn publisher<T>(&self, topic: &str) -> Result<Publisher<T>>
    where
        T: Serialize + DeserializeOwned,
    {
        self.publisher_as(topic, Shape::serde()).await
    }

    /// Publishes values of a shape to a topic: as protobuf if `codec::shape!(Order)` finds that the type
    /// has it, and as JSON if not; [`with_codec`](Publisher::with_codec) takes another.
    ///
    /// # Errors
    ///
    /// As [`publisher`](Self::publisher).
    pub async fn publisher_as<T>(&self, topic: &str, shape: Shape<T>) -> Result<Publisher<T>> {
        self.backends()?.publisher(topic, shape).await
    }

    /// The broker of this service, opened now if it is not yet.
    ///
    /// # Errors
    ///
    /// As [`client`](Self::client).
    pub async fn broker(&self) -> Result<Arc<dyn Broker>> {
        self.backends()?.broker().await
    }

    /// The outbox of this service: messages that are committed along with records of its
    /// [`store`](Self::store), in the table `<service>.outbox`. Hand them on by a
    /// [relay](Outbox::relay) to the [`broker`](Self::broker).
    ///
    /// # Errors
    ///
    /// As [`store`](Self::store).
    pub async fn outbox(&self) -> Result<Outbox> {
        let table = self.store().await?;
        let outbox = table.sibling(&format!("{}.outbox", table.scope().table()))?;
        Ok(Outbox::with_env(outbox, &self.backends()?.wishes.env))
    }
}

impl Running {
    /// Handles the messages of a topic from now on, as [`Service::subscribe`] does from the start; it ends
    /// with the service. The registry does not tell of it.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a topic or an option that is none, and what the broker says.
    pub async fn subscribe<T, F, R>(
        &self,
        topic: &str,
        opts: SubscribeOptions,
        handle: F,
    ) -> Result<()>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        F: Fn(Context, T, Delivery) -> R + Send + Sync + 'static,
        R: Future<Output = Result<()>> + Send + 'static,
    {
        self.subscribe_as(topic, opts, Shape::serde(), handle).await
    }

    /// [`subscribe`](Self::subscribe) to payloads of a shape.
    ///
    /// # Errors
    ///
    /// As [`subscribe`](Self::subscribe).
    pub async fn subscribe_as<T, F, R>(
        &self,
        topic: &str,
        opts: SubscribeOptions,
        shape: Shape<T>,
        handle: F,
    ) -> Result<()>
    where
        T: Send + 'static,
        F: Fn(Context, T, Delivery) -> R + Send + Sync + 'static,
        R: Future<Output = Result<()>> + Send + 'static,
    {
        let wanted = Wanted::typed(topic, opts, shape, handle);
        self.events.begin(self.events.check(wanted)?).await
    }

    /// [`subscribe`](Self::subscribe) to messages as they are.
    ///
    /// # Errors
    ///
    /// As [`subscribe`](Self::subscribe).
    pub async fn subscribe_raw(
        &self,
        topic: &str,
        opts: SubscribeOptions,
        handler: Arc<dyn Handler>,
    ) -> Result<()> {
        let wanted = Wanted::raw(topic, opts, handler);
        self.events.begin(self.events.check(wanted)?).await
    }

    /// Publishes values to a topic; see [`Service::publisher`].
    ///
    /// # Errors
    ///
    /// As [`Service::publisher`].
    pub async fn publisher<T>(&self, topic: &str) -> Result<Publisher<T>>
    where
        T: Serialize + DeserializeOwned,
    {
        self.publisher_as(topic, Shape::serde()).await
    }

    /// Publishes values of a shape to a topic; see [`Service::publisher_as`].
    ///
    /// # Errors
    ///
    /// As [`Service::publisher`].
    pub async fn publisher_as<T>(&self, topic: &str, shape: Shape<T>) -> Result<Publisher<T>> {
        self.events.backends.publisher(topic, shape).await
    }

    /// The broker of this service. A stop of the service closes it, if it was opened by URL.
    ///
    /// # Errors
    ///
    /// As [`Service::client`].
    pub async fn broker(&self) -> Result<Arc<dyn Broker>> {
        self.events.backends.broker().await
    }
}

impl Client {
    /// Publishes values to a topic; see [`Service::publisher`]. No server is needed for it.
    ///
    /// # Errors
    ///
    /// As [`Service::publisher`], and `FailedPrecondition` if the client was made of a
    /// [`micro_client::Client`], which has no broker.
    pub async fn publisher<T>(&self, topic: &str) -> Result<Publisher<T>>
    where
        T: Serialize + DeserializeOwned,
    {
        self.publisher_as(topic, Shape::serde()).await
    }

    /// Publishes values of a shape to a topic; see [`Service::publisher_as`].
    ///
    /// # Errors
    ///
    /// As [`publisher`](Self::publisher).
    pub async fn publisher_as<T>(&self, topic: &str, shape: Shape<T>) -> Result<Publisher<T>> {
        self.backends()?.publisher(topic, shape).await
    }

    /// The broker, opened now if it is not yet. A program that ends soon [closes](Broker::close) it: what
    /// is not handed on yet is then.
    ///
    /// # Errors
    ///
    /// As [`publisher`](Self::publisher).
    pub async fn broker(&self) -> Result<Arc<dyn Broker>> {
        self.backends()?.broker().await
    }
}
