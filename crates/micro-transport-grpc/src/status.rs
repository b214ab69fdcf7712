//! Errors on the wire: `grpc-status`, `grpc-message`, `google.rpc.Status`, and go-micro's own.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use micro_core::{Detail, Error, ErrorKind};
use micro_transport_core::ErrorExt as _;
use prost::Message as _;

pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
const GRPC_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

const ERROR_INFO: &str = "type.googleapis.com/google.rpc.ErrorInfo";
const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";
/// What go-micro packs as the first detail.
const GO_MICRO_ERROR: &str = "errors.Error";

/// The longest message that is sent, in bytes before encoding. Trailers that exceed the peer's
/// header limit would be lost whole, and with them the status.
const MAX_MESSAGE: usize = 2 << 10;
/// The most bytes of details that are sent, for the same reason: with a message of the worst kind
/// (6 KiB encoded) and itself repeated in the details, it is 14 KiB of the usual 16.
const MAX_DETAILS: usize = 4 << 10;

/// Base64 as gRPC wants it: written without padding, read with or without.
pub(crate) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, prost::Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, prost::Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// `google.rpc.ErrorInfo`; its metadata map is not ours to read.
#[derive(Clone, PartialEq, prost::Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
}

/// `google.rpc.RetryInfo`, with `google.protobuf.Duration` within.
#[derive(Clone, PartialEq, prost::Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Duration>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Duration {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

/// go-micro's `errors.Error`.
#[derive(Clone, PartialEq, prost::Message)]
struct GoMicroError {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(int32, tag = "2")]
    code: i32,
    #[prost(string, tag = "3")]
    detail: String,
    #[prost(string, tag = "4")]
    status: String,
}

/// The status of a success, made once.
pub(crate) const OK: HeaderValue = HeaderValue::from_static("0");

/// Writes an error into trailers.
pub(crate) fn put(err: &Error, trailers: &mut HeaderMap) {
    let code = i32::try_from(err.kind().code()).unwrap_or(2);
    let message = shortened(err.message());
    let details = any_details(err);
    let details = if details.is_empty() {
        Bytes::new()
    } else {
        let message = message.to_owned();
        Status {
            code,
            message,
            details,
        }
        .encode_to_vec()
        .into()
    };
    let status = tonic::Status::with_details(tonic::Code::from_i32(code), message, details);
    if status.add_header(trailers).is_err() {
        // Only a message that is no header value even when encoded: the code says the most.
        trailers.insert(GRPC_STATUS, HeaderValue::from(code));
    }
    // What other implementations of gRFC A6 go by. Never "do not retry": another node may be well.
    if let Some(delay) = err.retry_after() {
        // A signed number of 32 bits is what all of them read.
        let ms = i32::try_from(delay.as_millis()).unwrap_or(i32::MAX);
        trailers.insert(GRPC_PUSHBACK, HeaderValue::from(ms));
    }
}

/// An error as an encoded `google.rpc.Status`.
pub(crate) fn encode(err: &Error) -> Vec<u8> {
    Status {
        code: i32::try_from(err.kind().code()).unwrap_or(2),
        message: shortened(err.message()).to_owned(),
        details: any_details(err),
    }
    .encode_to_vec()
}

/// What [`encode`] wrote. Anything else is an error too.
pub(crate) fn decode(status: Bytes) -> Error {
    match Status::decode(status) {
        Ok(Status {
            code,
            message,
            details,
        }) => {
            let kind = u32::try_from(code).ok().and_then(ErrorKind::from_code);
            error(kind.unwrap_or(ErrorKind::Unknown), message, details)
        }
        Err(err) => {
            Error::unknown("the peer failed, but its status cannot be read").with_source(err)
        }
    }
}

/// The error's details, the further kind first, as many as may travel.
fn any_details(err: &Error) -> Vec<Any> {
    let reason = err.kind().reason().map(|reason| Any {
        type_url: ERROR_INFO.to_owned(),
        value: ErrorInfo {
            reason: reason.to_owned(),
            domain: Error::DOMAIN.to_owned(),
        }
        .encode_to_vec()
        .into(),
    });
    let mut room = MAX_DETAILS;
    let mut all: Vec<Any> = reason.into_iter().collect();
    for detail in err.details() {
        let size = detail.type_url.len() + detail.value.len();
        if size > room {
            tracing::debug!(type_url = %detail.type_url, "a detail is too large for the trailers");
            continue;
        }
        room -= size;
        all.push(Any {
            type_url: detail.type_url.clone().into_owned(),
            value: detail.value.clone(),
        });
    }
    all
}

/// The JSON of an error: `google.rpc.Status`, for those who do not speak gRPC.
pub(crate) fn to_json(err: &Error) -> Vec<u8> {
    let mut details = Vec::new();
    if let Some(reason) = err.kind().reason() {
        details.push(serde_json::json!({
            "@type": ERROR_INFO, "reason": reason, "domain": Error::DOMAIN,
        }));
    }
    for detail in err.details() {
        details.push(serde_json::json!({
            "@type": detail.type_url, "value": BASE64.encode(&detail.value),
        }));
    }
    let mut json = serde_json::json!({
        "code": err.kind().code(),
        "status": ErrorKind::from_code(err.kind().code()).unwrap_or(ErrorKind::Unknown).name(),
        "message": err.message(),
    });
    if !details.is_empty() {
        json["details"] = details.into();
    }
    json.to_string().into_bytes()
}

fn shortened(message: &str) -> &str {
    let mut end = message.len().min(MAX_MESSAGE);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    &message[..end]
}

/// What the trailers (or a trailers-only answer's headers) say; `None` if there is no status.
pub(crate) fn take(trailers: &HeaderMap) -> Option<Result<(), Error>> {
    let status = trailers.get(GRPC_STATUS)?;
    if status.as_bytes() == b"0" {
        return Some(Ok(()));
    }
    // Not by `tonic::Status::from_header_map`, which panics on details that are no base64
    // (tonic 0.14): what a peer sends must not end the caller.
    let code = status
        .to_str()
        .ok()
        .and_then(|code| code.parse().ok())
        .unwrap_or(2);
    let Some(kind) = ErrorKind::from_code(code) else {
        return Some(Ok(()));
    };
    let message = trailers
        .get(GRPC_MESSAGE)
        .map(|message| {
            percent_encoding::percent_decode(message.as_bytes())
                .decode_utf8_lossy()
                .into_owned()
        })
        .unwrap_or_default();
    let details = trailers
        .get(GRPC_DETAILS)
        .and_then(|value| BASE64.decode(value.as_bytes()).ok())
        .and_then(|bytes| Status::decode(bytes.as_slice()).ok())
        .map(|status| status.details)
        .unwrap_or_default();
    let err = error(kind, message, details);
    Some(Err(match trailers.get(GRPC_PUSHBACK) {
        Some(pushback) => with_pushback(err, pushback),
        None => err,
    }))
}

fn error(kind: ErrorKind, message: String, details: Vec<Any>) -> Error {
    let mut kind = kind;
    let mut message = message;
    let mut id = String::new();
    let mut kept = Vec::new();
    for detail in details {
        let name = detail.type_url.rsplit('/').next().unwrap_or_default();
        if name == GO_MICRO_ERROR
            && let Ok(theirs) = GoMicroError::decode(detail.value.clone())
        {
            kind = go_micro_kind(theirs.code).unwrap_or(kind);
            message = theirs.detail;
            id = theirs.id;
            continue;
        }
        if name == "google.rpc.ErrorInfo"
            && let Ok(info) = ErrorInfo::decode(detail.value.clone())
            && info.domain == Error::DOMAIN
            && let Some(further) = ErrorKind::from_reason(&info.reason)
            && further.code() == kind.code()
        {
            kind = further;
            continue;
        }
        kept.push(Detail::new(detail.type_url, detail.value));
    }
    if id.is_empty()
        && let Some(theirs) = go_micro_json(&message)
    {
        kind = go_micro_kind(theirs.code).unwrap_or(kind);
        message = theirs.detail;
        id = theirs.id;
    }
    let mut err = Error::new(kind, message);
    if !id.is_empty() {
        err = err.with_context("id", id);
    }
    for detail in kept {
        err = err.with_detail(detail);
    }
    err
}

/// go-micro's table from its HTTP-like codes (`server/grpc/error.go`); the rest keeps gRPC's code.
fn go_micro_kind(code: i32) -> Option<ErrorKind> {
    Some(match code {
        400 => ErrorKind::InvalidArgument,
        401 => ErrorKind::Unauthenticated,
        403 => ErrorKind::PermissionDenied,
        404 => ErrorKind::NotFound,
        408 => ErrorKind::DeadlineExceeded,
        409 => ErrorKind::AlreadyExists,
        412 => ErrorKind::FailedPrecondition,
        500 => ErrorKind::Internal,
        501 => ErrorKind::Unimplemented,
        503 => ErrorKind::Unavailable,
        _ => return None,
    })
}

/// go-micro's error JSON. Its decoder ignores the case of names, and one version writes `Code`.
fn go_micro_json(message: &str) -> Option<GoMicroError> {
    if !message.starts_with('{') {
        return None;
    }
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(message).ok()?;
    let get = |name: &str| {
        object
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    };
    let text = |name: &str| {
        get(name)
            .and_then(serde_json::Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let code = get("code")?
        .as_i64()
        .and_then(|code| i32::try_from(code).ok())?;
    if code <= 0 {
        return None;
    }
    Some(GoMicroError {
        id: text("id"),
        code,
        detail: text("detail"),
        status: text("status"),
    })
}

/// gRFC A6: a delay before the next attempt; a negative or unreadable one forbids it.
fn with_pushback(err: Error, pushback: &HeaderValue) -> Error {
    let delay = pushback.to_str().ok().and_then(|ms| ms.parse::<u32>().ok());
    let Some(ms) = delay else {
        return err.with_retryable(false);
    };
    if err.details().iter().any(|d| d.type_url == RETRY_INFO) {
        return err;
    }
    let info = RetryInfo {
        retry_delay: Some(Duration {
            seconds: i64::from(ms / 1000),
            nanos: i32::try_from(ms % 1000 * 1_000_000).unwrap_or(0),
        }),
    };
    err.with_detail(Detail::new(RETRY_INFO, info.encode_to_vec()))
}

/// The error of an answer that carries no gRPC status.
pub(crate) fn from_http(status: http::StatusCode, content_type: &[u8]) -> Error {
    let err = match status.as_u16() {
        200 => Error::unknown("the answer is not gRPC: is this the right port?"),
        431 => Error::resource_exhausted("the metadata are larger than the peer takes")
            .with_unprocessed(true),
        code => Error::new(
            ErrorKind::from_http_status(code).unwrap_or(ErrorKind::Unknown),
            "the answer is not gRPC, but a plain HTTP status",
        ),
    };
    err.with_context("http_status", status.as_u16())
        .with_context("content_type", String::from_utf8_lossy(content_type))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(err: &Error) -> Error {
        let mut trailers = HeaderMap::new();
        put(err, &mut trailers);
        take(&trailers).unwrap().unwrap_err()
    }

    #[test]
    fn every_kind_comes_back_as_itself() {
        for kind in ErrorKind::ALL {
            let err = Error::new(kind, "50 % of «bytes»\nare gone").with_detail(Detail::new(
                "type.googleapis.com/google.rpc.RetryInfo",
                &b"\x0a\x02\x08\x01"[..],
            ));
            let back = round(&err);
            assert_eq!(back.kind(), kind);
            assert_eq!(back.message(), err.message());
            assert_eq!(back.details(), err.details());
            assert_eq!(back.is_retryable(), kind == ErrorKind::Unavailable);
        }
    }

    #[test]
    fn a_plain_error_sends_no_details() {
        let mut trailers = HeaderMap::new();
        put(&Error::not_found("gone"), &mut trailers);
        assert_eq!(trailers.len(), 2);
        assert_eq!(trailers[GRPC_STATUS], "5");
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let err = round(&Error::unknown("ü".repeat(MAX_MESSAGE)));
        assert_eq!(err.message(), "ü".repeat(MAX_MESSAGE / 2));
    }

    #[test]
    fn what_cannot_be_read_is_unknown_and_loses_nothing_else() {
        let table: [(&str, &str, &str, ErrorKind, &str); 4] = [
            ("5", "a%20b%", "", ErrorKind::NotFound, "a b%"),
            ("5", "%ff", "!!!", ErrorKind::NotFound, "\u{fffd}"),
            ("17", "x", "AAAA", ErrorKind::Unknown, "x"),
            ("five", "", "", ErrorKind::Unknown, ""),
        ];
        for (status, message, details, kind, expected) in table {
            let mut trailers = HeaderMap::new();
            trailers.insert(GRPC_STATUS, HeaderValue::from_static(status));
            trailers.insert(GRPC_MESSAGE, HeaderValue::from_static(message));
            trailers.insert(GRPC_DETAILS, HeaderValue::from_static(details));
            let err = take(&trailers).unwrap().unwrap_err();
            assert_eq!((err.kind(), err.message()), (kind, expected));
        }
        assert!(take(&HeaderMap::new()).is_none());
    }

    /// go-micro's `errors.Error`, as its gRPC server packs it.
    #[test]
    fn go_micro_errors_are_understood() {
        let table = [
            (
                "2",
                r#"{"id":"go.micro.srv","code":404,"detail":"no such greeter","status":"Not Found"}"#,
                ErrorKind::NotFound,
                "no such greeter",
            ),
            (
                "2",
                r#"{"Id":"x","Code":408,"Detail":"slow","Status":"Timeout"}"#,
                ErrorKind::DeadlineExceeded,
                "slow",
            ),
            (
                "13",
                r#"{"code":418,"detail":"tea"}"#,
                ErrorKind::Internal,
                "tea",
            ),
            (
                "2",
                r#"{"code":0,"detail":"x"}"#,
                ErrorKind::Unknown,
                r#"{"code":0,"detail":"x"}"#,
            ),
            ("2", "{not json", ErrorKind::Unknown, "{not json"),
        ];
        for (status, message, kind, expected) in table {
            let mut trailers = HeaderMap::new();
            trailers.insert(GRPC_STATUS, HeaderValue::from_static(status));
            trailers.insert(GRPC_MESSAGE, HeaderValue::from_static(message));
            let err = take(&trailers).unwrap().unwrap_err();
            assert_eq!((err.kind(), err.message()), (kind, expected));
        }
        let theirs = GoMicroError {
            id: "go.micro.srv".into(),
            code: 412,
            detail: "not now".into(),
            status: "Precondition Failed".into(),
        };
        let status = Status {
            code: 9,
            message: "{}".into(),
            details: vec![Any {
                type_url: "type.googleapis.com/errors.Error".into(),
                value: theirs.encode_to_vec().into(),
            }],
        };
        let mut trailers = HeaderMap::new();
        trailers.insert(GRPC_STATUS, HeaderValue::from_static("2"));
        let encoded = BASE64.encode(status.encode_to_vec());
        trailers.insert(
            "grpc-status-details-bin",
            HeaderValue::try_from(encoded).unwrap(),
        );
        let err = take(&trailers).unwrap().unwrap_err();
        assert_eq!(err.kind(), ErrorKind::FailedPrecondition);
        assert_eq!(err.message(), "not now");
        assert_eq!(err.context().next(), Some(("id", "go.micro.srv")));
    }

    #[test]
    fn a_delay_is_also_said_as_a_pushback() {
        use std::time::Duration;

        let day = Duration::from_secs(86_400);
        for (delay, text) in [
            (None, None),
            (Some(Duration::ZERO), Some("0")),
            (Some(Duration::from_millis(1500)), Some("1500")),
            (Some(day * 365), Some("2147483647")),
        ] {
            let mut err = Error::unavailable("later");
            if let Some(delay) = delay {
                err = err.with_retry_after(delay);
            }
            let mut trailers = HeaderMap::new();
            put(&err, &mut trailers);
            let written = trailers
                .get(GRPC_PUSHBACK)
                .map(|value| value.to_str().unwrap());
            assert_eq!(written, text);
            // Our own side goes by the detail, and keeps one.
            let read = take(&trailers).unwrap().unwrap_err();
            assert_eq!(read.retry_after(), delay);
            assert_eq!(read.details().len(), usize::from(delay.is_some()));
            assert!(read.is_retryable());
        }
    }

    #[test]
    fn a_pushback_forbids_or_delays_the_next_attempt() {
        for (pushback, retryable, details) in
            [("500", true, 1), ("-1", false, 0), ("abc", false, 0)]
        {
            let mut trailers = HeaderMap::new();
            trailers.insert(GRPC_STATUS, HeaderValue::from_static("14"));
            trailers.insert(GRPC_PUSHBACK, HeaderValue::from_static(pushback));
            let err = take(&trailers).unwrap().unwrap_err();
            assert_eq!(
                (err.is_retryable(), err.details().len()),
                (retryable, details)
            );
        }
    }
}
