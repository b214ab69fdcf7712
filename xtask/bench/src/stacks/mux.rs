//! The limit: a multiplexer on one TCP connection, with nothing but a length and an id before each
//! payload.
//!
//! No task, channel or copy per call beyond what any multiplexer must have: a call is a slot in a
//! table, its bytes are appended to one buffer, and one task per connection writes what has
//! gathered and completes what has arrived.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::io::poll_read_buf;

use crate::Result;
use crate::stacks::{Client, Echo, Serving};

/// Before each payload: its length, then the id, both as big-endian `u32`.
const HEAD: usize = 8;

/// Room for one read.
const READ: usize = 64 * 1024;

/// The raw multiplexer.
pub(crate) struct Mux;

impl Echo for Mux {
    const NAME: &'static str = "mux";
    const ABOUT: &'static str =
        "raw TCP multiplexer, length prefix and id, one connection: the limit";

    type Client = Connection;

    async fn serve() -> Result<Serving> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(echo(stream));
            }
        });
        Ok(Serving::at(address))
    }

    async fn connect(target: &str) -> Result<Connection> {
        let stream = TcpStream::connect(target).await?;
        stream.set_nodelay(true)?;
        let connection = Connection::default();
        let driver = Driver {
            table: Arc::clone(&connection.0),
            stream,
            input: BytesMut::with_capacity(READ),
            sending: Vec::new(),
            sent: 0,
            ready: Vec::new(),
        };
        tokio::spawn(driver.run());
        Ok(connection)
    }
}

/// Cuts the next whole frame off the front, head and all.
fn take_frame(input: &mut BytesMut) -> Option<BytesMut> {
    let length = u32::from_be_bytes(input.get(..4)?.try_into().ok()?) as usize;
    (input.len() >= HEAD + length).then(|| input.split_to(HEAD + length))
}

/// Makes room for a read; within the same memory, if nobody holds a part of it any more.
fn make_room(input: &mut BytesMut) {
    if input.capacity() - input.len() < READ / 4 {
        input.reserve(READ);
    }
}

/// Serves a connection: answers all that one read brought with one write.
async fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut input = BytesMut::with_capacity(READ);
    let mut output = Vec::with_capacity(READ);
    loop {
        make_room(&mut input);
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
        while let Some(frame) = take_frame(&mut input) {
            output.extend_from_slice(&frame);
        }
        stream.write_all(&output).await?;
        output.clear();
    }
}

/// The client's end.
#[derive(Clone, Default)]
pub(crate) struct Connection(Arc<Table>);

impl Client for Connection {
    async fn call(&mut self, payload: Bytes) -> Result<Bytes> {
        let mut id = None;
        poll_fn(|cx| match id {
            None => {
                id = Some(self.0.begin(&payload, cx)?);
                Poll::Pending
            }
            Some(id) => self.0.poll_end(id, cx),
        })
        .await
    }
}

/// What callers and the connection's task share.
#[derive(Default)]
struct Table(Mutex<Calls>);

#[derive(Default)]
struct Calls {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Frames to send.
    output: Vec<u8>,
    /// The connection's task, when it has nothing to send.
    driver: Option<Waker>,
    broken: bool,
}

enum Slot {
    Free,
    Waiting(Waker),
    Done(Bytes),
}

impl Table {
    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a call a slot and its frame to the connection. A call must be polled to its end: a
    /// dropped one keeps its slot, which is good enough for a benchmark that drops none.
    fn begin(&self, payload: &[u8], cx: &Context<'_>) -> Result<u32> {
        let mut calls = self.calls();
        if calls.broken {
            return Err("the connection is closed".into());
        }
        let waiting = Slot::Waiting(cx.waker().clone());
        let id = if let Some(id) = calls.free.pop() {
            calls.slots[id as usize] = waiting;
            id
        } else {
            calls.slots.push(waiting);
            calls.slots.len() as u32 - 1
        };
        calls
            .output
            .extend_from_slice(&(payload.len() as u32).to_be_bytes());
        calls.output.extend_from_slice(&id.to_be_bytes());
        calls.output.extend_from_slice(payload);
        let driver = calls.driver.take();
        drop(calls);
        // The driver is queued behind all callers that are ready, so they all append before it
        // writes.
        if let Some(driver) = driver {
            driver.wake();
        }
        Ok(id)
    }

    fn poll_end(&self, id: u32, cx: &Context<'_>) -> Poll<Result<Bytes>> {
        let mut calls = self.calls();
        let broken = calls.broken;
        let slot = &mut calls.slots[id as usize];
        match std::mem::replace(slot, Slot::Free) {
            Slot::Done(reply) => {
                calls.free.push(id);
                Poll::Ready(Ok(reply))
            }
            _ if broken => Poll::Ready(Err("the connection is closed".into())),
            _ => {
                *slot = Slot::Waiting(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// The client's task of a connection.
struct Driver {
    table: Arc<Table>,
    stream: TcpStream,
    input: BytesMut,
    /// Being written; from `sent` on it has not been.
    sending: Vec<u8>,
    sent: usize,
    /// Callers whose replies have come, woken together.
    ready: Vec<Waker>,
}

impl Driver {
    async fn run(mut self) {
        // The reason is of no use to a benchmark: callers see that the connection is closed.
        let _ = poll_fn(|cx| self.poll(cx)).await;
        let mut calls = self.table.calls();
        calls.broken = true;
        for slot in &mut calls.slots {
            if let Slot::Waiting(caller) = slot {
                caller.wake_by_ref();
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let read = self.poll_read(cx);
        for caller in self.ready.drain(..) {
            caller.wake();
        }
        match read {
            Poll::Ready(closed) => Poll::Ready(closed),
            Poll::Pending => self.poll_write(cx),
        }
    }

    /// Reads until there is no more; ready when the connection is closed.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            make_room(&mut self.input);
            match poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.input) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
            let mut calls = self.table.calls();
            while let Some(mut frame) = take_frame(&mut self.input) {
                frame.advance(4);
                let id = frame.get_u32();
                let Some(slot) = calls.slots.get_mut(id as usize) else {
                    continue;
                };
                if let Slot::Waiting(caller) = std::mem::replace(slot, Slot::Done(frame.freeze())) {
                    self.ready.push(caller);
                }
            }
        }
    }

    /// Writes until there is no more to write, or no more room.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.sent == self.sending.len() {
                self.sending.clear();
                self.sent = 0;
                let mut calls = self.table.calls();
                if calls.output.is_empty() {
                    calls.driver = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                std::mem::swap(&mut calls.output, &mut self.sending);
            }
            match Pin::new(&mut self.stream).poll_write(cx, &self.sending[self.sent..]) {
                Poll::Ready(Ok(written)) => self.sent += written,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
