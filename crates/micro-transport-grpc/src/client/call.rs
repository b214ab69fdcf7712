//! One call: headers and messages out, headers, messages and a status back.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as TaskContext, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, TE, USER_AGENT};
use http::uri::PathAndQuery;
use http::{Method, Request as HttpRequest, StatusCode, Uri, Version};
use micro_core::{Context, Error, Metadata, Result};
use micro_transport_core::{Body, Request, Response, Trailers, TrailersSender};
use tokio::task::JoinHandle;

use super::{Active, GrpcConnection};
use crate::error;
use crate::frame::{self, Deframer};
use crate::headers;
use crate::lane::{self, Counters};
use crate::outgoing::{End, Outgoing};
use crate::status;

const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");

/// The URI of a method, so that no call parses its path again.
fn uri(connection: &GrpcConnection, path: &Arc<str>) -> Result<Uri> {
    if let Some(uri) = connection.uris.get(&**path) {
        return Ok(uri);
    }
    let invalid = || {
        Error::invalid_argument("a path is '/package.Service/Method'")
            .with_unprocessed(true)
            .with_context("path", path.escape_debug())
    };
    if !path.starts_with('/') {
        return Err(invalid());
    }
    let bytes = Bytes::copy_from_slice(path.as_bytes());
    let path_and_query =
        PathAndQuery::from_maybe_shared(bytes).map_err(|err| invalid().with_source(err))?;
    let uri = Uri::builder()
        .scheme(connection.target.scheme.clone())
        .authority(connection.target.authority.clone())
        .path_and_query(path_and_query)
        .build()
        .map_err(|err| invalid().with_source(err))?;
    connection.uris.add(Arc::clone(path), uri.clone());
    Ok(uri)
}

pub(crate) async fn call(
    connection: &GrpcConnection,
    cx: &Context,
    request: Request,
) -> Result<Response> {
    Counters::add(&connection.counters.plain, 1);
    // Counted before it is asked whether the connection is open: the driver does it the other way
    // round, so that one of the two sees the other.
    let active = Active::new(&connection.state);
    if !connection.state.is_open() {
        return Err(
            Error::unavailable("the connection is closed or going away").with_unprocessed(true)
        );
    }
    let (message_in, message_out, most_headers) = {
        let limits = connection.limits.get();
        (limits.message_in, limits.message_out, limits.headers)
    };
    let target = request.path.len() + connection.target.address.len();
    headers::check_out(&request.metadata, target, most_headers)
        .map_err(|err| err.with_unprocessed(true))?;
    if let Body::Message(message) = &request.body {
        frame::check_out(message.len(), message_out).map_err(|err| err.with_unprocessed(true))?;
    }
    let codec = request.content_type.clone();
    let head = head(connection, cx, &request)?;
    // A handle of our own: h2's wants `&mut`, and may otherwise be waiting for another call.
    let (response, mut send) = connection
        .sender
        .clone()
        .send_request(head, false)
        .map_err(error::not_begun)?;
    let pump = match request.body {
        Body::Message(message) if message.len() <= LARGE => {
            // If it fails, the answer says better why.
            let _ = send_message(&mut send, &message);
            drop(send);
            None
        }
        Body::Message(message) => Some(Pump::start(send, Outgoing::message(message))),
        Body::Stream(messages) => Some(Pump::start(send, Outgoing::stream(messages, message_out))),
        _ => {
            return Err(
                Error::internal("this transport cannot send such a body").with_unprocessed(true)
            );
        }
    };
    let answer = response
        .await
        .map_err(|err| Pump::failure(pump.as_ref()).unwrap_or_else(|| error::call(err)))?;
    received(answer, codec, message_in, pump, active).await
}

/// Fetches the answer to a call of the session that could not travel there.
pub(crate) async fn take(
    connection: &GrpcConnection,
    number: u64,
    codec: Cow<'static, str>,
) -> Result<Response> {
    let active = Active::new(&connection.state);
    let message_in = connection.limits.get().message_in;
    let mut head = lane::client::head(&connection.target, lane::TAKE)
        .ok_or_else(|| Error::internal("the address cannot be part of a request"))?;
    head.headers_mut()
        .insert(lane::TAKE_HEADER, HeaderValue::from(number));
    let (response, _) = connection
        .sender
        .clone()
        .send_request(head, true)
        // The call itself has run.
        .map_err(|err| error::not_begun(err).with_unprocessed(false))?;
    let answer = response
        .await
        .map_err(|err| error::call(err).with_unprocessed(false))?;
    received(answer, codec, message_in, None, active).await
}

async fn received(
    answer: http::Response<RecvStream>,
    codec: Cow<'static, str>,
    message_in: usize,
    pump: Option<Pump>,
    active: Active,
) -> Result<Response> {
    // The rest is often here already: then no stream is made.
    let mut rest = Some((answer, codec, pump, active));
    std::future::poll_fn(|cx| match rest.take() {
        Some((answer, codec, pump, active)) => {
            Poll::Ready(receive(answer, codec, message_in, pump, active, cx))
        }
        None => Poll::Pending,
    })
    .await
}

/// A message up to this size is handed to HTTP/2 at once; a larger one waits for the peer's window
/// in a task.
const LARGE: usize = 64 << 10;

fn head(connection: &GrpcConnection, cx: &Context, request: &Request) -> Result<HttpRequest<()>> {
    let mut head = HttpRequest::new(());
    *head.method_mut() = Method::POST;
    *head.version_mut() = Version::HTTP_2;
    *head.uri_mut() = uri(connection, &request.path)?;
    let mut map = HeaderMap::with_capacity(request.metadata.len() + 5);
    map.insert(TE, TRAILERS);
    map.insert(
        CONTENT_TYPE,
        headers::grpc_of(&request.content_type).map_err(|err| err.with_unprocessed(true))?,
    );
    if !request.metadata.contains("user-agent") {
        map.insert(USER_AGENT, connection.target.user_agent.clone());
    }
    if let Some(left) = cx.remaining() {
        if left.is_zero() {
            return Err(Error::deadline_exceeded(
                "the time for the call ran out before it was sent",
            )
            .with_unprocessed(true));
        }
        headers::put_timeout(left, &mut map);
    }
    if cx.attempt() > 0 {
        map.insert(headers::GRPC_ATTEMPTS, HeaderValue::from(cx.attempt()));
    }
    headers::put_metadata(&request.metadata, &mut map, &connection.names)
        .map_err(|err| err.with_unprocessed(true))?;
    *head.headers_mut() = map;
    Ok(head)
}

fn send_message(send: &mut SendStream<Bytes>, message: &Bytes) -> Result<(), h2::Error> {
    if message.len() <= frame::COPY {
        return send.send_data(frame::framed(message), true);
    }
    let mut prefix = BytesMut::with_capacity(frame::PREFIX);
    frame::put_prefix(&mut prefix, message.len());
    send.send_data(prefix.freeze(), false)?;
    send.send_data(message.clone(), true)
}

/// Sends the messages of a streaming call, in a task of its own: a caller that sends without
/// reading must get on. Ended with the answer's stream.
#[derive(Debug)]
struct Pump {
    task: JoinHandle<()>,
    failure: Arc<Mutex<Option<Error>>>,
}

impl Pump {
    fn start(mut send: SendStream<Bytes>, mut out: Outgoing) -> Self {
        let failure = Arc::new(Mutex::new(None));
        let told = Arc::clone(&failure);
        let task = tokio::spawn(async move {
            let sent = std::future::poll_fn(|cx| {
                if let Poll::Ready(sent) = out.poll_send(&mut send, cx) {
                    return Poll::Ready(Some(sent));
                }
                // Without it a caller's stream would outlive an answer that came early.
                send.poll_reset(cx).map(|_| None)
            })
            .await;
            match sent {
                Some(Ok(())) => {
                    // Fails only if the peer is gone.
                    let _ = send.send_data(Bytes::new(), true);
                }
                Some(Err(End::Failed(err))) => {
                    // Told first: the reset wakes whoever waits for the answer.
                    *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(err);
                    send.send_reset(Reason::CANCEL);
                }
                Some(Err(End::Gone)) | None => {}
            }
        });
        Self { task, failure }
    }

    /// The error of the caller's own stream: it is why the call failed, not the reset that followed.
    fn failure(pump: Option<&Self>) -> Option<Error> {
        pump?
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads the answer: a whole one at once if it is there, else as a stream.
fn receive(
    answer: http::Response<RecvStream>,
    codec: Cow<'static, str>,
    message_in: usize,
    pump: Option<Pump>,
    active: Active,
    cx: &mut TaskContext<'_>,
) -> Result<Response> {
    let (head, body) = answer.into_parts();
    let content_type = head.headers.get(CONTENT_TYPE);
    let content_type = content_type.map_or(&b""[..], HeaderValue::as_bytes);
    // Trailers only: the status is among the headers, and nothing follows.
    let status = status::take(&head.headers);
    let is_over = status.is_some();
    if let Some(Err(err)) = status {
        return Err(err);
    }
    let theirs = headers::codec_of(content_type);
    if !is_over && (head.status != StatusCode::OK || theirs.is_none()) {
        return Err(status::from_http(head.status, content_type));
    }
    let encoded = head
        .headers
        .get(headers::GRPC_ENCODING)
        .is_some_and(|encoding| encoding != "identity");
    let metadata = headers::to_metadata(&head.headers)?;
    let mut incoming = Incoming {
        body,
        deframer: Deframer::new(message_in, encoded),
        state: if is_over {
            State::NoMore
        } else {
            State::Messages
        },
        first: None,
        second: None,
        trailers: None,
        pump,
        _active: active,
    };
    let content_type = theirs.filter(|theirs| *theirs != codec).unwrap_or(codec);
    Ok(match incoming.whole(cx)? {
        Some((message, trailers)) => Response::new(content_type, Body::Message(message))
            .with_metadata(metadata)
            .with_trailers(Trailers::ready(trailers)),
        None => {
            let (sender, trailers) = Trailers::pending();
            incoming.trailers = Some(sender);
            Response::new(content_type, Body::Stream(Box::pin(incoming)))
                .with_metadata(metadata)
                .with_trailers(trailers)
        }
    })
}

/// The messages of an answer. Dropping it resets the stream, and ends what is still being sent.
struct Incoming {
    body: RecvStream,
    deframer: Deframer,
    state: State,
    /// What was read before it was known that the answer is a stream.
    first: Option<Event>,
    second: Option<Event>,
    trailers: Option<TrailersSender>,
    pump: Option<Pump>,
    _active: Active,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Messages,
    Status,
    /// A success without a message.
    NoMore,
    Over,
}

enum Event {
    Message(Bytes),
    End(Result<Metadata>),
}

impl Incoming {
    /// The answer of a unary call, if all of it is here: one message and the status.
    fn whole(&mut self, cx: &mut TaskContext<'_>) -> Result<Option<(Bytes, Metadata)>> {
        let message = match self.poll_event(cx) {
            Poll::Ready(Event::Message(message)) => message,
            // No message came before it, so it may as well be the call's.
            Poll::Ready(Event::End(Err(err))) => return Err(err),
            Poll::Ready(end) => {
                self.first = Some(end);
                return Ok(None);
            }
            Poll::Pending => return Ok(None),
        };
        match self.poll_event(cx) {
            Poll::Ready(Event::End(Ok(trailers))) => return Ok(Some((message, trailers))),
            Poll::Ready(event) => self.second = Some(event),
            Poll::Pending => {}
        }
        self.first = Some(Event::Message(message));
        Ok(None)
    }

    fn poll_event(&mut self, cx: &mut TaskContext<'_>) -> Poll<Event> {
        loop {
            let outcome = match self.state {
                State::Messages => match self.deframer.next() {
                    Ok(Some(message)) => return Poll::Ready(Event::Message(message)),
                    Ok(None) => match ready!(self.body.poll_data(cx)) {
                        Some(Ok(chunk)) => {
                            // The reader has come this far: the peer may send as much again.
                            let _ = self.body.flow_control().release_capacity(chunk.len());
                            self.deframer.push(chunk);
                            continue;
                        }
                        Some(Err(err)) => Err(self.broken(err)),
                        None => {
                            self.state = State::Status;
                            continue;
                        }
                    },
                    Err(err) => Err(err),
                },
                State::Status => match ready!(self.body.poll_trailers(cx)) {
                    Ok(Some(trailers)) => match status::take(&trailers) {
                        // A success that ends within a message is none; a failure may.
                        Some(Ok(())) => self
                            .deframer
                            .finish()
                            .and_then(|()| headers::to_metadata(&trailers)),
                        Some(Err(err)) => Err(err),
                        None => Err(Error::unknown("the answer ended without a status")),
                    },
                    Ok(None) => Err(Error::unknown("the answer ended without a status")),
                    Err(err) => Err(self.broken(err)),
                },
                State::NoMore | State::Over => Ok(Metadata::new()),
            };
            self.state = State::Over;
            return Poll::Ready(Event::End(outcome));
        }
    }

    fn broken(&self, err: h2::Error) -> Error {
        Pump::failure(self.pump.as_ref()).unwrap_or_else(|| error::call(err))
    }
}

impl Stream for Incoming {
    type Item = Result<Bytes>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Bytes>>> {
        let this = &mut *self;
        let event = match this.first.take().or_else(|| this.second.take()) {
            Some(event) => event,
            None => ready!(this.poll_event(cx)),
        };
        Poll::Ready(match event {
            Event::Message(message) => Some(Ok(message)),
            Event::End(Ok(trailers)) => {
                this.pump = None;
                if let Some(sender) = this.trailers.take() {
                    sender.send(trailers);
                }
                None
            }
            Event::End(Err(err)) => {
                this.pump = None;
                Some(Err(err))
            }
        })
    }
}
