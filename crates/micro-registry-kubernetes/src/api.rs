//! The calls of the Kubernetes API that a registry needs (API concepts: list, watch, conflicts).

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use micro_core::{Clock, Error, ErrorKind, Secret};
use micro_http::{Credentials, HttpClient, Lines, Request, Response};
use micro_registry_core::Result;
use serde::Deserialize;
use serde_json::Value;

use crate::KubernetesConfig;
use crate::slice::Slice;

/// A token is read again after this time; Kubernetes rotates it long before it expires.
const REREAD: Duration = Duration::from_secs(60);
/// So many slices come in one answer: a registration may have 200 KiB, and as JSON within JSON more.
const PAGE: &str = "100";
/// So many answers make a list, at most.
const PAGES: usize = 5000;

/// The API of one namespace.
#[derive(Debug)]
pub(crate) struct Api {
    http: HttpClient,
    config: KubernetesConfig,
    clock: Arc<dyn Clock>,
    /// The token and when it was read.
    token: Mutex<Option<(Secret, Instant)>>,
}

/// A list, and the version of the state that it shows.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) version: String,
    pub(crate) slices: Vec<Slice>,
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    metadata: PageMeta,
    #[serde(default)]
    items: Option<Vec<Value>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PageMeta {
    resource_version: String,
    #[serde(rename = "continue")]
    continued: String,
}

/// What became of a change.
#[derive(Debug)]
pub(crate) enum Written {
    /// It was made; this is the new version.
    Done(String),
    /// Another change came first, or what was to be created is there.
    Conflict,
    /// There is no such slice.
    Missing,
}

impl Api {
    pub(crate) fn new(config: KubernetesConfig, clock: Arc<dyn Clock>) -> Result<Self> {
        config.check()?;
        Ok(Self {
            http: HttpClient::new(config.http.clone())?,
            config,
            clock,
            token: Mutex::new(None),
        })
    }

    pub(crate) fn config(&self) -> &KubernetesConfig {
        &self.config
    }

    fn path(&self) -> String {
        // The namespace was checked to be a label.
        format!(
            "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices",
            self.config.namespace
        )
    }

    /// The token as it is now; `None` if there is no file of it.
    fn token(&self, again: bool) -> Result<Option<Secret>> {
        let Some(path) = &self.config.token_file else {
            return Ok(None);
        };
        let now = self.clock.now();
        let mut token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        let known = token
            .as_ref()
            .filter(|(_, read)| !again && now.saturating_duration_since(*read) < REREAD);
        if let Some((known, _)) = known {
            return Ok(Some(known.clone()));
        }
        match read(path) {
            Ok(read) => {
                *token = Some((read.clone(), now));
                Ok(Some(read))
            }
            // A file that is just being replaced is no reason to forget the last one.
            Err(err) => match &*token {
                Some((known, _)) => Ok(Some(known.clone())),
                None => Err(err),
            },
        }
    }

    fn signed(&self, request: Request, again: bool) -> Result<(Request, Option<Secret>)> {
        Ok(match self.token(again)? {
            Some(token) => {
                let credentials = Credentials::Bearer(token.clone());
                (request.credentials(credentials), Some(token))
            }
            None => (request, None),
        })
    }

    async fn send(&self, request: Request) -> Result<Response> {
        let (signed, token) = self.signed(request.clone(), false)?;
        let response = self.http.send(&signed).await.map_err(unreachable)?;
        if response.status() != 401 {
            return Ok(response);
        }
        // Perhaps it was rotated since it was read.
        let (signed, fresh) = self.signed(request, true)?;
        if fresh == token {
            return Ok(response);
        }
        self.http.send(&signed).await.map_err(unreachable)
    }

    /// All slices that the selector selects.
    pub(crate) async fn list(&self, selector: Option<&str>) -> Result<Listed> {
        let mut slices = Vec::new();
        let mut continued = String::new();
        let mut expired = 0;
        for _ in 0..PAGES {
            let mut request = Request::get(&self.path()).query("limit", PAGE);
            if let Some(selector) = selector {
                request = request.query("labelSelector", selector);
            }
            if !continued.is_empty() {
                request = request.query("continue", &continued);
            }
            let response = self.send(request).await?;
            if response.status() == 410 && expired < 2 {
                // The state that this list began with is no longer kept: begin again.
                expired += 1;
                slices.clear();
                continued.clear();
                continue;
            }
            let page: Page = success(response)?.json()?;
            slices.extend(page.items.into_iter().flatten().filter_map(parse));
            continued = page.metadata.continued;
            if continued.is_empty() {
                return Ok(Listed {
                    version: page.metadata.resource_version,
                    slices,
                });
            }
        }
        Err(Error::resource_exhausted(
            "the namespace has more EndpointSlices than can be listed",
        ))
    }

    /// The changes after `version`; `OutOfRange` if they are no longer known.
    pub(crate) async fn watch(
        &self,
        selector: Option<&str>,
        version: &str,
        wait: Duration,
    ) -> Result<Lines> {
        let mut request = Request::get(&self.path())
            .query("watch", "true")
            .query("resourceVersion", version)
            .query("allowWatchBookmarks", "true")
            .query("timeoutSeconds", &wait.as_secs().max(1).to_string())
            .long(wait);
        if let Some(selector) = selector {
            request = request.query("labelSelector", selector);
        }
        let (signed, token) = self.signed(request.clone(), false)?;
        match self.http.lines(&signed).await {
            Err(err) if err.kind() == ErrorKind::Unauthenticated => {
                let (signed, fresh) = self.signed(request, true)?;
                if fresh == token {
                    return Err(err);
                }
                self.http.lines(&signed).await.map_err(unreachable)
            }
            other => other.map_err(unreachable),
        }
    }

    pub(crate) async fn get(&self, name: &str) -> Result<Option<Slice>> {
        let response = self.send(Request::get(&self.path()).segment(name)).await?;
        if response.status() == 404 {
            return Ok(None);
        }
        success(response)?.json().map(Some)
    }

    /// Creates a slice.
    pub(crate) async fn create(&self, slice: &Slice) -> Result<Written> {
        let response = self.send(Request::post(&self.path()).json(slice)?).await?;
        match response.status() {
            409 => Ok(Written::Conflict),
            404 => Err(
                Error::failed_precondition("there is no such Kubernetes namespace")
                    .with_context("namespace", &self.config.namespace),
            ),
            _ => done(response),
        }
    }

    /// Replaces the version that the slice names.
    pub(crate) async fn update(&self, slice: &Slice) -> Result<Written> {
        let request = Request::put(&self.path()).segment(&slice.metadata.name);
        let response = self.send(request.json(slice)?).await?;
        match response.status() {
            409 => Ok(Written::Conflict),
            404 => Ok(Written::Missing),
            _ => done(response),
        }
    }

    /// Deletes a slice, if it still has the version; one that is not there is no failure.
    pub(crate) async fn delete(&self, name: &str, version: Option<&str>) -> Result<()> {
        let mut request = Request::delete(&self.path()).segment(name);
        if let Some(version) = version {
            request = request.json(&serde_json::json!({
                "apiVersion": "v1",
                "kind": "DeleteOptions",
                "preconditions": {"resourceVersion": version},
            }))?;
        }
        let response = self.send(request).await?;
        match response.status() {
            404 => Ok(()),
            409 if version.is_some() => Ok(()),
            _ => success(response).map(drop),
        }
    }
}

fn done(response: Response) -> Result<Written> {
    let slice: Slice = success(response)?.json()?;
    Ok(Written::Done(slice.metadata.resource_version))
}

/// A slice, if it is one; others are left out, and said so.
pub(crate) fn parse(object: Value) -> Option<Slice> {
    let name = object["metadata"]["name"].as_str().map(str::to_owned);
    match serde_json::from_value(object) {
        Ok(slice) => Some(slice),
        Err(err) => {
            tracing::warn!(?name, %err, "an EndpointSlice cannot be read and is not used");
            None
        }
    }
}

fn read(path: &Path) -> Result<Secret> {
    let failed = |message: &'static str| {
        Error::unauthenticated(message).with_context("path", path.display())
    };
    // A small file in memory: nobody waits for it.
    let text = std::fs::read_to_string(path)
        .map_err(|err| failed("the service account's token cannot be read").with_source(err))?;
    let text = Secret::new(text);
    let token = text.expose().trim();
    if token.is_empty() {
        return Err(failed("the file of the service account's token is empty"));
    }
    Ok(Secret::new(token))
}

fn success(response: Response) -> Result<Response> {
    response.success().map_err(|err| match err.kind() {
        ErrorKind::NotFound => {
            Error::unavailable("this is not the Kubernetes API: it has no discovery.k8s.io/v1")
                .with_source(err)
        }
        _ => err,
    })
}

/// A registry that does not answer is unavailable, however it does not answer.
fn unreachable(err: Error) -> Error {
    match err.kind() {
        ErrorKind::DeadlineExceeded => {
            Error::unavailable("the API server did not answer in time").with_source(err)
        }
        _ => err,
    }
}
