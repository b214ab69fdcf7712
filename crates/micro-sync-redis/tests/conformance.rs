//! The suite of the interface over this backend, on a real Redis: each place below a prefix of its own.

mod common;

use std::process::ExitCode;
use std::sync::Arc;

use micro_conformance::sync::{Place, Subject, Thief};
use micro_core::{Random, SystemRandom};
use micro_redis::redis::{Value, cmd};
use micro_redis::{Connection, Effect};
use micro_sync_core::{Drivers, Result, async_trait};
use micro_sync_redis::{RedisDriver, RedisSyncConfig};

/// Deletes the lock, as an operator would.
struct Operator {
    connection: Connection,
    keys: String,
}

#[async_trait]
impl Thief for Operator {
    async fn take(&self, name: &str) -> Result<()> {
        let mut unlink = cmd("UNLINK");
        unlink.arg(format!("{}{name}", self.keys));
        let deadline = self.connection.deadline();
        let link = self.connection.link(deadline).await?;
        let unlinked = link.call(&unlink, Effect::Change, deadline).await?;
        assert_eq!(unlinked, Value::Int(1), "nobody holds {name}");
        Ok(())
    }
}

fn main() -> ExitCode {
    // The same suite over TLS, as a user with a password and few rights, if the server is there.
    let mut code = ExitCode::SUCCESS;
    for (variable, server) in [
        ("MICRO_TEST_REDIS_URL", "redis"),
        ("MICRO_TEST_REDIS_TLS_URL", "redis_tls"),
    ] {
        let Some(url) = common::server("conformance", variable, server) else {
            continue;
        };
        let ran = micro_conformance::sync::run(async move |place: Place| {
            let separator = if url.contains('?') { '&' } else { '?' };
            let url = format!("{url}{separator}prefix={}&poll=50ms", place.id());
            let coordinator = Drivers::new()
                .with(RedisDriver::default())
                .open(&url, place.env())
                .await?;
            let config = RedisSyncConfig::from_url(&micro_core::url::resolve(&url)?)?;
            let random: Arc<dyn Random> = Arc::new(SystemRandom);
            let operator = Operator {
                connection: Connection::open(config.server, &random)?,
                keys: format!("{{{}}}:l:{}:", place.id(), place.env().namespace()),
            };
            Ok(Subject::new(coordinator).with_thief(operator))
        });
        if ran != ExitCode::SUCCESS {
            code = ran;
        }
    }
    code
}
