//! Content types, deadlines and metadata as headers.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use micro_core::{Error, Metadata, Result};

use crate::known::Known;
use crate::status::BASE64;

pub(crate) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
pub(crate) const GRPC_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");
pub(crate) const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
pub(crate) const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
/// go-micro's deadline: decimal nanoseconds.
pub(crate) const TIMEOUT: HeaderName = HeaderName::from_static("timeout");
/// go-micro's content type of the message; `content-type` says the same.
const X_CONTENT_TYPE: &str = "x-content-type";

const GRPC: &[u8] = b"application/grpc";

/// Codecs that most calls use: (behind `application/grpc+`, content type, whole header).
const KNOWN: [(&str, &str, &str); 5] = [
    ("proto", "application/protobuf", "application/grpc"),
    ("json", "application/json", "application/grpc+json"),
    ("msgpack", "application/msgpack", "application/grpc+msgpack"),
    ("cbor", "application/cbor", "application/grpc+cbor"),
    (
        "bytes",
        "application/octet-stream",
        "application/grpc+bytes",
    ),
];

/// The codec's content type of a gRPC content type, or `None` if it is not gRPC's.
pub(crate) fn codec_of(content_type: &[u8]) -> Option<Cow<'static, str>> {
    let head = content_type.get(..GRPC.len())?;
    if !head.eq_ignore_ascii_case(GRPC) {
        return None;
    }
    let rest = &content_type[GRPC.len()..];
    let rest = match rest.iter().position(|byte| *byte == b';') {
        Some(at) => &rest[..at],
        None => rest,
    };
    let rest = rest.trim_ascii();
    if rest.is_empty() {
        return Some(Cow::Borrowed(KNOWN[0].1));
    }
    // Neither `application/grpc-web` nor `application/grpcx` is gRPC.
    let suffix = rest.strip_prefix(b"+")?;
    if let Some((_, codec, _)) = KNOWN
        .iter()
        .find(|(known, _, _)| known.as_bytes().eq_ignore_ascii_case(suffix))
    {
        return Some(Cow::Borrowed(codec));
    }
    let suffix = std::str::from_utf8(suffix).ok()?;
    Some(Cow::Owned(format!(
        "application/{}",
        suffix.to_ascii_lowercase()
    )))
}

/// The gRPC content type of a codec's.
pub(crate) fn grpc_of(codec: &str) -> Result<HeaderValue> {
    if let Some((_, _, whole)) = KNOWN.iter().find(|(_, known, _)| *known == codec) {
        return Ok(HeaderValue::from_static(whole));
    }
    let suffix = codec.strip_prefix("application/").unwrap_or(codec);
    HeaderValue::try_from(format!("application/grpc+{suffix}")).map_err(|_| {
        Error::invalid_argument("a codec's content type is 'application/name'")
            .with_context("content_type", codec.escape_debug())
    })
}

/// A codec's content type as the other side would read it from a gRPC content type.
pub(crate) fn codec_name(codec: &str) -> Cow<'static, str> {
    if let Some((_, known, _)) = KNOWN.iter().find(|(_, known, _)| *known == codec) {
        return Cow::Borrowed(known);
    }
    let suffix = codec.strip_prefix("application/").unwrap_or(codec);
    Cow::Owned(format!("application/{}", suffix.to_ascii_lowercase()))
}

/// A plain content type without its parameters, in lower case.
pub(crate) fn plain(content_type: &[u8]) -> Option<Cow<'static, str>> {
    let end = content_type
        .iter()
        .position(|byte| *byte == b';')
        .unwrap_or(content_type.len());
    let content_type = content_type[..end].trim_ascii();
    if let Some((_, known, _)) = KNOWN
        .iter()
        .find(|(_, known, _)| known.as_bytes().eq_ignore_ascii_case(content_type))
    {
        return Some(Cow::Borrowed(known));
    }
    let content_type = std::str::from_utf8(content_type).ok()?.to_ascii_lowercase();
    (content_type.starts_with("application/")
        // What a browser's form sends without asking anybody.
        && content_type != "application/x-www-form-urlencoded")
        .then_some(Cow::Owned(content_type))
}

/// The time that a call has left, by `grpc-timeout`, else by go-micro's `timeout`.
pub(crate) fn timeout(headers: &HeaderMap) -> Result<Option<Duration>> {
    if let Some(value) = headers.get(GRPC_TIMEOUT) {
        return grpc_timeout(value.as_bytes()).map(Some);
    }
    if let Some(value) = headers.get(TIMEOUT) {
        // It is a name that others may use too: what is no number, or zero, is not go-micro's.
        let nanos = nanos(value.as_bytes()).filter(|nanos| *nanos > 0);
        return Ok(nanos.map(Duration::from_nanos));
    }
    Ok(None)
}

fn grpc_timeout(value: &[u8]) -> Result<Duration> {
    let invalid = || {
        Error::invalid_argument("grpc-timeout is at most eight digits and one of H M S m u n")
            .with_context(
                "grpc-timeout",
                String::from_utf8_lossy(value).escape_debug(),
            )
    };
    let (unit, digits) = value.split_last().ok_or_else(invalid)?;
    if digits.is_empty() || digits.len() > 8 {
        return Err(invalid());
    }
    let number = nanos(digits).ok_or_else(invalid)?;
    Ok(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return Err(invalid()),
    })
}

fn nanos(digits: &[u8]) -> Option<u64> {
    // `parse` would take a sign.
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// `grpc-timeout` for what is left of a call: the finest unit that eight digits allow.
pub(crate) fn put_timeout(left: Duration, headers: &mut HeaderMap) {
    const MOST: u128 = 99_999_999;
    let (number, unit) = match left.as_nanos() {
        nanos if nanos <= MOST => (nanos, b'n'),
        nanos if nanos / 1_000 <= MOST => (nanos / 1_000, b'u'),
        nanos if nanos / 1_000_000 <= MOST => (nanos / 1_000_000, b'm'),
        nanos if nanos / 1_000_000_000 <= MOST => (nanos / 1_000_000_000, b'S'),
        // 11,000 years are as good as none.
        nanos => ((nanos / 3_600_000_000_000).min(MOST), b'H'),
    };
    let mut text = [0; 9];
    let mut at = 8;
    text[at] = unit;
    let mut rest = number;
    loop {
        at -= 1;
        text[at] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
        if rest == 0 || at == 0 {
            break;
        }
    }
    if let Ok(mut value) = HeaderValue::from_bytes(&text[at..]) {
        // It differs each time: in the compression table it would only push out what repeats.
        value.set_sensitive(true);
        headers.insert(GRPC_TIMEOUT, value);
    }
}

/// How many attempts came before this one.
pub(crate) fn attempt(headers: &HeaderMap) -> u32 {
    headers
        .get(GRPC_ATTEMPTS)
        .and_then(|value| nanos(value.as_bytes()))
        .map_or(0, |attempt| u32::try_from(attempt).unwrap_or(u32::MAX))
}

/// Whether a header is the protocol's and no metadata.
fn is_protocols(name: &str) -> bool {
    Metadata::is_reserved(name) || name == TIMEOUT.as_str() || name == X_CONTENT_TYPE
}

/// Headers as metadata: one buffer for all names and values.
pub(crate) fn to_metadata(headers: &HeaderMap) -> Result<Metadata> {
    let mut buf = Vec::new();
    // Of a name and its value, as they lie in the buffer.
    let mut lengths: Vec<(u32, u32)> = Vec::new();
    for (name, value) in headers {
        let name = name.as_str();
        if is_protocols(name) {
            continue;
        }
        if lengths.is_empty() {
            buf.reserve(512);
            lengths.reserve(headers.len());
        }
        let size = buf.len() + name.len() + value.len();
        if lengths.len() >= Metadata::MAX_ENTRIES || size > Metadata::MAX_BYTES {
            return Err(
                Error::resource_exhausted("there are too many or too large metadata")
                    .with_context("entries", lengths.len() + 1)
                    .with_context("bytes", size),
            );
        }
        buf.extend_from_slice(name.as_bytes());
        buf.extend_from_slice(value.as_bytes());
        // Both are within `MAX_BYTES`.
        let length = |len| u32::try_from(len).unwrap_or(0);
        lengths.push((length(name.len()), length(value.len())));
    }
    let mut buf = Bytes::from(buf);
    let mut metadata = Metadata::with_capacity(lengths.len());
    for (name, value) in lengths {
        let name = buf.split_to(name as usize);
        let value = buf.split_to(value as usize);
        if !name.ends_with(b"-bin") {
            metadata.append_bytes(name, value)?;
            continue;
        }
        // gRPC: a list of binary values may come joined by commas.
        for part in value.split(|byte| *byte == b',') {
            let decoded = BASE64.decode(part.trim_ascii()).map_err(|err| {
                Error::invalid_argument("a metadata value under a name in '-bin' is not base64")
                    .with_context("name", String::from_utf8_lossy(&name))
                    .with_context("why", err)
            })?;
            metadata.append_bytes(name.clone(), Bytes::from(decoded))?;
        }
    }
    Ok(metadata)
}

/// What HTTP/2 counts for the headers beside the metadata, but for path and authority: about.
const OTHERS: usize = 512;

/// Fails if metadata, with `more` bytes of other headers, may not be sent.
pub(crate) fn check_out(metadata: &Metadata, more: usize, limit: usize) -> Result<()> {
    let size = metadata.size() + more + OTHERS;
    // Without metadata it is the protocol's own, which has no choice.
    if size <= limit || metadata.is_empty() {
        return Ok(());
    }
    Err(
        Error::resource_exhausted("the metadata are larger than may be sent")
            .with_context("size", size)
            .with_context("limit", limit),
    )
}

/// The header names of the metadata that went out, so that none is made twice.
pub(crate) type Names = Known<Bytes, HeaderName>;

/// Metadata as headers.
pub(crate) fn put_metadata(
    metadata: &Metadata,
    headers: &mut HeaderMap,
    names: &Names,
) -> Result<()> {
    if metadata.is_empty() {
        return Ok(());
    }
    let new = names.read(|known| put_known(metadata, headers, known))?;
    for (name, header) in new {
        names.add(name, header);
    }
    Ok(())
}

/// Returns the names that were not known.
fn put_known(
    metadata: &Metadata,
    headers: &mut HeaderMap,
    known: &HashMap<Bytes, HeaderName>,
) -> Result<Vec<(Bytes, HeaderName)>> {
    let mut new = Vec::new();
    for (name, bytes) in metadata.iter_bytes() {
        let header = match known.get(name) {
            Some(header) => header.clone(),
            None => {
                let header = HeaderName::from_lowercase(name).map_err(|err| {
                    Error::internal("a metadata name is no header name").with_source(err)
                })?;
                // A copy: the name may be a piece of something large.
                new.push((Bytes::copy_from_slice(name), header.clone()));
                header
            }
        };
        let value = if name.ends_with(b"-bin") {
            HeaderValue::try_from(BASE64.encode(bytes)).map_err(http::Error::from)
        } else {
            HeaderValue::from_maybe_shared(bytes.clone()).map_err(http::Error::from)
        };
        let mut value = value.map_err(|err| {
            Error::internal("a metadata value is no header value").with_source(err)
        })?;
        if is_unique(name) {
            value.set_sensitive(true);
        }
        headers.append(header, value);
    }
    Ok(new)
}

/// Whether a value differs from call to call, so that the compression table is no place for it.
pub(crate) fn is_unique(name: &[u8]) -> bool {
    matches!(
        name,
        b"traceparent" | b"tracestate" | b"x-request-id" | b"micro-trace-id" | b"micro-span-id"
    )
}

#[cfg(test)]
mod tests {
    use micro_core::ErrorKind;

    use super::*;

    #[test]
    fn content_types_go_both_ways() {
        let table = [
            ("application/grpc", Some("application/protobuf")),
            ("application/grpc+proto", Some("application/protobuf")),
            ("Application/GRPC+Json", Some("application/json")),
            ("application/grpc+bytes", Some("application/octet-stream")),
            (
                "application/grpc;charset=utf-8",
                Some("application/protobuf"),
            ),
            ("application/grpc+avro; x=y", Some("application/avro")),
            ("application/grpc-web", None),
            ("application/grpcx", None),
            ("application/json", None),
            ("", None),
        ];
        for (wire, codec) in table {
            assert_eq!(codec_of(wire.as_bytes()).as_deref(), codec, "{wire}");
        }
        for codec in [
            "application/protobuf",
            "application/json",
            "application/avro",
        ] {
            let wire = grpc_of(codec).unwrap();
            assert_eq!(codec_of(wire.as_bytes()).as_deref(), Some(codec));
        }
        assert!(grpc_of("a\nb").is_err());
        assert_eq!(
            plain(b"Application/JSON; charset=utf-8").as_deref(),
            Some("application/json")
        );
        for refused in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "",
            "\u{fc}",
        ] {
            assert_eq!(plain(refused.as_bytes()), None, "{refused}");
        }
    }

    #[test]
    fn s34_timeouts_are_read_clamped_or_refused() {
        let table: [(&str, Option<Duration>); 16] = [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("4m", Some(Duration::from_millis(4))),
            ("5u", Some(Duration::from_micros(5))),
            ("00000006n", Some(Duration::from_nanos(6))),
            ("0n", Some(Duration::ZERO)),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("", None),
            ("5", None),
            ("S", None),
            ("-1S", None),
            ("+1S", None),
            ("123456789S", None),
            ("1s", None),
            ("1 S", None),
        ];
        for (text, expected) in table {
            let mut headers = HeaderMap::new();
            headers.insert(GRPC_TIMEOUT, HeaderValue::from_static(text));
            match (timeout(&headers), expected) {
                (Ok(got), Some(_)) => assert_eq!(got, expected, "{text}"),
                (Err(err), None) => assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{text}"),
                (got, _) => panic!("{text}: {got:?}"),
            }
        }
    }

    #[test]
    fn go_micros_timeout_counts_nanoseconds() {
        let mut headers = HeaderMap::new();
        headers.insert(TIMEOUT, HeaderValue::from_static("5000000000"));
        assert_eq!(timeout(&headers).unwrap(), Some(Duration::from_secs(5)));
        headers.insert(GRPC_TIMEOUT, HeaderValue::from_static("1S"));
        assert_eq!(timeout(&headers).unwrap(), Some(Duration::from_secs(1)));
        headers.clear();
        headers.insert(TIMEOUT, HeaderValue::from_static("soon"));
        assert_eq!(timeout(&headers).unwrap(), None);
    }

    #[test]
    fn timeouts_are_written_in_eight_digits() {
        let table = [
            (Duration::ZERO, "0n"),
            (Duration::from_nanos(99_999_999), "99999999n"),
            (Duration::from_millis(100), "100000u"),
            (Duration::from_secs(5), "5000000u"),
            (Duration::from_secs(100), "100000m"),
            (Duration::from_secs(100_000), "100000S"),
            (Duration::MAX, "99999999H"),
        ];
        for (left, expected) in table {
            let mut headers = HeaderMap::new();
            put_timeout(left, &mut headers);
            assert_eq!(headers[GRPC_TIMEOUT], expected);
        }
    }

    #[test]
    fn metadata_survive_the_wire() {
        let mut metadata = Metadata::new();
        metadata.append("x-tenant", "acme").unwrap();
        metadata.append("x-tag", "a").unwrap();
        metadata.append("x-tag", "b, c").unwrap();
        metadata.append("x-empty", "").unwrap();
        metadata.append("x-raw-bin", [0, 255, 10]).unwrap();
        metadata.append("x-raw-bin", [1]).unwrap();
        metadata.append("user-agent", "me").unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        headers.insert(TIMEOUT, HeaderValue::from_static("5"));
        put_metadata(&metadata, &mut headers, &Names::new()).unwrap();
        assert_eq!(to_metadata(&headers).unwrap(), metadata);
        headers.clear();
        headers.insert("a-bin", HeaderValue::from_static("AP8K,AQ=="));
        let read = to_metadata(&headers).unwrap();
        assert_eq!(
            read.get_all("a-bin").collect::<Vec<_>>(),
            [&[0, 255, 10][..], &[1][..]]
        );
    }

    #[test]
    fn malformed_metadata_are_refused() {
        let table = [
            ("a-bin", &b"!!"[..], ErrorKind::InvalidArgument),
            ("a", &b"caf\xe9"[..], ErrorKind::InvalidArgument),
            ("a!b", &b"x"[..], ErrorKind::InvalidArgument),
        ];
        for (name, value, kind) in table {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_bytes(value).unwrap());
            assert_eq!(to_metadata(&headers).unwrap_err().kind(), kind, "{name}");
        }
        let mut headers = HeaderMap::new();
        for i in 0..=Metadata::MAX_ENTRIES {
            headers.insert(
                HeaderName::try_from(format!("x-{i}")).unwrap(),
                HeaderValue::from_static(""),
            );
        }
        assert_eq!(
            to_metadata(&headers).unwrap_err().kind(),
            ErrorKind::ResourceExhausted
        );
    }
}
