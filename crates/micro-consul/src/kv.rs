//! Keys and values.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use micro_core::{Error, Result};
use micro_http::Request;
use serde::{Deserialize, Deserializer, Serialize};

use crate::client::index;
use crate::{Client, Indexed, Read, success};

/// A key and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
#[non_exhaustive]
pub struct Pair {
    /// The key.
    pub key: String,
    /// The value; empty also where an answer leaves it out, as that of
    /// [`enter`](Client::enter) does for the key itself.
    #[serde(default, deserialize_with = "value")]
    pub value: Bytes,
    /// The session that it is locked by.
    #[serde(default)]
    pub session: Option<String>,
    /// The index at which it was created: greater than that of all that was done before.
    pub create_index: u64,
    /// The index at which it was last changed.
    pub modify_index: u64,
}

fn value<'de, D: Deserializer<'de>>(input: D) -> Result<Bytes, D::Error> {
    let text: Option<String> = Option::deserialize(input)?;
    let decoded = STANDARD.decode(text.unwrap_or_default());
    decoded.map(Bytes::from).map_err(serde::de::Error::custom)
}

/// What became of [`Client::enter`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Entered {
    /// The key is there and locked by the session; these are all keys that begin as was asked.
    In(Vec<Pair>),
    /// The session is gone, or another has locked the key.
    Refused,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Op<'a> {
    #[serde(rename = "KV")]
    kv: Kv<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Kv<'a> {
    verb: &'static str,
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'a str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Done {
    #[serde(default)]
    results: Option<Vec<Outcome>>,
}

#[derive(Deserialize)]
struct Outcome {
    #[serde(rename = "KV")]
    kv: Pair,
}

impl Client {
    /// `GET /v1/kv/:key`. With [`Read::after`] it waits until the key is changed, or gone.
    ///
    /// # Errors
    ///
    /// Those of [`send`](Self::send) and [`success`].
    pub async fn get(&self, key: &str, read: Read) -> Result<Indexed<Option<Pair>>> {
        let found = self.pairs(at(key), read).await?;
        Ok(Indexed {
            index: found.index,
            value: found.value.into_iter().next(),
        })
    }

    /// `GET /v1/kv/:prefix?recurse`: all keys that begin so. With [`Read::after`] it waits until
    /// that changes.
    ///
    /// # Errors
    ///
    /// Those of [`send`](Self::send) and [`success`].
    pub async fn list(&self, prefix: &str, read: Read) -> Result<Indexed<Vec<Pair>>> {
        let request = at(prefix).query("recurse", "true");
        self.pairs(request, read).await
    }

    async fn pairs(&self, request: Request, read: Read) -> Result<Indexed<Vec<Pair>>> {
        let response = self.ask(request, read).await?;
        // What is not there has an index, too.
        let response = match response.status() {
            404 => response,
            _ => success(response)?,
        };
        Ok(Indexed {
            index: index(&response)?,
            value: match response.status() {
                404 => Vec::new(),
                _ => response.json()?,
            },
        })
    }

    /// `DELETE /v1/kv/:key`; one that is not there is no failure.
    ///
    /// # Errors
    ///
    /// Those of [`send`](Self::send) and [`success`].
    pub async fn delete(&self, key: &str) -> Result<()> {
        let request = self.there(Request::delete("/v1/kv").segment(key));
        success(self.send(&request).await?).map(drop)
    }

    /// `PUT /v1/txn`: locks the key by the session, with this value, and reads all keys that begin
    /// with `prefix`, in one step.
    ///
    /// # Errors
    ///
    /// Those of [`send`](Self::send) and [`success`]; it may have happened then.
    pub async fn enter(
        &self,
        key: &str,
        value: &str,
        session: &str,
        prefix: &str,
    ) -> Result<Entered> {
        let ops = [
            Op {
                kv: Kv {
                    verb: "lock",
                    key,
                    value: Some(STANDARD.encode(value)),
                    session: Some(session),
                },
            },
            Op {
                kv: Kv {
                    verb: "get-tree",
                    key: prefix,
                    value: None,
                    session: None,
                },
            },
        ];
        let request = self.there(Request::put("/v1/txn")).json(&ops)?;
        let response = self.send(&request).await?;
        if response.status() == 409 {
            // Also what the token may not do is told so, in words.
            let refusal = String::from_utf8_lossy(response.body());
            if !refusal.contains("Permission denied") {
                return Ok(Entered::Refused);
            }
            return Err(Error::permission_denied(
                "Consul's ACL does not permit this token to lock the key",
            )
            .with_context("key", key));
        }
        let done: Done = success(response)?.json()?;
        let pairs = done.results.unwrap_or_default().into_iter();
        // The first is the answer to the lock itself.
        Ok(Entered::In(pairs.skip(1).map(|done| done.kv).collect()))
    }
}

fn at(key: &str) -> Request {
    Request::get("/v1/kv").segment(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_consul_says_is_read_and_what_it_does_not_say_is_refused() {
        let pair: Pair = serde_json::from_str(
            r#"{"LockIndex":1,"Key":"a/b","Flags":0,"Value":"dGVh","Session":"s","CreateIndex":7,"ModifyIndex":9}"#,
        )
        .unwrap();
        assert_eq!((&*pair.key, &*pair.value), ("a/b", b"tea".as_slice()));
        assert_eq!((pair.create_index, pair.modify_index), (7, 9));
        let bare = r#"{"Key":"a","Value":null,"CreateIndex":7,"ModifyIndex":9}"#;
        let bare: Pair = serde_json::from_str(bare).unwrap();
        assert!(bare.session.is_none() && bare.value.is_empty());
        for bad in [
            r#"{"Key":"a","Value":"%","CreateIndex":7,"ModifyIndex":9}"#,
            r#"{"Key":"a","Value":null,"CreateIndex":-7,"ModifyIndex":9}"#,
            r#"{"Key":"a","Value":null}"#,
            "null",
        ] {
            assert!(serde_json::from_str::<Pair>(bad).is_err(), "{bad}");
        }
    }
}
