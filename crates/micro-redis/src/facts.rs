//! How a server is set up, as far as backends have to know.

use std::collections::HashMap;

use micro_core::{Error, ErrorKind, Result};
use redis::{Value, cmd};
use tokio::time::Instant;

use crate::{Effect, Link};

/// What a change survives that Redis has answered. Each level includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Survives {
    /// Nothing: it may be gone with the server.
    Nothing,
    /// The end of the server.
    Process,
    /// The loss of power.
    Power,
}

/// What is known of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Facts {
    /// Over which [link](Link::epoch) it was asked.
    pub epoch: u64,
    /// What changes survive; `None` if it has a log, and does not say how that is written.
    pub survives: Option<Survives>,
}

impl Facts {
    /// Asks over a link. Replicas are not counted: Redis answers before they have anything.
    ///
    /// # Errors
    ///
    /// `FailedPrecondition` if the server is a node of a cluster, or drops keys when it is full;
    /// `PermissionDenied` if we may not ask (`INFO`); those of [`Link::call`].
    pub async fn ask(link: &Link, deadline: Instant) -> Result<Self> {
        let info = link.call(&cmd("INFO"), Effect::Nothing, deadline).await;
        let info = info.map_err(|err| match err.kind() {
            ErrorKind::PermissionDenied => Error::permission_denied(
                "Redis does not let us ask how it is set up: permit the command INFO to our user",
            )
            .with_source(err),
            _ => err,
        })?;
        let Value::BulkString(info) = info else {
            return Err(no_redis());
        };
        let info = String::from_utf8_lossy(&info);
        let pairs = info.lines().filter_map(|line| line.split_once(':'));
        let info: HashMap<&str, &str> = pairs.collect();
        refuse(&info)?;
        let mut settings = cmd("CONFIG");
        settings
            .arg("GET")
            .arg("appendfsync")
            .arg("no-appendfsync-on-rewrite");
        let settings = match link.call(&settings, Effect::Nothing, deadline).await {
            Ok(settings) => pairs_of(settings),
            // Servers that others run do not let us look.
            Err(err)
                if matches!(
                    err.kind(),
                    ErrorKind::PermissionDenied | ErrorKind::Internal
                ) =>
            {
                HashMap::new()
            }
            Err(err) => return Err(err),
        };
        Ok(Self {
            epoch: link.epoch(),
            survives: survives(&info, &settings),
        })
    }
}

fn no_redis() -> Error {
    Error::failed_precondition("what answers is no Redis: it does not say how it uses its memory")
}

/// Refuses servers that cannot keep what backends promise.
fn refuse(info: &HashMap<&str, &str>) -> Result<()> {
    let get = |name| info.get(name).copied();
    if get("cluster_enabled") == Some("1") {
        return Err(Error::failed_precondition(
            "this Redis is a node of a cluster, and clusters are not followed",
        ));
    }
    let (Some(most), Some(policy)) = (get("maxmemory"), get("maxmemory_policy")) else {
        return Err(no_redis());
    };
    if most != "0" && policy != "noeviction" {
        return Err(Error::failed_precondition(
            "this Redis drops keys when it is full: set its maxmemory-policy to noeviction",
        )
        .with_context("maxmemory-policy", policy));
    }
    Ok(())
}

/// A log that is written each second may lose what was acknowledged within the last two when the
/// process ends, since Redis holds it back in memory while the disk is busy. One that is written and
/// left to the system (`no`) is always with the system before the answer.
fn survives(info: &HashMap<&str, &str>, settings: &HashMap<String, String>) -> Option<Survives> {
    if info.get("aof_enabled") != Some(&"1") {
        return Some(Survives::Nothing);
    }
    let get = |name| settings.get(name).map(String::as_str);
    match (get("appendfsync"), get("no-appendfsync-on-rewrite")) {
        (Some("always"), Some("no")) => Some(Survives::Power),
        // Not synced while the log is rewritten.
        (Some("always" | "no"), _) => Some(Survives::Process),
        (Some(_), _) => Some(Survives::Nothing),
        (None, _) => None,
    }
}

/// Names and values, one behind the other.
fn pairs_of(value: Value) -> HashMap<String, String> {
    let Value::Array(parts) = value else {
        return HashMap::new();
    };
    let texts: Vec<String> = parts
        .into_iter()
        .map(|part| match part {
            Value::BulkString(text) => String::from_utf8_lossy(&text).into_owned(),
            _ => String::new(),
        })
        .collect();
    let pairs = texts.chunks_exact(2);
    pairs
        .map(|pair| (pair[0].clone(), pair[1].clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(fsync: &str, rewrite: &str) -> HashMap<String, String> {
        HashMap::from([
            ("appendfsync".to_owned(), fsync.to_owned()),
            ("no-appendfsync-on-rewrite".to_owned(), rewrite.to_owned()),
        ])
    }

    #[test]
    fn only_what_is_known_is_claimed() {
        let on = HashMap::from([("aof_enabled", "1")]);
        let off = HashMap::from([("aof_enabled", "0")]);
        for (info, settings, expected) in [
            (&on, settings("always", "no"), Some(Survives::Power)),
            (&on, settings("always", "yes"), Some(Survives::Process)),
            (&on, settings("no", "no"), Some(Survives::Process)),
            (&on, settings("everysec", "no"), Some(Survives::Nothing)),
            (&on, HashMap::new(), None),
            (&off, settings("always", "no"), Some(Survives::Nothing)),
            (&off, HashMap::new(), Some(Survives::Nothing)),
        ] {
            assert_eq!(survives(info, &settings), expected, "{settings:?}");
        }
    }

    #[test]
    fn servers_that_drop_keys_are_refused() {
        let info =
            |most, policy| HashMap::from([("maxmemory", most), ("maxmemory_policy", policy)]);
        refuse(&info("0", "allkeys-lru")).unwrap();
        refuse(&info("1000", "noeviction")).unwrap();
        let err = refuse(&info("1000", "allkeys-lru")).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::FailedPrecondition);
        refuse(&HashMap::new()).unwrap_err();
        refuse(&HashMap::from([("cluster_enabled", "1")])).unwrap_err();
    }
}
