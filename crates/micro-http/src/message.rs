//! A request and its answer.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri};
use http_body_util::Full;
use micro_core::{Error, ErrorKind, Result};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Credentials;

/// What stands for itself in a path's segment and in a query: RFC 3986's unreserved characters.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// So much of a server's complaint is shown.
const SHOWN: usize = 200;

/// A request that is to be sent.
#[derive(Clone, Debug)]
pub struct Request {
    pub(crate) method: Method,
    target: String,
    has_query: bool,
    headers: HeaderMap,
    body: Bytes,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) long: Option<Duration>,
    error: Option<&'static str>,
}

impl Request {
    fn new(method: Method, path: &str) -> Self {
        Self {
            method,
            target: path.to_owned(),
            has_query: false,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            credentials: None,
            long: None,
            error: None,
        }
    }

    /// A GET of `path`, which begins with `/` and is written as it is.
    #[must_use]
    pub fn get(path: &str) -> Self {
        Self::new(Method::GET, path)
    }

    /// A PUT to `path`.
    #[must_use]
    pub fn put(path: &str) -> Self {
        Self::new(Method::PUT, path)
    }

    /// A POST to `path`.
    #[must_use]
    pub fn post(path: &str) -> Self {
        Self::new(Method::POST, path)
    }

    /// A DELETE of `path`.
    #[must_use]
    pub fn delete(path: &str) -> Self {
        Self::new(Method::DELETE, path)
    }

    /// Adds a segment to the path: whatever it holds, it stays one segment. Before any query.
    #[must_use]
    pub fn segment(mut self, segment: &str) -> Self {
        if segment.is_empty() || segment == "." || segment == ".." {
            // A server would read these as another path.
            self.error = Some("a segment of a path is empty or made of dots");
        }
        self.target.push('/');
        self.target.extend(utf8_percent_encode(segment, PLAIN));
        self
    }

    /// Adds a parameter to the query.
    #[must_use]
    pub fn query(mut self, name: &str, value: &str) -> Self {
        self.target.push(if self.has_query { '&' } else { '?' });
        self.has_query = true;
        self.target.extend(utf8_percent_encode(name, PLAIN));
        self.target.push('=');
        self.target.extend(utf8_percent_encode(value, PLAIN));
        self
    }

    /// Sets a header; `name` is in lower case.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        match HeaderValue::from_str(value) {
            Ok(value) => {
                self.headers.insert(HeaderName::from_static(name), value);
            }
            Err(_) => self.error = Some("a header holds what no header can"),
        }
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self.headers
            .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        self
    }

    /// Sets a body of JSON.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a value that JSON cannot hold.
    pub fn json(self, value: &impl Serialize) -> Result<Self> {
        let body = serde_json::to_vec(value).map_err(|err| {
            Error::invalid_argument("the body cannot be written as JSON").with_source(err)
        })?;
        Ok(self.body("application/json", body))
    }

    /// Uses other credentials than the client's.
    #[must_use]
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = Some(credentials);
        self
    }

    /// The server may take so long on purpose, on top of the client's timeout: a long poll, a watch.
    ///
    /// Such requests do not take the turn of others; see
    /// [`long_requests`](crate::HttpConfig::long_requests).
    #[must_use]
    pub fn long(mut self, time: Duration) -> Self {
        self.long = Some(time);
        self
    }

    /// Whether it may be sent again when nobody knows whether it arrived (RFC 9110 §9.2.2).
    pub(crate) fn is_idempotent(&self) -> bool {
        self.method != Method::POST
    }

    pub(crate) fn build(
        &self,
        endpoint: &str,
        credentials: &Credentials,
    ) -> Result<http::Request<Full<Bytes>>> {
        let invalid =
            |message: &'static str| Error::invalid_argument(message).with_operation("http.request");
        if let Some(message) = self.error {
            return Err(invalid(message));
        }
        let target: Uri = self
            .target
            .parse()
            .ok()
            .filter(|_| self.target.starts_with('/'))
            .ok_or_else(|| invalid("the path of a request cannot be written"))?;
        let mut request = http::Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = target;
        *request.headers_mut() = self.headers.clone();
        let host =
            HeaderValue::from_str(endpoint).map_err(|_| invalid("an endpoint is 'host:port'"))?;
        request.headers_mut().insert(HOST, host);
        let credentials = self.credentials.as_ref().unwrap_or(credentials);
        if let Some((name, value)) = header_of(credentials) {
            let mut value = HeaderValue::from_str(&value)
                .map_err(|_| invalid("the credentials hold what no header can"))?;
            value.set_sensitive(true);
            request.headers_mut().insert(name, value);
        }
        Ok(request)
    }
}

fn header_of(credentials: &Credentials) -> Option<(HeaderName, String)> {
    use base64::Engine as _;
    match credentials {
        Credentials::None => None,
        Credentials::Bearer(token) => Some((AUTHORIZATION, format!("Bearer {}", token.expose()))),
        Credentials::Basic { username, password } => {
            let pair = format!("{username}:{}", password.expose());
            let pair = base64::engine::general_purpose::STANDARD.encode(pair);
            Some((AUTHORIZATION, format!("Basic {pair}")))
        }
        Credentials::Header { name, value } => {
            Some((HeaderName::from_static(name), value.expose().to_owned()))
        }
    }
}

/// An answer with its whole body.
#[derive(Clone, Debug)]
pub struct Response {
    pub(crate) endpoint: Arc<str>,
    pub(crate) status: u16,
    pub(crate) headers: Headers,
    pub(crate) body: Bytes,
}

/// The headers of an answer: read, or as they came and read when one is asked for.
#[derive(Clone, Debug)]
pub(crate) enum Headers {
    Read(HeaderMap),
    /// The status line and the headers of an answer that was found to be well formed.
    Raw(Bytes),
}

impl Headers {
    fn get(&self, name: &str) -> Option<&str> {
        let raw = match self {
            Self::Read(map) => return map.get(name)?.to_str().ok(),
            Self::Raw(raw) => raw,
        };
        let line = raw.split(|byte| *byte == b'\n').skip(1).find_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            line[..colon]
                .eq_ignore_ascii_case(name.as_bytes())
                .then(|| line[colon + 1..].trim_ascii())
        });
        str::from_utf8(line?).ok()
    }
}

impl Response {
    /// The status: 200 to 299 is success.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Whether it is a success.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// A header's first value, if it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The answer, if it is a success.
    ///
    /// # Errors
    ///
    /// By the status: 400 and 422 `InvalidArgument`, 401 `Unauthenticated`, 403 `PermissionDenied`,
    /// 404 `NotFound`, 409 and 412 `Aborted`, 410 `OutOfRange`, 413 `ResourceExhausted`,
    /// 501 `Unimplemented`, 408, 429 and other 5xx `Unavailable`, else `Unknown`; with the server,
    /// the status and the beginning of the body as context.
    pub fn success(self) -> Result<Self> {
        if self.is_success() {
            return Ok(self);
        }
        let (kind, message) = match self.status {
            400 | 422 => (ErrorKind::InvalidArgument, "the server refuses the request"),
            401 => (
                ErrorKind::Unauthenticated,
                "the server does not accept the credentials",
            ),
            403 => (
                ErrorKind::PermissionDenied,
                "the server does not permit this",
            ),
            404 => (ErrorKind::NotFound, "the server does not have this"),
            409 | 412 => (ErrorKind::Aborted, "another change came first"),
            410 => (ErrorKind::OutOfRange, "the server has no more of this"),
            413 => (ErrorKind::ResourceExhausted, "the request is too large"),
            501 => (ErrorKind::Unimplemented, "the server cannot do this"),
            408 | 429 | 500..=599 => (ErrorKind::Unavailable, "the server cannot answer just now"),
            300..=399 => (
                ErrorKind::Unknown,
                "the server sends us elsewhere, and redirects are not followed",
            ),
            _ => (ErrorKind::Unknown, "the server answers with an odd status"),
        };
        Err(Error::new(kind, message)
            .with_context("endpoint", self.endpoint)
            .with_context("status", self.status)
            .with_context("answer", shown(&self.body)))
    }

    /// The body as JSON.
    ///
    /// # Errors
    ///
    /// `Unknown` for a body that is not what was expected.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(|err| {
            Error::unknown("the server's answer is not the JSON that was expected")
                .with_context("endpoint", &self.endpoint)
                .with_context("answer", shown(&self.body))
                .with_source(err)
        })
    }
}

/// The beginning of a foreign text, fit for a log.
fn shown(body: &[u8]) -> String {
    let mut text = String::new();
    for c in String::from_utf8_lossy(&body[..body.len().min(SHOWN)])
        .trim()
        .chars()
    {
        if c.is_control() || c == char::REPLACEMENT_CHARACTER {
            let _ = write!(text, "{}", c.escape_default());
        } else {
            text.push(c);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_stays_in_its_place() {
        let request = Request::get("/v1/service")
            .segment("a/../b?c#d e\r\nü")
            .query("k&", "v=1\n");
        let built = request.build("h:1", &Credentials::None).unwrap();
        assert_eq!(
            built.uri().to_string(),
            "/v1/service/a%2F..%2Fb%3Fc%23d%20e%0D%0A%C3%BC?k%26=v%3D1%0A"
        );
        for request in [
            Request::get("/x").segment(".."),
            Request::get("/x").segment(""),
            Request::get("http://other/"),
            Request::get("/x").header("x-a", "b\r\nc: d"),
            Request::get("/x").credentials(Credentials::Bearer("a\r\nb: c".into())),
        ] {
            let err = request.build("h:1", &Credentials::None).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{err}");
        }
    }

    #[test]
    fn credentials_are_sent_and_not_shown() {
        let basic = Credentials::Basic {
            username: "Aladdin".to_owned(),
            password: "open sesame".into(),
        };
        let built = Request::get("/").build("h:1", &basic).unwrap();
        // The example of RFC 7617.
        assert_eq!(
            built.headers()["authorization"],
            "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
        );
        assert!(!format!("{basic:?} {built:?}").contains("QWxh"));
        let request = Request::get("/").credentials(Credentials::Bearer("t0ken".into()));
        assert!(!format!("{request:?}").contains("t0ken"));
        let built = request.build("h:1", &basic).unwrap();
        assert_eq!(built.headers()["authorization"], "Bearer t0ken");
    }

    #[test]
    fn a_status_becomes_a_kind_and_a_foreign_text_is_tamed() {
        for (status, kind) in [
            (302, ErrorKind::Unknown),
            (400, ErrorKind::InvalidArgument),
            (401, ErrorKind::Unauthenticated),
            (403, ErrorKind::PermissionDenied),
            (404, ErrorKind::NotFound),
            (409, ErrorKind::Aborted),
            (410, ErrorKind::OutOfRange),
            (429, ErrorKind::Unavailable),
            (500, ErrorKind::Unavailable),
            (501, ErrorKind::Unimplemented),
        ] {
            let response = Response {
                endpoint: "h:1".into(),
                status,
                headers: Headers::Read(HeaderMap::new()),
                body: Bytes::from(format!("\x1b[31m\n{}", "x".repeat(1000))),
            };
            let err = response.success().unwrap_err();
            assert_eq!(err.kind(), kind, "{status}");
            let text = err.to_string();
            assert!(text.len() < 400 && !text.contains('\x1b'), "{text}");
        }
    }
}
