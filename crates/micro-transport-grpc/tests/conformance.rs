//! The transport suite: on the fast lane and without it, and with TLS both once more over mutual
//! TLS.

use std::process::ExitCode;
use std::sync::Arc;

use micro_conformance::transport::{Setup, run_with};
use micro_transport_grpc::{GrpcConfig, GrpcTransport};

fn main() -> ExitCode {
    let mut outcome = ExitCode::SUCCESS;
    for lane in [true, false] {
        let plain = run_with(async move || Ok(Setup::new(transport(lane))));
        #[cfg(feature = "tls")]
        let secure = run_with(async move || secure(transport(lane)));
        #[cfg(not(feature = "tls"))]
        let secure = ExitCode::SUCCESS;
        for end in [plain, secure] {
            if end != ExitCode::SUCCESS {
                outcome = end;
            }
        }
    }
    outcome
}

fn transport(lane: bool) -> Arc<GrpcTransport> {
    let config = GrpcConfig::default().with_lane(lane);
    Arc::new(GrpcTransport::with_config(config))
}

/// Both sides show a certificate of one authority, made anew for each case.
#[cfg(feature = "tls")]
fn secure(transport: Arc<GrpcTransport>) -> micro_core::Result<Setup> {
    use micro_transport_core::{DialOptions, ListenOptions};

    let authority = micro_tls::dev::Authority::new("conformance")?;
    let server = authority
        .issue(&["spiffe://conformance/server"])?
        .with_require_client(true);
    let client = authority.issue(&["spiffe://conformance/client"])?;
    Ok(Setup::new(transport)
        .with_listen(ListenOptions::default().with_tls(server))
        .with_dial(
            DialOptions::default()
                .with_tls(client)
                .with_expect("spiffe://conformance/server"),
        ))
}
