//! Raw tonic: generated code on one or more channels, with the metadata and the deadline that
//! micro's calls have too.

#[allow(
    unreachable_pub,
    clippy::all,
    clippy::clone_on_ref_ptr,
    reason = "generated"
)]
mod generated;

use std::array;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::net::TcpListener;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};

pub(crate) use self::generated::EchoMessage;
use self::generated::echo_client::EchoClient;
use self::generated::echo_server::{Echo as EchoContract, EchoServer};
use crate::Result;
use crate::stacks::{Client, Echo, METADATA, Serving, TIMEOUT};

/// tonic with so many channels, each a connection of its own.
pub(crate) struct Tonic<const CHANNELS: usize>;

impl<const CHANNELS: usize> Echo for Tonic<CHANNELS> {
    const NAME: &'static str = if CHANNELS == 1 { "tonic" } else { "tonic2" };
    const ABOUT: &'static str = if CHANNELS == 1 {
        "raw tonic, one channel, generated code"
    } else {
        "the same, two channels in turn"
    };

    type Client = Clients<CHANNELS>;

    async fn serve() -> Result<Serving> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let server = Server::builder()
            .add_service(EchoServer::new(Service))
            .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
        tokio::spawn(server);
        Ok(Serving::at(address))
    }

    async fn connect(target: &str) -> Result<Clients<CHANNELS>> {
        let mut channels = Vec::with_capacity(CHANNELS);
        for _ in 0..CHANNELS {
            channels.push(EchoClient::connect(format!("http://{target}")).await?);
        }
        let mut metadata = MetadataMap::new();
        for (name, value) in METADATA {
            metadata.insert(name, MetadataValue::from_static(value));
        }
        Ok(Clients {
            channels: array::from_fn(|index| channels[index].clone()),
            turn: Arc::default(),
            metadata,
        })
    }
}

struct Service;

#[tonic::async_trait]
impl EchoContract for Service {
    async fn call(&self, request: Request<EchoMessage>) -> Result<Response<EchoMessage>, Status> {
        Ok(Response::new(request.into_inner()))
    }
}

/// The client's end.
#[derive(Clone)]
pub(crate) struct Clients<const CHANNELS: usize> {
    channels: [EchoClient<Channel>; CHANNELS],
    /// Whose turn it is, among all callers.
    turn: Arc<AtomicUsize>,
    metadata: MetadataMap,
}

impl<const CHANNELS: usize> Client for Clients<CHANNELS> {
    async fn call(&mut self, payload: Bytes) -> Result<Bytes> {
        let mut request = Request::new(EchoMessage { payload });
        request.metadata_mut().clone_from(&self.metadata);
        request.set_timeout(TIMEOUT);
        let turn = if CHANNELS == 1 {
            0
        } else {
            self.turn.fetch_add(1, Ordering::Relaxed) % CHANNELS
        };
        Ok(self.channels[turn]
            .call(request)
            .await?
            .into_inner()
            .payload)
    }
}
