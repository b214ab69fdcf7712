//! What a service subscribes to.

mod api;
mod around;

use std::any::type_name;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use micro_broker_core::{Delivery, Group, Handler, SubscribeOptions, Subscription, Topic, typed};
use micro_codec_core::{Codecs, Shape};
use micro_core::{Context, Error, Result};
use micro_registry_core::{Endpoint, Value};
use micro_transport_core::Middleware;
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::around::Around;
use crate::backends::Backends;

/// A subscription that a service is to have.
pub(crate) struct Wanted {
    topic: String,
    opts: SubscribeOptions,
    /// What the registry is told of the payload.
    payload: String,
    handler: Make,
}

/// Makes the handler, once the codecs are known.
type Make = Box<dyn FnOnce(&Codecs) -> Arc<dyn Handler> + Send + Sync>;

impl Wanted {
    fn typed<T, F, R>(topic: &str, opts: SubscribeOptions, shape: Shape<T>, handle: F) -> Self
    where
        T: Send + 'static,
        F: Fn(Context, T, Delivery) -> R + Send + Sync + 'static,
        R: Future<Output = Result<()>> + Send + 'static,
    {
        Self {
            topic: topic.to_owned(),
            opts,
            payload: name_of(shape),
            handler: Box::new(move |codecs| typed(codecs.clone(), shape, handle)),
        }
    }

    fn raw(topic: &str, opts: SubscribeOptions, handler: Arc<dyn Handler>) -> Self {
        Self {
            topic: topic.to_owned(),
            opts,
            payload: "RawBytes".to_owned(),
            handler: Box::new(move |_| handler),
        }
    }
}

fn name_of<T>(shape: Shape<T>) -> String {
    if shape.is_raw() {
        return "RawBytes".to_owned();
    }
    if let Some(schema) = shape.schema() {
        return schema.name().to_owned();
    }
    // `alloc::vec::Vec<demo::Item>` becomes `Vec`.
    let path = type_name::<T>();
    let path = path.split('<').next().unwrap_or(path);
    path.rsplit("::").next().unwrap_or(path).to_owned()
}

/// A subscription that was checked.
pub(crate) struct Ready {
    topic: Topic,
    opts: SubscribeOptions,
    payload: String,
    handler: Arc<dyn Handler>,
}

/// What the registry is told of subscriptions, in go-micro's form: one endpoint for each topic.
pub(crate) fn endpoints(subscriptions: &[Ready]) -> Vec<Endpoint> {
    let mut endpoints: Vec<_> = subscriptions
        .iter()
        .map(|ready| {
            let payload = Value::new(&ready.payload, &ready.payload);
            Endpoint::new(ready.topic.as_str())
                .with_values(payload, Value::default())
                .with_metadata("topic", ready.topic.as_str())
                .with_metadata("subscriber", "true")
        })
        .collect();
    endpoints.sort_by(|a, b| a.name.cmp(&b.name));
    endpoints.dedup_by(|a, b| a.name == b.name);
    endpoints
}

/// The subscriptions of a service that runs. Dropping it ends them at once.
pub(crate) struct Events {
    service: Arc<str>,
    backends: Arc<Backends>,
    middleware: Arc<[Arc<dyn Middleware>]>,
    tasks: Mutex<JoinSet<()>>,
    /// How long handlers have to end, once they are to.
    stop: watch::Sender<Option<Duration>>,
    /// Why a subscription is no longer there.
    ended: watch::Sender<Option<Arc<Error>>>,
}

impl Events {
    pub(crate) fn new(
        service: &str,
        backends: Arc<Backends>,
        middleware: Vec<Arc<dyn Middleware>>,
    ) -> Self {
        Self {
            service: Arc::from(service),
            backends,
            middleware: middleware.into(),
            tasks: Mutex::default(),
            stop: watch::Sender::new(None),
            ended: watch::Sender::new(None),
        }
    }

    /// Checks a subscription, so that a bad one ends the start before there is anything to end.
    pub(crate) fn check(&self, wanted: Wanted) -> Result<Ready> {
        let mut opts = wanted.opts;
        let topic = Topic::new(&wanted.topic).map_err(named)?;
        if opts.group.is_none() && !opts.broadcast {
            let group = Group::new(&self.service).map_err(|_| {
                named(Error::invalid_argument(
                    "the service's name is no name of a group: give one by with_group, or with_broadcast",
                ))
                .with_context("topic", &topic)
                .with_context("service", &self.service)
            })?;
            opts.group = Some(group);
        }
        let handler = (wanted.handler)(&self.backends.codecs());
        Ok(Ready {
            handler: self.around(handler, &topic),
            payload: wanted.payload,
            topic,
            opts,
        })
    }

    /// The handler with the service's middleware around it.
    fn around(&self, handler: Arc<dyn Handler>, topic: &Topic) -> Arc<dyn Handler> {
        if self.middleware.is_empty() {
            return handler;
        }
        Arc::new(Around {
            handler,
            middleware: Arc::clone(&self.middleware),
            service: Arc::clone(&self.service),
            path: format!("/{}/{topic}", self.service).into(),
        })
    }

    /// Subscribes.
    pub(crate) async fn begin(&self, ready: Ready) -> Result<()> {
        let broker = self.backends.broker().await?;
        let Ready {
            topic,
            opts,
            handler,
            ..
        } = ready;
        let group = opts.group.clone();
        let subscribed = broker.subscribe(&topic, opts, handler).await;
        let subscription = subscribed.map_err(|err| {
            let err = err
                .with_context("topic", &topic)
                .with_context("broker", broker.backend())
                .with_context("setting", "MICRO_BROKER");
            match err.operation() {
                "" => named(err),
                _ => err,
            }
        })?;
        tracing::info!(
            service = &*self.service,
            %topic,
            group = group.as_ref().map_or("", Group::as_str),
            broker = broker.backend(),
            "subscribed"
        );
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.spawn(tend(
            subscription,
            self.stop.subscribe(),
            self.ended.clone(),
        ));
        Ok(())
    }

    /// Takes no new message, and waits until those being handled are, for at most so long.
    pub(crate) async fn stop(&self, grace: Duration) {
        // Taken out: if this future is dropped, the subscriptions end.
        let mut tasks =
            std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        self.stop.send_replace(Some(grace));
        while tasks.join_next().await.is_some() {}
    }

    /// Resolves when a subscription is gone for good: the service would be deaf.
    pub(crate) async fn ended(&self) -> Error {
        let mut ended = self.ended.subscribe();
        let found = ended.wait_for(Option::is_some).await;
        let found = found.ok().and_then(|found| found.clone());
        let Some(err) = found else {
            // The sender is here, so there is an error.
            return std::future::pending().await;
        };
        let copy = named(Error::new(err.kind(), err.message().to_owned()));
        let contexts = err.context();
        contexts.fold(copy, |copy, (key, value)| copy.with_context(key, value))
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("Events")
            .field("subscriptions", &tasks.len())
            .finish_non_exhaustive()
    }
}

fn named(err: Error) -> Error {
    err.with_operation("service.subscribe")
}

/// Sees a subscription to its end.
async fn tend(
    subscription: Subscription,
    mut stop: watch::Receiver<Option<Duration>>,
    ended: watch::Sender<Option<Arc<Error>>>,
) {
    let topic = subscription.topic().clone();
    let grace = tokio::select! {
        biased;
        grace = stop.wait_for(Option::is_some) => grace.ok().and_then(|grace| *grace),
        err = subscription.ended() => {
            tracing::error!(%topic, %err, "a subscription ended by itself");
            let err = err.with_context("topic", &topic);
            ended.send_replace(Some(Arc::new(err)));
            return;
        }
    };
    match subscription.stop(grace.unwrap_or_default()).await {
        Ok(stopped) if stopped.unfinished > 0 => tracing::warn!(
            %topic,
            handlers = stopped.unfinished,
            "handlers did not end in time: their messages come again"
        ),
        Ok(_) => {}
        Err(err) => {
            tracing::warn!(%topic, %err, "the broker was not told that a subscriber is gone")
        }
    }
}
