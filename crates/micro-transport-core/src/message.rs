//! What travels: requests and responses.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures_core::Stream;

use crate::{Metadata, Result};

/// A boxed future.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A stream of encoded messages; dropping it tells the other side.
pub type Messages = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send + 'static>>;

/// One message or many.
#[non_exhaustive]
pub enum Body {
    /// Exactly one message: the fast path of unary calls.
    Message(Bytes),
    /// Any number of messages.
    Stream(Messages),
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message(bytes) => write!(f, "Message({} bytes)", bytes.len()),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Peer {
    /// The address, as `host:port`, or whatever the transport calls its peers.
    pub address: String,
    /// The verified certificate chain, leaf first, as DER; empty without mutual TLS.
    pub certificates: Arc<[Bytes]>,
    /// Whether the peer is on this machine: a loopback address, or this very process.
    pub local: bool,
}

impl Peer {
    /// A peer at a socket address; loopback addresses are local.
    #[must_use]
    pub fn from_socket(address: SocketAddr) -> Self {
        Self {
            address: address.to_string(),
            certificates: Arc::default(),
            local: address.ip().to_canonical().is_loopback(),
        }
    }

    /// A peer in this process.
    #[must_use]
    pub fn in_process(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            certificates: Arc::default(),
            local: true,
        }
    }

    /// Sets the verified certificate chain, leaf first.
    #[must_use]
    pub fn with_certificates(mut self, certificates: impl Into<Arc<[Bytes]>>) -> Self {
        self.certificates = certificates.into();
        self
    }
}

/// A call on its way: what is on the wire.
#[derive(Debug)]
#[non_exhaustive]
pub struct Request {
    /// `/package.Service/Method`.
    pub path: Arc<str>,
    /// What travels beside the message; the deadline is in the [`Context`](crate::Context).
    pub metadata: Metadata,
    /// The codec's content type, without the transport's framing: `application/protobuf`.
    pub content_type: Cow<'static, str>,
    /// Who calls; set by the listener.
    pub peer: Option<Arc<Peer>>,
    /// The registry name of the service that is called, for a client's middleware; it does not
    /// travel.
    pub service: Option<Arc<str>>,
    /// The message or messages.
    pub body: Body,
}

impl Request {
    /// A request without metadata.
    #[must_use]
    pub fn new(
        path: impl Into<Arc<str>>,
        content_type: impl Into<Cow<'static, str>>,
        body: Body,
    ) -> Self {
        Self {
            path: path.into(),
            metadata: Metadata::new(),
            content_type: content_type.into(),
            peer: None,
            service: None,
            body,
        }
    }

    /// Sets the metadata.
    #[must_use]
    pub fn with_metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = metadata;
        self
    }

    /// Sets who calls.
    #[must_use]
    pub fn with_peer(mut self, peer: Arc<Peer>) -> Self {
        self.peer = Some(peer);
        self
    }

    /// Sets the service that is called.
    #[must_use]
    pub fn with_service(mut self, service: impl Into<Arc<str>>) -> Self {
        self.service = Some(service.into());
        self
    }

    /// A copy to be sent again; `None` for a stream, which cannot be.
    #[must_use]
    pub fn try_clone(&self) -> Option<Self> {
        let Body::Message(message) = &self.body else {
            return None;
        };
        Some(Self {
            path: Arc::clone(&self.path),
            metadata: self.metadata.clone(),
            content_type: self.content_type.clone(),
            peer: self.peer.clone(),
            service: self.service.clone(),
            body: Body::Message(message.clone()),
        })
    }
}

/// The answer to a call. A failed call has none: it is an [`Error`](crate::Error).
#[derive(Debug)]
#[non_exhaustive]
pub struct Response {
    /// What travels ahead of the first message.
    pub metadata: Metadata,
    /// The codec's content type, without the transport's framing.
    pub content_type: Cow<'static, str>,
    /// The message or messages.
    pub body: Body,
    /// What travels behind the last message.
    pub trailers: Trailers,
}

impl Response {
    /// A response without metadata and trailers.
    #[must_use]
    pub fn new(content_type: impl Into<Cow<'static, str>>, body: Body) -> Self {
        Self {
            metadata: Metadata::new(),
            content_type: content_type.into(),
            body,
            trailers: Trailers::default(),
        }
    }

    /// Sets the metadata.
    #[must_use]
    pub fn with_metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = metadata;
        self
    }

    /// Sets the trailers.
    #[must_use]
    pub fn with_trailers(mut self, trailers: Trailers) -> Self {
        self.trailers = trailers;
        self
    }
}

/// Metadata behind the last message: known at once for a unary call, at its end for a stream.
#[derive(Clone, Debug, Default)]
pub struct Trailers(Option<Arc<OnceLock<Metadata>>>);

impl Trailers {
    /// Trailers that are known already.
    #[must_use]
    pub fn ready(metadata: Metadata) -> Self {
        if metadata.is_empty() {
            return Self(None);
        }
        Self(Some(Arc::new(OnceLock::from(metadata))))
    }

    /// Trailers that come with the end of a stream, and the handle that sets them.
    #[must_use]
    pub fn pending() -> (TrailersSender, Self) {
        let slot = Arc::default();
        (TrailersSender(Arc::clone(&slot)), Self(Some(slot)))
    }

    /// The trailers: for a stream, `None` before its end.
    #[must_use]
    pub fn get(&self) -> Option<&Metadata> {
        static NONE: Metadata = Metadata::new();
        match &self.0 {
            Some(slot) => slot.get(),
            None => Some(&NONE),
        }
    }
}

/// Sets [`Trailers`] at the end of a stream.
#[derive(Debug)]
pub struct TrailersSender(Arc<OnceLock<Metadata>>);

impl TrailersSender {
    /// Sets them; only the first time counts.
    pub fn send(&self, metadata: Metadata) {
        // Set twice only by a caller's mistake, and then the first one stands.
        let _ = self.0.set(metadata);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_cannot_be_sent_again_and_a_message_can() {
        struct Never;
        impl Stream for Never {
            type Item = Result<Bytes>;
            fn poll_next(
                self: Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
            ) -> std::task::Poll<Option<Self::Item>> {
                std::task::Poll::Pending
            }
        }
        let body = Body::Message(Bytes::from_static(b"x"));
        assert!(
            Request::new("/a.B/C", "application/json", body)
                .try_clone()
                .is_some()
        );
        let body = Body::Stream(Box::pin(Never));
        assert!(
            Request::new("/a.B/C", "application/json", body)
                .try_clone()
                .is_none()
        );
    }

    #[test]
    fn loopback_is_local_also_when_mapped() {
        for (address, local) in [
            ("127.0.0.1:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("10.0.0.1:1", false),
            ("[::ffff:10.0.0.1]:1", false),
        ] {
            assert_eq!(
                Peer::from_socket(address.parse().unwrap()).local,
                local,
                "{address}"
            );
        }
    }
}
