//! The attacks of the reliability reference, each under its id. What they share: the server keeps
//! serving honest peers, and what the attacker costs is bounded.

use std::time::Duration;

use micro_core::ErrorKind;
use micro_transport_core::{Connection, Context, Limits, ListenOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR, Frame, GOAWAY, HEADERS, PING, PRIORITY, PROTOCOL_ERROR, PUSH_PROMISE,
    RST_STREAM, Raw, SETTINGS, WINDOW_UPDATE, call, frame, grpc, literal,
};
use crate::kit::{Server, eventually, serve, unary};

/// Headers of a call beside the usual ones.
type Headers<'a> = &'a [(&'a str, &'a [u8])];

const SOON: Duration = Duration::from_secs(2);

/// An honest peer is served, and quickly.
async fn is_well(server: &Server, node: &dyn Connection) {
    let began = Instant::now();
    assert_eq!(
        unary(node, &Context::new(), "Echo", "x").await.unwrap(),
        "x"
    );
    let newcomer = server.dial().await;
    assert_eq!(
        unary(&*newcomer, &Context::new(), "Echo", "y")
            .await
            .unwrap(),
        "y"
    );
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn s21_rapid_reset() {
    let server = Server::start().await;
    let honest = server.dial().await;
    let block = call("Sleep", &[]);
    // Each reset right behind its call, or all calls first, so that their handlers do begin.
    for together in [true, false] {
        let mut raw = Raw::connect(&server.address).await;
        let mut sent = 0;
        'attack: for chunk in 0..1000_u32 {
            let mut opened = Vec::new();
            let mut reset = Vec::new();
            for i in 0..100 {
                let id = (chunk * 100 + i) * 2 + 1;
                opened.extend(frame(HEADERS, END_HEADERS | END_STREAM, id, &block));
                let out = if together { &mut opened } else { &mut reset };
                out.extend(frame(RST_STREAM, 0, id, &8_u32.to_be_bytes()));
            }
            if !raw.send(&opened).await {
                break 'attack;
            }
            if !together {
                tokio::task::yield_now().await;
            }
            if !raw.send(&reset).await {
                break 'attack;
            }
            sent += 100;
        }
        assert!(sent < 100_000, "the connection was never closed");
        is_well(&server, &*honest).await;
        assert!(server.is_idle_within(SOON).await);
    }
    // Of 200,000: about 10,000 each, and 1,000 a second.
    let begun = server.counts.begun();
    assert!(begun <= 30_000, "{begun} handlers");
}

#[tokio::test]
async fn s22_continuation_flood() {
    let server = Server::start().await;
    let honest = server.dial().await;
    let mut raw = Raw::connect(&server.address).await;
    let mut first = call("Echo", &[]);
    first.extend(literal("x-a", b"b"));
    raw.send(&frame(HEADERS, END_STREAM, 1, &first)).await;
    let more = frame(CONTINUATION, 0, 1, &literal("x-flood", &[b'a'; 1000]));
    let mut sent = 0;
    while sent < 100_000 && raw.send(&more).await {
        sent += 1;
    }
    assert!(sent < 100_000, "the connection was never closed");
    assert_eq!(server.counts.begun(), 0);
    is_well(&server, &*honest).await;
}

#[tokio::test]
async fn s23_made_you_reset() {
    let server = Server::start().await;
    let honest = server.dial().await;
    let mut raw = Raw::connect(&server.address).await;
    let block = call("Sleep", &[]);
    let mut sent = 0;
    'attack: for chunk in 0..1000_u32 {
        let mut out = Vec::new();
        for i in 0..100 {
            let id = (chunk * 100 + i) * 2 + 1;
            out.extend(frame(HEADERS, END_HEADERS | END_STREAM, id, &block));
            // A window update of nothing is a stream error: the server has to reset.
            out.extend(frame(WINDOW_UPDATE, 0, id, &[0; 4]));
        }
        if !raw.send(&out).await {
            break 'attack;
        }
        sent += 100;
    }
    assert!(sent < 100_000, "the connection was never closed");
    assert!(
        server.counts.begun() <= 1000,
        "{} handlers",
        server.counts.begun()
    );
    is_well(&server, &*honest).await;
    assert!(server.is_idle_within(SOON).await);
}

#[tokio::test]
async fn s24_endless_tiny_data() {
    let server = Server::start().await;
    let honest = server.dial().await;
    for payload in [&b""[..], b"x"] {
        let mut raw = Raw::connect(&server.address).await;
        raw.send(&frame(HEADERS, END_HEADERS, 1, &call("Sleep", &[])))
            .await;
        let mut out = Vec::new();
        for _ in 0..1000 {
            out.extend(frame(DATA, 0, 1, payload));
        }
        let mut sent = 0;
        while sent < 3000 && raw.send(&out).await {
            sent += 1;
        }
        // Empty ones end the connection; others stop at the window of a reader that does not read.
        let code = raw.goaway(SOON).await;
        assert!(
            matches!(code, Some(ENHANCE_YOUR_CALM | FLOW_CONTROL_ERROR)),
            "{code:?}"
        );
    }
    is_well(&server, &*honest).await;
    assert!(server.is_idle_within(SOON).await);
}

#[tokio::test]
async fn s25_floods_of_control_frames() {
    let server = Server::start().await;
    let honest = server.dial().await;
    let floods = [
        ("ping", frame(PING, 0, 0, &[0; 8])),
        ("settings", frame(SETTINGS, 0, 0, &[])),
        ("priority", frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])),
        ("unknown", frame(0x77, 0, 0, b"?")),
    ];
    for (name, one) in floods {
        let mut raw = Raw::connect(&server.address).await;
        let many = one.repeat(100);
        let mut sent = 0;
        // The answers are read, or the attacker would only stop itself.
        while sent < 1000 && raw.send(&many).await {
            sent += 1;
            while raw
                .read_within(Duration::from_millis(1))
                .await
                .is_some_and(|f| f.kind != GOAWAY)
            {}
        }
        assert!(sent < 1000, "{name}: the connection was never closed");
        is_well(&server, &*honest).await;
    }
    // A client that pings with each call, as some measure latency, is none.
    let mut raw = Raw::connect(&server.address).await;
    for i in 0..3000_u32 {
        let mut out = frame(PING, 0, 0, &[0; 8]);
        out.extend(frame(HEADERS, END_HEADERS, i * 2 + 1, &call("Echo", &[])));
        out.extend(frame(DATA, END_STREAM, i * 2 + 1, &grpc(b"x")));
        assert!(raw.send(&out).await, "{i}");
        if i % 64 == 63 {
            while raw.read_within(Duration::from_millis(1)).await.is_some() {}
        }
    }
    assert!(eventually(SOON, || server.counts.begun() >= 3000).await);
}

#[tokio::test]
async fn s26_hpack_bomb() {
    let server = Server::start().await;
    let honest = server.dial().await;
    let mut raw = Raw::connect(&server.address).await;
    let mut block = call("Echo", &[]);
    // A header that is put into the table (literal with indexing), then 4,000 references to it.
    let mut entry = literal("x-bomb", &[b'a'; 3000]);
    entry[0] = 0x40;
    block.extend(entry);
    block.extend(vec![0x80 | 62; 4000]);
    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block))
        .await;
    let answer = raw.wait_for(HEADERS, SOON).await;
    // `:status: 431`, or the stream or the connection is gone.
    if let Some(answer) = answer {
        assert!(answer.payload.windows(3).any(|w| w == b"431") || answer.payload.len() < 20);
    }
    assert_eq!(server.counts.begun(), 0);
    is_well(&server, &*honest).await;
}

#[tokio::test]
async fn s27_readers_that_never_read() {
    let limits = Limits::default().with_idle(Duration::from_millis(300));
    let server = serve(ListenOptions::default().with_limits(limits)).await;
    // An initial window of nothing.
    let mut raw = Raw::connect_with(&server.address, &[(4, 0)]).await;
    for i in 0..200_u32 {
        let mut out = frame(HEADERS, END_HEADERS, i * 2 + 1, &call("Count", &[]));
        out.extend(frame(DATA, END_STREAM, i * 2 + 1, &grpc(b"1000000 1000")));
        raw.send(&out).await;
    }
    assert!(eventually(SOON, || server.counts.begun() == 200).await);
    // One byte at a time is no progress worth waiting for, either.
    for _ in 0..10 {
        raw.send(&frame(WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes()))
            .await;
    }
    // Not before: on a busy machine all this takes longer than a connection may idle.
    let honest = server.dial().await;
    is_well(&server, &*honest).await;
    let reset = raw.wait_for(RST_STREAM, SOON).await;
    assert!(reset.is_some(), "a stalled stream is never given up");
}

#[tokio::test]
async fn s28_what_the_protocol_forbids() {
    let server = Server::start().await;
    let honest = server.dial().await;
    let open = frame(HEADERS, END_HEADERS, 1, &call("Sleep", &[]));
    let with = |more: Vec<u8>| [open.clone(), more].concat();
    let cases = [
        (
            "a window beyond 2^31",
            with(frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes())),
            FLOW_CONTROL_ERROR,
        ),
        (
            "a frame beyond the maximum",
            frame(DATA, 0, 1, &[0; 20_000]),
            FRAME_SIZE_ERROR,
        ),
        (
            "an even stream",
            frame(HEADERS, END_HEADERS, 2, &call("Echo", &[])),
            PROTOCOL_ERROR,
        ),
        (
            "a promise",
            with(frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])),
            PROTOCOL_ERROR,
        ),
        (
            "data on an idle stream",
            frame(DATA, 0, 99, b"x"),
            PROTOCOL_ERROR,
        ),
        (
            "a stream twice",
            {
                let once = frame(HEADERS, END_HEADERS | END_STREAM, 3, &call("Early", &[]));
                let earlier = frame(HEADERS, END_HEADERS | END_STREAM, 1, &call("Early", &[]));
                [once, earlier].concat()
            },
            PROTOCOL_ERROR,
        ),
        (
            "settings of a stream",
            frame(SETTINGS, 0, 1, &[]),
            PROTOCOL_ERROR,
        ),
        (
            "a ping of seven bytes",
            frame(PING, 0, 0, &[0; 7]),
            PROTOCOL_ERROR,
        ),
    ];
    for (name, bytes, code) in cases {
        let mut raw = Raw::connect(&server.address).await;
        raw.send(&bytes).await;
        let got = raw.goaway(SOON).await;
        assert!(got == Some(code) || got == Some(5), "{name}: {got:?}");
    }
    is_well(&server, &*honest).await;
    assert!(server.is_idle_within(SOON).await);
}

#[tokio::test]
async fn s29_slow_loris() {
    let limits = Limits::default()
        .with_handshake(Duration::from_millis(200))
        .with_header_timeout(Duration::from_millis(200));
    let server = serve(ListenOptions::default().with_limits(limits)).await;
    let honest = server.dial().await;
    let wait = Duration::from_millis(600);

    // Nothing at all, or half a preface.
    for bytes in [&b""[..], b"PRI * HT"] {
        let mut tcp = TcpStream::connect(&server.address).await.unwrap();
        tcp.write_all(bytes).await.unwrap();
        let began = Instant::now();
        let mut buf = [0; 16];
        let closed = tokio::time::timeout(wait, tcp.read(&mut buf)).await;
        assert!(matches!(closed, Ok(Ok(0) | Err(_))), "{bytes:?}");
        assert!(began.elapsed() >= Duration::from_millis(150));
    }
    // HTTP/1.1 headers that never end.
    let mut tcp = TcpStream::connect(&server.address).await.unwrap();
    tcp.write_all(b"POST /test.T/Echo HTTP/1.1\r\nhost:")
        .await
        .unwrap();
    let mut all = Vec::new();
    assert!(
        tokio::time::timeout(wait, tcp.read_to_end(&mut all))
            .await
            .is_ok()
    );
    // HTTP/2 headers that never end, in either way.
    let block = call("Echo", &[]);
    let half = &frame(HEADERS, END_HEADERS, 1, &block)[..30];
    for bytes in [
        frame(HEADERS, END_STREAM, 1, &block).as_slice(),
        half,
        &[0, 0],
    ] {
        let mut raw = Raw::connect(&server.address).await;
        raw.send(bytes).await;
        assert!(raw.is_closed_within(wait).await, "{bytes:?}");
    }
    // A body that never ends is the call's deadline's business.
    let mut raw = Raw::connect(&server.address).await;
    let timeout = call("Collect", &[("grpc-timeout", b"200m")]);
    raw.send(&frame(HEADERS, END_HEADERS, 1, &timeout)).await;
    for byte in grpc(b"hello").iter().take(8) {
        raw.send(&frame(DATA, 0, 1, &[*byte])).await;
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    assert!(server.is_idle_within(wait).await);
    is_well(&server, &*honest).await;
}

#[tokio::test]
async fn s30_too_many_connections() {
    let limits = Limits::default().with_connections(50);
    let server = serve(ListenOptions::default().with_limits(limits)).await;
    let mut held = Vec::new();
    for i in 0..300 {
        let mut tcp = TcpStream::connect(&server.address).await.unwrap();
        if i % 2 == 0 {
            let _ = tcp
                .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
                .await;
        }
        held.push(tcp);
    }
    // Idle ones make room.
    let began = Instant::now();
    let honest = server.dial().await;
    assert_eq!(
        unary(&*honest, &Context::new(), "Echo", "x").await.unwrap(),
        "x"
    );
    assert!(began.elapsed() < Duration::from_secs(1));
    drop(held);

    // Busy ones do not: the newcomer is told at once.
    let limits = Limits::default().with_connections(2);
    let server = serve(ListenOptions::default().with_limits(limits)).await;
    let mut busy = Vec::new();
    for i in 1..=2 {
        let node = server.dial().await;
        let copy = std::sync::Arc::clone(&node);
        busy.push(tokio::spawn(async move {
            unary(&*copy, &Context::new(), "Sleep", "").await
        }));
        assert!(eventually(SOON, || server.counts.running() == i).await);
    }
    let began = Instant::now();
    let err = micro_transport_core::Transport::dial(
        &micro_transport_grpc::GrpcTransport::new(),
        &server.address,
        micro_transport_core::DialOptions::default(),
    )
    .await
    .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unavailable);
    assert!(err.is_unprocessed());
    assert!(began.elapsed() < Duration::from_secs(1));
    for call in busy {
        call.abort();
    }
}

/// HTTP/1.1 whose end two readers would see differently.
#[tokio::test]
async fn s31_request_smuggling() {
    let server = Server::start().await;
    let honest = server.dial().await;
    let head = "POST /test.T/Echo HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
    let smuggled = "POST /test.T/Early HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 0\r\n\r\n";
    let refused = [
        (
            "two lengths",
            format!("{head}content-length: 1\r\ncontent-length: 2\r\n\r\n12"),
        ),
        (
            "a signed length",
            format!("{head}content-length: +1\r\n\r\n1"),
        ),
        (
            "a list of lengths",
            format!("{head}content-length: 1, 2\r\n\r\n12"),
        ),
        (
            "a folded header",
            format!("{head}x-a: b\r\n c\r\ncontent-length: 0\r\n\r\n"),
        ),
        (
            "a space before the colon",
            format!("{head}content-length : 1\r\n\r\n1"),
        ),
        (
            "an unknown coding",
            format!("{head}transfer-encoding: xchunked\r\n\r\n0\r\n\r\n"),
        ),
        (
            "chunked not last",
            format!("{head}transfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
        ),
        (
            "a bad chunk size",
            format!("{head}transfer-encoding: chunked\r\n\r\n-1\r\n\r\n"),
        ),
        (
            "two hosts",
            format!("{head}host: y\r\ncontent-length: 0\r\n\r\n"),
        ),
        (
            "a name with a space",
            format!("{head}x a: b\r\ncontent-length: 0\r\n\r\n"),
        ),
        (
            "a bare CR in a value",
            format!("{head}x-a: b\rc\r\ncontent-length: 0\r\n\r\n"),
        ),
    ];
    for (name, text) in refused {
        let answer = answer(&server.address, &text).await;
        assert!(!answer.contains(" 200 "), "{name}: {answer}");
    }
    // Both at once: either refused, or read by the chunks alone and closed behind them.
    let both =
        format!("{head}content-length: 6\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}");
    let got = answer(&server.address, &both).await;
    assert!(
        got.matches(" 200 ").count() <= 1 || !got.contains("early"),
        "{got}"
    );
    is_well(&server, &*honest).await;
}

async fn answer(address: &str, text: &str) -> String {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(text.as_bytes()).await.unwrap();
    let mut all = Vec::new();
    let _ = tokio::time::timeout(Duration::from_millis(200), tcp.read_to_end(&mut all)).await;
    String::from_utf8_lossy(&all).into_owned()
}

#[tokio::test]
async fn s32_tls_to_a_plaintext_port() {
    let server = Server::start().await;
    let honest = server.dial().await;
    // A ClientHello's first bytes, SSLv2's, and noise.
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"\x80\x2e\x01\x00\x02",
        b"\x00\x00\x00\x00\x00\x00\x00\x00",
        b"SSH-2.0-OpenSSH_9.0\r\n",
        b"\xff\xfe\xfd\xfc",
    ] {
        let mut raw = TcpStream::connect(&server.address).await.unwrap();
        raw.write_all(bytes).await.unwrap();
        raw.shutdown().await.unwrap();
        let mut all = Vec::new();
        let closed = tokio::time::timeout(SOON, raw.read_to_end(&mut all)).await;
        assert!(closed.is_ok(), "{bytes:?}");
    }
    assert_eq!(server.counts.begun(), 0);
    is_well(&server, &*honest).await;
}

#[tokio::test]
async fn s33_compressed_and_endless_messages() {
    let server = Server::start().await;
    let node = server.dial().await;
    let gzip: Headers<'_> = &[("grpc-encoding", b"gzip")];
    let cases: [(Headers<'_>, &[u8], &str); 5] = [
        // Compressed, but nobody said how.
        (&[], &[1, 0, 0, 0, 1, b'x'], "13"),
        // A compression that is not supported; a bomb would look no different.
        (gzip, &[1, 0, 0, 0, 1, b'x'], "12"),
        // Named, and not used: that is fine.
        (gzip, &[0, 0, 0, 0, 1, b'x'], "0"),
        (&[], &[0, 0xff, 0xff, 0xff, 0xff, b'x'], "8"),
        (&[], &[9, 0, 0, 0, 1, b'x'], "13"),
    ];
    for (headers, message, status) in cases {
        for split in [false, true] {
            let mut raw = Raw::connect(&server.address).await;
            raw.send(&frame(HEADERS, END_HEADERS, 1, &call("Echo", headers)))
                .await;
            if split {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            raw.send(&frame(DATA, END_STREAM, 1, message)).await;
            assert_eq!(
                grpc_status(&mut raw).await.as_deref(),
                Some(status),
                "{message:?}"
            );
        }
    }
    is_well(&server, &*node).await;
}

/// The `grpc-status` of the answer.
async fn grpc_status(raw: &mut Raw) -> Option<String> {
    loop {
        let frame = raw.read_within(SOON).await?;
        if frame.kind == HEADERS
            && let Some(status) = status_in(&frame)
        {
            return Some(status);
        }
        if frame.kind == GOAWAY || frame.kind == RST_STREAM {
            return Some(format!("{frame:?}"));
        }
    }
}

/// Enough of HPACK for h2's own encoder: finds `grpc-status`.
fn status_in(frame: &Frame) -> Option<String> {
    // The name is Huffman-coded: `grpc-status` is these eight bytes.
    const NAME: [u8; 8] = [0x9a, 0xca, 0xc8, 0xb2, 0x12, 0x34, 0xda, 0x8f];
    let at = frame.payload.windows(8).position(|window| window == NAME)?;
    let value = &frame.payload[at + 8..];
    let len = usize::from(value[0] & 0x7f);
    let bytes = &value[1..=len];
    if value[0] & 0x80 == 0 {
        return Some(String::from_utf8_lossy(bytes).into_owned());
    }
    // Digits 0, 1 and 2 take five bits, the others six.
    let bits: String = bytes.iter().map(|byte| format!("{byte:08b}")).collect();
    let mut rest = bits.as_str();
    let mut out = String::new();
    while rest.len() >= 5 {
        let (digit, used) = match &rest[..5] {
            "00000" => ('0', 5),
            "00001" => ('1', 5),
            "00010" => ('2', 5),
            _ if rest.len() >= 6 && rest.starts_with("011") => {
                let code = u8::from_str_radix(&rest[..6], 2).ok()?;
                (char::from(b'3' + (code - 0b01_1001)), 6)
            }
            _ => break,
        };
        out.push(digit);
        rest = &rest[used..];
    }
    Some(out)
}

#[tokio::test]
async fn s34_headers_that_lie() {
    let server = Server::start().await;
    let node = server.dial().await;
    let table: [(&str, Headers<'_>, &str); 14] = [
        ("Sleep", &[("grpc-timeout", b"50m")], "4"),
        // go-micro's: decimal nanoseconds.
        ("Sleep", &[("timeout", b"50000000")], "4"),
        ("See", &[("grpc-timeout", b"99999999H")], "0"),
        ("See", &[("grpc-timeout", b"-1S")], "3"),
        ("See", &[("grpc-timeout", b"")], "3"),
        ("See", &[("grpc-timeout", b"123456789S")], "3"),
        ("See", &[("grpc-timeout", b"0n")], "4"),
        ("See", &[("host", b"elsewhere")], "3"),
        ("See", &[("host", b"x")], "0"),
        ("See", &[("x-raw-bin", b"!")], "3"),
        ("See", &[("x-latin", b"caf\xe9")], "3"),
        ("See", &[(":path", b"/../x")], "12"),
        ("See", &[(":path", b"/%00/x")], "12"),
        ("See", &[(":method", b"GET")], "13"),
    ];
    for (method, headers, status) in table {
        let mut raw = Raw::connect(&server.address).await;
        let mut out = frame(HEADERS, END_HEADERS, 1, &call(method, headers));
        out.extend(frame(DATA, END_STREAM, 1, &grpc(b"")));
        raw.send(&out).await;
        assert_eq!(
            grpc_status(&mut raw).await.as_deref(),
            Some(status),
            "{headers:?}"
        );
    }
    // 64 KiB of path is beyond any header limit.
    let mut raw = Raw::connect(&server.address).await;
    let path = [b"/".to_vec(), vec![b'a'; 64 << 10]].concat();
    let block = call("See", &[(":path", &path)]);
    let (first, rest) = block.split_at(16_000);
    let mut out = frame(HEADERS, END_STREAM, 1, first);
    let chunks: Vec<_> = rest.chunks(16_000).collect();
    for (i, chunk) in chunks.iter().enumerate() {
        let flags = if i + 1 == chunks.len() {
            END_HEADERS
        } else {
            0
        };
        out.extend(frame(CONTINUATION, flags, 1, chunk));
    }
    let begun = server.counts.begun();
    raw.send(&out).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(server.counts.begun(), begun);
    is_well(&server, &*node).await;
}
