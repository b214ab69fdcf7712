//! Posting many small bodies to one server, as quickly as that goes.

use std::fmt;
use std::io;
use std::io::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::FutureExt as _;
use micro_core::{Error, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::connect::{HEAD, Stream};
use crate::message::Headers;
use crate::{HttpConfig, Request, Response};

/// The headers of an answer are at most so many.
const MAX_HEADERS: usize = 64;

/// A body up to this size goes out together with the headers, by one call.
const TOGETHER: usize = 8 << 10;

/// So much is read at a time.
const READ: usize = 2 << 10;

/// A client of one server, for requests that are all alike but for their bodies: what of them is always
/// the same is written once, and a request is written and its answer read by whoever sends it, without a
/// task between.
///
/// Clones share their connections. It speaks HTTP/1.1 as [`HttpClient`](crate::HttpClient) does, and sends
/// nothing twice that the server may have had. Of an answer that does not say how long its body is, the
/// body is left out, and the connection is not used again. Any future may be dropped: the connection is
/// then closed, and the request may or may not have taken effect.
#[derive(Clone)]
pub struct Poster(Arc<Inner>);

struct Inner {
    config: HttpConfig,
    endpoint: Arc<str>,
    turns: Semaphore,
    /// Connections without a request, the last used one last.
    idle: Mutex<Vec<Connection>>,
}

/// The request line and headers that requests share.
#[derive(Clone)]
pub struct Head(Bytes);

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // There may be credentials in it.
        f.debug_tuple("Head").field(&self.0.len()).finish()
    }
}

impl Poster {
    /// A client of the first of these servers; it connects when it is used.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` if there is no endpoint, or one that is not `host:port`.
    pub fn new(config: HttpConfig) -> Result<Self> {
        config.check()?;
        Ok(Self(Arc::new(Inner {
            endpoint: config.endpoints[0].as_str().into(),
            turns: Semaphore::new(config.concurrency.max(1)),
            idle: Mutex::default(),
            config,
        })))
    }

    /// What the requests have in common with this one; its body is left out.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a request that cannot be written.
    pub fn head(&self, request: &Request) -> Result<Head> {
        let built = request.build(&self.0.endpoint, &self.0.config.credentials)?;
        let mut head = Vec::with_capacity(256);
        // Writing to memory does not fail.
        let _ = write!(head, "{} {} HTTP/1.1\r\n", built.method(), built.uri());
        for (name, value) in built.headers() {
            head.extend_from_slice(name.as_str().as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        Ok(Head(head.into()))
    }

    /// Sends a request of this head, with numbers as further headers, whose names are in lower case, and
    /// a body in parts; and reads the answer, whatever its status.
    ///
    /// # Errors
    ///
    /// `Unavailable` if the server cannot be reached or the connection breaks, and then
    /// [`is_unprocessed`](Error::is_unprocessed) says whether the request provably never arrived whole;
    /// `DeadlineExceeded` when the time is over, `ResourceExhausted` for an answer beyond the limit,
    /// `Unknown` for one that is none.
    pub async fn send(
        &self,
        head: &Head,
        numbers: &[(&'static str, u64)],
        body: &[Bytes],
    ) -> Result<Response> {
        let config = &self.0.config;
        match timeout(config.timeout, self.exchange(head, numbers, body)).await {
            Ok(answered) => answered,
            Err(_) => Err(
                Error::deadline_exceeded("the server did not answer in time")
                    .with_operation("http.request")
                    .with_context("timeout", format!("{:?}", config.timeout)),
            ),
        }
    }

    async fn exchange(
        &self,
        head: &Head,
        numbers: &[(&'static str, u64)],
        body: &[Bytes],
    ) -> Result<Response> {
        let inner = &*self.0;
        let turn = inner.turns.acquire().await;
        let _turn = turn.map_err(|_| Error::internal("the client is closed"))?;
        loop {
            let (mut connection, reused) = match self.idle() {
                Some(connection) => (connection, true),
                None => (self.connect().await?, false),
            };
            let sent = connection.write(head, numbers, body).await;
            let answer = connection.read(inner.config.max_body).await;
            match (sent, answer) {
                (sent, Ok(answer)) => {
                    if sent.is_ok() && answer.again {
                        self.keep(connection);
                    }
                    return Ok(Response {
                        endpoint: Arc::clone(&inner.endpoint),
                        status: answer.status,
                        headers: Headers::Raw(answer.head),
                        body: answer.body,
                    });
                }
                // Servers close connections that idle, which is no failure.
                (Err(_), Err(_)) if reused => {}
                (Err(err), Err(_)) => return Err(self.failed(Broken::Off(err), true)),
                (Ok(()), Err(broken)) => return Err(self.failed(broken, false)),
            }
        }
    }

    async fn connect(&self) -> Result<Connection> {
        let stream = Stream::connect(&self.0.config, &self.0.endpoint).await?;
        Ok(Connection {
            stream,
            read: BytesMut::new(),
            written: Vec::new(),
            since: Instant::now(),
        })
    }

    /// A connection that was used before and can be used again.
    fn idle(&self) -> Option<Connection> {
        loop {
            let mut connection = self.lock().pop()?;
            if connection.since.elapsed() < self.0.config.idle && connection.is_quiet() {
                return Some(connection);
            }
        }
    }

    fn keep(&self, mut connection: Connection) {
        connection.since = Instant::now();
        // There are no more than have turns.
        self.lock().push(connection);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Connection>> {
        // Nothing panics under it.
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, broken: Broken, unprocessed: bool) -> Error {
        let error = match broken {
            Broken::Off(err) => {
                Error::unavailable("the connection broke before the answer was there")
                    .with_unprocessed(unprocessed)
                    .with_source(err)
            }
            Broken::NotHttp => Error::unknown("the server does not answer in HTTP/1.1"),
            Broken::TooLarge(limit) => {
                Error::resource_exhausted("the server's answer is larger than the limit")
                    .with_context("limit", limit)
            }
        };
        error
            .with_operation("http.request")
            .with_context("endpoint", &self.0.endpoint)
    }
}

impl fmt::Debug for Poster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poster")
            .field("config", &self.0.config)
            .finish_non_exhaustive()
    }
}

struct Connection {
    stream: Stream,
    read: BytesMut,
    /// Kept for its room.
    written: Vec<u8>,
    since: Instant,
}

struct Answer {
    status: u16,
    head: Bytes,
    body: Bytes,
    /// Whether the connection can carry another request.
    again: bool,
}

/// Why there is no answer.
enum Broken {
    Off(io::Error),
    NotHttp,
    TooLarge(usize),
}

impl Connection {
    /// Whether the server has said nothing since its answer, not even goodbye.
    fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        self.stream.read(&mut byte).now_or_never().is_none()
    }

    async fn write(
        &mut self,
        head: &Head,
        numbers: &[(&'static str, u64)],
        body: &[Bytes],
    ) -> io::Result<()> {
        let length: usize = body.iter().map(Bytes::len).sum();
        let Self {
            stream, written, ..
        } = self;
        written.clear();
        written.extend_from_slice(&head.0);
        for (name, number) in numbers {
            write!(written, "{name}: {number}\r\n")?;
        }
        write!(written, "content-length: {length}\r\n\r\n")?;
        let together = length <= TOGETHER;
        if together {
            body.iter().for_each(|part| written.extend_from_slice(part));
        }
        stream.write_all(written).await?;
        if !together {
            for part in body {
                stream.write_all(part).await?;
            }
        }
        stream.flush().await
    }

    async fn read(&mut self, max_body: usize) -> Result<Answer, Broken> {
        loop {
            match parse(&self.read)? {
                Some(found) if found.status < 200 => {
                    // Not yet the answer (RFC 9110 §15.2); an upgrade was not asked for.
                    if found.status == 101 {
                        return Err(Broken::NotHttp);
                    }
                    self.read.advance(found.length);
                }
                Some(found) => return self.read_body(found, max_body).await,
                None if self.read.len() >= HEAD => return Err(Broken::TooLarge(HEAD)),
                None => self.more().await?,
            }
        }
    }

    async fn read_body(&mut self, found: Found, max_body: usize) -> Result<Answer, Broken> {
        let length = found.body.unwrap_or_default();
        if length > max_body {
            return Err(Broken::TooLarge(max_body));
        }
        while self.read.len() < found.length + length {
            self.more().await?;
        }
        let mut whole = self.read.split_to(found.length + length).freeze();
        let head = whole.split_to(found.length);
        Ok(Answer {
            status: found.status,
            head,
            body: whole,
            again: found.again && found.body.is_some() && self.read.is_empty(),
        })
    }

    async fn more(&mut self) -> Result<(), Broken> {
        self.read.reserve(READ);
        match self.stream.read_buf(&mut self.read).await {
            Ok(0) => Err(Broken::Off(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => Ok(()),
            Err(err) => Err(Broken::Off(err)),
        }
    }
}

/// What the head of an answer says.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    status: u16,
    /// How long the head is.
    length: usize,
    /// How long the body is; `None` if it is not said.
    body: Option<usize>,
    again: bool,
}

/// Reads the head of an answer; `None` if it is not there whole.
fn parse(bytes: &[u8]) -> Result<Option<Found>, Broken> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Broken::NotHttp),
    };
    let status = response.code.unwrap_or_default();
    let mut found = Found {
        status,
        length,
        body: matches!(status, 204 | 304).then_some(0),
        again: response.version == Some(1),
    };
    let mut encoded = false;
    for header in response.headers {
        let name = header.name;
        if name.eq_ignore_ascii_case("content-length") {
            let digits = header.value;
            let said = str::from_utf8(digits)
                .ok()
                .and_then(|text| text.parse().ok());
            let said: usize = said
                .filter(|_| digits.iter().all(u8::is_ascii_digit))
                .ok_or(Broken::NotHttp)?;
            // Two lengths are an attack on whoever believes one of them (RFC 9112 §6.3).
            if found.body.is_some_and(|known| known != said) && !matches!(status, 204 | 304) {
                return Err(Broken::NotHttp);
            }
            found.body.get_or_insert(said);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            encoded = true;
        } else if name.eq_ignore_ascii_case("connection") {
            let mut said = header.value.split(|byte| *byte == b',');
            found.again &= !said.any(|word| word.trim_ascii().eq_ignore_ascii_case(b"close"));
        }
    }
    if encoded {
        (found.body, found.again) = (None, false);
    }
    Ok(Some(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Option<(u16, Option<usize>, bool)> {
        match parse(text.as_bytes()) {
            Ok(Some(found)) => Some((found.status, found.body, found.again)),
            Ok(None) => panic!("not whole: {text:?}"),
            Err(_) => None,
        }
    }

    #[test]
    fn what_an_answer_says_of_its_end_is_believed_or_the_connection_ends() {
        for (headers, expected) in [
            ("content-length: 12\r\n", Some((200, Some(12), true))),
            (
                "Content-Length: 1\r\ncontent-length: 1\r\n",
                Some((200, Some(1), true)),
            ),
            (
                "content-length: 1\r\nconnection: x, Close\r\n",
                Some((200, Some(1), false)),
            ),
            ("", Some((200, None, true))),
            ("transfer-encoding: chunked\r\n", Some((200, None, false))),
            (
                "content-length: 1\r\ntransfer-encoding: chunked\r\n",
                Some((200, None, false)),
            ),
            ("content-length: 1\r\ncontent-length: 2\r\n", None),
            ("content-length: +1\r\n", None),
            ("content-length: -1\r\n", None),
            ("content-length: 99999999999999999999\r\n", None),
            ("content-length: 1, 1\r\n", None),
        ] {
            let text = format!("HTTP/1.1 200 OK\r\n{headers}\r\n");
            assert_eq!(found(&text), expected, "{headers:?}");
        }
        assert_eq!(found("HTTP/1.0 500\r\n\r\n"), Some((500, None, false)));
        assert_eq!(found("HTTP/1.1 204 No\r\n\r\n"), Some((204, Some(0), true)));
        assert_eq!(found("SSH-2.0-x\r\n"), None);
        assert!(matches!(parse(b"HTTP/1.1 20"), Ok(None)));
        assert!(matches!(parse(b""), Ok(None)));
    }
}
