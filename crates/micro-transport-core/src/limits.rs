//! What a peer may cost.

use std::time::Duration;

/// What a peer may cost. Every limit has a finite default; all apply in both directions where
/// there are two.
///
/// Taken as `impl Into<Live<Limits>>`: a listener reads message and call limits once per call, the
/// others once per connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The largest message that is received, in bytes. Default 4 MiB.
    pub message_in: usize,
    /// The largest message that is sent, in bytes. Default 4 MiB.
    pub message_out: usize,
    /// The largest header block, in bytes as HTTP/2 counts them. Default 16 KiB.
    pub headers: usize,
    /// The most connections that a listener holds. Default 4,096.
    pub connections: usize,
    /// The most connections from one address that is not loopback. Default 1,024.
    pub connections_per_peer: usize,
    /// The most calls at once on one connection. Default 256. Where a transport has a way of its own
    /// for small calls, that way and the others have as many each.
    pub calls_per_connection: usize,
    /// The largest message, in bytes and either way, that travels on a transport's way for small
    /// calls. Default 16 KiB. A larger one travels by itself, so that it holds up no small ones; with
    /// 0 a connection has no such way. Read when a connection begins; the smaller of both peers' holds.
    pub lane_message: usize,
    /// The time for TLS and protocol negotiation. Default 5 s.
    pub handshake: Duration,
    /// The time for a request's headers to arrive once they have begun. Default 10 s.
    pub header_timeout: Duration,
    /// The time a call may take that brings no deadline of its own. Default 60 s; it does not
    /// apply to streams.
    pub call: Duration,
    /// How long a connection may have no call at all. Default 10 min.
    pub idle: Duration,
    /// How often a silent connection with calls on it is probed. Default 30 s; a client leaves a
    /// server that is not known to be micro 5 min, unless this says otherwise (grpc-go closes a
    /// connection that is probed more often).
    pub keepalive: Duration,
    /// How long the answer to a probe may take. Default 10 s.
    pub keepalive_timeout: Duration,
    /// How much of a stream's messages may wait for a slow reader, in bytes. Default 256 KiB.
    pub stream_window: u32,
    /// The same for a whole connection. Default 4 MiB: so many streams with slow readers stall
    /// the others.
    pub connection_window: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_in: 4 << 20,
            message_out: 4 << 20,
            headers: 16 << 10,
            connections: 4096,
            connections_per_peer: 1024,
            calls_per_connection: 256,
            lane_message: 16 << 10,
            handshake: Duration::from_secs(5),
            header_timeout: Duration::from_secs(10),
            call: Duration::from_secs(60),
            idle: Duration::from_secs(600),
            keepalive: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
            stream_window: 256 << 10,
            connection_window: 4 << 20,
        }
    }
}

macro_rules! setters {
    ($($set:ident $field:ident: $type:ty),* $(,)?) => {
        impl Limits {
            $(
                #[doc = concat!("Sets [`", stringify!($field), "`](Self::", stringify!($field), ").")]
                #[must_use]
                pub const fn $set(mut self, value: $type) -> Self {
                    self.$field = value;
                    self
                }
            )*
        }
    };
}

setters! {
    with_message_in message_in: usize,
    with_message_out message_out: usize,
    with_headers headers: usize,
    with_connections connections: usize,
    with_connections_per_peer connections_per_peer: usize,
    with_calls_per_connection calls_per_connection: usize,
    with_lane_message lane_message: usize,
    with_handshake handshake: Duration,
    with_header_timeout header_timeout: Duration,
    with_call call: Duration,
    with_idle idle: Duration,
    with_keepalive keepalive: Duration,
    with_keepalive_timeout keepalive_timeout: Duration,
    with_stream_window stream_window: u32,
    with_connection_window connection_window: u32,
}
