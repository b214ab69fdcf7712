//! micro with everything on: discovery by name (multicast DNS), power of two choices, deadline,
//! middleware on both sides, the protobuf codec, eight metadata entries.

use std::process;

use bytes::Bytes;
use micro::{
    Context, Metadata, Middleware, Next, Request, Response, Service, TlsIdentity, async_trait,
};
use micro_tls::Pem;
use micro_tls::dev::Authority;

use crate::Result;
use crate::stacks::{Client, METADATA, Serving, TIMEOUT};

/// micro as an application uses it: on the fast lane, or as plain gRPC; in the clear, or with both
/// sides known by their certificates.
pub(crate) struct Micro<const LANE: bool, const TLS: bool>;

impl<const LANE: bool, const TLS: bool> Micro<LANE, TLS> {
    const TRANSPORT: &'static str = if LANE { "grpc" } else { "grpc:?lane=off" };
}

/// Where all servers listen, and what their certificates are for.
const HOST: &str = "127.0.0.1";

/// A certificate, its key, and the authority: PEM, in hexadecimal digits and one word.
struct Certified(String);

impl Certified {
    fn new() -> Result<Self> {
        let authority = Authority::new("bench")?;
        let (certificate, key) = authority.issue_pem(&[HOST])?;
        let parts = [certificate, key, authority.pem()];
        let parts = parts.map(|pem| pem.bytes().map(|byte| format!("{byte:02x}")).collect());
        Ok(Self(<[String]>::join(&parts, ".")))
    }

    fn identity(&self) -> Result<TlsIdentity> {
        let mut parts = Vec::new();
        for part in self.0.split('.') {
            let digits = part.as_bytes().chunks(2).map(std::str::from_utf8);
            let bytes = digits.map(|digits| Ok(u8::from_str_radix(digits?, 16)?));
            parts.push(String::from_utf8(bytes.collect::<Result<Vec<_>>>()?)?);
        }
        let [certificate, key, root] = <[String; 3]>::try_from(parts).map_err(|_| "three parts")?;
        let pem = Pem::new().with_certificate(certificate, key);
        Ok(pem.with_roots(root).with_require_client(true).read()?)
    }
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

impl<const LANE: bool, const TLS: bool> crate::stacks::Echo for Micro<LANE, TLS> {
    const NAME: &'static str = match (LANE, TLS) {
        (true, false) => "micro",
        (false, false) => "micro-plain",
        (true, true) => "micro-mtls",
        (false, true) => "micro-plain-mtls",
    };
    const ABOUT: &'static str = match (LANE, TLS) {
        (true, false) => "micro with everything on, by name",
        (false, false) => "the same as plain gRPC, without the fast lane",
        (true, true) => "micro over mutual TLS",
        (false, true) => "plain gRPC over mutual TLS",
    };

    type Client = Caller;

    async fn serve() -> Result<Serving> {
        // A name of this run's own: two benchmarks on one machine do not meet.
        let name = format!("bench-{}", process::id());
        let mut target = name.clone();
        let mut service = Service::new(&name)
            .transport_url(Self::TRANSPORT)
            .middleware(Pass)
            .handle(EchoServer::new(Mirror));
        if TLS {
            let certified = Certified::new()?;
            service = service.address(HOST).identity(certified.identity()?);
            target = format!("{target},{}", certified.0);
        }
        let running = service.start().await?;
        Ok(Serving {
            target,
            end: Box::pin(async move { Ok(running.stop().await?) }),
        })
    }

    async fn connect(target: &str) -> Result<Caller> {
        let (target, certified) = target.split_once(',').unwrap_or((target, ""));
        let mut service = Service::new("bench-client")
            .transport_url(Self::TRANSPORT)
            .client_middleware(Pass);
        if TLS {
            service = service.identity(Certified(certified.to_owned()).identity()?);
        }
        let client = service.client().await?;
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
