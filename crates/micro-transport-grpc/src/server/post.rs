//! Unary calls as a simple POST: the body is the bare message. Over HTTP/1.1 and HTTP/2 alike.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode, Uri};
use micro_core::{Error, ErrorKind, Metadata, Result};
use micro_transport_core::{Body, PostReply, Response as Reply};

use crate::headers::{self, Names};
use crate::status;

/// An answer, whole.
pub(crate) type Answer = Response<Bytes>;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The message's content type, or the answer that refuses the request.
pub(crate) fn check(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    limit: usize,
) -> Result<Cow<'static, str>, Box<Answer>> {
    check_method(method, uri, headers)?;
    if !is_method_path(uri.path()) {
        return Err(Box::new(refuse(
            StatusCode::NOT_FOUND,
            "a path is '/package.Service/Method'",
        )));
    }
    let content_type = headers
        .get(CONTENT_TYPE)
        .and_then(|value| headers::plain(value.as_bytes()));
    let Some(content_type) = content_type else {
        return Err(Box::new(refuse(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "name the message's encoding, as in 'content-type: application/json'",
        )));
    };
    check_length(headers, limit)?;
    Ok(content_type)
}

/// The headers of a POST that is no call, or the answer that refuses it.
pub(crate) fn check_post(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    limit: usize,
) -> Result<Metadata, Box<Answer>> {
    check_method(method, uri, headers)?;
    check_length(headers, limit)?;
    headers::to_metadata(headers).map_err(|err| Box::new(error(&err)))
}

/// The answer to a POST that is no call.
pub(crate) fn written(reply: PostReply, names: &Names) -> Answer {
    let write = || {
        let mut answer = Response::new(reply.body);
        *answer.status_mut() = StatusCode::from_u16(reply.status)
            .map_err(|err| Error::internal("the answer's status is none").with_source(err))?;
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, content_type(&reply.content_type)?);
        headers::put_metadata(&reply.headers, headers, names)?;
        Ok(answer)
    };
    write().unwrap_or_else(|err| error(&err))
}

fn check_method(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), Box<Answer>> {
    check_host(uri, headers).map_err(|err| Box::new(error(&err)))?;
    if method == Method::POST {
        return Ok(());
    }
    let mut answer = refuse(
        StatusCode::METHOD_NOT_ALLOWED,
        "a call is a POST with the message as its body",
    );
    answer
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static("POST"));
    Err(Box::new(answer))
}

fn check_length(headers: &HeaderMap, limit: usize) -> Result<(), Box<Answer>> {
    let length = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > limit as u64) {
        return Err(Box::new(too_large(limit)));
    }
    Ok(())
}

/// A request names one host. h2 and hyper leave this to the application (RFC 9113 §8.3.1).
pub(crate) fn check_host(uri: &Uri, headers: &HeaderMap) -> Result<()> {
    let mut hosts = headers.get_all(HOST).iter();
    let Some(host) = hosts.next() else {
        return Ok(());
    };
    let conflict = hosts.next().is_some()
        || uri
            .authority()
            .is_some_and(|at| !at.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes()));
    if conflict {
        return Err(Error::invalid_argument("the request names two hosts"));
    }
    Ok(())
}

fn is_method_path(path: &str) -> bool {
    path.strip_prefix('/')
        .and_then(|path| path.split_once('/'))
        .is_some_and(|(service, method)| {
            !service.is_empty() && !method.is_empty() && !method.contains('/')
        })
}

/// A body beyond the limit.
pub(crate) fn too_large(limit: usize) -> Answer {
    let err = Error::resource_exhausted("the body is larger than may be received")
        .with_context("limit", limit);
    with_status(StatusCode::PAYLOAD_TOO_LARGE, &err)
}

/// A body that broke off.
pub(crate) fn broken() -> Answer {
    refuse(StatusCode::BAD_REQUEST, "the body ended early")
}

fn refuse(code: StatusCode, message: &'static str) -> Answer {
    with_status(code, &Error::invalid_argument(message))
}

/// A failed call.
pub(crate) fn error(err: &Error) -> Answer {
    let code =
        StatusCode::from_u16(err.kind().http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    with_status(code, err)
}

fn with_status(code: StatusCode, err: &Error) -> Answer {
    let mut answer = Response::new(Bytes::from(status::to_json(err)));
    *answer.status_mut() = code;
    answer.headers_mut().insert(CONTENT_TYPE, JSON);
    answer
}

/// The answer to a call that ended.
pub(crate) fn answer(outcome: Result<Reply>, limit: usize, names: &Names) -> Answer {
    outcome
        .and_then(|reply| success(reply, limit, names))
        .unwrap_or_else(|err| error(&err))
}

fn success(reply: Reply, limit: usize, names: &Names) -> Result<Answer> {
    let Body::Message(message) = reply.body else {
        return Err(Error::new(
            ErrorKind::Unimplemented,
            "this method streams; call it by gRPC",
        ));
    };
    crate::frame::check_out(message.len(), limit)?;
    let mut answer = Response::new(message);
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, content_type(&reply.content_type)?);
    headers::put_metadata(&reply.metadata, headers, names)?;
    if let Some(trailers) = reply.trailers.get() {
        headers::put_metadata(trailers, headers, names)?;
    }
    Ok(answer)
}

fn content_type(text: &str) -> Result<HeaderValue> {
    HeaderValue::from_str(text).map_err(|err| {
        Error::internal("the codec's content type is no header value").with_source(err)
    })
}
