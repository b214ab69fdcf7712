//! The calls of Consul's HTTP API that a registry needs, as its API documentation (v1) has them.

use std::collections::BTreeMap;
use std::time::Duration;

use micro_core::{Error, ErrorKind};
use micro_http::{HttpClient, Request, Response};
use micro_registry_core::Result;
use serde::{Deserialize, Serialize};

use crate::ConsulConfig;

/// One node of a service, with its checks.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Entry {
    #[serde(default)]
    pub(crate) node: Host,
    pub(crate) service: Instance,
    #[serde(default)]
    pub(crate) checks: Option<Vec<Check>>,
}

/// The machine that a node is on.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Host {
    pub(crate) address: String,
}

/// What the agent knows of a node.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Instance {
    #[serde(rename = "ID")]
    pub(crate) id: String,
    pub(crate) service: String,
    #[serde(default)]
    pub(crate) tags: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) address: String,
    /// Consul's catalog takes any number.
    #[serde(default)]
    pub(crate) port: i64,
    #[serde(default)]
    pub(crate) modify_index: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Check {
    #[serde(default)]
    pub(crate) status: String,
}

/// What is registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Registration {
    #[serde(rename = "ID")]
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) tags: Vec<String>,
    pub(crate) address: String,
    pub(crate) port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) check: Option<TtlCheck>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct TtlCheck {
    #[serde(rename = "TTL")]
    pub(crate) ttl: String,
    pub(crate) deregister_critical_service_after: String,
    pub(crate) status: &'static str,
}

impl TtlCheck {
    /// As go-micro has it: the node is removed when it was silent for the TTL and 5 s more, but for
    /// no less than 65 s; it is not found from the end of the TTL on.
    pub(crate) fn new(ttl: Duration) -> Self {
        // Go counts nanoseconds in 63 bits.
        let ttl = ttl.clamp(Duration::from_millis(1), Duration::from_secs(365 * 86_400));
        let removed = (ttl + Duration::from_secs(5)).max(Duration::from_secs(65));
        Self {
            ttl: format!("{}ms", ttl.as_millis()),
            deregister_critical_service_after: format!("{}ms", removed.as_millis()),
            status: "passing",
        }
    }
}

/// An answer, and the index of the state that it shows.
#[derive(Debug)]
pub(crate) struct Indexed<T> {
    pub(crate) index: u64,
    pub(crate) value: T,
}

/// The API at one place.
#[derive(Debug)]
pub(crate) struct Api {
    http: HttpClient,
    datacenter: Option<String>,
    stale: bool,
}

impl Api {
    pub(crate) fn new(config: &ConsulConfig) -> Result<Self> {
        Ok(Self {
            http: HttpClient::new(config.http.clone())?,
            datacenter: config.datacenter.clone(),
            stale: config.stale,
        })
    }

    async fn send(&self, request: &Request) -> Result<Response> {
        self.http.send(request).await.map_err(unreachable)
    }

    /// A read; with an index and a time, it waits that long for a later state.
    async fn read<T: serde::de::DeserializeOwned>(
        &self,
        mut request: Request,
        after: Option<(u64, Duration)>,
    ) -> Result<Indexed<T>> {
        if let Some(datacenter) = &self.datacenter {
            request = request.query("dc", datacenter);
        }
        if self.stale {
            request = request.query("stale", "true");
        }
        if let Some((index, wait)) = after {
            // Consul adds up to a sixteenth of the wait.
            request = request
                .query("index", &index.to_string())
                .query("wait", &format!("{}ms", wait.as_millis()))
                .long(wait + wait / 16);
        }
        let response = success(self.send(&request).await?)?;
        let index = response
            .header("x-consul-index")
            .and_then(|index| index.parse().ok())
            .ok_or_else(|| Error::unknown("the answer has no X-Consul-Index: is this Consul?"))?;
        Ok(Indexed {
            // An index of 0 would make the next request not wait.
            index: u64::max(index, 1),
            value: response.json()?,
        })
    }

    /// `GET /v1/health/service/:service`
    pub(crate) async fn health(
        &self,
        name: &str,
        after: Option<(u64, Duration)>,
    ) -> Result<Indexed<Vec<Entry>>> {
        let request = Request::get("/v1/health/service").segment(name);
        self.read(request, after).await
    }

    /// `GET /v1/catalog/services`: the tags by service.
    pub(crate) async fn services(
        &self,
        after: Option<(u64, Duration)>,
    ) -> Result<Indexed<BTreeMap<String, Option<Vec<String>>>>> {
        self.read(Request::get("/v1/catalog/services"), after).await
    }

    /// `GET /v1/health/state/critical`: its index says when a check changed.
    pub(crate) async fn checks(&self, after: Option<(u64, Duration)>) -> Result<u64> {
        let request = Request::get("/v1/health/state/critical");
        let answer: Indexed<serde::de::IgnoredAny> = self.read(request, after).await?;
        Ok(answer.index)
    }

    /// `PUT /v1/agent/service/register`
    pub(crate) async fn register(&self, registration: &Registration) -> Result<()> {
        let request = Request::put("/v1/agent/service/register")
            .query("replace-existing-checks", "true")
            .json(registration)?;
        success(self.send(&request).await?).map(drop)
    }

    /// `PUT /v1/agent/check/pass/service:<id>`; whether there is such a check.
    pub(crate) async fn pass(&self, id: &str) -> Result<bool> {
        let request = Request::put("/v1/agent/check/pass").segment(&format!("service:{id}"));
        let response = self.send(&request).await?;
        // Older agents say 500 to a check that they do not know.
        if matches!(response.status(), 404 | 500) {
            return Ok(false);
        }
        success(response).map(|_| true)
    }

    /// `PUT /v1/agent/service/deregister/<id>`; one that is unknown is no failure.
    pub(crate) async fn deregister(&self, id: &str) -> Result<()> {
        let request = Request::put("/v1/agent/service/deregister").segment(id);
        let response = self.send(&request).await?;
        // Older agents say 500 to a service that they do not know.
        let unknown = |body: &[u8]| String::from_utf8_lossy(body).contains("Unknown service");
        if response.status() == 404 || (response.status() == 500 && unknown(response.body())) {
            return Ok(());
        }
        success(response).map(drop)
    }
}

/// The server's refusals, as the registry's callers know them.
fn success(response: Response) -> Result<Response> {
    response.success().map_err(|err| match err.kind() {
        // A token that Consul does not know is refused with 403 as well.
        ErrorKind::NotFound => Error::unavailable("this is not Consul's HTTP API").with_source(err),
        _ => err,
    })
}

/// A registry that does not answer is unavailable, however it does not answer.
fn unreachable(err: Error) -> Error {
    match err.kind() {
        ErrorKind::DeadlineExceeded => {
            Error::unavailable("Consul did not answer in time").with_source(err)
        }
        _ => err,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_is_what_go_can_read() {
        for (ttl, text, removed) in [
            (Duration::ZERO, "1ms", "65000ms"),
            (Duration::from_secs(30), "30000ms", "65000ms"),
            (Duration::from_secs(90), "90000ms", "95000ms"),
            (Duration::MAX, "31536000000ms", "31536005000ms"),
        ] {
            let check = TtlCheck::new(ttl);
            assert_eq!(check.ttl, text);
            assert_eq!(check.deregister_critical_service_after, removed);
        }
    }
}
