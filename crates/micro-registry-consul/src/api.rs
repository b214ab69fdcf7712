//! The calls of Consul's HTTP API that a registry needs, as its API documentation (v1) has them.

use std::collections::BTreeMap;
use std::time::Duration;

use micro_consul::{Client, Indexed, Read, success};
use micro_http::Request;
use micro_registry_core::Result;
use serde::{Deserialize, Serialize};

use crate::ConsulRegistryConfig;

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

/// The API at one place.
#[derive(Debug)]
pub(crate) struct Api {
    client: Client,
    stale: bool,
}

impl Api {
    pub(crate) fn new(config: &ConsulRegistryConfig) -> Result<Self> {
        Ok(Self {
            client: Client::new(&config.consul)?,
            stale: config.stale,
        })
    }

    /// A read; with an index and a time, it waits that long for a later state.
    async fn read<T: serde::de::DeserializeOwned>(
        &self,
        request: Request,
        after: Option<(u64, Duration)>,
    ) -> Result<Indexed<T>> {
        let read = Read::default().with_stale(self.stale).with_after(after);
        self.client.read(request, read).await
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
    pub(crate) async fn checks(
        &self,
        after: Option<(u64, Duration)>,
    ) -> Result<Indexed<serde::de::IgnoredAny>> {
        let request = Request::get("/v1/health/state/critical");
        self.read(request, after).await
    }

    /// `PUT /v1/agent/service/register`
    pub(crate) async fn register(&self, registration: &Registration) -> Result<()> {
        let request = Request::put("/v1/agent/service/register")
            .query("replace-existing-checks", "true")
            .json(registration)?;
        success(self.client.send(&request).await?).map(drop)
    }

    /// `PUT /v1/agent/check/pass/service:<id>`; whether there is such a check.
    pub(crate) async fn pass(&self, id: &str) -> Result<bool> {
        let request = Request::put("/v1/agent/check/pass").segment(&format!("service:{id}"));
        let response = self.client.send(&request).await?;
        // Older agents say 500 to a check that they do not know.
        if matches!(response.status(), 404 | 500) {
            return Ok(false);
        }
        success(response).map(|_| true)
    }

    /// `PUT /v1/agent/service/deregister/<id>`; one that is unknown is no failure.
    pub(crate) async fn deregister(&self, id: &str) -> Result<()> {
        let request = Request::put("/v1/agent/service/deregister").segment(id);
        let response = self.client.send(&request).await?;
        // Older agents say 500 to a service that they do not know.
        let unknown = |body: &[u8]| String::from_utf8_lossy(body).contains("Unknown service");
        if response.status() == 404 || (response.status() == 500 && unknown(response.body())) {
            return Ok(());
        }
        success(response).map(drop)
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
