//! tarpc on one TCP connection, with its bincode transport: calls of another framework of this
//! language. It knows deadlines and no metadata.

use bytes::Bytes;
use futures_util::StreamExt as _;
use tarpc::server::{BaseChannel, Channel as _};
use tarpc::tokio_serde::formats::Bincode;
use tarpc::{client, context, serde_transport};

use crate::Result;
use crate::stacks::{Client, Echo, Serving, TIMEOUT};

/// So many calls may wait in the client, and be under way in the server: more than there are callers.
const CALLS: usize = 1024;

/// tarpc.
pub(crate) struct Tarpc;

#[tarpc::service]
trait Service {
    async fn echo(payload: Bytes) -> Bytes;
}

/// Sends every message back.
#[derive(Clone)]
struct Same;

impl Service for Same {
    async fn echo(self, _: context::Context, payload: Bytes) -> Bytes {
        payload
    }
}

impl Echo for Tarpc {
    const NAME: &'static str = "tarpc";
    const ABOUT: &'static str = "tarpc on one TCP connection, bincode, without metadata";

    type Client = Caller;

    async fn serve() -> Result<Serving> {
        let mut incoming = serde_transport::tcp::listen("127.0.0.1:0", Bincode::default).await?;
        let address = incoming.local_addr();
        tokio::spawn(async move {
            while let Some(Ok(transport)) = incoming.next().await {
                let config = tarpc::server::Config {
                    pending_response_buffer: CALLS,
                };
                let calls = BaseChannel::new(config, transport).execute(Same.serve());
                tokio::spawn(calls.for_each(|call| async {
                    tokio::spawn(call);
                }));
            }
        });
        Ok(Serving::at(address))
    }

    async fn connect(target: &str) -> Result<Caller> {
        let transport = serde_transport::tcp::connect(target, Bincode::default).await?;
        let mut config = client::Config::default();
        config.max_in_flight_requests = CALLS;
        config.pending_request_buffer = CALLS;
        Ok(Caller(ServiceClient::new(config, transport).spawn()))
    }
}

/// A caller of the one connection.
#[derive(Clone)]
pub(crate) struct Caller(ServiceClient);

impl Client for Caller {
    async fn call(&mut self, payload: Bytes) -> Result<Bytes> {
        let mut cx = context::current();
        cx.deadline = tokio::time::Instant::now().into_std() + TIMEOUT;
        Ok(self.0.echo(cx, payload).await?)
    }
}
