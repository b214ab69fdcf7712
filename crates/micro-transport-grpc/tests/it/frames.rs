//! HTTP/2 frames written by hand, for what no well-behaved library would send.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;

pub(crate) const PROTOCOL_ERROR: u32 = 1;
pub(crate) const FLOW_CONTROL_ERROR: u32 = 3;
pub(crate) const FRAME_SIZE_ERROR: u32 = 6;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) payload: Vec<u8>,
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut out = vec![len[1], len[2], len[3], kind, flags];
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// A header without compression and indexing.
pub(crate) fn literal(name: &str, value: &[u8]) -> Vec<u8> {
    let mut out = vec![0];
    for part in [name.as_bytes(), value] {
        // Lengths in seven bits, then in groups of seven.
        if part.len() < 127 {
            out.push(u8::try_from(part.len()).unwrap());
        } else {
            out.push(127);
            let mut rest = part.len() - 127;
            while rest >= 128 {
                out.push(u8::try_from(rest % 128).unwrap() | 0x80);
                rest /= 128;
            }
            out.push(u8::try_from(rest).unwrap());
        }
        out.extend(part);
    }
    out
}

/// The header block of a gRPC call, with more headers.
pub(crate) fn call(method: &str, more: &[(&str, &[u8])]) -> Vec<u8> {
    let path = format!("/test.T/{method}");
    let mut out = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path.as_str()),
        (":authority", "x"),
        ("te", "trailers"),
        ("content-type", "application/grpc+json"),
    ] {
        if !more.iter().any(|(other, _)| *other == name) {
            out.extend(literal(name, value.as_bytes()));
        }
    }
    // Pseudo-headers stand first.
    let (pseudo, rest): (Vec<_>, Vec<_>) = more.iter().partition(|(name, _)| name.starts_with(':'));
    let mut block = Vec::new();
    for (name, value) in pseudo {
        block.extend(literal(name, value));
    }
    block.extend(out);
    for (name, value) in rest {
        block.extend(literal(name, value));
    }
    block
}

pub(crate) fn grpc(message: &[u8]) -> Vec<u8> {
    let mut out = vec![0];
    out.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    out.extend(message);
    out
}

/// A raw connection after the preface and the first SETTINGS.
pub(crate) struct Raw {
    pub(crate) tcp: TcpStream,
    buf: Vec<u8>,
}

impl Raw {
    pub(crate) async fn connect(address: &str) -> Self {
        Self::connect_with(address, &[]).await
    }

    /// With settings of its own: (identifier, value).
    pub(crate) async fn connect_with(address: &str, settings: &[(u16, u32)]) -> Self {
        let mut tcp = TcpStream::connect(address).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let mut payload = Vec::new();
        for (id, value) in settings {
            payload.extend(id.to_be_bytes());
            payload.extend(value.to_be_bytes());
        }
        let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        out.extend(frame(SETTINGS, 0, 0, &payload));
        out.extend(frame(SETTINGS, 1, 0, &[]));
        tcp.write_all(&out).await.unwrap();
        Self {
            tcp,
            buf: Vec::new(),
        }
    }

    /// Sends; false if the peer has closed.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> bool {
        let sent = tokio::time::timeout(Duration::from_secs(5), self.tcp.write_all(bytes));
        matches!(sent.await, Ok(Ok(())))
    }

    /// The next frame; `None` when the peer has closed or says nothing for `limit`.
    pub(crate) async fn read_within(&mut self, limit: Duration) -> Option<Frame> {
        tokio::time::timeout(limit, self.read())
            .await
            .ok()
            .flatten()
    }

    async fn read(&mut self) -> Option<Frame> {
        loop {
            if self.buf.len() >= 9 {
                let len = u32::from_be_bytes([0, self.buf[0], self.buf[1], self.buf[2]]) as usize;
                if self.buf.len() >= 9 + len {
                    let rest = self.buf.split_off(9 + len);
                    let whole = std::mem::replace(&mut self.buf, rest);
                    return Some(Frame {
                        kind: whole[3],
                        payload: whole[9..].to_vec(),
                    });
                }
            }
            let mut chunk = [0; 16384];
            match self.tcp.read(&mut chunk).await {
                Ok(0) | Err(_) => return None,
                Ok(n) => self.buf.extend_from_slice(&chunk[..n]),
            }
        }
    }

    /// The next frame of a kind; others are dropped.
    pub(crate) async fn wait_for(&mut self, kind: u8, limit: Duration) -> Option<Frame> {
        tokio::time::timeout(limit, async {
            loop {
                match self.read().await {
                    Some(frame) if frame.kind == kind => return Some(frame),
                    Some(_) => {}
                    None => return None,
                }
            }
        })
        .await
        .ok()
        .flatten()
    }

    /// The error code of the GOAWAY that ends the connection; `None` if it ends without one.
    pub(crate) async fn goaway(&mut self, limit: Duration) -> Option<u32> {
        let frame = self.wait_for(GOAWAY, limit).await?;
        Some(u32::from_be_bytes(frame.payload[4..8].try_into().unwrap()))
    }

    /// Whether the peer closes within `limit`.
    pub(crate) async fn is_closed_within(&mut self, limit: Duration) -> bool {
        let closed = async {
            let mut chunk = [0; 16384];
            while !matches!(self.tcp.read(&mut chunk).await, Ok(0) | Err(_)) {}
        };
        tokio::time::timeout(limit, closed).await.is_ok()
    }
}
