//! The transport suite: plain, and with TLS once more over mutual TLS.

use std::process::ExitCode;
use std::sync::Arc;

use micro_conformance::transport::{Setup, run_with};
use micro_transport_grpc::GrpcTransport;

fn main() -> ExitCode {
    let plain = run_with(async || Ok(Setup::new(Arc::new(GrpcTransport::new()))));
    #[cfg(feature = "tls")]
    let secure = run_with(secure);
    #[cfg(not(feature = "tls"))]
    let secure = ExitCode::SUCCESS;
    if plain == ExitCode::SUCCESS {
        secure
    } else {
        plain
    }
}

/// Both sides show a certificate of one authority, made anew for each case.
#[cfg(feature = "tls")]
async fn secure() -> micro_core::Result<Setup> {
    use micro_transport_core::{DialOptions, ListenOptions};

    let authority = micro_tls::dev::Authority::new("conformance")?;
    let server = authority
        .issue(&["spiffe://conformance/server"])?
        .with_require_client(true);
    let client = authority.issue(&["spiffe://conformance/client"])?;
    Ok(Setup::new(Arc::new(GrpcTransport::new()))
        .with_listen(ListenOptions::default().with_tls(server))
        .with_dial(
            DialOptions::default()
                .with_tls(client)
                .with_expect("spiffe://conformance/server"),
        ))
}
