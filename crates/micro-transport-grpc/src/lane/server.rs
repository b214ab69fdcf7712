//! The listener's side of a session: handlers are polled in place, in the connection's task.

use std::borrow::Cow;
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context as TaskContext, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use futures_util::task::AtomicWaker;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use micro_core::{Canceller, Context, Error, Metadata, Random as _, Result, SystemRandom};
use micro_transport_core::{Body, BoxFuture, Limits, Request, Response};
use tokio::task::JoinSet;
use tokio::time::{Instant as TokioInstant, Sleep};

use super::wire::{self, AnswerOut, CallIn, Greeting, Reader, Up, Writer};
use super::{Counters, poll_flush};
use crate::frame::{self, Deframer};
use crate::server::call::{Call, EARLY, Ended, Parked, out_of_time, panicked};
use crate::server::paths::{Path, Paths};
use crate::server::{Conn, connection::Patience};
use crate::{headers, status};

/// Nothing more is read while so many bytes of answers wait for a slow reader.
const WAITING: usize = 256 << 10;
// Whoever stops reading for it finds more than HTTP/2 takes at once, so there is somebody who wakes.
const _: () = assert!(WAITING > crate::server::SEND_BUFFER);
/// How many messages are read before what is answered is written.
const BATCH: usize = 512;
/// How long an answer waits to be taken, unless its call ends before.
const TAKEN_WITHIN: Duration = Duration::from_secs(10);
/// Messages that are no calls, beyond those that go with calls.
const NOISE: u32 = 1000;

/// A session, polled by its connection.
pub(crate) struct Session {
    conn: Arc<Conn>,
    recv: RecvStream,
    send: SendStream<Bytes>,
    deframer: Deframer,
    reader: Reader,
    writer: Writer,
    out: BytesMut,
    /// The path of the last call, as the reader has it and as we do: mostly it is the next one's.
    last_path: Option<(Arc<str>, Arc<Path>)>,
    waiting: FuturesUnordered<Waiting>,
    /// Calls whose handlers compute for long; dropping the set ends them.
    tasks: JoinSet<Done>,
    /// How each call that waits is told that its caller is gone, by its number less one.
    callers: Vec<Option<Arc<Gone>>>,
    active: usize,
    /// By numbers that cannot be guessed: behind a proxy, a connection's peers are many.
    parked: HashMap<u64, (Parked, TokioInstant)>,
    sweep: Option<Pin<Box<Sleep>>>,
    /// Armed until the greeting has come.
    greeting: Option<Pin<Box<Sleep>>>,
    /// Armed while the peer takes nothing.
    stall: Option<Pin<Box<Sleep>>>,
    limits: Fixed,
    noise: u32,
    /// Whether there were calls since it was last asked.
    worked: bool,
    going_away: bool,
    /// The peer sends no more.
    ended: bool,
}

/// What was said in the greeting, and may not change.
#[derive(Clone, Copy)]
struct Fixed {
    calls: usize,
    /// The largest request.
    message: usize,
    /// The largest answer.
    answer: usize,
    idle: Duration,
}

/// The limits that are read once per batch.
#[derive(Clone, Copy)]
struct PerCall {
    message_out: usize,
    headers: usize,
    call: Duration,
}

/// Tells a call that waits that its caller is gone.
#[derive(Debug, Default)]
struct Gone {
    gone: AtomicBool,
    waker: AtomicWaker,
}

/// The largest request that a listener takes on the lane.
pub(crate) fn largest(limits: &Limits) -> usize {
    limits.lane_message.min(limits.message_in)
}

impl Session {
    /// Begins a session; `None` if the peer is gone already.
    pub(crate) fn begin(
        conn: &Arc<Conn>,
        recv: RecvStream,
        mut respond: SendResponse<Bytes>,
    ) -> Option<Self> {
        let limits = conn.limits.get_arc();
        let fixed = Fixed {
            calls: limits.calls_per_connection,
            message: largest(&limits),
            answer: limits.lane_message,
            idle: limits.idle,
        };
        let mut head = http::Response::new(());
        head.headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let send = respond.send_response(head, false).ok()?;
        let mut out = BytesMut::new();
        let greeting = Greeting {
            calls: fixed.calls,
            message: fixed.message,
        };
        wire::put_greeting(greeting, &mut out);
        Counters::add(&conn.counters.sessions, 1);
        Some(Self {
            conn: Arc::clone(conn),
            recv,
            send,
            deframer: Deframer::new(fixed.message + wire::AROUND, false),
            reader: Reader::new(),
            writer: Writer::default(),
            out,
            last_path: None,
            waiting: FuturesUnordered::new(),
            tasks: JoinSet::new(),
            callers: Vec::new(),
            active: 0,
            parked: HashMap::new(),
            sweep: None,
            greeting: Some(Box::pin(tokio::time::sleep(limits.header_timeout))),
            stall: None,
            limits: fixed,
            noise: NOISE,
            worked: false,
            going_away: false,
            ended: false,
        })
    }

    /// Calls that wait, and answers that wait to be taken.
    pub(crate) fn active(&self) -> usize {
        self.active + self.parked.len()
    }

    /// Whether there were calls since the last question.
    pub(crate) fn has_worked(&mut self) -> bool {
        std::mem::take(&mut self.worked)
    }

    /// Takes no new calls.
    pub(crate) fn go_away(&mut self) {
        if !self.going_away {
            self.going_away = true;
            wire::put_going_away(&mut self.out);
        }
    }

    /// An answer that was kept.
    pub(crate) fn take(&mut self, number: u64) -> Option<Parked> {
        self.parked.remove(&number).map(|(parked, _)| parked)
    }

    /// Goes as far as it gets. `Ready` if the session is over.
    pub(crate) fn poll(
        &mut self,
        paths: &mut Paths,
        patience: &mut Patience,
        cx: &mut TaskContext<'_>,
    ) -> Poll<()> {
        let outcome = ready!(self.poll_work(paths, patience, cx));
        match outcome {
            Ok(()) => {
                let mut map = HeaderMap::with_capacity(1);
                map.insert(status::GRPC_STATUS, status::OK);
                let _ = self.send.send_trailers(map);
            }
            Err(Broken::Gone) => {}
            Err(Broken::Stuck) => self.send.send_reset(Reason::CANCEL),
            Err(Broken::Error(err)) => {
                tracing::debug!(peer = %self.conn.peer.address, %err, "a session is closed");
                let mut map = HeaderMap::with_capacity(2);
                status::put(&err, &mut map);
                let _ = self.send.send_trailers(map);
            }
        }
        Poll::Ready(())
    }

    fn poll_work(
        &mut self,
        paths: &mut Paths,
        patience: &mut Patience,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Result<(), Broken>> {
        self.poll_answers(patience, cx);
        let again = self.read(paths, patience, cx)?;
        let before = self.out.len();
        match poll_flush(&mut self.out, &mut self.send, cx) {
            Poll::Ready(Ok(())) => self.stall = None,
            Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken::Gone)),
            Poll::Pending => {
                if self.out.len() < before {
                    self.stall = None;
                }
                let patience = self.limits.idle;
                let stall = self
                    .stall
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
                if stall.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Err(Broken::Stuck));
                }
            }
        }
        if again {
            cx.waker().wake_by_ref();
        }
        if let Some(greeting) = &mut self.greeting
            && greeting.as_mut().poll(cx).is_ready()
        {
            let err = Error::deadline_exceeded("the session was never greeted");
            return Poll::Ready(Err(err.into()));
        }
        self.sweep(cx);
        if self.ended && self.active == 0 && self.parked.is_empty() && self.out.is_empty() {
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }

    /// Answers calls that waited.
    fn poll_answers(&mut self, patience: &mut Patience, cx: &mut TaskContext<'_>) {
        if self.active == 0 {
            return;
        }
        let limits = self.per_call();
        while !self.waiting.is_empty() {
            let Poll::Ready(Some(done)) = self.waiting.poll_next_unpin(cx) else {
                break;
            };
            self.done(done, patience, limits);
        }
        while !self.tasks.is_empty() {
            let Poll::Ready(Some(done)) = self.tasks.poll_join_next(cx) else {
                break;
            };
            // A task of ours does not panic, and is aborted only with the session.
            if let Ok(done) = done {
                self.done(done, patience, limits);
            }
        }
    }

    fn done(&mut self, done: Done, patience: &mut Patience, limits: PerCall) {
        self.active -= 1;
        if let Some(caller) = self.callers.get_mut(done.call.id as usize - 1) {
            *caller = None;
        }
        patience.count(done.ended);
        self.answer(done.call, done.outcome, limits);
    }

    fn per_call(&self) -> PerCall {
        let limits = self.conn.limits.get();
        PerCall {
            message_out: limits.message_out,
            headers: limits.headers,
            call: limits.call,
        }
    }

    /// Reads and begins calls; says whether there is more.
    fn read(
        &mut self,
        paths: &mut Paths,
        patience: &mut Patience,
        cx: &mut TaskContext<'_>,
    ) -> Result<bool, Broken> {
        if self.ended {
            return Ok(false);
        }
        let mut left = BATCH;
        let mut now = None;
        let limits = self.per_call();
        while self.out.len() < WAITING {
            if left == 0 {
                return Ok(true);
            }
            let Some(message) = self.deframer.next()? else {
                match self.recv.poll_data(cx) {
                    Poll::Ready(Some(Ok(chunk))) => {
                        let _ = self.recv.flow_control().release_capacity(chunk.len());
                        self.deframer.push(chunk);
                        continue;
                    }
                    Poll::Ready(Some(Err(_))) => return Err(Broken::Gone),
                    Poll::Ready(None) => {
                        self.deframer.finish()?;
                        self.ended = true;
                        return Ok(false);
                    }
                    Poll::Pending => return Ok(false),
                }
            };
            left -= 1;
            match self.reader.up(&message)? {
                Up::Greeting(greeting) => {
                    if self.greeting.take().is_none() {
                        return Err(wire::broken("a session was greeted twice").into());
                    }
                    self.limits.answer = self.limits.answer.min(greeting.message);
                }
                _ if self.greeting.is_some() => {
                    return Err(wire::broken("a session begins with a greeting").into());
                }
                Up::Call(call) => {
                    let path = self.path(&call.path, paths);
                    let now = now.get_or_insert_with(|| self.conn.clock.now());
                    let ended = self.call(call, path, now, limits, cx)?;
                    self.noise = (self.noise + 1).min(NOISE);
                    if let Some(ended) = ended {
                        patience.count(ended);
                    }
                }
                Up::Cancel(id) => {
                    match self.callers.get((id as usize).wrapping_sub(1)) {
                        Some(Some(caller)) => {
                            caller.gone.store(true, Ordering::Release);
                            caller.waker.wake();
                        }
                        // Its answer may be on its way; but that is seldom.
                        _ => self.noise()?,
                    }
                }
                Up::Forget(take) => {
                    if self.take(take).is_none() {
                        self.noise()?;
                    }
                }
                Up::Nothing => self.noise()?,
            }
        }
        // Whoever makes room wakes us.
        Ok(false)
    }

    fn path(&mut self, path: &Arc<str>, paths: &mut Paths) -> Arc<Path> {
        if let Some((last, known)) = &self.last_path
            && Arc::ptr_eq(last, path)
        {
            return Arc::clone(known);
        }
        let known = paths.get(path);
        self.last_path = Some((Arc::clone(path), Arc::clone(&known)));
        known
    }

    fn noise(&mut self) -> Result<(), Broken> {
        self.noise = self.noise.saturating_sub(1);
        if self.noise == 0 {
            let err = Error::resource_exhausted("too many messages of a session are no calls");
            return Err(err.into());
        }
        Ok(())
    }

    /// Begins a call, and answers it if its handler does not wait.
    fn call(
        &mut self,
        call: CallIn,
        path: Arc<Path>,
        now: &mut Instant,
        limits: PerCall,
        cx: &mut TaskContext<'_>,
    ) -> Result<Option<Ended>, Broken> {
        let id = call.id;
        let place = id as usize - 1;
        if place >= self.limits.calls || self.active >= self.limits.calls {
            let err = Error::resource_exhausted("more calls at once than the session allows");
            return Err(err.into());
        }
        if self.callers.get(place).is_some_and(Option::is_some) {
            return Err(wire::broken("the number of a call is in use").into());
        }
        if call.message.len() > self.limits.message {
            return Err(wire::broken("a message is larger than the session allows").into());
        }
        Counters::add(&self.conn.counters.served, 1);
        self.worked = true;
        if self.going_away {
            let err = Error::unavailable("the peer is going away and did not take the call");
            self.fail(id, &err, true);
            return Ok(Some(Ended::Answered));
        }
        let metadata = call.metadata.and_then(|metadata| {
            headers::check_out(&metadata, path.path.len(), limits.headers)?;
            Ok(metadata)
        });
        let metadata = match metadata {
            Ok(metadata) => metadata,
            Err(err) => {
                self.fail(id, &err, true);
                return Ok(Some(Ended::Answered));
            }
        };
        let arrived = *now;
        let timeout = (call.timeout > 0).then(|| Duration::from_nanos(call.timeout));
        let deadline = timeout.and_then(|timeout| arrived.checked_add(timeout));
        let (mut context, canceller) =
            Context::serve(Some(Arc::clone(&self.conn.clock)), metadata.clone());
        if let Some(deadline) = deadline {
            context = context.with_deadline(deadline);
        }
        if call.attempt > 0 {
            context = context.with_attempt(call.attempt);
        }
        let request = Request::new(
            Arc::clone(&path.path),
            call.content_type.clone(),
            Body::Message(call.message),
        )
        .with_metadata(metadata)
        .with_peer(Arc::clone(&self.conn.peer));
        let handler = Arc::clone(&self.conn.handler);
        let begun = std::panic::catch_unwind(AssertUnwindSafe(|| handler.call(context, request)));
        let slow = self.conn.slow.contains(&path.path);
        let mut canceller = Some(canceller);
        let mut handler = None;
        let outcome = match begun {
            Err(_) => Poll::Ready(Err(panicked(&path.path))),
            Ok(begun) => {
                let begun = handler.insert(begun);
                if slow {
                    Poll::Pending
                } else {
                    poll_handler(begun, &path, &self.conn, &mut canceller, now, cx)
                }
            }
        };
        let call = Begun {
            id,
            path,
            codec: call.content_type,
            canceller,
            arrived,
            // The default is not in the context: the answer may turn out to be a stream, which has
            // no such limit.
            deadline: if timeout.is_some() {
                deadline
            } else {
                arrived.checked_add(limits.call)
            },
            default_deadline: timeout.is_none(),
        };
        if let Poll::Ready(outcome) = outcome {
            // The handler first: what it holds should not outlive the answer.
            drop(handler);
            self.answer(call, outcome, limits);
            return Ok(Some(Ended::Answered));
        }
        let caller = Arc::new(Gone::default());
        if self.callers.len() <= place {
            self.callers.resize(place + 1, None);
        }
        self.callers[place] = Some(Arc::clone(&caller));
        self.active += 1;
        let waiting = Waiting {
            call: Some(call),
            conn: Arc::clone(&self.conn),
            handler,
            timer: None,
            caller,
        };
        if slow {
            self.tasks.spawn(waiting);
        } else {
            self.waiting.push(waiting);
        }
        // Polled again in this turn: only what was polled where it is wakes us.
        cx.waker().wake_by_ref();
        Ok(None)
    }

    fn fail(&mut self, id: u32, err: &Error, unprocessed: bool) {
        wire::put_failure(id, &status::encode(err), unprocessed, &mut self.out);
    }

    fn answer(&mut self, call: Begun, outcome: Result<Response>, limits: PerCall) {
        let id = call.id;
        let response = match outcome {
            Ok(response) => response,
            Err(err) => {
                self.fail(id, &err, false);
                return;
            }
        };
        let Body::Message(message) = &response.body else {
            self.park(call, response);
            return;
        };
        let none = Metadata::new();
        let trailers = response.trailers.get().unwrap_or(&none);
        // The request's is known to be one.
        let content_type = (response.content_type != call.codec).then_some(&response.content_type);
        let checked = frame::check_out(message.len(), limits.message_out)
            .and_then(|()| headers::check_out(&response.metadata, 0, limits.headers))
            .and_then(|()| headers::check_out(trailers, 0, limits.headers))
            .and_then(|()| match content_type {
                Some(content_type) => headers::grpc_of(content_type).map(|_| ()),
                None => Ok(()),
            });
        if let Err(err) = checked {
            self.fail(id, &err, false);
            return;
        }
        if message.len() > self.limits.answer
            || content_type.is_some_and(|content_type| !wire::is_content_type(content_type))
        {
            self.park(call, response);
            return;
        }
        let answer = AnswerOut {
            id,
            content_type,
            metadata: &response.metadata,
            trailers,
            message,
        };
        self.writer.answer(&answer, &mut self.out);
    }

    /// Keeps an answer until it is taken.
    fn park(&mut self, call: Begun, response: Response) {
        let is_stream = matches!(response.body, Body::Stream(_));
        if self.parked.len() >= self.limits.calls {
            let err = Error::resource_exhausted("too many answers wait to be taken");
            self.fail(call.id, &err, false);
            return;
        }
        let take = SystemRandom.next_u64().max(1);
        let parked = Call::park(
            &self.conn,
            call.path,
            call.codec,
            call.arrived,
            call.deadline,
            call.default_deadline,
            call.canceller,
            response,
        );
        let until = TokioInstant::now() + TAKEN_WITHIN;
        self.parked.insert(take, (parked, until));
        wire::put_take(call.id, take, is_stream, &mut self.out);
    }

    /// Drops answers that nobody has taken.
    fn sweep(&mut self, cx: &mut TaskContext<'_>) {
        if self.parked.is_empty() {
            self.sweep = None;
            return;
        }
        let every = Duration::from_secs(1);
        let sweep = self
            .sweep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(every)));
        while sweep.as_mut().poll(cx).is_ready() {
            let now = TokioInstant::now();
            let clock = self.conn.clock.now();
            self.parked
                .retain(|_, (parked, until)| *until > now && !parked.is_late(clock));
            sweep.as_mut().reset(now + every);
        }
    }
}

/// Why a session ends otherwise than well.
enum Broken {
    /// The peer, or the connection, is gone.
    Gone,
    /// The peer takes nothing.
    Stuck,
    Error(Error),
}

impl From<Error> for Broken {
    fn from(err: Error) -> Self {
        Self::Error(err)
    }
}

/// A call that has begun.
struct Begun {
    id: u32,
    path: Arc<Path>,
    codec: Cow<'static, str>,
    canceller: Option<Canceller>,
    arrived: Instant,
    deadline: Option<Instant>,
    default_deadline: bool,
}

impl Begun {
    fn cancel(&mut self) {
        if let Some(canceller) = self.canceller.take() {
            canceller.cancel();
        }
    }
}

/// Polls a handler and notes how long it took; `now` is when it begins, and then ends.
fn poll_handler(
    handler: &mut BoxFuture<'static, Result<Response>>,
    path: &Path,
    conn: &Conn,
    canceller: &mut Option<Canceller>,
    now: &mut Instant,
    cx: &mut TaskContext<'_>,
) -> Poll<Result<Response>> {
    let polled = std::panic::catch_unwind(AssertUnwindSafe(|| handler.as_mut().poll(cx)));
    let began = std::mem::replace(now, conn.clock.now());
    if path.polled(now.saturating_duration_since(began)) {
        conn.slow.add(&path.path);
    }
    polled.unwrap_or_else(|_| {
        if let Some(canceller) = canceller.take() {
            canceller.cancel();
        }
        Poll::Ready(Err(panicked(&path.path)))
    })
}

/// A call whose handler waits, or runs in a task of its own.
struct Waiting {
    /// `None` once it is done.
    call: Option<Begun>,
    conn: Arc<Conn>,
    handler: Option<BoxFuture<'static, Result<Response>>>,
    timer: Option<Pin<Box<Sleep>>>,
    caller: Arc<Gone>,
}

/// A call whose handler is done.
struct Done {
    call: Begun,
    outcome: Result<Response>,
    ended: Ended,
}

impl Waiting {
    fn is_gone(&self, cx: &TaskContext<'_>) -> bool {
        self.caller.waker.register(cx.waker());
        self.caller.gone.load(Ordering::Acquire)
    }

    /// The outcome, and how the call ended, once it has.
    fn poll_outcome(
        &mut self,
        call: &mut Begun,
        cx: &mut TaskContext<'_>,
    ) -> Poll<(Result<Response>, Ended)> {
        let mut now = self.conn.clock.now();
        // First whether anybody waits: what is woken by the caller's leaving should not run again.
        if self.is_gone(cx) {
            // Cancelled first, so that whatever hears of it runs before the drop.
            call.cancel();
            let age = now.saturating_duration_since(call.arrived);
            let ended = if age < EARLY {
                Ended::GivenUpEarly
            } else {
                Ended::GivenUp
            };
            let err = Error::cancelled("the caller gave the call up");
            return Poll::Ready((Err(err), ended));
        }
        if let Some(handler) = &mut self.handler {
            let canceller = &mut call.canceller;
            let polled = poll_handler(handler, &call.path, &self.conn, canceller, &mut now, cx);
            if let Poll::Ready(outcome) = polled {
                return Poll::Ready((outcome, Ended::Answered));
            }
        }
        let Some(deadline) = call.deadline else {
            return Poll::Pending;
        };
        let timer = self.timer.get_or_insert_with(|| {
            Box::pin(tokio::time::sleep(deadline.saturating_duration_since(now)))
        });
        ready!(timer.as_mut().poll(cx));
        call.cancel();
        Poll::Ready((Err(out_of_time()), Ended::Answered))
    }
}

impl Future for Waiting {
    type Output = Done;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Done> {
        let this = &mut *self;
        let Some(mut call) = this.call.take() else {
            return Poll::Pending;
        };
        let Poll::Ready((outcome, ended)) = this.poll_outcome(&mut call, cx) else {
            this.call = Some(call);
            return Poll::Pending;
        };
        this.handler = None;
        Poll::Ready(Done {
            call,
            outcome,
            ended,
        })
    }
}

/// A call that is dropped before its end has no caller any more.
impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(call) = &mut self.call {
            call.cancel();
        }
    }
}

/// The session or its connection is gone, and with it all callers.
impl Drop for Session {
    fn drop(&mut self) {
        self.tasks.abort_all();
    }
}
