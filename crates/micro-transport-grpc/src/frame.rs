//! gRPC's own framing: a flag, a length, a message (`PROTOCOL-HTTP2.md`, "Length-Prefixed-Message").

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use micro_core::{Error, Result};

/// The flag and the length in front of a message.
pub(crate) const PREFIX: usize = 5;

/// A message up to this size is copied behind its prefix; a larger one goes as it is.
pub(crate) const COPY: usize = 8 << 10;

/// What is allocated at first for a message that comes in pieces; the rest follows as bytes arrive,
/// so that a peer cannot make us allocate by promising.
const FIRST: usize = 64 << 10;

/// Writes the prefix of a message of `len` bytes.
pub(crate) fn put_prefix(buf: &mut BytesMut, len: usize) {
    buf.put_u8(0);
    // Lengths are checked against `message_out` before; beyond 4 GiB there is no frame anyway.
    buf.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
}

/// A small message with its prefix, in one piece.
pub(crate) fn framed(message: &[u8]) -> Bytes {
    let mut buf = BytesMut::with_capacity(PREFIX + message.len());
    put_prefix(&mut buf, message.len());
    buf.put_slice(message);
    buf.freeze()
}

/// Fails if a message may not be sent.
pub(crate) fn check_out(len: usize, limit: usize) -> Result<()> {
    if len > limit || u32::try_from(len).is_err() {
        return Err(Error::resource_exhausted(
            "the message is larger than may be sent; raise Limits::message_out or stream it",
        )
        .with_context("size", len)
        .with_context("limit", limit));
    }
    Ok(())
}

/// Cuts messages out of a stream of chunks, without copying those that lie within one chunk.
#[derive(Debug)]
pub(crate) struct Deframer {
    limit: usize,
    /// Whether the peer named a compression. We never offer one.
    encoded: bool,
    chunk: Bytes,
    /// A prefix that came in pieces.
    prefix: [u8; PREFIX],
    prefix_len: usize,
    /// A message that comes in pieces, and its size.
    message: Option<(BytesMut, usize)>,
}

impl Deframer {
    pub(crate) fn new(limit: usize, encoded: bool) -> Self {
        Self {
            limit,
            encoded,
            chunk: Bytes::new(),
            prefix: [0; PREFIX],
            prefix_len: 0,
            message: None,
        }
    }

    /// Adds a chunk; the one before must have been used up by [`next`](Self::next).
    pub(crate) fn push(&mut self, chunk: Bytes) {
        if self.chunk.is_empty() {
            self.chunk = chunk;
        } else {
            // Not on any hot path: a chunk that arrived while the last one was still being read.
            let mut both = BytesMut::with_capacity(self.chunk.len() + chunk.len());
            both.put_slice(&self.chunk);
            both.put_slice(&chunk);
            self.chunk = both.freeze();
        }
    }

    /// The next whole message, or `None` if more chunks are needed.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>> {
        if let Some((message, size)) = &mut self.message {
            let missing = (*size - message.len()).min(self.chunk.len());
            message.put_slice(&self.chunk[..missing]);
            self.chunk.advance(missing);
            if message.len() < *size {
                return Ok(None);
            }
            return Ok(self.message.take().map(|(message, _)| message.freeze()));
        }
        if self.prefix_len == 0 && self.chunk.len() >= PREFIX {
            self.prefix.copy_from_slice(&self.chunk[..PREFIX]);
            self.chunk.advance(PREFIX);
        } else {
            let missing = (PREFIX - self.prefix_len).min(self.chunk.len());
            self.prefix[self.prefix_len..self.prefix_len + missing]
                .copy_from_slice(&self.chunk[..missing]);
            self.chunk.advance(missing);
            self.prefix_len += missing;
            if self.prefix_len < PREFIX {
                return Ok(None);
            }
            self.prefix_len = 0;
        }
        let size = self.size()?;
        if self.chunk.len() >= size {
            return Ok(Some(self.chunk.split_to(size)));
        }
        let mut message = BytesMut::with_capacity(size.min(FIRST.max(self.chunk.len())));
        message.put_slice(&self.chunk);
        self.chunk = Bytes::new();
        self.message = Some((message, size));
        Ok(None)
    }

    /// The size in the prefix, checked before anything is allocated for it.
    fn size(&self) -> Result<usize> {
        let [flag, a, b, c, d] = self.prefix;
        match flag {
            0 => {}
            1 if self.encoded => {
                return Err(Error::unimplemented(
                    "compressed messages are not supported; send them as they are",
                ));
            }
            1 => {
                return Err(Error::internal(
                    "a message is marked as compressed, but no compression was named",
                ));
            }
            _ => return Err(Error::internal("a message begins with an unknown flag")),
        }
        let size = u32::from_be_bytes([a, b, c, d]) as usize;
        if size > self.limit {
            return Err(Error::resource_exhausted(
                "the message is larger than may be received; raise Limits::message_in or stream it",
            )
            .with_context("size", size)
            .with_context("limit", self.limit));
        }
        Ok(size)
    }

    /// Fails if the stream ended within a message.
    pub(crate) fn finish(&self) -> Result<()> {
        if self.message.is_some() || self.prefix_len > 0 || !self.chunk.is_empty() {
            return Err(Error::internal("the stream ended within a message"));
        }
        Ok(())
    }

    /// Whether what is there is exactly one message, judging by its length.
    pub(crate) fn holds_one(&self) -> bool {
        if self.message.is_some() || self.prefix_len > 0 {
            return false;
        }
        match *self.chunk {
            [_, a, b, c, d, ref message @ ..] => {
                message.len() == u32::from_be_bytes([a, b, c, d]) as usize
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use micro_core::ErrorKind;

    use super::*;

    fn all(deframer: &mut Deframer, chunks: &[&[u8]]) -> Result<Vec<Bytes>> {
        let mut out = Vec::new();
        for chunk in chunks {
            deframer.push(Bytes::copy_from_slice(chunk));
            while let Some(message) = deframer.next()? {
                out.push(message);
            }
        }
        deframer.finish()?;
        Ok(out)
    }

    #[test]
    fn messages_are_cut_at_every_place() {
        let mut wire = Vec::new();
        for message in [&b"hello"[..], b"", b"x", &[7; 300]] {
            wire.extend_from_slice(&framed(message));
        }
        for step in 1..wire.len() {
            let chunks: Vec<_> = wire.chunks(step).collect();
            let messages = all(&mut Deframer::new(300, false), &chunks).unwrap();
            assert_eq!(messages.len(), 4, "step {step}");
            assert_eq!(messages[0], "hello");
            assert_eq!(messages[1], "");
            assert_eq!(messages[3], [7; 300][..]);
        }
    }

    #[test]
    fn a_message_within_a_chunk_is_not_copied() {
        let wire = framed(b"hello");
        let mut deframer = Deframer::new(5, false);
        deframer.push(wire.clone());
        let message = deframer.next().unwrap().unwrap();
        assert_eq!(message.as_ptr(), wire[PREFIX..].as_ptr());
    }

    #[test]
    fn what_is_no_frame_is_refused_before_it_is_buffered() {
        let table: [(&[u8], bool, ErrorKind); 6] = [
            (&[0, 0, 0, 0, 11], false, ErrorKind::ResourceExhausted),
            (
                &[0, 0xff, 0xff, 0xff, 0xff],
                false,
                ErrorKind::ResourceExhausted,
            ),
            (&[1, 0, 0, 0, 1, 0], false, ErrorKind::Internal),
            (&[1, 0, 0, 0, 1, 0], true, ErrorKind::Unimplemented),
            (&[2, 0, 0, 0, 1, 0], false, ErrorKind::Internal),
            (&[0, 0, 0, 0, 2, 0], false, ErrorKind::Internal),
        ];
        for (wire, encoded, kind) in table {
            let err = all(&mut Deframer::new(10, encoded), &[wire]).unwrap_err();
            assert_eq!(err.kind(), kind, "{wire:?}");
        }
    }
}
