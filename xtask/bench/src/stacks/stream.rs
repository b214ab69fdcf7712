//! Raw tonic once more, but each caller keeps one bidirectional stream open and has one message in
//! flight on it: what a call costs at least on this library.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::Result;
use crate::stacks::tonic::EchoMessage;
use crate::stacks::{Client, Echo, Serving};

/// tonic with a stream per caller.
pub(crate) struct Stream;

impl Echo for Stream {
    const NAME: &'static str = "tonic-stream";
    const ABOUT: &'static str = "raw tonic, one bidirectional stream per caller";

    type Client = Caller;

    async fn serve() -> Result<Serving> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let server = Server::builder()
            .add_service(Chat)
            .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
        tokio::spawn(server);
        Ok(Serving::at(address))
    }

    async fn connect(target: &str) -> Result<Caller> {
        let channel = Endpoint::new(format!("http://{target}"))?.connect().await?;
        Ok(Caller {
            channel,
            stream: None,
        })
    }
}

/// Sends every message back.
#[derive(Clone)]
struct Chat;

impl NamedService for Chat {
    const NAME: &'static str = "bench.Chat";
}

impl Service<http::Request<Body>> for Chat {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let codec = ProstCodec::<EchoMessage, EchoMessage>::default();
        Box::pin(async move { Ok(Grpc::new(codec).streaming(Mirror, request).await) })
    }
}

struct Mirror;

impl StreamingService<EchoMessage> for Mirror {
    type Response = EchoMessage;
    type ResponseStream = Streaming<EchoMessage>;
    type Future =
        Pin<Box<dyn Future<Output = Result<Response<Self::ResponseStream>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<EchoMessage>>) -> Self::Future {
        Box::pin(async move { Ok(Response::new(request.into_inner())) })
    }
}

/// The client's end.
pub(crate) struct Caller {
    channel: Channel,
    stream: Option<(mpsc::Sender<EchoMessage>, Streaming<EchoMessage>)>,
}

/// Each clone opens its own stream with its first message.
impl Clone for Caller {
    fn clone(&self) -> Self {
        Self {
            channel: self.channel.clone(),
            stream: None,
        }
    }
}

impl Caller {
    async fn open(&self) -> Result<(mpsc::Sender<EchoMessage>, Streaming<EchoMessage>)> {
        let (sender, messages) = mpsc::channel(1);
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready().await?;
        let replies = grpc
            .streaming(
                Request::new(ReceiverStream::new(messages)),
                http::uri::PathAndQuery::from_static("/bench.Chat/Call"),
                ProstCodec::default(),
            )
            .await?;
        Ok((sender, replies.into_inner()))
    }
}

impl Client for Caller {
    async fn call(&mut self, payload: Bytes) -> Result<Bytes> {
        if self.stream.is_none() {
            self.stream = Some(self.open().await?);
        }
        let Some((sender, replies)) = &mut self.stream else {
            return Err("no stream".into());
        };
        sender.send(EchoMessage { payload }).await?;
        let reply = replies.message().await?.ok_or("the stream ended")?;
        Ok(reply.payload)
    }
}
