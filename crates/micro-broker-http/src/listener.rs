//! A port of the broker's own.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use micro_broker_core::{Error, Result};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use crate::courier::{DELIVERY, RETRY_IN};
#[cfg(feature = "tls")]
use crate::tls::Acceptor;
use crate::{HttpBrokerConfig, Inlet, Post, Reply};

/// The headers of a request may take so long, and the body.
const HEADERS_IN: Duration = Duration::from_secs(10);
const BODY_IN: Duration = Duration::from_secs(30);

/// A port, and who may come in.
#[derive(Clone)]
pub(crate) struct Port {
    inlet: Arc<Inlet>,
    #[cfg(feature = "tls")]
    tls: Option<Arc<Acceptor>>,
}

impl Port {
    /// # Errors
    ///
    /// `InvalidArgument` for an identity that no listener can have.
    pub(crate) fn new(inlet: Arc<Inlet>, config: &HttpBrokerConfig) -> Result<Self> {
        let _ = config;
        Ok(Self {
            inlet,
            #[cfg(feature = "tls")]
            tls: match &config.tls {
                Some(identity) => Some(Arc::new(Acceptor::new(identity.clone())?)),
                None => None,
            },
        })
    }

    /// Serves a connection to its end.
    async fn serve(self, tcp: TcpStream) {
        let _ = tcp.set_nodelay(true);
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            match timeout(HEADERS_IN, tls.acceptor().accept(tcp)).await {
                Ok(Ok(stream)) => self.speak(stream).await,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "a connection speaks no TLS that will do")
                }
                Err(_) => tracing::debug!("a connection does not come to speak"),
            }
            return;
        }
        self.speak(tcp).await;
    }

    async fn speak(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send) {
        let serve =
            service_fn(|request| async { Ok::<_, Infallible>(answer(request, &self.inlet).await) });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS_IN)
            .max_buf_size(64 << 10)
            .serve_connection(TokioIo::new(stream), serve);
        if let Err(error) = served.await {
            tracing::debug!(%error, "a connection ended");
        }
    }
}

/// Binds the address and serves the port until the broker is gone.
pub(crate) async fn listen(
    config: &HttpBrokerConfig,
    inlet: Arc<Inlet>,
    mut over: watch::Receiver<bool>,
) -> Result<SocketAddr> {
    let failed = |err: std::io::Error| {
        Error::from(err)
            .with_operation("broker.listen")
            .with_context("address", &config.address)
    };
    let port = Port::new(inlet, config)?;
    let listener = TcpListener::bind(&config.address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    if !(bound.ip().is_loopback() || config.is_secure()) {
        tracing::warn!(address = %bound, "messages are received from the network unencrypted");
    }
    let connections = Arc::new(Semaphore::new(config.max_connections));
    tokio::spawn(async move {
        loop {
            let Ok(slot) = Arc::clone(&connections).acquire_owned().await else {
                return;
            };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = over.wait_for(|over| *over) => return,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Too many files, and the like: a moment later there may be room.
                    tracing::warn!(%error, "a connection cannot be accepted");
                    sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let (port, mut over) = (port.clone(), over.clone());
            tokio::spawn(async move {
                let _slot = slot;
                tokio::select! {
                    () = port.serve(stream) => {}
                    _ = over.wait_for(|over| *over) => {}
                }
            });
        }
    });
    Ok(bound)
}

async fn answer(request: Request<Incoming>, inlet: &Inlet) -> Response<Full<Bytes>> {
    if request.method() != Method::POST {
        let mut response = written(&Reply::of(405, "micro: messages are posted"));
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    let reply = match read(request, inlet).await {
        Ok(post) => inlet.receive(post).await,
        Err(reply) => reply,
    };
    written(&reply)
}

async fn read(request: Request<Incoming>, inlet: &Inlet) -> std::result::Result<Post, Reply> {
    let too_large = Reply::of(413, "micro: the message is too large");
    let query = request.uri().query().unwrap_or_default().as_bytes();
    let id = url::form_urlencoded::parse(query).find(|(name, _)| name == "id");
    let id = match id {
        Some((_, id)) if request.uri().path() == "/" && id.len() <= 512 => id.into_owned(),
        _ => {
            return Err(Reply::of(
                404,
                "micro: messages are posted to /?id=<subscriber>",
            ));
        }
    };
    let delivery = match request.headers().get(DELIVERY) {
        None => None,
        Some(value) => {
            let number = value.to_str().ok().and_then(|text| text.parse().ok());
            Some(number.ok_or(Reply::of(400, "micro: micro-delivery is no number"))?)
        }
    };
    let body = request.into_body();
    if body.size_hint().lower() > inlet.max_request() as u64 {
        return Err(too_large);
    }
    let whole = timeout(BODY_IN, Limited::new(body, inlet.max_request()).collect()).await;
    match whole {
        Ok(Ok(body)) => Ok(Post::new(id, delivery, body.to_bytes())),
        Ok(Err(err)) if err.is::<LengthLimitError>() => Err(too_large),
        Ok(Err(_)) => Err(Reply::of(400, "micro: the message breaks off")),
        Err(_) => Err(Reply::of(408, "micro: the message does not come in time")),
    }
}

fn written(reply: &Reply) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(reply.text));
    *response.status_mut() =
        http::StatusCode::from_u16(reply.status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    if let Some(pause) = reply.retry_in {
        let millis = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        headers.insert(RETRY_IN, HeaderValue::from(millis));
    }
    response
}
