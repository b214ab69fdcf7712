//! The broker suite over this backend, on real NATS servers: JetStream and core NATS, plain, and over TLS with
//! a client certificate and a password. Each place is a namespace of its own.

#[path = "../../micro-nats/tests/common/mod.rs"]
mod common;

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use common::with_option;
use futures_util::StreamExt as _;
use micro_broker_core::{Broker, Context, Drivers, Env, ErrorKind, Message, Result, Topic};
use micro_broker_nats::{NatsConfig, NatsDriver};
use micro_conformance::broker::Place;
use micro_nats::Connection;
use micro_nats::async_nats::jetstream;
use tokio::runtime::Runtime;
use tokio::time::Instant;

async fn open(url: &str, env: &Env) -> Result<Arc<dyn Broker>> {
    let drivers = Drivers::<dyn Broker>::new().with(NatsDriver::default());
    drivers.open(url, env).await
}

fn main() -> ExitCode {
    let runtime = Runtime::new().unwrap();
    let mut code = ExitCode::SUCCESS;
    for (variable, server) in [
        ("MICRO_TEST_NATS_URL", "nats"),
        ("MICRO_TEST_NATS_TLS_URL", "nats_tls"),
    ] {
        let Some(url) = common::server("conformance", variable, server) else {
            continue;
        };
        for mode in ["core", "jetstream"] {
            let url = with_option(&with_option(&url, "mode", mode), "max_bytes", "4000000");
            if mode == "jetstream" && !runtime.block_on(has_jetstream(&url)) {
                let cure = format!("cargo xtask services down {server}, and up again");
                common::skip("conformance", "the server has no JetStream", &cure);
                continue;
            }
            let places = Arc::new(Mutex::new(Vec::new()));
            let (noted, place_url) = (Arc::clone(&places), url.clone());
            let ran = micro_conformance::broker::run(async move |place: Place| {
                let id = place.id().to_owned();
                lock(&noted).push(id);
                open(&place_url, place.env()).await
            });
            if ran != ExitCode::SUCCESS {
                code = ran;
            }
            let places = std::mem::take(&mut *lock(&places));
            if mode == "jetstream" {
                runtime.block_on(clean(server, variable, &places));
            }
        }
    }
    code
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn has_jetstream(url: &str) -> bool {
    let broker = open(url, &Env::new()).await.unwrap();
    let message = Message::new(Topic::new("micro.conformance.probe").unwrap(), "x");
    match broker
        .publish(&Context::new(), message, Default::default())
        .await
    {
        Ok(_) => true,
        Err(err) if err.kind() == ErrorKind::FailedPrecondition => false,
        Err(err) => panic!("{err:?}"),
    }
}

/// Removes the streams that were made, for the server sets aside what they may take.
async fn clean(server: &str, variable: &str, places: &[String]) {
    let url = common::server(server, variable, server).unwrap();
    let config = NatsConfig::from_url(&micro_core::url::resolve(&url).unwrap()).unwrap();
    let connection = Connection::open(config, Env::new().random(), true).unwrap();
    let client = connection
        .client(Instant::now() + common::PATIENCE)
        .await
        .unwrap();
    let context = jetstream::new(client);
    let mut names = context.stream_names();
    while let Some(name) = names.next().await {
        let name = name.unwrap();
        let ours = |place: &String| name.strip_prefix(&format!("micro+{place}"));
        if places
            .iter()
            .filter_map(ours)
            .any(|rest| rest.starts_with(['+', '-']))
        {
            context.delete_stream(&name).await.unwrap();
        }
    }
}
