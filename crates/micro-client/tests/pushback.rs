//! What a gRPC server says about calling again, in its trailers: over real HTTP/2.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use micro_client::{Client, ClientOptions, Context, ErrorKind};
use micro_codec_json::Json;
use micro_registry_memory::MemoryRegistry;
use micro_selector_p2c::P2cSelector;
use micro_transport_grpc::GrpcTransport;
use tokio::net::TcpListener;
use tokio::time::Instant;

/// A foreign gRPC server that answers each call with UNAVAILABLE and this pushback, as trailers
/// only; and when the calls came.
async fn server(pushback: &'static str) -> (String, Arc<Mutex<Vec<Instant>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let came: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let seen = Arc::clone(&came);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let seen = Arc::clone(&seen);
            let answer = service_fn(move |_: http::Request<Incoming>| {
                seen.lock().unwrap().push(Instant::now());
                let answer = http::Response::builder()
                    .header("content-type", "application/grpc")
                    .header("grpc-status", "14")
                    .header("grpc-retry-pushback-ms", pushback)
                    .body(Empty::<Bytes>::new());
                async move { Ok::<_, Infallible>(answer.unwrap()) }
            });
            let serve = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(async move {
                // It ends with the client's connection.
                let _ = serve.serve_connection(TokioIo::new(stream), answer).await;
            });
        }
    });
    (address, came)
}

#[tokio::test]
async fn f9_a_pushback_in_trailers_delays_or_forbids() {
    for (pushback, attempts, delay) in [
        ("500", 3, Duration::from_millis(500)),
        ("0", 3, Duration::ZERO),
        ("-1", 1, Duration::ZERO),
        ("abc", 1, Duration::ZERO),
        ("99999999999999", 1, Duration::ZERO),
    ] {
        let (address, came) = server(pushback).await;
        let client = Client::new(
            Arc::new(MemoryRegistry::new()),
            Arc::new(GrpcTransport::new()),
            Arc::new(P2cSelector::new()),
            ClientOptions::default().with_codec(Json),
        );
        let err = client
            .call_raw("echo", "Echo.Say", "application/json", Bytes::new())
            .address(address.as_str())
            .idempotent(true)
            .send(&Context::new().with_timeout(Duration::from_secs(10)))
            .await
            .unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unavailable, "{err:?}");
        let came = came.lock().unwrap().clone();
        assert_eq!(came.len(), attempts, "{pushback}");
        for pair in came.windows(2) {
            let gap = pair[1] - pair[0];
            // How exactly is shown on paused time; a busy machine may be late, never early.
            assert!(
                gap >= delay && gap < delay + Duration::from_secs(2),
                "{gap:?}"
            );
        }
    }
}
