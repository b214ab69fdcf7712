//! Connections that are ended by the server while locks are held and waited for.

mod common;

use std::sync::Arc;
use std::time::Duration;

use micro_core::{Env, Random as _, SystemRandom, url};
use micro_postgres::{Pool, PostgresConfig, Query, Session};
use micro_sync_core::{Coordinator as _, LockOptions};
use micro_sync_postgres::{PostgresCoordinator, PostgresSyncConfig};
use tokio::time::{sleep, timeout};

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_not_tied_to_a_connection() {
    const ENDED: &str = "SELECT pg_terminate_backend(pid)::text FROM pg_stat_activity \
         WHERE application_name = $1";
    let Some(server) = common::server("locks over ended connections to postgres") else {
        return;
    };
    let unique = format!("t{:016x}", SystemRandom.next_u64());
    let mut config = PostgresSyncConfig::from_url(&url::resolve(&server).unwrap()).unwrap();
    config.postgres.name.clone_from(&unique);
    let env = Env::new().with_namespace(&unique);
    let coordinator = PostgresCoordinator::open(config, &env).unwrap();
    let opts = LockOptions::default().with_ttl(Duration::from_secs(2));
    let held = coordinator.lock("books", opts.clone()).await.unwrap();
    let waiter = {
        let (coordinator, opts) = (coordinator.clone(), opts.clone());
        tokio::spawn(async move { coordinator.lock("books", opts).await })
    };
    let config = PostgresConfig::from_url(&url::resolve(&server).unwrap()).unwrap();
    let operator = Pool::new(config, Session::default(), Arc::new(SystemRandom)).unwrap();
    let mut ended = 0;
    // For longer than the time to live.
    for _ in 0..15 {
        sleep(Duration::from_millis(200)).await;
        let rows = operator
            .attempt(async |connection| {
                let query = Query::new(ENDED, vec![&unique]);
                connection.query(&query).await
            })
            .await
            .unwrap();
        ended += rows.len();
    }
    assert!(ended > 5, "only {ended} connections were ended");
    assert!(held.is_held());
    held.verify().await.unwrap();
    let token = held.token();
    held.release().await.unwrap();
    let next = timeout(Duration::from_secs(20), waiter).await.unwrap();
    let next = next.unwrap().unwrap();
    assert!(next.token() > token);
    next.release().await.unwrap();
}
