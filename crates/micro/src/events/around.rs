//! A service's middleware around its handlers of messages.

use std::sync::Arc;

use bytes::Bytes;
use micro_broker_core::{Delivery, Handler};
use micro_core::{Context, Error, Result, async_trait};
use micro_transport_core::{Body, Endpoint, Middleware, Next, Request, Response};

/// A handler with middleware around it, which sees a message as a call: of the service, and of the
/// endpoint that is named like the topic.
pub(super) struct Around {
    pub(super) handler: Arc<dyn Handler>,
    pub(super) middleware: Arc<[Arc<dyn Middleware>]>,
    pub(super) service: Arc<str>,
    pub(super) path: Arc<str>,
}

#[async_trait]
impl Handler for Around {
    async fn handle(&self, cx: &Context, delivery: &Delivery) -> Result<()> {
        let message = delivery.message();
        let request = Request::new(
            Arc::clone(&self.path),
            message.content_type.clone(),
            Body::Message(message.body.clone()),
        )
        .with_metadata(message.metadata.clone())
        .with_service(Arc::clone(&self.service));
        let end = Innermost {
            handler: &*self.handler,
            delivery,
        };
        let response = Next::new(&self.middleware, &end).run(cx, request).await;
        response.map(drop)
    }
}

struct Innermost<'a> {
    handler: &'a dyn Handler,
    delivery: &'a Delivery,
}

#[async_trait]
impl Endpoint for Innermost<'_> {
    async fn call(&self, cx: &Context, request: Request) -> Result<Response> {
        let Body::Message(body) = request.body else {
            return Err(Error::internal("a middleware made a stream of a message"));
        };
        // What middleware made of it is what the handler gets.
        let mut message = self.delivery.message().clone();
        message.body = body;
        message.content_type = request.content_type;
        message.metadata = request.metadata;
        let content_type = message.content_type.clone();
        let (deliveries, offset) = (self.delivery.deliveries(), self.delivery.offset());
        let progress = self.delivery.progress_handle();
        let delivery = Delivery::new(Arc::new(message), deliveries, progress).with_offset(offset);
        self.handler.handle(cx, &delivery).await?;
        Ok(Response::new(content_type, Body::Message(Bytes::new())))
    }
}
