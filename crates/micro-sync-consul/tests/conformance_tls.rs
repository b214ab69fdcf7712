//! Runs the suite once more, against a real Consul of its own with TLS and ACLs that deny by default, with
//! a token that may do what the README says and nothing else.

mod common;

use std::process::ExitCode;

use common::Consul;
use micro_conformance::harness::runtime;
use micro_conformance::sync::{Place, Subject};
use micro_core::Env;
use micro_http::{Credentials, HttpClient, HttpConfig, Request};
use micro_sync_core::{ErrorKind, LockOptions};
use micro_tls::dev::Authority;

const MANAGEMENT: &str = "5f0c1b9e-8e43-4bb5-9d0e-8c9c25d3a7a1";
const TOKEN: &str = "7d2f3c55-1c1b-4d43-8a59-2f4b0f6f3c10";

fn main() -> ExitCode {
    let Some(program) = common::program() else {
        common::skip("consul sync conformance_tls", "there is no program consul");
        return ExitCode::SUCCESS;
    };
    let dir = std::env::temp_dir().join(format!("micro-sync-consul-{}", std::process::id()));
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
                     "tokens": {{"initial_management": "{MANAGEMENT}", "agent": "{MANAGEMENT}"}}}}}}"#,
        file("cert.pem", &cert),
        file("key.pem", &key),
    );
    let port = common::free_port();
    let url = format!("consul://127.0.0.1:{port}?ca={ca}");
    let consul = runtime().block_on(async {
        let mut consul = Consul::start(&program, port, true, &config);
        let http = HttpConfig::new(vec![format!("127.0.0.1:{port}")]);
        let http = http.with_ca(&ca).expect("the authority");
        consul.ready(http.clone()).await;
        allow(http).await;
        // Whoever brings no token is refused and told so, and so is one who reaches further.
        let stranger = common::open(&url, &Env::new()).await;
        let greedy = format!("{url}&token={TOKEN}&prefix=other/");
        let greedy = common::open(&greedy, &Env::new()).await;
        for coordinator in [stranger, greedy] {
            let refused = coordinator.lock("books", LockOptions::default()).await;
            let err = refused.expect_err("it may not");
            assert_eq!(err.kind(), ErrorKind::PermissionDenied, "{err}");
            assert!(!format!("{err:?}").contains("7d2f3c55"), "{err:?}");
        }
        consul
    });
    let url = format!("{url}&token={TOKEN}");
    let code = micro_conformance::sync::run(async move |place: Place| {
        let prefix = format!("micro/{}/sync/", place.id());
        let client = common::client(&url);
        let coordinator = common::open(&format!("{url}&prefix={prefix}"), place.env()).await;
        Ok(Subject::new(coordinator).with_thief(common::Deleter { client, prefix }))
    });
    drop(consul);
    let _ = std::fs::remove_dir_all(dir);
    code
}

/// Makes the token.
async fn allow(http: HttpConfig) {
    let manager = HttpClient::new(http.with_credentials(Credentials::Header {
        name: "x-consul-token",
        value: MANAGEMENT.into(),
    }));
    let manager = manager.expect("a client");
    let rules = r#"{"Name": "locks", "Rules":
        "key_prefix \"micro/\" { policy = \"write\" } session_prefix \"\" { policy = \"write\" }"}"#;
    let token = format!(r#"{{"SecretID": "{TOKEN}", "Policies": [{{"Name": "locks"}}]}}"#);
    for (path, body) in [
        ("/v1/acl/policy", rules.to_owned()),
        ("/v1/acl/token", token),
    ] {
        let request = Request::put(path).body("application/json", body);
        // Its ACL system is up a moment after its API.
        for attempt in 0.. {
            let answer = manager.send(&request).await.expect("an answer");
            if answer.is_success() {
                break;
            }
            assert!(attempt < 100, "{path}: {answer:?}");
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }
}
