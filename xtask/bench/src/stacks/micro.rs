//! micro with everything on: discovery by name (multicast DNS), power of two choices, deadline,
//! middleware on both sides, the protobuf codec, eight metadata entries.

use std::process;

use bytes::Bytes;
use micro::{Context, Metadata, Middleware, Next, Request, Response, Service, async_trait};

use crate::Result;
use crate::stacks::{Client, METADATA, Serving, TIMEOUT};

/// micro as an application uses it: on the fast lane, or as plain gRPC.
pub(crate) struct Micro<const LANE: bool>;

impl<const LANE: bool> Micro<LANE> {
    const TRANSPORT: &'static str = if LANE { "grpc" } else { "grpc:?lane=off" };
}

#[derive(Clone, Debug, Default, PartialEq, micro::Message)]
pub(crate) struct EchoMessage {
    payload: Bytes,
}

#[micro::service]
pub(crate) trait Echo {
    async fn call(&self, cx: &Context, message: EchoMessage) -> micro::Result<EchoMessage>;
}

struct Mirror;

impl Echo for Mirror {
    async fn call(&self, _: &Context, message: EchoMessage) -> micro::Result<EchoMessage> {
        Ok(message)
    }
}

/// Middleware that does nothing but stand there.
#[derive(Debug)]
struct Pass;

#[async_trait]
impl Middleware for Pass {
    async fn call(
        &self,
        cx: &Context,
        request: Request,
        next: Next<'_>,
    ) -> micro::Result<Response> {
        next.run(cx, request).await
    }
}

impl<const LANE: bool> crate::stacks::Echo for Micro<LANE> {
    const NAME: &'static str = if LANE { "micro" } else { "micro-plain" };
    const ABOUT: &'static str = if LANE {
        "micro with everything on, by name"
    } else {
        "the same as plain gRPC, without the fast lane"
    };

    type Client = Caller;

    async fn serve() -> Result<Serving> {
        // A name of this run's own: two benchmarks on one machine do not meet.
        let name = format!("bench-{}", process::id());
        let running = Service::new(&name)
            .transport_url(Self::TRANSPORT)
            .middleware(Pass)
            .handle(EchoServer::new(Mirror))
            .start()
            .await?;
        Ok(Serving {
            target: name,
            end: Box::pin(async move { Ok(running.stop().await?) }),
        })
    }

    async fn connect(target: &str) -> Result<Caller> {
        let client = Service::new("bench-client")
            .transport_url(Self::TRANSPORT)
            .client_middleware(Pass)
            .client()
            .await?;
        let mut metadata = Metadata::new();
        for (name, value) in METADATA {
            metadata.insert(name, value)?;
        }
        let mut caller = Caller {
            echo: EchoClient::new(client, target),
            metadata,
        };
        // The first call finds the service.
        caller.call(Bytes::new()).await?;
        Ok(caller)
    }
}

/// The client's end.
#[derive(Clone)]
pub(crate) struct Caller {
    echo: EchoClient,
    metadata: Metadata,
}

impl Client for Caller {
    async fn call(&mut self, payload: Bytes) -> Result<Bytes> {
        let cx = Context::new()
            .with_timeout(TIMEOUT)
            .with_outgoing(self.metadata.clone());
        Ok(self.echo.call(&cx, EchoMessage { payload }).await?.payload)
    }
}
