//! Runs the suite once more, by TLS and with a service account's token, against the scripted API
//! server.

mod common;

use std::process::ExitCode;
use std::sync::Arc;

use common::Server;
use micro_conformance::harness::runtime;
use micro_conformance::registry::Place;
use micro_registry_core::Drivers;
use micro_registry_kubernetes::KubernetesDriver;
use micro_tls::dev::Authority;

fn main() -> ExitCode {
    let authority = Authority::new("cluster").expect("an authority");
    let identity = authority.issue(&["kubernetes.default.svc"]);
    let config = micro_tls::server_config(&identity.expect("a certificate")).expect("TLS");
    let server = Server::start_with(Some(tokio_rustls::TlsAcceptor::from(config)));
    let server = Arc::new(runtime().block_on(server));
    server.want_token("s3cret");
    let dir = std::env::temp_dir().join(format!("micro-kubernetes-tls-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a folder");
    let (ca, token) = (dir.join("ca.crt"), dir.join("token"));
    std::fs::write(&ca, authority.pem()).expect("a file");
    std::fs::write(&token, "s3cret\n").expect("a file");
    let files = format!(
        "ca={}&token_file={}&server_name=kubernetes.default.svc",
        ca.display(),
        token.display()
    );
    let code = micro_conformance::registry::run(async move |place: Place| {
        let namespace = place.id();
        let url = format!(
            "kubernetes://{}?namespace={namespace}&{files}",
            server.address
        );
        let drivers = Drivers::new().with(KubernetesDriver);
        drivers.open(&url, place.env()).await
    });
    // What is left behind is only a nuisance.
    let _ = std::fs::remove_dir_all(dir);
    code
}
