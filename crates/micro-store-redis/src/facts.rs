//! What is known of the server, by asking it over each connection.

use std::collections::HashMap;
use std::sync::LazyLock;

use micro_redis::redis::{Value, cmd};
use micro_redis::{Effect, Link, Script};
use micro_store_core::{Durability, Error, ErrorKind, Result};
use tokio::time::Instant;

use crate::RedisStoreConfig;
use crate::names::Names;

static PROBE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/probe.lua")));

/// What changes over a connection survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) epoch: u64,
    pub(crate) durability: Durability,
}

impl Facts {
    /// Asks, and makes sure that everything is there and permitted that changes need.
    pub(crate) async fn ask(
        link: &Link,
        config: &RedisStoreConfig,
        names: &Names,
        deadline: Instant,
    ) -> Result<Self> {
        let info = link
            .call(&cmd("INFO"), Effect::Nothing, deadline)
            .await
            .map_err(|err| match err.kind() {
                ErrorKind::PermissionDenied => Error::permission_denied(
                    "Redis does not let us ask how it is set up: permit the command INFO to our user",
                )
                .with_source(err),
                _ => err,
            })?;
        let info = match info {
            Value::BulkString(text) => String::from_utf8_lossy(&text).into_owned(),
            _ => String::new(),
        };
        let info: HashMap<&str, &str> = info
            .lines()
            .filter_map(|line| line.split_once(':'))
            .collect();
        refuse(&info, config)?;
        let mut probe = PROBE.invocation();
        probe.arg(1).arg(names.version()).arg(names.root());
        match link.run(&PROBE, &probe, Effect::Nothing, deadline).await {
            Err(err) if err.kind() == ErrorKind::Internal => {
                return Err(Error::failed_precondition(
                    "this Redis lacks a command that changes need: 7.0 or newer has them all",
                )
                .with_source(err));
            }
            // In a full one, things can still be read and deleted.
            Err(err) if err.kind() != ErrorKind::ResourceExhausted => return Err(err),
            _ => {}
        }
        let mut settings = cmd("CONFIG");
        settings
            .arg("GET")
            .arg("appendfsync")
            .arg("no-appendfsync-on-rewrite");
        let settings = match link.call(&settings, Effect::Nothing, deadline).await {
            Ok(settings) => pairs(settings),
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
            durability: durability(&info, &settings, config),
        })
    }
}

/// Refuses servers that cannot keep what a store promises.
fn refuse(info: &HashMap<&str, &str>, config: &RedisStoreConfig) -> Result<()> {
    let get = |name| info.get(name).copied();
    if get("cluster_enabled") == Some("1") {
        return Err(Error::failed_precondition(
            "this Redis is a node of a cluster, and clusters are not followed",
        ));
    }
    let (Some(most), Some(policy)) = (get("maxmemory"), get("maxmemory_policy")) else {
        return Err(Error::failed_precondition(
            "what answers is no Redis: it does not say how it uses its memory",
        ));
    };
    if most != "0" && policy != "noeviction" && !config.evict {
        return Err(Error::failed_precondition(
            "this Redis drops records when it is full: set its maxmemory-policy to noeviction, or accept it with 'evict=true'",
        )
        .with_context("maxmemory-policy", policy));
    }
    Ok(())
}

/// What survives the server's end, as far as is known.
///
/// A log that is written each second may lose what was acknowledged within the last two when the
/// process ends, since Redis holds it back in memory while the disk is busy. One that is written and
/// left to the system (`no`) is always with the system before the answer; but see the rewriting.
fn durability(
    info: &HashMap<&str, &str>,
    settings: &HashMap<String, String>,
    config: &RedisStoreConfig,
) -> Durability {
    if info.get("aof_enabled") != Some(&"1") || config.evict {
        return Durability::Memory;
    }
    let get = |name| settings.get(name).map(String::as_str);
    match (get("appendfsync"), get("no-appendfsync-on-rewrite")) {
        (Some("always"), Some("no")) => Durability::Power,
        // Not synced while the log is rewritten.
        (Some("always" | "no"), _) => Durability::Process,
        (Some(_), _) => Durability::Memory,
        (None, _) => config.durability.unwrap_or(Durability::Memory),
    }
}

/// Names and values, one behind the other.
fn pairs(value: Value) -> HashMap<String, String> {
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
    texts
        .chunks_exact(2)
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
        let none = HashMap::new();
        let on = HashMap::from([("aof_enabled", "1")]);
        let off = HashMap::from([("aof_enabled", "0")]);
        let config = RedisStoreConfig::default();
        let told = RedisStoreConfig::default().with_durability(Durability::Power);
        let evicting = RedisStoreConfig::default().with_evict(true);
        for (info, settings, config, expected) in [
            (&on, &settings("always", "no"), &config, Durability::Power),
            (
                &on,
                &settings("always", "yes"),
                &config,
                Durability::Process,
            ),
            (&on, &settings("no", "no"), &config, Durability::Process),
            (
                &on,
                &settings("everysec", "no"),
                &config,
                Durability::Memory,
            ),
            (&on, &settings("everysec", "no"), &told, Durability::Memory),
            (
                &on,
                &settings("always", "no"),
                &evicting,
                Durability::Memory,
            ),
            (&off, &settings("always", "no"), &config, Durability::Memory),
            (&off, &none, &told, Durability::Memory),
            (&on, &none, &config, Durability::Memory),
            (&on, &none, &told, Durability::Power),
        ] {
            assert_eq!(durability(info, settings, config), expected);
        }
    }

    #[test]
    fn servers_that_drop_records_are_refused() {
        let info =
            |most, policy| HashMap::from([("maxmemory", most), ("maxmemory_policy", policy)]);
        let config = RedisStoreConfig::default();
        assert!(refuse(&info("0", "allkeys-lru"), &config).is_ok());
        assert!(refuse(&info("1000", "noeviction"), &config).is_ok());
        let err = refuse(&info("1000", "allkeys-lru"), &config).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::FailedPrecondition);
        let evicting = RedisStoreConfig::default().with_evict(true);
        assert!(refuse(&info("1000", "allkeys-lru"), &evicting).is_ok());
        assert!(refuse(&HashMap::new(), &config).is_err());
        assert!(refuse(&HashMap::from([("cluster_enabled", "1")]), &evicting).is_err());
    }
}
