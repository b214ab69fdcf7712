#![doc = include_str!("../README.md")]

mod rest;

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use micro_core::{BoxError, Context, Error, Result, async_trait};
use micro_transport_core::{Middleware, Next, Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use self::rest::Slot;
pub use self::rest::{Call, Rest, RestFuture};

/// A tower service around the rest of the call, as [`Middleware`].
#[derive(Clone)]
pub struct Tower<S> {
    service: S,
    map_err: Arc<dyn Fn(BoxError) -> Error + Send + Sync>,
}

impl<S> Tower<S> {
    /// Applies a layer to the rest of the call.
    pub fn layer<L>(layer: L) -> Self
    where
        L: Layer<Rest, Service = S>,
    {
        Self {
            service: layer.layer(Rest::new()),
            map_err: Arc::new(|err| {
                let text = format!("a tower layer refused the call: {err}");
                Error::resource_exhausted(text).with_source(err)
            }),
        }
    }

    /// Says which [`Error`] an error of the layer's own is: a timeout, a full queue.
    ///
    /// Without it, it is `ResourceExhausted`. Errors of the call itself come back as they are.
    #[must_use]
    pub fn map_err(mut self, map: impl Fn(BoxError) -> Error + Send + Sync + 'static) -> Self {
        self.map_err = Arc::new(map);
        self
    }
}

#[async_trait]
impl<S> Middleware for Tower<S>
where
    S: Service<Call, Response = Response> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
{
    async fn call(&self, cx: &Context, request: Request, next: Next<'_>) -> Result<Response> {
        let slot = Arc::new(Slot::default());
        let call = Call::new(cx.clone(), request, Arc::clone(&slot));
        let mut service = self.service.clone();
        let mut outer = pin!(async move {
            poll_fn(|task| service.poll_ready(task)).await?;
            service.call(call).await
        });
        // The layer may run the rest several times, also at once: each is a future of ours, since
        // only we may borrow `next`.
        let mut inner = FuturesUnordered::new();
        let outcome = poll_fn(|task| {
            loop {
                if let Poll::Ready(outcome) = outer.as_mut().poll(task) {
                    return Poll::Ready(outcome);
                }
                for asked in slot.take() {
                    inner.push(async move {
                        let (cx, request, reply) = asked.into_parts();
                        reply.run(next.run(&cx, request)).await;
                    });
                }
                match inner.poll_next_unpin(task) {
                    // The layer has its answer: let it go on.
                    Poll::Ready(Some(())) => {}
                    Poll::Ready(None) | Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await;
        outcome.map_err(|err| {
            let err: BoxError = err.into();
            match err.downcast::<Error>() {
                Ok(err) => *err,
                Err(err) => (self.map_err)(err),
            }
        })
    }
}

impl<S> fmt::Debug for Tower<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tower")
            .field("service", &std::any::type_name::<S>())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use bytes::Bytes;
    use micro_core::ErrorKind;
    use micro_transport_core::{Body, Endpoint};

    use super::*;

    #[derive(Default)]
    struct End {
        calls: AtomicUsize,
        dropped: Arc<AtomicUsize>,
        fail_first: bool,
        slow: bool,
    }

    struct Dropped(Arc<AtomicUsize>);

    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[async_trait]
    impl Endpoint for End {
        async fn call(&self, _: &Context, request: Request) -> Result<Response> {
            let _dropped = Dropped(Arc::clone(&self.dropped));
            if self.slow {
                tokio::time::sleep(Duration::from_secs(60)).await;
            }
            if self.calls.fetch_add(1, Ordering::SeqCst) == 0 && self.fail_first {
                return Err(Error::unavailable("not yet"));
            }
            Ok(Response::new(request.content_type, request.body))
        }
    }

    async fn run(middleware: impl Middleware, end: &End) -> Result<Response> {
        let chain: [Arc<dyn Middleware>; 1] = [Arc::new(middleware)];
        let body = Body::Message(Bytes::from_static(b"hello"));
        let request = Request::new("/a.B/C", "application/json", body);
        Next::new(&chain, end).run(&Context::new(), request).await
    }

    #[tokio::test]
    async fn a_layer_that_does_nothing_changes_nothing() {
        let end = End::default();
        let response = run(Tower::layer(tower_layer::Identity::new()), &end)
            .await
            .unwrap();
        assert_eq!(response.content_type, "application/json");
    }

    #[tokio::test]
    async fn errors_of_the_call_come_back_as_they_are() {
        let end = End {
            fail_first: true,
            ..End::default()
        };
        let err = run(
            Tower::layer(tower::limit::ConcurrencyLimitLayer::new(1)),
            &end,
        )
        .await
        .unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unavailable);
        assert_eq!(err.message(), "not yet");
    }

    #[tokio::test(start_paused = true)]
    async fn a_timeout_drops_the_call() {
        let end = End {
            slow: true,
            ..End::default()
        };
        let layer = tower::timeout::TimeoutLayer::new(Duration::from_secs(1));
        let tower = Tower::layer(layer).map_err(|err| {
            assert!(err.is::<tower::timeout::error::Elapsed>());
            Error::deadline_exceeded("the layer's time is over")
        });
        let err = run(tower, &end).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::DeadlineExceeded);
        assert_eq!(end.dropped.load(Ordering::SeqCst), 1);
        assert_eq!(end.calls.load(Ordering::SeqCst), 0);
    }

    #[derive(Clone)]
    struct Once(bool);

    impl tower::retry::Policy<Call, Response, Error> for Once {
        type Future = std::future::Ready<()>;
        fn retry(&mut self, _: &mut Call, result: &mut Result<Response>) -> Option<Self::Future> {
            let again = result.is_err() && !self.0;
            self.0 = true;
            again.then(|| std::future::ready(()))
        }
        fn clone_request(&mut self, call: &Call) -> Option<Call> {
            call.try_clone()
        }
    }

    #[tokio::test]
    async fn a_retrying_layer_runs_the_rest_again() {
        let end = End {
            fail_first: true,
            ..End::default()
        };
        let layer = tower::retry::RetryLayer::new(Once(false));
        run(Tower::layer(layer), &end).await.unwrap();
        assert_eq!(end.calls.load(Ordering::SeqCst), 2);
    }
}
