//! Whether the services of this server are ready, as `grpc.health.v1.Health` says it.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::stream::unfold;
use micro_codec_core::shape;
use micro_core::{Context, Error, Result, Streaming};
use tokio::sync::watch;

use crate::health_v1::health_check_response::ServingStatus;
use crate::health_v1::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
};
use crate::{Method, Routes};

/// Says whether services are ready for calls, to `grpc.health.v1.Health` and whoever asks it.
///
/// It knows the server as a whole under `""`, and each contract under its full name. All begin as
/// ready, and cease to be once the server stops. A program that knows better (its database is
/// gone) says so with [`set`](Self::set). Clones share it.
#[derive(Clone, Debug)]
pub struct Health(Arc<watch::Sender<State>>);

#[derive(Clone, Debug, Default)]
struct State {
    services: BTreeMap<String, bool>,
    stage: Stage,
}

/// How far the server has stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    #[default]
    Running,
    /// Nothing is ready any more, whatever it says.
    Stopping,
    /// Streams that would never end by themselves do.
    Ending,
}

impl State {
    fn is_serving(&self, service: &str) -> Option<bool> {
        let serving = *self.services.get(service)?;
        Some(serving && self.stage == Stage::Running)
    }
}

/// How many services are remembered: whoever calls [`Health::set`] is the program, but a name may
/// have come from elsewhere.
const MAX_SERVICES: usize = 4096;

impl Health {
    /// All of these, and `""`, are ready.
    pub(crate) fn new<'a>(services: impl IntoIterator<Item = &'a str>) -> Self {
        let services = services.into_iter().chain([""]);
        let services = services.map(|service| (service.to_owned(), true)).collect();
        let (state, _) = watch::channel(State {
            services,
            stage: Stage::Running,
        });
        Self(Arc::new(state))
    }

    /// Says whether `service` is ready: a full name such as `greeter.Greeter`, or `""` for the
    /// server as a whole. A name not known before is known from now on; of those there may be
    /// some thousands, and more are ignored.
    pub fn set(&self, service: impl Into<String>, serving: bool) {
        let service = service.into();
        self.0.send_if_modified(|state| {
            let known = state.services.contains_key(&service);
            if !known && state.services.len() >= MAX_SERVICES {
                return false;
            }
            state.services.insert(service, serving) != Some(serving)
        });
    }

    /// Whether `service` is ready; `None` if it is not known.
    #[must_use]
    pub fn is_serving(&self, service: &str) -> Option<bool> {
        self.0.borrow().is_serving(service)
    }

    /// Stops further; never goes back.
    pub(crate) fn advance(&self, stage: Stage) {
        self.0.send_if_modified(|state| {
            let further = stage > state.stage;
            state.stage = state.stage.max(stage);
            further
        });
    }

    /// Resolves when streams that would never end by themselves are to end.
    pub(crate) async fn ending(&self) {
        let mut state = self.0.subscribe();
        // The sender is `self`, so waiting cannot fail.
        let _ = state.wait_for(|state| state.stage == Stage::Ending).await;
    }

    fn check(&self, service: &str) -> Result<HealthCheckResponse> {
        match self.is_serving(service) {
            Some(serving) => Ok(response(status(serving))),
            None => Err(Error::not_found("unknown service").with_operation("health.check")),
        }
    }

    fn list(&self) -> HealthListResponse {
        let state = self.0.borrow();
        let serving = |service: &str| state.is_serving(service).is_some_and(|serving| serving);
        HealthListResponse {
            statuses: state
                .services
                .keys()
                .map(|service| (service.clone(), response(status(serving(service)))))
                .collect(),
        }
    }

    /// The status now, then each change, until the server stops.
    fn watch(&self, service: String) -> Streaming<HealthCheckResponse> {
        let mut state = self.0.subscribe();
        state.mark_changed();
        let begin = Some((state, service, None));
        Streaming::new(unfold(begin, |at| async move {
            let (mut state, service, before) = at?;
            loop {
                // It fails once nobody can change the state any more: then the server is gone.
                let gone = state.changed().await.is_err();
                let (now, stage) = {
                    let state = state.borrow_and_update();
                    let now = state.is_serving(&service);
                    (
                        now.map_or(ServingStatus::ServiceUnknown, status),
                        state.stage,
                    )
                };
                if before != Some(now) {
                    // The last change is told before the end is.
                    if stage == Stage::Ending {
                        state.mark_changed();
                    }
                    return Some((Ok(response(now)), Some((state, service, Some(now)))));
                }
                if gone || stage == Stage::Ending {
                    return Some((Err(stopping()), None));
                }
            }
        }))
    }

    /// The health service.
    pub(crate) fn routes(&self) -> Routes {
        let (check, list, watch) = (self.clone(), self.clone(), self.clone());
        Routes::dynamic("grpc.health.v1.Health")
            .unary(
                Method::new("Check").with_idempotent(true),
                shape!(HealthCheckRequest),
                shape!(HealthCheckResponse),
                move |_: Context, request: HealthCheckRequest| {
                    std::future::ready(check.check(&request.service))
                },
            )
            .unary(
                Method::new("List").with_idempotent(true),
                shape!(HealthListRequest),
                shape!(HealthListResponse),
                move |_: Context, _: HealthListRequest| std::future::ready(Ok(list.list())),
            )
            .server_streaming(
                Method::new("Watch").with_idempotent(true),
                shape!(HealthCheckRequest),
                shape!(HealthCheckResponse),
                move |_: Context, request: HealthCheckRequest| {
                    std::future::ready(Ok(watch.watch(request.service)))
                },
            )
            // Whether a node is ready is no secret, and must be known above all when limits and
            // other middleware refuse calls.
            .without_middleware()
    }
}

/// What ends the streams that would never end by themselves.
pub(crate) fn stopping() -> Error {
    Error::unavailable("the server stops")
}

fn status(serving: bool) -> ServingStatus {
    if serving {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}

#[cfg(test)]
mod tests {
    use micro_core::ErrorKind;

    use super::*;

    const SERVING: i32 = ServingStatus::Serving as i32;
    const NOT_SERVING: i32 = ServingStatus::NotServing as i32;
    const UNKNOWN: i32 = ServingStatus::ServiceUnknown as i32;

    fn status_of(health: &Health, service: &str) -> Result<i32> {
        Ok(health.check(service)?.status)
    }

    #[test]
    fn everything_known_is_ready_until_it_says_otherwise_or_the_server_stops() {
        let health = Health::new(["greeter.Greeter"]);
        assert_eq!(status_of(&health, "").unwrap(), SERVING);
        assert_eq!(status_of(&health, "greeter.Greeter").unwrap(), SERVING);
        let err = status_of(&health, "nobody").unwrap_err();
        assert_eq!(err.kind(), ErrorKind::NotFound);
        health.set("greeter.Greeter", false);
        health.set("database", true);
        assert_eq!(status_of(&health, "greeter.Greeter").unwrap(), NOT_SERVING);
        assert_eq!(health.list().statuses.len(), 3);
        assert_eq!(health.list().statuses["database"].status, SERVING);
        health.advance(Stage::Stopping);
        health.set("database", true);
        assert!(
            health
                .list()
                .statuses
                .values()
                .all(|s| s.status == NOT_SERVING)
        );
        health.advance(Stage::Running);
        assert_eq!(status_of(&health, "").unwrap(), NOT_SERVING);
    }

    #[tokio::test]
    async fn a_watch_tells_changes_and_ends_with_the_server() {
        let health = Health::new(["a"]);
        let mut known = health.watch("a".to_owned());
        let mut unknown = health.watch("b".to_owned());
        let next = async |watch: &mut Streaming<HealthCheckResponse>| {
            let next = watch.next().await.unwrap();
            next.map(|response| response.status)
        };
        assert_eq!(next(&mut known).await.unwrap(), SERVING);
        assert_eq!(next(&mut unknown).await.unwrap(), UNKNOWN);
        health.set("b", true);
        assert_eq!(next(&mut unknown).await.unwrap(), SERVING);
        // What was no change for a watch is not told to it.
        health.set("a", false);
        assert_eq!(next(&mut known).await.unwrap(), NOT_SERVING);
        health.set("a", true);
        health.advance(Stage::Stopping);
        health.advance(Stage::Ending);
        assert_eq!(next(&mut unknown).await.unwrap(), NOT_SERVING);
        for watch in [&mut known, &mut unknown] {
            let err = next(watch).await.unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Unavailable);
            assert!(watch.next().await.is_none());
        }
    }
}
