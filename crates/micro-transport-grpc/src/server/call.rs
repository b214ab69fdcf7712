//! One call on a connection: from its headers to the last byte of its answer.

use std::borrow::Cow;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, Request as HttpRequest, Response as HttpResponse};
use micro_core::{Canceller, Context, Error, Result};
use micro_transport_core::{Body, BoxFuture, Request, Response, Trailers};
use tokio::time::Sleep;

use super::Conn;
use super::paths::Path;
use super::post;
use crate::frame::{self, Deframer};
use crate::outgoing::{End, Outgoing};
use crate::{headers, status};

/// A message up to this size is handed to HTTP/2 at once, whatever the peer's window: 256 calls
/// then hold 4 MiB at most. A larger one waits here for room.
const AT_ONCE: usize = 16 << 10;

/// A call given up within this time of its arrival counts against the peer.
pub(crate) const EARLY: Duration = Duration::from_millis(10);

/// How a call ended, as far as its connection minds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Answered,
    /// The peer gave it up just after it sent it.
    GivenUpEarly,
    GivenUp,
}

/// What came of beginning a call.
#[expect(
    clippy::large_enum_variant,
    reason = "it is moved once, into its slot; a box would be an allocation for each call that waits"
)]
pub(crate) enum Begun {
    Over(Ended),
    Waits(Call),
}

/// A call that is not over.
pub(crate) struct Call {
    conn: Arc<Conn>,
    path: Arc<Path>,
    wire: Wire,
    limits: PerCall,
    arrived: Instant,
    canceller: Option<Canceller>,
    deadline: Option<Instant>,
    /// Whether the deadline is the listener's and not the caller's.
    default_deadline: bool,
    /// Armed when the handler is first found pending.
    timer: Option<Pin<Box<Sleep>>>,
    /// Armed while the peer takes nothing.
    stall: Option<Pin<Box<Sleep>>>,
    stage: Stage,
    ended: Ended,
}

/// The limits that are read once per call.
#[derive(Clone, Copy)]
struct PerCall {
    message_in: usize,
    message_out: usize,
    headers: usize,
    call: Duration,
}

impl PerCall {
    fn new(conn: &Conn) -> Self {
        let limits = conn.limits.get();
        Self {
            message_in: limits.message_in,
            message_out: limits.message_out,
            headers: limits.headers,
            call: limits.call,
        }
    }
}

/// How the call is framed.
enum Wire {
    Grpc {
        codec: Cow<'static, str>,
        content_type: HeaderValue,
    },
    Post {
        codec: Cow<'static, str>,
    },
}

enum Stage {
    /// The body of a simple POST is still coming.
    Reading {
        respond: SendResponse<Bytes>,
        body: RecvStream,
        buf: BytesMut,
        headers: Box<HeaderMap>,
    },
    Handling {
        respond: SendResponse<Bytes>,
        handler: BoxFuture<'static, Result<Response>>,
    },
    Sending {
        send: SendStream<Bytes>,
        out: Outgoing,
        trailers: Option<Trailers>,
    },
    Over,
}

/// The answer to a call of a session, kept until it is taken as a plain one.
pub(crate) struct Parked {
    call: Call,
    response: Response,
}

impl Parked {
    /// Whether the call's time is over.
    pub(crate) fn is_late(&self, now: Instant) -> bool {
        self.call.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Answers with it.
    pub(crate) fn answer(
        self,
        respond: SendResponse<Bytes>,
        cx: &mut TaskContext<'_>,
    ) -> Result<Begun> {
        let Self { mut call, response } = self;
        if let Wire::Grpc { codec, .. } = &call.wire {
            let content_type = headers::grpc_of(codec)?;
            call.wire = Wire::Grpc {
                codec: codec.clone(),
                content_type,
            };
        }
        call.stage = call.finish(respond, Ok(response), cx);
        Ok(call.go_on(cx))
    }
}

impl Call {
    /// Keeps an answer whose caller has to fetch it.
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of a call, named at the one caller"
    )]
    pub(crate) fn park(
        conn: &Arc<Conn>,
        path: Arc<Path>,
        codec: Cow<'static, str>,
        arrived: Instant,
        deadline: Option<Instant>,
        default_deadline: bool,
        canceller: Option<Canceller>,
        response: Response,
    ) -> Parked {
        let wire = Wire::Grpc {
            codec,
            // Made when it is taken.
            content_type: HeaderValue::from_static("application/grpc"),
        };
        let mut call = Self::new(conn, path, wire, PerCall::new(conn), arrived);
        call.deadline = deadline;
        call.default_deadline = default_deadline;
        call.canceller = canceller;
        Parked { call, response }
    }

    /// Answers a call that the listener itself refuses.
    pub(crate) fn refuse(mut respond: SendResponse<Bytes>, err: &Error) {
        let mut response = HttpResponse::new(());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        status::put(err, headers);
        // Fails only if the peer is gone.
        let _ = respond.send_response(response, true);
    }

    /// Begins a call and goes as far as it gets without waiting.
    pub(crate) fn begin(
        conn: &Arc<Conn>,
        path: Arc<Path>,
        request: HttpRequest<RecvStream>,
        mut respond: SendResponse<Bytes>,
        now: Instant,
        cx: &mut TaskContext<'_>,
    ) -> Begun {
        let (parts, body) = request.into_parts();
        let content_type = parts.headers.get(CONTENT_TYPE);
        let codec = content_type.and_then(|value| headers::codec_of(value.as_bytes()));
        if let (Some(codec), Some(content_type)) = (codec, content_type) {
            let content_type = content_type.clone();
            let wire = Wire::Grpc {
                codec,
                content_type,
            };
            let mut call = Self::new(conn, path, wire, PerCall::new(conn), now);
            match call.grpc(&parts, body, cx) {
                Ok(handler) => call.stage = Stage::Handling { respond, handler },
                Err(Refusal::Error(err)) => {
                    call.fail(respond, &err);
                    return Begun::Over(Ended::Answered);
                }
                // The caller is gone already.
                Err(Refusal::Gone) => return Begun::Over(Ended::GivenUpEarly),
            }
            return call.go_on(cx);
        }
        let limits = PerCall::new(conn);
        match post::check(&parts.method, &parts.uri, &parts.headers, limits.message_in) {
            Ok(codec) => {
                let mut call = Self::new(conn, path, Wire::Post { codec }, limits, now);
                // Until the message is whole, the default bounds the wait.
                call.deadline = now.checked_add(limits.call);
                call.stage = Stage::Reading {
                    respond,
                    body,
                    buf: BytesMut::new(),
                    headers: Box::new(parts.headers),
                };
                call.go_on(cx)
            }
            Err(answer) => {
                send_answer(&mut respond, *answer);
                Begun::Over(Ended::Answered)
            }
        }
    }

    fn new(
        conn: &Arc<Conn>,
        path: Arc<Path>,
        wire: Wire,
        limits: PerCall,
        arrived: Instant,
    ) -> Self {
        Self {
            conn: Arc::clone(conn),
            path,
            wire,
            limits,
            arrived,
            canceller: None,
            deadline: None,
            default_deadline: false,
            timer: None,
            stall: None,
            stage: Stage::Over,
            ended: Ended::Answered,
        }
    }

    fn go_on(mut self, cx: &mut TaskContext<'_>) -> Begun {
        if self.is_slow() {
            return Begun::Waits(self);
        }
        match Pin::new(&mut self).poll(cx) {
            Poll::Ready(ended) => Begun::Over(ended),
            Poll::Pending => Begun::Waits(self),
        }
    }

    /// The peer is gone. Cancelled first, so that whatever hears of it runs before the drop.
    fn give_up(&mut self) {
        self.cancel();
        self.stage = Stage::Over;
        let age = self
            .conn
            .clock
            .now()
            .saturating_duration_since(self.arrived);
        self.ended = if age < EARLY {
            Ended::GivenUpEarly
        } else {
            Ended::GivenUp
        };
    }

    /// Whether the call belongs into a task of its own, because its handler computes for long.
    pub(crate) fn is_slow(&self) -> bool {
        matches!(self.stage, Stage::Handling { .. }) && self.conn.slow.contains(&self.path.path)
    }

    /// Starts the handler of a gRPC call.
    fn grpc(
        &mut self,
        head: &http::request::Parts,
        mut body: RecvStream,
        cx: &mut TaskContext<'_>,
    ) -> Result<BoxFuture<'static, Result<Response>>, Refusal> {
        if head.method != Method::POST {
            return Err(Error::internal("a gRPC call is a POST").into());
        }
        post::check_host(&head.uri, &head.headers)?;
        let encoded = head
            .headers
            .get(headers::GRPC_ENCODING)
            .is_some_and(|encoding| encoding != "identity");
        let mut deframer = Deframer::new(self.limits.message_in, encoded);
        let message = first_message(&mut body, &mut deframer, cx)?;
        let body = match message {
            Some(message) => Body::Message(message),
            None => Body::Stream(Box::pin(Incoming {
                body,
                deframer,
                over: false,
            })),
        };
        Ok(self.handle(&head.headers, body)?)
    }

    /// Makes context and request and starts the handler.
    fn handle(
        &mut self,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<BoxFuture<'static, Result<Response>>> {
        let timeout = headers::timeout(headers)?;
        if timeout == Some(Duration::ZERO) {
            return Err(out_of_time());
        }
        // Beyond what the clock can hold is no deadline.
        let deadline = timeout.and_then(|timeout| self.arrived.checked_add(timeout));
        self.deadline = deadline;
        if timeout.is_none() && matches!(body, Body::Message(_)) {
            // Not in the context: the answer may turn out to be a stream, which has no such limit.
            self.deadline = self.arrived.checked_add(self.limits.call);
            self.default_deadline = true;
        }
        let codec = match &self.wire {
            Wire::Grpc { codec, .. } | Wire::Post { codec } => codec.clone(),
        };
        let metadata = headers::to_metadata(headers)?;
        let attempt = headers::attempt(headers);
        let (mut cx, canceller) =
            Context::serve(Some(Arc::clone(&self.conn.clock)), metadata.clone());
        if let Some(deadline) = deadline {
            cx = cx.with_deadline(deadline);
        }
        if attempt > 0 {
            cx = cx.with_attempt(attempt);
        }
        self.canceller = Some(canceller);
        let request = Request::new(Arc::clone(&self.path.path), codec, body)
            .with_metadata(metadata)
            .with_peer(Arc::clone(&self.conn.peer));
        let handler = Arc::clone(&self.conn.handler);
        // A handler may panic before it has returned its future, too.
        std::panic::catch_unwind(AssertUnwindSafe(|| handler.call(cx, request)))
            .map_err(|_| panicked(&self.path.path))
    }

    /// Answers a call that failed.
    fn fail(&self, mut respond: SendResponse<Bytes>, err: &Error) {
        let content_type = match &self.wire {
            Wire::Grpc { content_type, .. } => content_type.clone(),
            Wire::Post { .. } => {
                send_answer(&mut respond, post::error(err));
                return;
            }
        };
        let mut response = HttpResponse::new(());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, content_type);
        status::put(err, headers);
        if err.kind() == micro_core::ErrorKind::Unimplemented {
            headers.insert(
                headers::GRPC_ACCEPT_ENCODING,
                HeaderValue::from_static("identity"),
            );
        }
        // Fails only if the peer is gone.
        let _ = respond.send_response(response, true);
    }

    /// Answers a call whose handler is done; says whether more is to be sent.
    fn finish(
        &mut self,
        mut respond: SendResponse<Bytes>,
        outcome: Result<Response>,
        cx: &mut TaskContext<'_>,
    ) -> Stage {
        if let Wire::Post { .. } = self.wire {
            let limit = self.limits.message_out;
            return match post::answer(outcome, limit, &self.conn.names) {
                answer if answer.body().len() <= AT_ONCE => {
                    send_answer(&mut respond, answer);
                    Stage::Over
                }
                answer => {
                    let (parts, message) = answer.into_parts();
                    match respond.send_response(HttpResponse::from_parts(parts, ()), false) {
                        Ok(send) => Stage::Sending {
                            send,
                            out: Outgoing::bare(message),
                            trailers: None,
                        },
                        Err(_) => Stage::Over,
                    }
                }
            };
        }
        match outcome.and_then(|response| self.head(response)) {
            Ok((head, body, trailers)) => {
                let limit = self.limits.message_out;
                let out = match body {
                    Body::Message(message) => {
                        if let Err(err) = frame::check_out(message.len(), limit) {
                            self.fail(respond, &err);
                            return Stage::Over;
                        }
                        if message.len() <= AT_ONCE {
                            let most = self.limits.headers;
                            send_message(&mut respond, head, &message, &trailers, &self.conn, most);
                            return Stage::Over;
                        }
                        Outgoing::message(message)
                    }
                    Body::Stream(messages) => {
                        if self.default_deadline {
                            self.deadline = None;
                            self.timer = None;
                        }
                        let mut out = Outgoing::stream(messages, limit);
                        // An error before the first message needs no headers of its own.
                        let filled =
                            std::panic::catch_unwind(AssertUnwindSafe(|| out.poll_fill(cx)));
                        if filled.is_err() {
                            out.fail(panicked(&self.path.path));
                        }
                        if let Some(err) = out.take_early_failure() {
                            self.fail(respond, &err);
                            return Stage::Over;
                        }
                        out
                    }
                    // Whatever bodies there may be one day.
                    _ => {
                        let err = Error::internal("this transport cannot send such a body");
                        self.fail(respond, &err);
                        return Stage::Over;
                    }
                };
                match respond.send_response(head, false) {
                    Ok(send) => Stage::Sending {
                        send,
                        out,
                        trailers: Some(trailers),
                    },
                    Err(_) => Stage::Over,
                }
            }
            Err(err) => {
                self.fail(respond, &err);
                Stage::Over
            }
        }
    }

    /// The response's headers.
    fn head(&self, response: Response) -> Result<(HttpResponse<()>, Body, Trailers)> {
        headers::check_out(&response.metadata, 0, self.limits.headers)?;
        let mut head = HttpResponse::new(());
        let content_type = match &self.wire {
            Wire::Grpc {
                codec,
                content_type,
            } if *codec == response.content_type => content_type.clone(),
            _ => headers::grpc_of(&response.content_type)?,
        };
        let headers = head.headers_mut();
        headers.insert(CONTENT_TYPE, content_type);
        headers::put_metadata(&response.metadata, headers, &self.conn.names)?;
        Ok((head, response.body, response.trailers))
    }

    fn cancel(&mut self) {
        if let Some(canceller) = self.canceller.take() {
            canceller.cancel();
        }
    }

    /// Whether the deadline has passed. The timer is armed at the first question.
    fn poll_deadline(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline else {
            return Poll::Pending;
        };
        let clock = &self.conn.clock;
        let timer = self.timer.get_or_insert_with(|| {
            let left = deadline.saturating_duration_since(clock.now());
            Box::pin(tokio::time::sleep(left))
        });
        timer.as_mut().poll(cx)
    }

    /// Whether the peer has taken nothing for too long.
    fn poll_stall(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        let patience = self.conn.idle;
        let stall = self
            .stall
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        stall.as_mut().poll(cx)
    }

    fn poll_reading(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        let limit = self.limits.message_in;
        loop {
            let Stage::Reading {
                body, buf, respond, ..
            } = &mut self.stage
            else {
                return Poll::Ready(());
            };
            let chunk = match body.poll_data(cx) {
                Poll::Ready(Some(Ok(chunk))) => chunk,
                Poll::Ready(Some(Err(_))) => {
                    self.give_up();
                    return Poll::Ready(());
                }
                Poll::Ready(None) => break,
                Poll::Pending => {
                    ready!(self.poll_deadline(cx));
                    if let Stage::Reading { respond, .. } = &mut self.stage {
                        send_answer(respond, post::error(&out_of_time()));
                    }
                    self.stage = Stage::Over;
                    return Poll::Ready(());
                }
            };
            let _ = body.flow_control().release_capacity(chunk.len());
            if buf.len() + chunk.len() > limit {
                send_answer(respond, post::too_large(limit));
                self.stage = Stage::Over;
                return Poll::Ready(());
            }
            buf.extend_from_slice(&chunk);
        }
        let Stage::Reading {
            respond,
            buf,
            headers,
            ..
        } = std::mem::replace(&mut self.stage, Stage::Over)
        else {
            return Poll::Ready(());
        };
        self.timer = None;
        match self.handle(&headers, Body::Message(buf.freeze())) {
            Ok(handler) => self.stage = Stage::Handling { respond, handler },
            Err(err) => self.fail(respond, &err),
        }
        Poll::Ready(())
    }

    fn poll_handling(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        let Stage::Handling { handler, .. } = &mut self.stage else {
            return Poll::Ready(());
        };
        let began = self.conn.clock.now();
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| handler.as_mut().poll(cx)));
        let took = self.conn.clock.now().saturating_duration_since(began);
        if self.path.polled(took) {
            self.conn.slow.add(&self.path.path);
        }
        let outcome = match polled {
            Ok(Poll::Ready(outcome)) => outcome,
            Err(_) => {
                self.cancel();
                Err(panicked(&self.path.path))
            }
            Ok(Poll::Pending) => {
                if self.poll_gone(cx).is_ready() {
                    self.give_up();
                    return Poll::Ready(());
                }
                ready!(self.poll_deadline(cx));
                self.cancel();
                Err(out_of_time())
            }
        };
        let Stage::Handling { respond, handler } = std::mem::replace(&mut self.stage, Stage::Over)
        else {
            return Poll::Ready(());
        };
        drop(handler);
        self.stage = self.finish(respond, outcome, cx);
        if let Stage::Over = self.stage {
            self.canceller = None;
        }
        Poll::Ready(())
    }

    /// Whether the peer has reset the stream.
    fn poll_gone(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        match &mut self.stage {
            Stage::Handling { respond, .. } => respond.poll_reset(cx).map(|_| ()),
            Stage::Sending { send, .. } => send.poll_reset(cx).map(|_| ()),
            Stage::Reading { .. } | Stage::Over => Poll::Pending,
        }
    }

    fn poll_sending(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        let Stage::Sending { send, out, .. } = &mut self.stage else {
            return Poll::Ready(());
        };
        let sent = std::panic::catch_unwind(AssertUnwindSafe(|| out.poll_send(send, cx)));
        let outcome = match sent {
            Ok(Poll::Ready(Ok(()))) => Ok(()),
            Ok(Poll::Ready(Err(End::Failed(err)))) => Err(err),
            Ok(Poll::Ready(Err(End::Gone))) => {
                self.give_up();
                return Poll::Ready(());
            }
            Err(_) => {
                // What came before is sent, and then the error.
                out.fail(panicked(&self.path.path));
                return self.poll_sending(cx);
            }
            Ok(Poll::Pending) => {
                let blocked = out.is_blocked();
                if self.poll_gone(cx).is_ready() {
                    self.give_up();
                    return Poll::Ready(());
                }
                let late = self.poll_deadline(cx).is_ready();
                let stalled = if blocked {
                    self.poll_stall(cx).is_ready()
                } else {
                    self.stall = None;
                    false
                };
                if !late && !stalled {
                    return Poll::Pending;
                }
                self.cancel();
                if blocked {
                    // A status behind data that nobody reads would never arrive.
                    if let Stage::Sending { send, .. } = &mut self.stage {
                        send.send_reset(Reason::CANCEL);
                    }
                    self.stage = Stage::Over;
                    return Poll::Ready(());
                }
                Err(out_of_time())
            }
        };
        let most = self.limits.headers;
        if let Stage::Sending { send, trailers, .. } = &mut self.stage {
            end_stream(send, trailers.as_ref(), &outcome, &self.conn, most);
        }
        self.canceller = None;
        self.stage = Stage::Over;
        Poll::Ready(())
    }
}

impl Future for Call {
    type Output = Ended;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Ended> {
        let this = &mut *self;
        loop {
            match this.stage {
                Stage::Reading { .. } => ready!(this.poll_reading(cx)),
                Stage::Handling { .. } => ready!(this.poll_handling(cx)),
                Stage::Sending { .. } => ready!(this.poll_sending(cx)),
                Stage::Over => return Poll::Ready(this.ended),
            }
        }
    }
}

/// A call that is dropped before its end has no caller any more.
impl Drop for Call {
    fn drop(&mut self) {
        self.cancel();
    }
}

/// Why a call does not begin.
enum Refusal {
    Error(Error),
    Gone,
}

impl From<Error> for Refusal {
    fn from(err: Error) -> Self {
        Self::Error(err)
    }
}

/// The message, if the body is here already and holds exactly one: the way of unary calls.
fn first_message(
    body: &mut RecvStream,
    deframer: &mut Deframer,
    cx: &mut TaskContext<'_>,
) -> Result<Option<Bytes>, Refusal> {
    loop {
        match body.poll_data(cx) {
            Poll::Ready(Some(Ok(chunk))) => {
                let _ = body.flow_control().release_capacity(chunk.len());
                deframer.push(chunk);
                if !deframer.holds_one() {
                    return Ok(None);
                }
                if !body.is_end_stream() {
                    continue;
                }
            }
            Poll::Ready(Some(Err(_))) => return Err(Refusal::Gone),
            Poll::Ready(None) => {}
            Poll::Pending => return Ok(None),
        }
        // All is here, and it is one message or none.
        return match deframer.holds_one() {
            true => Ok(deframer.next()?),
            false => Ok(None),
        };
    }
}

/// The messages of a call that come while its handler runs.
struct Incoming {
    body: RecvStream,
    deframer: Deframer,
    over: bool,
}

impl Stream for Incoming {
    type Item = Result<Bytes>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Bytes>>> {
        let this = &mut *self;
        if this.over {
            return Poll::Ready(None);
        }
        loop {
            match this.deframer.next() {
                Ok(Some(message)) => return Poll::Ready(Some(Ok(message))),
                Ok(None) => {}
                Err(err) => {
                    this.over = true;
                    return Poll::Ready(Some(Err(err)));
                }
            }
            match ready!(this.body.poll_data(cx)) {
                Some(Ok(chunk)) => {
                    // The reader has come this far: the peer may send as much again.
                    let _ = this.body.flow_control().release_capacity(chunk.len());
                    this.deframer.push(chunk);
                }
                Some(Err(err)) => {
                    this.over = true;
                    return Poll::Ready(Some(Err(
                        Error::cancelled("the caller is gone").with_source(err)
                    )));
                }
                None => {
                    this.over = true;
                    return Poll::Ready(this.deframer.finish().err().map(Err));
                }
            }
        }
    }
}

/// A whole unary answer: headers, message and trailers.
fn send_message(
    respond: &mut SendResponse<Bytes>,
    head: HttpResponse<()>,
    message: &Bytes,
    trailers: &Trailers,
    conn: &Conn,
    most: usize,
) {
    let Ok(mut send) = respond.send_response(head, false) else {
        return;
    };
    let sent = if message.len() <= frame::COPY {
        send.send_data(frame::framed(message), false)
    } else {
        let mut prefix = BytesMut::with_capacity(frame::PREFIX);
        frame::put_prefix(&mut prefix, message.len());
        send.send_data(prefix.freeze(), false)
            .and_then(|()| send.send_data(message.clone(), false))
    };
    if sent.is_ok() {
        end_stream(&mut send, Some(trailers), &Ok(()), conn, most);
    }
}

/// The status behind the last message. `None` for trailers: no gRPC, just the end.
fn end_stream(
    send: &mut SendStream<Bytes>,
    trailers: Option<&Trailers>,
    outcome: &Result<()>,
    conn: &Conn,
    most: usize,
) {
    let Some(trailers) = trailers else {
        let _ = match outcome {
            Ok(()) => send.send_data(Bytes::new(), true),
            Err(_) => {
                send.send_reset(Reason::INTERNAL_ERROR);
                Ok(())
            }
        };
        return;
    };
    let mut map = HeaderMap::with_capacity(1);
    let mut unsent = None;
    if let Some(metadata) = trailers.get().filter(|metadata| !metadata.is_empty())
        && let Err(err) = headers::check_out(metadata, 0, most)
            .and_then(|()| headers::put_metadata(metadata, &mut map, &conn.names))
    {
        map.clear();
        unsent = Some(err);
    }
    match outcome.as_ref().err().or(unsent.as_ref()) {
        None => {
            map.insert(status::GRPC_STATUS, status::OK);
        }
        Some(err) => status::put(err, &mut map),
    }
    // Fails only if the peer is gone.
    let _ = send.send_trailers(map);
}

/// An answer to a simple POST.
fn send_answer(respond: &mut SendResponse<Bytes>, answer: post::Answer) {
    let (parts, message) = answer.into_parts();
    let empty = message.is_empty();
    let Ok(mut send) = respond.send_response(HttpResponse::from_parts(parts, ()), empty) else {
        return;
    };
    if !empty {
        let _ = send.send_data(message, true);
    }
}

pub(crate) fn out_of_time() -> Error {
    Error::deadline_exceeded("the time for the call ran out at the server")
}

pub(crate) fn panicked(path: &str) -> Error {
    tracing::error!(path, "a handler panicked");
    Error::internal("the handler panicked")
}
