//! A bound on what a server may send at once.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The longest message: the client library keeps each in memory as a whole, and believes a length of up
/// to 2 GiB. A record of the store takes at most 17 MiB.
const LONGEST: u32 = 32 << 20;

/// A stream of which only messages of bounded length are read: each is a byte, a length that counts
/// itself, and the rest (PostgreSQL's protocol 3.0, "Message Formats").
#[derive(Debug)]
pub(crate) struct Bounded<S> {
    stream: S,
    header: [u8; 5],
    /// How much of the header has been read.
    filled: usize,
    /// How much of the message is still to come.
    left: usize,
}

impl<S> Bounded<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            header: [0; 5],
            filled: 0,
            left: 0,
        }
    }

    /// Looks at the headers in what was read.
    fn look(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let read = self.left.min(bytes.len());
                self.left -= read;
                bytes = &bytes[read..];
                continue;
            }
            self.header[self.filled] = bytes[0];
            self.filled += 1;
            bytes = &bytes[1..];
            if self.filled == self.header.len() {
                self.filled = 0;
                let [_, length @ ..] = self.header;
                let length = u32::from_be_bytes(length);
                if !(4..=LONGEST).contains(&length) {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("the server sends a message of {length} bytes"),
                    ));
                }
                self.left = length as usize - 4;
            }
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let looked = self.look(&buf.filled()[before..]);
        if looked.is_err() {
            buf.set_filled(before);
        }
        Poll::Ready(looked)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    fn message(length: u32, body: usize) -> Vec<u8> {
        let mut bytes = vec![b'D'];
        bytes.extend(length.to_be_bytes());
        bytes.resize(bytes.len() + body, 7);
        bytes
    }

    async fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut read = Vec::new();
        Bounded::new(bytes).read_to_end(&mut read).await?;
        Ok(read)
    }

    #[tokio::test]
    async fn messages_go_through_however_they_are_cut() {
        let bytes: Vec<u8> = [message(4, 0), message(9, 5), message(104, 100)].concat();
        assert_eq!(read(&bytes).await.unwrap(), bytes);
        for cut in 0..bytes.len() {
            let mut bounded = Bounded::new(());
            bounded.look(&bytes[..cut]).unwrap();
            bounded.look(&bytes[cut..]).unwrap();
            assert_eq!((bounded.filled, bounded.left), (0, 0), "cut at {cut}");
        }
    }

    #[tokio::test]
    async fn s61_a_length_that_nobody_means_ends_the_connection() {
        for length in [0, 3, LONGEST + 1, u32::MAX >> 1, u32::MAX] {
            let bytes = [message(5, 1), message(length, 100)].concat();
            let err = read(&bytes).await.unwrap_err();
            assert_eq!(err.kind(), io::ErrorKind::InvalidData, "{length}");
        }
        assert!(read(&message(LONGEST, 100)).await.is_ok());
    }
}
