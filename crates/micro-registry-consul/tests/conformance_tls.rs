//! Runs the suite once more, against a real Consul of its own with TLS and ACLs that deny by
//! default.

mod common;

use std::process::ExitCode;

use common::Consul;
use micro_conformance::harness::runtime;
use micro_conformance::registry::Place;
use micro_http::HttpConfig;
use micro_registry_consul::ConsulDriver;
use micro_registry_core::{Drivers, Env, ErrorKind, RegistryExt as _};
use micro_tls::dev::Authority;

const TOKEN: &str = "5f0c1b9e-8e43-4bb5-9d0e-8c9c25d3a7a1";

fn main() -> ExitCode {
    let Some(program) = common::program() else {
        common::skip("consul conformance_tls", "there is no program consul");
        return ExitCode::SUCCESS;
    };
    let dir = std::env::temp_dir().join(format!("micro-consul-tls-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a folder");
    let authority = Authority::new("consul").expect("an authority");
    let (cert, key) = authority.issue_pem(&["127.0.0.1"]).expect("a certificate");
    let file = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let ca = file("ca.pem", &authority.pem());
    let config = format!(
        r#"{{"tls": {{"https": {{"ca_file": "{ca}", "cert_file": "{}", "key_file": "{}"}}}},
            "acl": {{"enabled": true, "default_policy": "deny",
                     "tokens": {{"initial_management": "{TOKEN}", "agent": "{TOKEN}"}}}}}}"#,
        file("cert.pem", &cert),
        file("key.pem", &key),
    );
    let port = common::free_port();
    let url = format!("consul://127.0.0.1:{port}?ca={ca}");
    let open = async |url: &str, env: &Env| Drivers::new().with(ConsulDriver).open(url, env).await;
    let consul = runtime().block_on(async {
        let mut consul = Consul::start(&program, port, true, &config);
        let http = HttpConfig::new(vec![format!("127.0.0.1:{port}")]);
        consul
            .ready(http.with_ca(&ca).expect("the authority"))
            .await;
        // Who brings no token, or a wrong one, is refused and told so.
        let wrong = format!("{url}&token=00000000-8e43-4bb5-9d0e-8c9c25d3a7a1");
        let registry = open(&wrong, &Env::new()).await.expect("a registry");
        let err = registry.list().await.expect_err("a wrong token");
        assert_eq!(err.kind(), ErrorKind::PermissionDenied, "{err}");
        assert!(!format!("{err:?}").contains("00000000-8e43"), "{err:?}");
        // And a server of another authority is not spoken to.
        let other = Authority::new("other").expect("an authority");
        let other = file("other.pem", &other.pem());
        let elsewhere = format!("consul://127.0.0.1:{port}?ca={other}");
        let registry = open(&elsewhere, &Env::new()).await.expect("a registry");
        let err = registry.list().await.expect_err("a stranger");
        assert_eq!(err.kind(), ErrorKind::Unavailable, "{err}");
        consul
    });
    let url = format!("{url}&token={TOKEN}");
    let code = micro_conformance::registry::run(async move |place: Place| {
        let url = format!("{url}&prefix={}", place.id());
        let drivers = Drivers::new().with(ConsulDriver);
        drivers.open(&url, place.env()).await
    });
    drop(consul);
    let _ = std::fs::remove_dir_all(dir);
    code
}
