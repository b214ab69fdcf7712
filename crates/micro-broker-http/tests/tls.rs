//! Who is let in when TLS is on, and who is not.

mod common;

use std::time::Duration;

use common::{counts, env, member, next, nodes, open, post, publish, subscribe, topic, yes};
use micro_broker_core::{Broker, Drivers, Env, ErrorKind, handler};
use micro_broker_http::{HttpBroker, HttpBrokerConfig, HttpDriver};
use micro_tls::dev::Authority;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

fn config() -> HttpBrokerConfig {
    HttpBrokerConfig::default()
        .with_wait(Duration::from_secs(1))
        .with_retry_for(Duration::ZERO)
}

async fn silent(arrived: &mut common::Arrived) {
    let quiet = timeout(Duration::from_millis(100), arrived.recv()).await;
    assert!(quiet.is_err(), "{quiet:?}");
}

#[tokio::test]
async fn s65_strangers_are_refused() {
    let authority = Authority::new("ours").unwrap();
    let ours = authority.issue(&["127.0.0.1"]).unwrap();
    let env = env().await;
    let secure = open(
        config().with_tls(ours.clone().with_require_client(true)),
        &env,
    );
    let (_subscription, mut arrived) = subscribe(&secure, member("g"), yes).await;
    let node = nodes(&env).await.remove(0);
    assert_eq!(node.metadata["secure"], "true");

    // Another program of the fleet.
    let friend = open(config().with_tls(ours.clone()), &env);
    assert_eq!(counts(&publish(&friend, "tea").await), (1, 0, 0));
    next(&mut arrived).await;

    // One that shows no certificate, one of another authority, and one that trusts another.
    let mut nameless = ours.clone();
    nameless.chain.clear();
    let foreign = Authority::new("theirs").unwrap();
    let foreign = foreign.issue(&["127.0.0.1"]).unwrap();
    let impostor = foreign.clone().with_roots(ours.roots.clone());
    for stranger in [nameless, impostor, foreign] {
        let stranger = open(config().with_tls(stranger), &env);
        assert_eq!(counts(&publish(&stranger, "gin").await), (0, 0, 1));
    }
    // One that speaks in the clear, by hand.
    let body = r#"{"Header":{"Micro-Topic":"orders"},"Body":""}"#;
    let mut stream = TcpStream::connect(&node.address).await.unwrap();
    let request = post(&node.id, "", body);
    stream.write_all(&request).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    silent(&mut arrived).await;
}

#[tokio::test]
async fn s65_nobody_is_sent_a_message_in_the_clear_where_it_is_to_be_encrypted() {
    let authority = Authority::new("ours").unwrap();
    let identity = authority.issue(&["127.0.0.1"]).unwrap();
    let env = env().await;
    let (plain, secure) = (
        open(config(), &env),
        open(config().with_tls(identity), &env),
    );
    let (_plain, mut at_plain) = subscribe(&plain, member("plain"), yes).await;
    let (_secure, mut at_secure) = subscribe(&secure, member("secure"), yes).await;
    // Each reaches its like, and the registry is not asked to say otherwise.
    assert_eq!(counts(&publish(&secure, "tea").await), (1, 0, 0));
    next(&mut at_secure).await;
    silent(&mut at_plain).await;
    assert_eq!(counts(&publish(&plain, "tea").await), (1, 0, 0));
    next(&mut at_plain).await;
    silent(&mut at_secure).await;
}

#[tokio::test]
async fn a_certificate_is_for_a_name() {
    let authority = Authority::new("ours").unwrap();
    let name = "spiffe://fleet/mailer";
    let identity = authority.issue(&[name]).unwrap();
    let env = env().await;
    let subscriber = open(config().with_tls(identity.clone()), &env);
    let (_subscription, mut arrived) = subscribe(&subscriber, member("g"), yes).await;
    let by_address = open(config().with_tls(identity.clone()), &env);
    assert_eq!(counts(&publish(&by_address, "tea").await), (0, 0, 1));
    silent(&mut arrived).await;
    let by_name = open(config().with_tls(identity).with_server_name(name), &env);
    assert_eq!(counts(&publish(&by_name, "tea").await), (1, 0, 0));
    next(&mut arrived).await;
}

async fn try_open(url: &str, env: &Env) -> Result<std::sync::Arc<dyn Broker>, ErrorKind> {
    let drivers = Drivers::<dyn Broker>::new().with(HttpDriver);
    drivers.open(url, env).await.map_err(|err| err.kind())
}

#[tokio::test]
async fn a_url_says_it_all() {
    let authority = Authority::new("ours").unwrap();
    let (cert, key) = authority.issue_pem(&["127.0.0.1"]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let ca = file("ca.pem", &authority.pem());
    let (cert, key) = (file("cert.pem", &cert), file("key.pem", &key));
    let env = env().await;
    let url = format!("https://127.0.0.1?ca={ca}&cert={cert}&key={key}&require_client=true");
    let broker = try_open(&url, &env).await.unwrap();
    let handle = handler(|_, _| std::future::ready(Ok(())));
    let _subscription = broker
        .subscribe(&topic("orders"), member("g"), handle)
        .await
        .unwrap();
    let node = nodes(&env).await.remove(0);
    assert_eq!(node.metadata["secure"], "true");

    for (url, kind) in [
        ("https://127.0.0.1".to_owned(), ErrorKind::InvalidArgument),
        (
            format!("https://127.0.0.1?ca={ca}&cert={cert}"),
            ErrorKind::InvalidArgument,
        ),
        (
            format!("http://127.0.0.1?ca={ca}"),
            ErrorKind::InvalidArgument,
        ),
    ] {
        assert_eq!(try_open(&url, &env).await.unwrap_err(), kind, "{url}");
    }
    assert!(
        try_open("https://127.0.0.1?ca=/nowhere.pem", &env)
            .await
            .is_err()
    );
    // A program that only publishes needs no certificate; one that subscribes does.
    let publisher = HttpBroker::open(
        HttpBrokerConfig::from_url(
            &micro_core::url::resolve(&format!("https://127.0.0.1?ca={ca}")).unwrap(),
        )
        .unwrap(),
        &env,
    );
    let handle = handler(|_, _| std::future::ready(Ok(())));
    let err = publisher
        .unwrap()
        .subscribe(&topic("orders"), member("g"), handle)
        .await
        .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{err}");
}
