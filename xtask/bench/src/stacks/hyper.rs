//! Raw hyper: HTTP/2 with prior knowledge, one connection, POST with the payload as the body. What
//! gRPC on it could cost at best.

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};

use crate::Result;
use crate::stacks::{Client, Echo, METADATA, Serving};

/// hyper on its own.
pub(crate) struct Hyper;

impl Echo for Hyper {
    const NAME: &'static str = "hyper";
    const ABOUT: &'static str = "raw hyper HTTP/2, one connection, POST with eight headers";

    type Client = Sender;

    async fn serve() -> Result<Serving> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream));
            }
        });
        Ok(Serving::at(address))
    }

    async fn connect(target: &str) -> Result<Sender> {
        let stream = TcpStream::connect(target).await?;
        stream.set_nodelay(true)?;
        let (send, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await?;
        tokio::spawn(connection);
        let mut headers = HeaderMap::new();
        for (name, value) in METADATA {
            headers.insert(name, HeaderValue::from_static(value));
        }
        Ok(Sender {
            send,
            uri: format!("http://{target}/bench.Echo/Call").parse()?,
            headers,
        })
    }
}

async fn serve(stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service_fn(echo))
        .await?;
    Ok(())
}

async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, body) = match request.into_body().collect().await {
        Ok(body) => (StatusCode::OK, body.to_bytes()),
        Err(_) => (StatusCode::BAD_REQUEST, Bytes::new()),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    Ok(response)
}

/// The client's end.
#[derive(Clone)]
pub(crate) struct Sender {
    send: SendRequest<Full<Bytes>>,
    uri: Uri,
    headers: HeaderMap,
}

impl Client for Sender {
    async fn call(&mut self, payload: Bytes) -> Result<Bytes> {
        let mut request = Request::new(Full::new(payload));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        request.headers_mut().clone_from(&self.headers);
        let response = self.send.send_request(request).await?;
        if response.status() != StatusCode::OK {
            return Err(format!("the server answered {}", response.status()).into());
        }
        Ok(response.into_body().collect().await?.to_bytes())
    }
}
