//! Sessions: what a key is locked by.

use std::time::Duration;

use micro_core::{ErrorKind, Result};
use micro_http::Request;
use serde::{Deserialize, Serialize};

use crate::{Client, success};

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Create<'a> {
    name: &'a str,
    #[serde(rename = "TTL")]
    ttl: String,
    behavior: &'static str,
    lock_delay: &'static str,
    node_checks: [&'static str; 0],
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Created {
    #[serde(rename = "ID")]
    id: String,
}

impl Client {
    /// `PUT /v1/session/create`: a session that ends when it was not renewed for so long, 10 s to a
    /// day, and takes the keys along that are locked by it. Consul may take up to twice as long.
    /// Its id.
    ///
    /// # Errors
    ///
    /// Those of [`send`](Self::send) and [`success`].
    pub async fn create_session(&self, name: &str, ttl: Duration) -> Result<String> {
        let request = self
            .there(Request::put("/v1/session/create"))
            .json(&Create {
                name,
                ttl: format!("{}ms", ttl.as_millis()),
                behavior: "delete",
                lock_delay: "0s",
                node_checks: [],
            })?;
        let created: Created = success(self.send(&request).await?)?.json()?;
        Ok(created.id)
    }

    /// `PUT /v1/session/renew/:id`: its time begins anew. Whether it was still there.
    ///
    /// # Errors
    ///
    /// Those of [`send`](Self::send) and [`success`].
    pub async fn renew_session(&self, id: &str) -> Result<bool> {
        let request = self.there(Request::put("/v1/session/renew").segment(id));
        match self.send(&request).await?.success() {
            Ok(_) => Ok(true),
            Err(err) if err.kind() == ErrorKind::NotFound => Ok(false),
            Err(err) => Err(err),
        }
    }

    /// `PUT /v1/session/destroy/:id`, with the keys that are locked by it. One that is gone is no
    /// failure.
    ///
    /// # Errors
    ///
    /// Those of [`send`](Self::send) and [`success`].
    pub async fn destroy_session(&self, id: &str) -> Result<()> {
        let request = self.there(Request::put("/v1/session/destroy").segment(id));
        success(self.send(&request).await?).map(drop)
    }
}
