//! An answer that never ends, line by line.

use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use micro_core::{Error, Result};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

use crate::connect::{Connection, failed};

/// The lines of an answer, as they come. Dropping it closes the connection.
#[derive(Debug)]
pub struct Lines {
    body: Incoming,
    /// What has come and was not given out.
    buffer: BytesMut,
    /// So many bytes of it hold no line's end.
    searched: usize,
    limit: usize,
    until: Instant,
    ended: bool,
    endpoint: String,
    /// Kept: dropping it would close it.
    _connection: Connection,
    _turn: OwnedSemaphorePermit,
}

impl Lines {
    pub(crate) fn new(
        body: Incoming,
        connection: Connection,
        endpoint: &str,
        turn: OwnedSemaphorePermit,
        limit: usize,
        until: Instant,
    ) -> Self {
        Self {
            body,
            buffer: BytesMut::new(),
            searched: 0,
            limit,
            until,
            ended: false,
            endpoint: endpoint.to_owned(),
            _connection: connection,
            _turn: turn,
        }
    }

    /// The next line, without its end; `None` when the answer is over. A last line without an end
    /// was cut off, and is not given out.
    ///
    /// The future may be dropped; no line is lost.
    ///
    /// # Errors
    ///
    /// `Unavailable` if the connection breaks, `DeadlineExceeded` when the request's time is over,
    /// `ResourceExhausted` for a line beyond the limit. After an error there is nothing more.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(end) = self.buffer[self.searched..]
                .iter()
                .position(|b| *b == b'\n')
            {
                let end = self.searched + end;
                let mut line = self.buffer.split_to(end).freeze();
                self.buffer.advance(1);
                self.searched = 0;
                if line.len() > self.limit {
                    return Err(self.too_long());
                }
                if line.last() == Some(&b'\r') {
                    line.truncate(line.len() - 1);
                }
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > self.limit {
                return Err(self.too_long());
            }
            if self.ended {
                return Ok(None);
            }
            match timeout_at(self.until, self.body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Ok(Some(Err(err))) => {
                    self.end();
                    return Err(failed(err, &self.endpoint, false));
                }
                Ok(None) => self.end(),
                Err(_) => {
                    self.end();
                    return Err(Error::deadline_exceeded("the answer did not end in time")
                        .with_operation("http.lines"));
                }
            }
        }
    }

    fn end(&mut self) {
        self.ended = true;
        self.buffer.clear();
        self.searched = 0;
    }

    fn too_long(&mut self) -> Error {
        self.end();
        Error::resource_exhausted("a line of the server's answer is longer than the limit")
            .with_operation("http.lines")
            .with_context("limit", self.limit)
    }
}
