//! Others' clients call our services, and our clients call others' services: tonic, grpc-go,
//! grpcurl, curl, and what go-micro sends.
//!
//! `MICRO_BLESS=1` rewrites what is generated and committed below `interop/`.

mod common;

/// What tonic's generator makes of the printed `.proto` files.
#[rustfmt::skip]
#[path = "interop/generated"]
mod generated {
    pub(crate) mod kinds;
    pub(crate) mod probe;
}

#[path = "interop/codegen.rs"]
mod codegen;
#[path = "interop/go_micro.rs"]
mod go_micro;
#[path = "interop/go_peer.rs"]
mod go_peer;
#[path = "interop/grpcurl.rs"]
mod grpcurl;
#[path = "interop/kinds.rs"]
mod kinds;
#[path = "interop/post.rs"]
mod post;
#[path = "interop/stranger.rs"]
mod stranger;
#[path = "interop/tonic_peer.rs"]
mod tonic_peer;
#[path = "interop/tools.rs"]
mod tools;
