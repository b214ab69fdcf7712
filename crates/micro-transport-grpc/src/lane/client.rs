//! The caller's side of a session: a table of calls, filled by callers and emptied by the
//! connection's task.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as TaskContext, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use h2::client::{Connection, ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONTENT_TYPE, HeaderValue, TE};
use http::{Method, Request as HttpRequest, StatusCode, Version};
use micro_core::{Context, Error, Live, Result};
use micro_transport_core::{Body, BoxFuture, Limits, Request, Response, Trailers};
use tokio::time::Instant;

use super::wire::{self, AnswerIn, CallOut, Down, Greeting, Reader, Writer};
use super::{Counters, OPEN, poll_flush};
use crate::client::{GrpcConnection, Target, call};
use crate::frame::{self, Deframer};
use crate::io::Io;
use crate::known::Known;
use crate::{headers, status};

/// What callers and the connection's task share.
pub(crate) struct Lane {
    open: AtomicBool,
    calls: Mutex<Calls>,
    /// Paths whose answers are streams, which travel by themselves from the first message on.
    streams: Known<Arc<str>, ()>,
    any_streams: AtomicBool,
}

struct Calls {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// What is to be sent.
    out: BytesMut,
    writer: Writer,
    /// How often `out` was taken to be sent.
    batch: u64,
    /// The connection's task, when it has nothing to send.
    driver: Option<Waker>,
    credit: usize,
    message: usize,
    open: bool,
    bounds: Bounds,
}

/// What a call may have, as of a version of the limits.
#[derive(Clone, Copy)]
struct Bounds {
    version: u64,
    headers: usize,
    message_out: usize,
}

impl Bounds {
    fn of(limits: &Live<Limits>) -> Self {
        // The version first: if the limits change in between, they are read once more.
        let version = limits.version();
        let limits = limits.get();
        Self {
            version,
            headers: limits.headers,
            message_out: limits.message_out,
        }
    }

    fn check(&self, call: &CallOut<'_>, target: &Target) -> Result<()> {
        let around = call.path.len() + target.address.len();
        headers::check_out(call.metadata, around, self.headers)
            .and_then(|()| frame::check_out(call.message.len(), self.message_out))
            .map_err(|err| err.with_unprocessed(true))
    }
}

enum Slot {
    Free,
    Waiting {
        caller: Waker,
        batch: u64,
    },
    Done(AnswerIn),
    /// Nobody waits any more, but the answer is still to come.
    Abandoned,
    /// The session broke; whether the call was never sent.
    Broken(bool),
}

impl Calls {
    fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn slot(&mut self, id: u32) -> Option<&mut Slot> {
        self.slots.get_mut((id as usize).wrapping_sub(1))
    }

    fn free(&mut self, id: u32) {
        if let Some(slot) = self.slot(id) {
            *slot = Slot::Free;
            self.free.push(id);
        }
    }
}

impl Lane {
    fn new(greeting: Greeting, limits: &Live<Limits>) -> Self {
        let bounds = Bounds::of(limits);
        let lane_message = limits.get().lane_message;
        Self {
            open: AtomicBool::new(true),
            calls: Mutex::new(Calls {
                slots: Vec::new(),
                free: Vec::new(),
                out: BytesMut::new(),
                writer: Writer::default(),
                batch: 0,
                driver: None,
                // A peer that allows more calls than anybody makes costs us no more memory for it.
                credit: greeting.calls.min(1 << 16),
                message: greeting.message.min(lane_message),
                open: true,
                bounds,
            }),
            streams: Known::new(),
            any_streams: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls that are not answered yet.
    pub(crate) fn in_flight(&self) -> usize {
        self.lock().in_flight()
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// Takes no new calls.
    pub(crate) fn close(&self) {
        self.open.store(false, Ordering::Relaxed);
        self.lock().open = false;
    }

    /// Whether a call may travel here, as far as can be told without a lock.
    pub(crate) fn takes(&self, request: &Request, most: usize) -> bool {
        self.open.load(Ordering::Relaxed)
            && matches!(&request.body, Body::Message(message) if message.len() <= most)
            && !(self.any_streams.load(Ordering::Relaxed)
                && self.streams.get(&request.path).is_some())
    }

    /// Gives a call a number and its bytes to the connection; `Ok(None)` if it must travel otherwise.
    fn begin(
        &self,
        call: &mut CallOut<'_>,
        connection: &GrpcConnection,
        caller: &Waker,
    ) -> Result<Option<u32>> {
        let mut calls = self.lock();
        let calls = &mut *calls;
        if calls.bounds.version != connection.limits.version() {
            calls.bounds = Bounds::of(&connection.limits);
        }
        calls.bounds.check(call, &connection.target)?;
        if !calls.open || call.message.len() > calls.message {
            return Ok(None);
        }
        let id = match calls.free.pop() {
            Some(id) => id,
            None if calls.slots.len() < calls.credit => {
                calls.slots.push(Slot::Free);
                // The credit is far below what does not fit.
                u32::try_from(calls.slots.len()).unwrap_or(u32::MAX)
            }
            None => return Ok(None),
        };
        call.id = id;
        if !calls.writer.call(call, &mut calls.out) {
            calls.free.push(id);
            return Ok(None);
        }
        let waiting = Slot::Waiting {
            caller: caller.clone(),
            batch: calls.batch,
        };
        if let Some(slot) = calls.slot(id) {
            *slot = waiting;
        }
        // The task is queued behind all callers that are ready, so they all append before it
        // writes.
        if let Some(driver) = calls.driver.take() {
            driver.wake();
        }
        Ok(Some(id))
    }

    /// The answer, once it is here. Then the number is free.
    fn poll_end(&self, id: u32, caller: &Waker) -> Poll<Result<AnswerIn>> {
        let mut calls = self.lock();
        let Some(slot) = calls.slot(id) else {
            return Poll::Pending;
        };
        match slot {
            Slot::Waiting { caller: known, .. } => {
                known.clone_from(caller);
                Poll::Pending
            }
            Slot::Done(_) | Slot::Broken(_) => {
                let slot = std::mem::replace(slot, Slot::Free);
                calls.free.push(id);
                // The last one of a session that takes no more: the task ends it.
                let driver = (!calls.open && calls.in_flight() == 0)
                    .then(|| calls.driver.take())
                    .flatten();
                drop(calls);
                if let Some(driver) = driver {
                    driver.wake();
                }
                Poll::Ready(match slot {
                    Slot::Done(answer) => Ok(answer),
                    Slot::Broken(true) => Err(Error::unavailable(
                        "the connection broke before the call was sent",
                    )
                    .with_unprocessed(true)),
                    _ => Err(Error::unavailable(
                        "the connection broke while the call was under way",
                    )),
                })
            }
            // Asked after its end, which callers do not.
            Slot::Free | Slot::Abandoned => Poll::Pending,
        }
    }

    /// The caller is gone.
    fn abandon(&self, id: u32) {
        let mut calls = self.lock();
        let calls = &mut *calls;
        let Some(slot) = calls.slot(id) else {
            return;
        };
        match std::mem::replace(slot, Slot::Abandoned) {
            Slot::Waiting { .. } => wire::put_cancel(id, &mut calls.out),
            Slot::Done(AnswerIn::Take(number, _)) => {
                wire::put_forget(number, &mut calls.out);
                calls.free(id);
            }
            _ => calls.free(id),
        }
        if let Some(driver) = calls.driver.take() {
            driver.wake();
        }
    }

    /// The session is over: nobody waits any longer.
    fn fail(&self) {
        self.open.store(false, Ordering::Relaxed);
        let mut calls = self.lock();
        calls.open = false;
        let now = calls.batch;
        let mut callers = Vec::new();
        let mut free = Vec::new();
        for (at, slot) in calls.slots.iter_mut().enumerate() {
            match slot {
                Slot::Waiting { batch, .. } => {
                    // What is still here, nobody can have seen.
                    let unsent = *batch == now;
                    if let Slot::Waiting { caller, .. } =
                        std::mem::replace(slot, Slot::Broken(unsent))
                    {
                        callers.push(caller);
                    }
                }
                Slot::Abandoned => free.push(at),
                _ => {}
            }
        }
        for at in free {
            calls.free(u32::try_from(at + 1).unwrap_or(0));
        }
        calls.out = BytesMut::new();
        drop(calls);
        for caller in callers {
            caller.wake();
        }
    }

    fn add_stream(&self, path: &Arc<str>) {
        self.streams.add(Arc::clone(path), ());
        self.any_streams.store(true, Ordering::Relaxed);
    }
}

/// A call on the lane.
#[must_use = "futures do nothing unless polled"]
pub(crate) struct LaneCall<'a> {
    connection: &'a GrpcConnection,
    lane: &'a Lane,
    cx: &'a Context,
    state: State<'a>,
}

enum State<'a> {
    Start(Request),
    Waiting {
        id: u32,
        path: Arc<str>,
        codec: Cow<'static, str>,
    },
    /// It travels as plain gRPC, or its answer does.
    Plain(BoxFuture<'a, Result<Response>>),
    Over,
}

impl<'a> LaneCall<'a> {
    pub(crate) fn new(
        connection: &'a GrpcConnection,
        lane: &'a Lane,
        cx: &'a Context,
        request: Request,
    ) -> Self {
        Self {
            connection,
            lane,
            cx,
            state: State::Start(request),
        }
    }

    /// `Ok(None)` if the call must travel otherwise.
    fn begin(
        lane: &Lane,
        connection: &GrpcConnection,
        cx: &Context,
        request: &Request,
        caller: &Waker,
    ) -> Result<Option<u32>> {
        let Body::Message(message) = &request.body else {
            return Ok(None);
        };
        if !connection.state.is_open() {
            // The same error as on the other way.
            return Ok(None);
        }
        let timeout = match cx.remaining() {
            Some(left) if left.is_zero() => {
                return Err(Error::deadline_exceeded(
                    "the time for the call ran out before it was sent",
                )
                .with_unprocessed(true));
            }
            // Beyond 584 years is no limit.
            Some(left) => u64::try_from(left.as_nanos()).unwrap_or(0),
            None => 0,
        };
        let mut call = CallOut {
            id: 0,
            path: &request.path,
            content_type: &request.content_type,
            timeout,
            attempt: cx.attempt(),
            metadata: &request.metadata,
            agent: Some(&connection.target.agent),
            message,
        };
        lane.begin(&mut call, connection, caller)
    }

    fn answer(
        &self,
        answer: AnswerIn,
        path: &Arc<str>,
        codec: Cow<'static, str>,
    ) -> Result<Answered<'a>> {
        match answer {
            AnswerIn::Message {
                content_type,
                metadata,
                message,
            } => {
                let (metadata, trailers) = metadata?;
                let response = Response::new(content_type.unwrap_or(codec), Body::Message(message));
                Ok(Answered::Here(
                    response
                        .with_metadata(metadata)
                        .with_trailers(Trailers::ready(trailers)),
                ))
            }
            AnswerIn::Failure(status, unprocessed) => {
                Err(status::decode(status).with_unprocessed(unprocessed))
            }
            AnswerIn::Take(number, is_stream) => {
                if is_stream {
                    self.lane.add_stream(path);
                }
                let take = call::take(self.connection, number, codec);
                Ok(Answered::Taken(Box::pin(take)))
            }
        }
    }
}

enum Answered<'a> {
    Here(Response),
    Taken(BoxFuture<'a, Result<Response>>),
}

impl Future for LaneCall<'_> {
    type Output = Result<Response>;

    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Result<Response>> {
        let this = &mut *self;
        loop {
            match &mut this.state {
                State::Start(request) => {
                    let begun =
                        Self::begin(this.lane, this.connection, this.cx, request, task.waker());
                    let State::Start(request) = std::mem::replace(&mut this.state, State::Over)
                    else {
                        continue;
                    };
                    match begun? {
                        Some(id) => {
                            Counters::add(&this.connection.counters.calls, 1);
                            this.state = State::Waiting {
                                id,
                                path: request.path,
                                codec: request.content_type,
                            };
                            return Poll::Pending;
                        }
                        None => {
                            let plain = call::call(this.connection, this.cx, request);
                            this.state = State::Plain(Box::pin(plain));
                        }
                    }
                }
                State::Waiting { id, .. } => {
                    let answer = ready!(this.lane.poll_end(*id, task.waker()));
                    let State::Waiting { path, codec, .. } =
                        std::mem::replace(&mut this.state, State::Over)
                    else {
                        continue;
                    };
                    match this.answer(answer?, &path, codec)? {
                        Answered::Here(response) => return Poll::Ready(Ok(response)),
                        Answered::Taken(taken) => this.state = State::Plain(taken),
                    }
                }
                State::Plain(plain) => {
                    let outcome = ready!(plain.as_mut().poll(task));
                    this.state = State::Over;
                    return Poll::Ready(outcome);
                }
                // Polled after its end.
                State::Over => return Poll::Pending,
            }
        }
    }
}

impl Drop for LaneCall<'_> {
    fn drop(&mut self) {
        if let State::Waiting { id, .. } = self.state {
            self.lane.abandon(id);
        }
    }
}

/// The stream of a session, driven by the connection's task.
pub(crate) struct Session {
    pub(crate) lane: Arc<Lane>,
    send: SendStream<Bytes>,
    recv: RecvStream,
    deframer: Deframer,
    reader: Reader,
    /// Being sent.
    out: BytesMut,
    answers: Vec<(u32, AnswerIn)>,
    callers: Vec<Waker>,
    began: Instant,
    /// Whether our side is ended.
    closed: bool,
}

/// What is said of a session that ends.
#[derive(Debug)]
pub(crate) enum Over {
    /// As agreed.
    Well,
    Broken(Error),
}

impl Session {
    /// Opens a session on a connection that nobody drives yet, within the time that the caller of
    /// this allows. `Ok(None)` if the peer does not speak it; an error if the connection broke.
    pub(crate) async fn open(
        sender: &SendRequest<Bytes>,
        h2: &mut Connection<Io, Bytes>,
        target: &Target,
        live: &Live<Limits>,
    ) -> Result<Option<Self>, h2::Error> {
        let Some(head) = head(target, OPEN) else {
            return Ok(None);
        };
        let limits = live.get_arc();
        let (response, mut send) = sender.clone().send_request(head, false)?;
        let answer = limits.lane_message.min(limits.message_in);
        let mut out = BytesMut::new();
        let greeting = Greeting {
            calls: 0,
            message: answer,
        };
        wire::put_greeting(greeting, &mut out);
        send.send_data(out.split().freeze(), false)?;
        let mut opening = Opening {
            response: Some(response),
            recv: None,
            deframer: Deframer::new(answer + wire::AROUND, false),
            reader: Reader::new(),
        };
        let greeting = std::future::poll_fn(|cx| {
            // Twice: what was read may be for us, and what we did may have to be written.
            for _ in 0..2 {
                if let Poll::Ready(ended) = Pin::new(&mut *h2).poll(cx) {
                    let err = ended.err().unwrap_or_else(|| Reason::NO_ERROR.into());
                    return Poll::Ready(Err(err));
                }
                if let Poll::Ready(greeting) = opening.poll(cx) {
                    return Poll::Ready(Ok(greeting));
                }
            }
            Poll::Pending
        })
        .await?;
        let (Some(greeting), Some(recv)) = (greeting, opening.recv.take()) else {
            send.send_reset(Reason::CANCEL);
            return Ok(None);
        };
        Ok(Some(Self {
            lane: Arc::new(Lane::new(greeting, live)),
            send,
            recv,
            deframer: opening.deframer,
            reader: opening.reader,
            out,
            answers: Vec::new(),
            callers: Vec::new(),
            began: Instant::now(),
            closed: false,
        }))
    }

    /// When it was opened.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// Completes what has come and sends what waits. `Ready` if the session is over.
    pub(crate) fn poll(&mut self, cx: &mut TaskContext<'_>) -> Poll<Over> {
        let read = self.poll_read(cx);
        self.deliver();
        match read {
            Ok(Poll::Pending) => {}
            Ok(Poll::Ready(())) if self.closed || self.lane.in_flight() == 0 => {
                return Poll::Ready(Over::Well);
            }
            Ok(Poll::Ready(())) => {
                let err = Error::unavailable("the peer ended the session");
                return Poll::Ready(Over::Broken(err));
            }
            Err(err) => {
                self.send.send_reset(Reason::PROTOCOL_ERROR);
                return Poll::Ready(Over::Broken(err));
            }
        }
        match self.poll_write(cx) {
            Poll::Ready(over) => Poll::Ready(over),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Reads all that has come; `Ready` if the stream is over.
    fn poll_read(&mut self, cx: &mut TaskContext<'_>) -> Result<Poll<()>> {
        loop {
            while let Some(message) = self.deframer.next()? {
                match self.reader.down(&message)? {
                    Down::Answer(id, answer) => self.answers.push((id, answer)),
                    Down::GoingAway => self.lane.close(),
                    Down::Nothing => {}
                    Down::Greeting(_) => {
                        return Err(wire::broken("a session was greeted twice"));
                    }
                }
            }
            if self.answers.len() >= 1024 {
                self.place()?;
            }
            match self.recv.poll_data(cx) {
                Poll::Ready(Some(Ok(chunk))) => {
                    let _ = self.recv.flow_control().release_capacity(chunk.len());
                    self.deframer.push(chunk);
                }
                Poll::Ready(Some(Err(err))) => return Err(crate::error::call(err)),
                Poll::Ready(None) => {
                    self.place()?;
                    return match self.recv.poll_trailers(cx) {
                        Poll::Ready(Ok(Some(trailers))) => match status::take(&trailers) {
                            Some(Err(err)) => Err(err),
                            _ => Ok(Poll::Ready(())),
                        },
                        Poll::Ready(_) => Ok(Poll::Ready(())),
                        Poll::Pending => Ok(Poll::Pending),
                    };
                }
                Poll::Pending => {
                    self.place()?;
                    return Ok(Poll::Pending);
                }
            }
        }
    }

    /// Puts answers into their slots.
    fn place(&mut self) -> Result<()> {
        if self.answers.is_empty() {
            return Ok(());
        }
        let mut calls = self.lane.lock();
        let calls = &mut *calls;
        let now = calls.batch;
        for (id, answer) in self.answers.drain(..) {
            let Some(slot) = calls.slot(id) else {
                return Err(wire::broken("an answer to a call that was never made"));
            };
            match slot {
                Slot::Waiting { batch, .. } if *batch != now => {
                    if let Slot::Waiting { caller, .. } =
                        std::mem::replace(slot, Slot::Done(answer))
                    {
                        self.callers.push(caller);
                    }
                }
                Slot::Abandoned => {
                    if let AnswerIn::Take(number, _) = answer {
                        wire::put_forget(number, &mut calls.out);
                    }
                    calls.free(id);
                }
                _ => return Err(wire::broken("an answer to a call that is not under way")),
            }
        }
        Ok(())
    }

    /// Wakes each caller once, outside of the lock.
    fn deliver(&mut self) {
        for caller in self.callers.drain(..) {
            caller.wake();
        }
    }

    fn poll_write(&mut self, cx: &mut TaskContext<'_>) -> Poll<Over> {
        loop {
            if ready!(poll_flush(&mut self.out, &mut self.send, cx)).is_err() {
                let err = Error::unavailable("the session broke");
                return Poll::Ready(Over::Broken(err));
            }
            let mut calls = self.lane.lock();
            if calls.out.is_empty() {
                if !calls.open && !self.closed && calls.in_flight() == 0 {
                    self.closed = true;
                    let _ = self.send.send_data(Bytes::new(), true);
                }
                match &mut calls.driver {
                    Some(driver) => driver.clone_from(cx.waker()),
                    none => *none = Some(cx.waker().clone()),
                }
                return Poll::Pending;
            }
            std::mem::swap(&mut calls.out, &mut self.out);
            calls.batch += 1;
        }
    }
}

/// Whatever ends the driver ends the session.
impl Drop for Session {
    fn drop(&mut self) {
        self.lane.fail();
        self.deliver();
    }
}

/// A session until the peer's greeting.
struct Opening {
    response: Option<ResponseFuture>,
    recv: Option<RecvStream>,
    deframer: Deframer,
    reader: Reader,
}

impl Opening {
    /// `None` if the peer does not speak it.
    fn poll(&mut self, cx: &mut TaskContext<'_>) -> Poll<Option<Greeting>> {
        if let Some(response) = &mut self.response {
            let Ok(response) = ready!(Pin::new(response).poll(cx)) else {
                return Poll::Ready(None);
            };
            self.response = None;
            let is_grpc = response.status() == StatusCode::OK
                && !response.headers().contains_key(status::GRPC_STATUS)
                && response
                    .headers()
                    .get(CONTENT_TYPE)
                    .is_some_and(|value| headers::codec_of(value.as_bytes()).is_some());
            if !is_grpc {
                return Poll::Ready(None);
            }
            self.recv = Some(response.into_body());
        }
        let Some(recv) = &mut self.recv else {
            return Poll::Ready(None);
        };
        loop {
            match self.deframer.next() {
                Ok(Some(message)) => {
                    return Poll::Ready(match self.reader.down(&message) {
                        Ok(Down::Greeting(greeting)) => Some(greeting),
                        _ => None,
                    });
                }
                Ok(None) => {}
                Err(_) => return Poll::Ready(None),
            }
            match ready!(recv.poll_data(cx)) {
                Some(Ok(chunk)) => {
                    let _ = recv.flow_control().release_capacity(chunk.len());
                    self.deframer.push(chunk);
                }
                _ => return Poll::Ready(None),
            }
        }
    }
}

/// The head of a call that is about the session.
pub(crate) fn head(target: &Target, path: &'static str) -> Option<HttpRequest<()>> {
    let uri = http::Uri::builder()
        .scheme(target.scheme.clone())
        .authority(target.authority.clone())
        .path_and_query(path)
        .build()
        .ok()?;
    let mut head = HttpRequest::new(());
    *head.method_mut() = Method::POST;
    *head.version_mut() = Version::HTTP_2;
    *head.uri_mut() = uri;
    let map = head.headers_mut();
    map.insert(TE, HeaderValue::from_static("trailers"));
    map.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    map.insert(http::header::USER_AGENT, target.user_agent.clone());
    Some(head)
}
