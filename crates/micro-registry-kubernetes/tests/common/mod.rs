//! A scripted API server: EndpointSlices in memory, with the rules of the Kubernetes API that a
//! registry rests on. It is no Kubernetes, and only stands in for one in tests.
//!
//! Versions of resources, LIST in pages, WATCH with bookmarks, 409 for a change of an old version,
//! 410 for a version that is no longer kept, 401 for a wrong token, 422 for a loopback endpoint.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Channel, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;

type Body = BoxBody<Bytes, std::io::Error>;

/// What happened, to which namespace and object.
#[derive(Clone)]
struct Change {
    version: u64,
    kind: &'static str,
    namespace: String,
    object: Value,
}

#[derive(Default)]
struct State {
    version: u64,
    /// By namespace and name.
    objects: BTreeMap<(String, String), Value>,
    changes: Vec<Change>,
    /// Watches from before it are 410.
    compacted: u64,
    /// Connections with watches are dropped when it changes.
    cuts: u64,
    token: Option<String>,
    /// How often each kind of request was made.
    requests: HashMap<&'static str, u32>,
    /// So many further updates are refused as if somebody had been faster.
    conflicts: u32,
    /// The next watches say 410 in their stream.
    gone: u32,
    page: usize,
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    changed: watch::Sender<()>,
    task: AbortHandle,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    pub(crate) async fn start_with(tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State {
            version: 10,
            page: usize::MAX,
            ..State::default()
        }));
        let changed = watch::Sender::new(());
        let (shared, sender) = (Arc::clone(&state), changed.clone());
        let task = tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (shared, sender, tls) = (Arc::clone(&shared), sender.clone(), tls.clone());
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let (shared, sender) = (Arc::clone(&shared), sender.clone());
                        async move { Ok::<_, Infallible>(answer(shared, sender, request).await) }
                    });
                    let http = hyper::server::conn::http1::Builder::new();
                    // Clients leave when they like.
                    let _ = match tls {
                        Some(tls) => match tls.accept(tcp).await {
                            Ok(stream) => {
                                http.serve_connection(TokioIo::new(stream), service).await
                            }
                            Err(_) => return,
                        },
                        None => http.serve_connection(TokioIo::new(tcp), service).await,
                    };
                });
            }
        });
        Self {
            address,
            state,
            changed,
            task: task.abort_handle(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn requests(&self, kind: &str) -> u32 {
        self.state().requests.get(kind).copied().unwrap_or(0)
    }

    /// Only this token is accepted.
    pub(crate) fn want_token(&self, token: &str) {
        self.state().token = Some(token.to_owned());
    }

    /// Forgets all changes, so that a watch from an older version is 410.
    pub(crate) fn compact(&self) {
        let mut state = self.state();
        state.version += 10;
        state.compacted = state.version;
        state.changes.clear();
    }

    /// Drops the connections of all watches.
    pub(crate) fn cut(&self) {
        self.state().cuts += 1;
        let _ = self.changed.send(());
    }

    pub(crate) fn refuse_updates(&self, count: u32) {
        self.state().conflicts = count;
    }

    /// The next watches end with an ERROR of 410.
    pub(crate) fn say_gone(&self, count: u32) {
        self.state().gone = count;
    }

    pub(crate) fn page(&self, size: usize) {
        self.state().page = size;
    }

    /// Writes an object as a controller of Kubernetes would.
    pub(crate) fn put(&self, namespace: &str, object: Value) {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let mut state = self.state();
        let key = (namespace.to_owned(), name);
        let kind = if state.objects.contains_key(&key) {
            "MODIFIED"
        } else {
            "ADDED"
        };
        state.write(kind, key, object);
        drop(state);
        let _ = self.changed.send(());
    }

    /// The names of all objects, in all namespaces.
    pub(crate) fn names(&self) -> Vec<String> {
        let state = self.state();
        state.objects.keys().map(|(_, name)| name.clone()).collect()
    }

    pub(crate) fn object(&self, name: &str) -> Value {
        let state = self.state();
        let found = state.objects.iter().find(|((_, of), _)| of == name);
        found.map(|(_, object)| object.clone()).unwrap()
    }
}

impl State {
    fn write(&mut self, kind: &'static str, key: (String, String), mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        object["metadata"]["namespace"] = json!(key.0);
        self.changes.push(Change {
            version: self.version,
            kind,
            namespace: key.0.clone(),
            object: object.clone(),
        });
        if kind == "DELETED" {
            self.objects.remove(&key);
        } else {
            self.objects.insert(key, object.clone());
        }
        object
    }

    fn count(&mut self, kind: &'static str) {
        *self.requests.entry(kind).or_default() += 1;
    }
}

fn full(status: u16, value: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(value.to_string()))
        .map_err(|never| match never {})
        .boxed();
    let mut response = Response::new(body);
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap();
    response
}

fn refusal(code: u16, reason: &str) -> Response<Body> {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason});
    full(code, &status)
}

fn selected(object: &Value, selector: Option<&str>) -> bool {
    selector.is_none_or(|selector| {
        let (name, value) = selector.split_once('=').expect("one equality");
        object["metadata"]["labels"][name] == json!(value)
    })
}

async fn answer(
    state: Arc<Mutex<State>>,
    changed: watch::Sender<()>,
    request: Request<Incoming>,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes());
    let Ok(body) = body else {
        return refusal(400, "BadRequest");
    };
    let uri = format!("http://x{}", parts.uri);
    let url = micro_core::Url::parse(&uri).unwrap();
    let query: HashMap<String, String> = url.query_pairs().into_owned().collect();
    let path: Vec<&str> = url.path().trim_matches('/').split('/').collect();
    let [
        "apis",
        "discovery.k8s.io",
        "v1",
        "namespaces",
        namespace,
        "endpointslices",
        rest @ ..,
    ] = &path[..]
    else {
        return refusal(404, "NotFound");
    };
    let namespace = (*namespace).to_owned();
    let mut locked = state.lock().unwrap();
    if let Some(token) = &locked.token {
        let wanted = format!("Bearer {token}");
        let given = parts.headers.get("authorization");
        if given.is_none_or(|given| given.as_bytes() != wanted.as_bytes()) {
            locked.count("unauthorized");
            return refusal(401, "Unauthorized");
        }
    }
    let selector = query.get("labelSelector").map(String::as_str);
    let key = |name: &str| (namespace.clone(), name.to_owned());
    match (&parts.method, rest) {
        (&Method::GET, []) if query.contains_key("watch") => {
            locked.count("watch");
            let from: u64 = query["resourceVersion"].parse().unwrap();
            if from < locked.compacted {
                return refusal(410, "Expired");
            }
            let gone = locked.gone > 0;
            locked.gone = locked.gone.saturating_sub(1);
            let cuts = locked.cuts;
            drop(locked);
            stream(
                state,
                &changed,
                namespace,
                selector.map(str::to_owned),
                from,
                gone,
                cuts,
            )
        }
        (&Method::GET, []) => {
            locked.count("list");
            let from: usize = query
                .get("continue")
                .map_or(0, |from| from.parse().unwrap());
            let limit: usize = query["limit"].parse().unwrap();
            let limit = limit.min(locked.page);
            let of_namespace: Vec<&Value> = locked
                .objects
                .iter()
                .filter(|((of, _), object)| *of == namespace && selected(object, selector))
                .map(|(_, object)| object)
                .collect();
            let items: Vec<&&Value> = of_namespace.iter().skip(from).take(limit).collect();
            let end = from + items.len();
            let more = if end < of_namespace.len() {
                end.to_string()
            } else {
                String::new()
            };
            let meta = json!({"resourceVersion": locked.version.to_string(), "continue": more});
            full(
                200,
                &json!({"kind": "EndpointSliceList", "metadata": meta, "items": items}),
            )
        }
        (&Method::GET, [name]) => match locked.objects.get(&key(name)) {
            Some(object) => full(200, object),
            None => refusal(404, "NotFound"),
        },
        (&Method::DELETE, [name]) => {
            locked.count("delete");
            let Some(object) = locked.objects.get(&key(name)).cloned() else {
                return refusal(404, "NotFound");
            };
            let options: Value = serde_json::from_slice(&body).unwrap_or_default();
            let wanted = &options["preconditions"]["resourceVersion"];
            if !wanted.is_null() && *wanted != object["metadata"]["resourceVersion"] {
                return refusal(409, "Conflict");
            }
            locked.write("DELETED", key(name), object);
            let _ = changed.send(());
            full(200, &json!({"kind": "Status", "status": "Success"}))
        }
        (&Method::POST, []) => {
            locked.count("create");
            let object: Value = serde_json::from_slice(&body).unwrap();
            if let Some(refused) = check(&object) {
                return refused;
            }
            let name = object["metadata"]["name"].as_str().unwrap().to_owned();
            if locked.objects.contains_key(&key(&name)) {
                return refusal(409, "AlreadyExists");
            }
            let object = locked.write("ADDED", key(&name), object);
            let _ = changed.send(());
            full(201, &object)
        }
        (&Method::PUT, [name]) => {
            locked.count("update");
            let object: Value = serde_json::from_slice(&body).unwrap();
            if let Some(refused) = check(&object) {
                return refused;
            }
            let Some(current) = locked.objects.get(&key(name)) else {
                return refusal(404, "NotFound");
            };
            let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
            if version(&object) != version(current) || locked.conflicts > 0 {
                locked.conflicts = locked.conflicts.saturating_sub(1);
                return refusal(409, "Conflict");
            }
            let object = locked.write("MODIFIED", key(name), object);
            let _ = changed.send(());
            full(200, &object)
        }
        _ => refusal(405, "MethodNotAllowed"),
    }
}

/// What the API server refuses, as far as it concerns us.
fn check(object: &Value) -> Option<Response<Body>> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let labels = object["metadata"]["labels"].as_object();
    let annotations = object["metadata"]["annotations"].to_string().len();
    let addresses = object["endpoints"].as_array().into_iter().flatten();
    let loopback = addresses
        .filter_map(|endpoint| endpoint["addresses"][0].as_str())
        .any(|ip| ip.parse::<std::net::IpAddr>().unwrap().is_loopback());
    let good = !name.is_empty()
        && name.len() <= 253
        && name.bytes().all(plain)
        && object["kind"] == json!("EndpointSlice")
        && labels.is_none_or(|labels| {
            labels
                .values()
                .all(|value| value.as_str().unwrap().len() <= 63)
        })
        && annotations <= 256 << 10
        && !loopback;
    (!good).then(|| refusal(422, "Invalid"))
}

fn stream(
    state: Arc<Mutex<State>>,
    changed: &watch::Sender<()>,
    namespace: String,
    selector: Option<String>,
    mut from: u64,
    gone: bool,
    cuts: u64,
) -> Response<Body> {
    let (mut lines, body) = Channel::<Bytes, std::io::Error>::new(16);
    let mut wake = changed.subscribe();
    tokio::spawn(async move {
        if gone {
            let object = json!({"kind": "Status", "code": 410, "reason": "Expired"});
            let line = json!({"type": "ERROR", "object": object}).to_string() + "\n";
            let _ = lines.send_data(line.into()).await;
            return;
        }
        loop {
            let (mut text, cut) = {
                let state = state.lock().unwrap();
                let mut text = String::new();
                for change in state.changes.iter().filter(|change| change.version > from) {
                    if change.namespace == namespace
                        && selected(&change.object, selector.as_deref())
                    {
                        let line = json!({"type": change.kind, "object": change.object});
                        text += &format!("{line}\n");
                    }
                }
                from = state.version;
                (text, state.cuts != cuts)
            };
            if cut {
                // Not its end: as when the connection breaks.
                lines.abort(std::io::Error::other("cut"));
                return;
            }
            if text.is_empty() {
                let object = json!({"kind": "EndpointSlice", "metadata": {"resourceVersion": from.to_string()}});
                text = format!("{}\n", json!({"type": "BOOKMARK", "object": object}));
            }
            if lines.send_data(text.into()).await.is_err() {
                return;
            }
            // A bookmark now and then, as the server sends them.
            let _ = tokio::time::timeout(Duration::from_secs(1), wake.changed()).await;
        }
    });
    Response::new(body.boxed())
}
